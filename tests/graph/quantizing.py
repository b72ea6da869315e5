"""The graph stage end to end on models in memory: prepare, plan, observe random inputs, insert, convert, run."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.calibration.collect import collect
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs, serialize_model
from quantkit.graph.passes.expose import expose
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.prepare import FP16_OPSET, prepare
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.types import INT8, Batch, QdqPlan, QuantFormat, TensorRange

from .models import MODELS


@functools.cache
def quantized(name: str, high_precision: str = "fp32") -> Quantized:
    """The INT8 form of one of `MODELS`. It is shared between tests: leave it as it is."""
    return quantize(MODELS[name](), high_precision=high_precision)


@dataclass(frozen=True)
class Quantized:
    """An INT8 model with what it was made from."""

    graph: ir.Model
    plan: QdqPlan
    inputs: dict[str, np.ndarray]

    @property
    def proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.graph)


def load(model: onnx.ModelProto) -> ir.Model:
    """Through a file, as users do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return FloatModel(path).graph


def write(model: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Saves a model, its weights in a file `<name>.data` beside it if they shall be external."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # saving moves the values out of the model in memory
        onnx.save(copy, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    else:
        onnx.save(model, path)
    return path


def random_inputs(graph: ir.Model, *, batch: int = 4, seed: int = 1) -> dict[str, np.ndarray]:
    """Normal numbers for every float input, zeros (false) for the others; dynamic dimensions become `batch`."""
    random = np.random.default_rng(seed)
    made = {}
    for spec in input_specs(graph):
        shape = tuple(d if isinstance(d, int) else batch for d in spec.shape)
        values = random.standard_normal(shape) if spec.dtype.kind == "f" else np.ones(shape)
        made[spec.name] = values.astype(spec.dtype)
    return made


def run(model: ir.Model | onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name. Q/DQ are computed as ONNX specifies them: integer kernels differ from processor to processor."""
    with tempfile.TemporaryDirectory() as folder:
        content = serialize_model(model, folder) if isinstance(model, ir.Model) else model.SerializeToString()
        with OnnxRuntimeRunner(content, threads=2, spinning=False, fuse_qdq=False) as runner:
            return runner.run(inputs)


def observe(model: onnx.ModelProto, tensors: tuple[str, ...], inputs: dict[str, np.ndarray]) -> dict[str, TensorRange]:
    """Ranges of `tensors` on `inputs`."""
    exposed = expose(prepare(load(model), name="model"), tensors)
    samples = len(next(iter(inputs.values())))
    # A scalar input has no batch dimension: it stays outside of the batch.
    batch = Batch({k: v for k, v in inputs.items() if v.shape[:1] == (samples,)}, tuple(map(str, range(samples))))
    found: dict[str, TensorRange] = {}
    with OnnxRuntimeRunner(serialize_model(exposed, "."), spinning=False) as runner:
        fixed = _Fixed(runner, inputs)
        for name, statistics in collect(fixed, [batch], tensors).statistics.items():
            found[name] = TensorRange(statistics.amax, statistics.minimum, statistics.maximum)
    return found


def quantize(
    model: onnx.ModelProto,
    *,
    high_precision: str = "fp32",
    exclude: tuple[str, ...] = (),
    batch: int = 4,
    spread: float = 0.0,
    quantize_all: bool = False,
    fmt: QuantFormat = INT8,
) -> Quantized:
    """What `quantkit quantize` does, with the largest magnitudes on random inputs as ranges.

    Each is widened by up to `spread` of it, at random, so that no two tensors have one scale by chance.
    """
    half = high_precision == "fp16"
    graph = load(model)
    inputs = random_inputs(graph, batch=batch)
    prepare(graph, name="model", **({"opset": FP16_OPSET if fmt == INT8 else 21} if half else {}))
    plan = plan_tensorrt(graph, exclude=exclude, quantize_all=quantize_all, fmt=fmt)
    ranges = observe(model, tuple(dict.fromkeys(e.tensor for e in plan.activations)), inputs)
    random = np.random.default_rng(0)
    ranges = {name: replace(found, amax=found.amax * random.uniform(1, 1 + spread)) for name, found in ranges.items()}
    insert_qdq(graph, plan, activation_params(plan, ranges), fp16_scales=half)
    return Quantized(to_fp16(graph) if half else graph, plan, inputs)


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal over noise, in dB."""
    reference, other = (np.asarray(a, np.float64) for a in (reference, other))
    noise = float(np.square(reference - other).sum())
    return np.inf if noise == 0 else float(10 * np.log10(np.square(reference).sum() / noise))


class _Fixed:
    """A runner that is fed some inputs beside every batch."""

    def __init__(self, runner: OnnxRuntimeRunner, fixed: dict[str, np.ndarray]) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._runner, self._fixed = runner, fixed

    def run(self, inputs):
        return self._runner.run({**self._fixed, **inputs})
