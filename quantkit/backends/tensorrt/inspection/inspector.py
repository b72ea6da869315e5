"""Parses TensorRT's description of an engine: JSON of IEngineInspector, and layer times of IProfiler or trtexec.

Both top-level forms are read: "Bindings" (up to TensorRT 10) and "I/O Tensors" with split formats (11).
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantkit.backends.tensorrt.inspection.engine_layers import (
    POINTWISE_KINDS,
    QUANTIZED,
    ElementType,
    EngineLayer,
    EngineLayers,
    EngineTensor,
    find_nodes,
)
from quantkit.errors import BackendError

_PRECISIONS: tuple[tuple[str, ElementType], ...] = (
    ("uint8", "uint8"),
    ("int8", "int8"),
    ("int4", "int4"),
    ("int32", "int32"),
    ("int64", "int64"),
    ("bfloat16", "bf16"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("half", "fp16"),
    ("float16", "fp16"),
    ("fp8", "fp8"),
    ("float8", "fp8"),
    ("fp4", "fp4"),
    ("float4", "fp4"),
    ("double", "fp64"),
    ("bool", "bool"),
    ("fp32", "fp32"),
    ("float", "fp32"),
)
"""Word → precision, in the order in which words are looked for: "bfloat16" holds "float16" holds "float"."""

_BYTES: dict[str, float] = {"int8": 1, "fp8": 1, "int4": 0.5, "fp4": 0.5, "fp16": 2, "bf16": 2, "fp32": 4, "int32": 4}

_MOST_WEIGHTS = 1 << 53

_IDLE = frozenset(
    {"noop", "constant", "signal", "wait", "shape_call", "shapehosttodevicecopy", "label", "train_station"}
)

_PRODUCT = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected|fully_connected|mha|attention")

_FUSED_PRODUCT = re.compile(r"gemm|mha|xmma|fprop|cudnn|cutlass|mulsum")
"""In names of fused kernels; a product of one row (batch 1) is multiplied and summed up element by element."""

_MOVES = re.compile(r"(?:__myl_)?(?:MulMinMaxRounCast|Move|Tran|Resh|Cast|Conc|Slic)+(?:_\w*)?")
"""Myelin's names list what is fused: these only quantize, convert or move."""

_MORE = "build with profiling verbosity DETAILED (trtexec --profilingVerbosity=detailed)"


def parse_inspector(text: str | bytes, *, name: str = "inspector JSON") -> EngineLayers:
    """Reads what IEngineInspector.get_engine_information(JSON) or trtexec --exportLayerInfo wrote.

    Args:
        text: the JSON.
        name: of the file, for messages.

    Returns:
        The engine's layers. Where it was built with LAYER_NAMES_ONLY (TensorRT's default), names alone, and a note.

    Raises:
        BackendError: it is not that JSON, or it lists no layer.
    """
    data = _load_json(text, name)
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(layers, list):
        raise BackendError(f"{name} is not engine inspector JSON: there is no list named Layers")
    if not layers:
        raise BackendError(f"{name} lists no layers: the engine was built with profiling verbosity NONE: {_MORE}")
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    if not all(isinstance(layer, (dict, str)) for layer in layers):
        raise BackendError(f"{name} is not engine inspector JSON: a layer is neither an object nor a name")
    source = "engine inspector, TensorRT 11 form" if "I/O Tensors" in data else "engine inspector"
    if not detailed:
        return EngineLayers(
            layers=tuple(EngineLayer(name=str(n), kind="", onnx_nodes=find_nodes(str(n))) for n in layers),
            source=source,
            notes=(f"only the names of layers are known, not their types: {_MORE}",),
            has_details=False,
        )
    read = tuple(_layer(x) if isinstance(x, dict) else EngineLayer(name=str(x), kind="") for x in layers)
    notes = []
    if regions := sum(layer.kind == "Myelin" for layer in read):
        notes.append(f"{regions} compiled regions (ForeignNode) do not show their contents")
    weights = sum(_weight_bytes(layer) for layer in detailed)
    return EngineLayers(
        layers=read,
        source=source,
        memory_bytes={"weights": weights} if weights else {},
        notes=tuple(notes),
    )


