"""Whether a model computes the same after it was converted to an opset that quantkit works with."""

from __future__ import annotations

import numpy as np

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets.batching import make_batches, run_padded
from quantkit.errors import BackendError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import NEWEST_OPSET, OLDEST_OPSET, share_weights
from quantkit.notices import Notice, Notify
from quantkit.types import Batch, Dataset

LARGEST_DIFFERENCE = 1e-3
"""Difference of outputs, in parts of the largest output, from which on a conversion is doubtful."""


def tell_conversion(model: FloatModel, dataset: Dataset, notify: Notify) -> None:
    """Says that a model of another opset was converted, and how far its outputs moved on the first sample.

    Args:
        model: any; one of a current opset is left alone.
        dataset: what it takes.
        notify: hears it.
    """
    old = model.graph.opset_imports[""]
    if OLDEST_OPSET <= old <= NEWEST_OPSET:
        return
    text = f"{model.name} was converted from opset {old} to {model.prepared().opset_imports['']}: "
    batch = next(iter(make_batches(dataset, 1, strict=False, workers=1, skipped={})))
    try:
        difference = _difference(model, batch)
    except BackendError:
        notify(Notice("warning", "model", text + "ONNX Runtime does not run both, so that outputs were not compared"))
        return
    if difference > LARGEST_DIFFERENCE:
        text += f"outputs on a sample differ by {difference:.2g} of the largest; export it again with opset 17"
        notify(Notice("warning", "model", text))
    else:
        text += f"outputs on a sample {f'agree to {difference:.1g} of the largest' if difference else 'are equal'}"
        notify(Notice("info", "model", text))


def _difference(model: FloatModel, batch: Batch) -> float:
    """The largest difference of an output on `batch`, in parts of its largest magnitude."""
    found = []
    for graph in (model.graph, model.prepared()):
        with OnnxRuntimeRunner(share_weights(graph), name=model.name, spinning=False) as runner:
            found.append(run_padded(runner, batch))
    worst = 0.0
    for name, before in found[0].items():
        after = found[1][name]
        if before.dtype.kind not in "fiub" or not before.size:
            continue
        finite = np.isfinite(before)
        if before.shape != after.shape or (finite != np.isfinite(after)).any():
            return np.inf
        kept = before[finite].astype(np.float64)
        difference = np.abs(kept - after[finite].astype(np.float64))
        worst = max(worst, float(difference.max(initial=0.0)) / max(float(np.abs(kept).max(initial=0.0)), 1e-30))
    return worst
