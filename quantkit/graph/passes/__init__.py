"""Edits of an ONNX graph, one a module."""
