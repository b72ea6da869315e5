"""FP16 without overflow: how large activations become, from the table, else from a few samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from quantkit.backends.onnxruntime import has_operator
from quantkit.datasets import Selection
from quantkit.datasets.batching import batch_axes, leading_size, make_batches, take_rows
from quantkit.datasets.open import open_samples
from quantkit.errors import BackendError
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.fp16_overflow import describe_overflow, overflowing_nodes
from quantkit.graph.passes.prepare import FP16_OPSET
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.graph.runnable_part import runnable_part
from quantkit.refinement.observation import observe

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.graph.float_model import FloatModel
    from quantkit.types import CalibrationTable, Dataset, PathLike
    from quantkit.types.options import ImageOptions

_NUM_SAMPLES = 4


def sample_magnitudes(model: FloatModel, dataset: Dataset) -> dict[str, float]:
    """Largest magnitude of every float activation that can be computed; infinite where one overflowed in FP32.

    A few samples run, up to operators that ONNX Runtime does not have.

    Args:
        model: the float model.
        dataset: samples that fit its inputs.

    Raises:
        QuantKitError: the model does not run, or no sample can be read.
    """
    part, _ = runnable_part(model, has_operator)
    graph = part.prepared()
    few = Selection(dataset, tuple(range(min(_NUM_SAMPLES, len(dataset)))))
    size = leading_size(model.inputs, batch_axes(dataset))
    found: dict[str, float] = {}
    for batch in make_batches(few, size or 1, strict=False, workers=1, skipped={}):
        inputs = take_rows(batch, np.arange(size or 1) % len(batch))
        for values in observe(GraphPieces(graph), float_activations(graph), [inputs]):
            for name, largest in _largest(values).items():
                found[name] = max(found.get(name, 0.0), largest)
    return found


def known_magnitudes(
    model: FloatModel, table: CalibrationTable | None, data: PathLike | None, placed: ImageOptions | None = None
) -> dict[str, float]:
    """Largest magnitude of every activation by the table, or by a few samples of `data`; nothing without either.

    Args:
        model: the float model.
        table: of its calibration.
        data: images or arrays.
        placed: batch axes and constant inputs.
    """
    if table is not None:
        return table.magnitudes
    if data is None:
        return {}
    dataset = open_samples(model.inputs, data, placed, None, num_samples=32, seed=0, order="shuffled", labeled=False)
    return sample_magnitudes(model, dataset)


def in_fp16(model: FloatModel, table: CalibrationTable | None, dataset: Dataset) -> tuple[ir.Model, tuple[str, ...]]:
    """The model in FP16, and what of it had to stay in FP32."""
    graph = model.prepared(FP16_OPSET)
    try:
        seen = sample_magnitudes(model, dataset) if table is None else table.magnitudes
    except BackendError as error:  # a piece of the graph does not run by itself, though the whole model does
        return to_fp16(graph), (f"where FP16 overflows is not known: {error}",)
    keep = overflowing_nodes(graph, seen)
    return to_fp16(graph, keep=keep), tuple(filter(None, [describe_overflow(keep)]))


def _largest(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    floats = {name: np.abs(array) for name, array in values.items() if np.asarray(array).dtype.kind == "f"}
    return {name: float(np.nan_to_num(a, nan=0.0, posinf=np.inf).max(initial=0.0)) for name, a in floats.items()}
