"""Latency of the variants of a model: by the clock of the host or of the GPU, at one or more batch sizes."""
