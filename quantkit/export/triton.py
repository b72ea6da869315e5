"""Triton's model configuration, config.pbtxt.

Source: model_config.proto of triton-inference-server/common.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from quantkit.errors import ModelError
from quantkit.types import TensorSpec

_TYPES = {
    **{f"float{n}": f"TYPE_FP{n}" for n in (16, 32, 64)},
    **{f"int{n}": f"TYPE_INT{n}" for n in (8, 16, 32, 64)},
    **{f"uint{n}": f"TYPE_UINT{n}" for n in (8, 16, 32, 64)},
    "bool": "TYPE_BOOL",
}


def model_config(
    name: str, platform: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, max_batch: int
) -> str:
    """The text of config.pbtxt.

    Args:
        name: of the model, which is that of its folder.
        platform: "tensorrt_plan" or "onnxruntime_onnx".
        inputs: of the model.
        outputs: of the model.
        max_batch: largest batch; 0 where not every tensor has a dynamic first dimension, which Triton would batch.

    Raises:
        ModelError: a tensor has a type that Triton does not know.

    Example:
        >>> x = TensorSpec("x", np.dtype("float32"), ("N", 3, 8, 8))
        >>> print(model_config("net", "tensorrt_plan", [x], [], max_batch=8).splitlines()[2])
        max_batch_size: 8
    """
    lines = [f"name: {_quoted(name)}", f"platform: {_quoted(platform)}", f"max_batch_size: {max_batch}"]
    for kind, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            lines += [f"{kind} {{", *(f"  {line}" for line in _tensor(spec, batched=max_batch > 0)), "}"]
    if max_batch:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def is_batched(specs: Sequence[TensorSpec]) -> bool:
    """Whether every tensor has a dynamic first dimension."""
    return all(spec.shape and not isinstance(spec.shape[0], int) for spec in specs)


def _tensor(spec: TensorSpec, *, batched: bool) -> list[str]:
    kind = _TYPES.get(np.dtype(spec.dtype).name)
    if kind is None:
        raise ModelError(f"tensor {spec.name!r} has type {spec.dtype}, which Triton does not know")
    shape = [size if isinstance(size, int) else -1 for size in spec.shape[1 if batched else 0 :]]
    lines = [f"name: {_quoted(spec.name)}", f"data_type: {kind}", f"dims: {shape or [1]}"]
    return lines if shape else [*lines, "reshape { shape: [ ] }"]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
