"""Implements the commands: calibrate, quantize, build, evaluate, inspect, ... Orchestration only."""
