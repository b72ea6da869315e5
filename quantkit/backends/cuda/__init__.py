"""Device memory, streams and events through pycuda, in the device's primary context only."""
