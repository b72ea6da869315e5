"""Calibrators for TensorRT up to 10: one that streams batches, one that hands over a finished cache."""
