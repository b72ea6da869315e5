"""From activations to calibrated ranges: statistics, methods, the table and TensorRT's cache."""
