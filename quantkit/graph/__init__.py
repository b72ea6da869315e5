"""Everything that is done to an ONNX graph. The only place that imports onnx, onnx_ir and onnxscript."""
