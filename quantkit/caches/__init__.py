"""Calibration files of any origin: opened, matched with a model, converted, verified, merged."""