def join_profile(
    engine_layers: EngineLayers, profile: str | bytes | Mapping[str, float], *, name: str = "profile"
) -> EngineLayers:
    """Adds times to the layers: mean milliseconds of one run.

    Args:
        engine_layers: of the engine that was profiled.
        profile: JSON of trtexec --exportProfile, or milliseconds by layer name.
        name: of the file, for messages.

    Raises:
        BackendError: it is not a profile, or one of another engine (no layer in common).
    """
    times = [(key, float(ms)) for key, ms in profile.items()] if isinstance(profile, Mapping) else _times(profile, name)
    queues: dict[str, deque[float]] = {}
    for key, ms in times:
        queues.setdefault(key, deque()).append(ms)
    if not queues.keys() & {layer.name for layer in engine_layers.layers}:
        raise BackendError(f"{name} has no layers in common with the engine: profile this engine again")
    left = {layer.name: 0 for layer in engine_layers.layers}
    for layer in engine_layers.layers:
        left[layer.name] += 1
    layers = []
    for layer in engine_layers.layers:
        queue = queues.get(layer.name)
        left[layer.name] -= 1
        if not queue:
            layers.append(layer)
        elif left[layer.name]:
            layers.append(replace(layer, time_ms=queue.popleft()))
        else:  # the last layer of that name takes all that remains
            layers.append(replace(layer, time_ms=sum(queue)))
            queue.clear()
    notes = list(engine_layers.notes)
    if foreign := [key for key, queue in queues.items() if queue]:
        lost = sum(sum(queues[key]) for key in foreign)
        notes.append(f"{len(foreign)} layers of the profile ({lost:.3g} ms) are not in the engine's list")
    if missing := sum(layer.time_ms is None for layer in layers):
        notes.append(f"{missing} layers are not in the profile")
    return replace(engine_layers, layers=tuple(layers), notes=tuple(notes))


def precision_from_text(text: str) -> ElementType:
    """Element type from TensorRT's description of a tensor.

    Example:
        >>> precision_from_text("Thirty-two wide channel vectorized row major Int8 format"), precision_from_text("Half")
        ('int8', 'fp16')
    """
    lower = text.lower()
    return next((precision for word, precision in _PRECISIONS if word in lower), "unknown")


