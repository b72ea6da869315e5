"""Everything that is done to an ONNX graph. The only place that imports onnx, onnx_ir and onnxscript."""

from quantkit.graph.lazy_imports import loaded_when_used

# onnx_ir imports sympy for arithmetic on named dimensions, which nothing here does: more than half of all its time.
with loaded_when_used("sympy", "onnx_ir._symbolic_shapes"):
    import onnx_ir  # noqa: F401
