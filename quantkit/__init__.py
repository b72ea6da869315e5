"""INT8 post-training quantization for TensorRT and ONNX Runtime."""

from quantkit._version import __version__ as __version__