def _load_json(text: str | bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BackendError(f"{name} is not JSON: {str(error)[:200]}") from error


def _layer(data: Mapping[str, Any]) -> EngineLayer:
    name, kind = _text(data.get("Name")), _text(data.get("LayerType"))
    inputs, outputs = _tensors(data.get("Inputs")), _tensors(data.get("Outputs"))
    tactic = _text(data.get("TacticName")) or _text(data.get("TacticValue"))
    weights = data.get("Weights") or data.get("ConvWeights")
    weight_dtype = precision_from_text(_text(weights.get("Type"))) if isinstance(weights, dict) else None
    is_reformat = kind == "Reformat" or (
        kind == "kgen" and _MOVES.fullmatch(re.sub(r"_myl\d.*$", "", name)) is not None
    )
    is_weighted = not is_reformat and _is_product(kind, name, tactic, _text(data.get("ParameterType")), weight_dtype)
    return EngineLayer(
        name=name,
        kind=kind,
        onnx_nodes=find_nodes(name, _text(data.get("Metadata"))),
        inputs=inputs,
        outputs=outputs,
        precision=product_precision(inputs, weight_dtype, name)
        if is_weighted
        else data_precision(kind, inputs, outputs),
        weight_dtype=weight_dtype,
        tactic=tactic,
        is_weighted=is_weighted,
        is_reformat=is_reformat,
        is_idle=kind.lower() in _IDLE,
    )


def product_precision(inputs: Sequence[EngineTensor], weight_dtype: ElementType | None, name: str) -> ElementType:
    """Type in which a product computes: INT8 or FP8 only if all that is multiplied is.

    Args:
        inputs: of the layer. Where no weight is stored in it, the first two are multiplied.
        weight_dtype: of a weight that is stored in the layer.
        name: fused attention ("mha") multiplies query, key and value; before the value there may be masks.
    """
    if weight_dtype is not None and weight_dtype != "unknown":
        kinds = [inputs[0].dtype if inputs else weight_dtype, weight_dtype]
    elif "mha" in name:
        data: list[ElementType] = [tensor.dtype for tensor in inputs if tensor.dtype != "bool"]
        kinds = data[:1] if data[:4].count("int8") == 3 else data[:3]
    else:
        kinds = [tensor.dtype for tensor in inputs[:2]]
    return next((kind for kind in kinds if kind not in QUANTIZED), kinds[0]) if kinds else "unknown"


def data_precision(kind: str, inputs: Sequence[EngineTensor], outputs: Sequence[EngineTensor]) -> ElementType:
    """Type in which a layer without a product computes: that of its data; of fused pointwise kernels the widest."""
    kinds = [tensor.dtype for tensor in inputs or outputs]
    data = [k for k in kinds if k not in ("int32", "int64", "bool", "unknown")]
    if not data:
        return kinds[0] if kinds else "unknown"
    if kind in POINTWISE_KINDS:
        return next((k for k in ("fp64", "fp32", "bf16", "fp16") if k in data), data[0])
    return data[0]


def _is_product(kind: str, name: str, tactic: str, parameter: str, weight_dtype: ElementType | None) -> bool:
    lower = kind.lower()
    if lower in ("kgen", "fusion"):  # only their names tell what they compute
        return _FUSED_PRODUCT.search(f"{name} {tactic}".lower()) is not None
    return (
        weight_dtype is not None or _PRODUCT.search(lower) is not None or _PRODUCT.search(parameter.lower()) is not None
    )


def _tensors(data: Any) -> tuple[EngineTensor, ...]:
    if not isinstance(data, list):
        return ()
    tensors = []
    for item in data:
        if not isinstance(item, dict):
            continue
        layout = _text(item.get("Format/Datatype")) or _text(item.get("Format"))
        stated = _text(item.get("DataType")) or _text(item.get("Datatype"))
        dims = item.get("Dimensions")
        shape = tuple(d for d in dims if isinstance(d, int)) if isinstance(dims, list) else ()
        tensors.append(EngineTensor(_text(item.get("Name")), precision_from_text(stated or layout), layout, shape))
    return tuple(tensors)


def _weight_bytes(layer: Mapping[str, Any]) -> int:
    total = 0.0
    for key in ("Weights", "Bias", "ConvWeights", "ConvBias"):
        item = layer.get(key)
        count = item.get("Count") if isinstance(item, dict) else None
        if isinstance(item, dict) and isinstance(count, int) and 0 < count < _MOST_WEIGHTS:
            total += count * _BYTES.get(precision_from_text(_text(item.get("Type"))), 0)
    return int(total)


def _times(text: str | bytes, name: str) -> list[tuple[str, float]]:
    data = _load_json(text, name)
    if not isinstance(data, list):
        raise BackendError(f"{name} is not a layer profile: trtexec --exportProfile writes a list")
    counts = [x["count"] for x in data if isinstance(x, dict) and isinstance(x.get("count"), int) and "name" not in x]
    runs = max(counts[0], 1) if counts else 1
    times = []
    for item in data:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        mean, total = _number(item.get("averageMs")), _number(item.get("timeMs"))
        value = mean if mean is not None else None if total is None else total / runs
        if value is None or value < 0:
            raise BackendError(f"{name}: layer {item['name'][:80]!r} has no time in milliseconds")
        times.append((item["name"], value))
    if not times:
        raise BackendError(f"{name} is not a layer profile: it lists no layer (trtexec --exportProfile writes one)")
    return times


def _number(value: Any) -> float | None:
    """A finite number, None for anything else."""
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
