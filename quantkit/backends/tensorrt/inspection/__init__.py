"""Which layers an engine has, in which precision: read by TensorRT's inspector or from a TensorRT-RTX plan."""
