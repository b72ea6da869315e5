"""ONNX models among the variants of an evaluation: what was measured of them, with what its numbers are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from quantkit.backends.onnxruntime import runtime_version
from quantkit.evaluation.run import metric_notes
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision
from quantkit.graph.passes.prepare import has_signed_activations
from quantkit.types import Evaluation, Latency

__all__ = ["model_evaluation"]


def model_evaluation(
    name: str,
    model: FloatModel,
    metrics: Mapping[str, float],
    latencies: Sequence[Latency],
    *,
    num_samples: int,
    origin: Sequence[str],
) -> Evaluation:
    """What was measured of a variant that ONNX Runtime ran.

    Args:
        name: of the variant.
        model: its ONNX model.
        metrics: of its outputs.
        latencies: at each batch size; empty where it was not timed.
        num_samples: behind the metrics.
        origin: which table it was made of, one sentence each.
    """
    precision: Literal["fp32", "fp16", "int8"] = "int8" if model.is_quantized else float_precision(model.graph)
    notes = [*metric_notes(metrics), *origin]
    representative = True
    if not latencies:
        pass
    elif precision == "fp16":
        notes.append("ONNX Runtime computes FP16 on a CPU by casting to FP32: its latency says nothing about a GPU")
        representative = False
    elif has_signed_activations(model.graph):
        notes.append("placed for TensorRT: its accuracy applies there; its latency on a CPU says nothing about a GPU")
        representative = False
    return Evaluation(
        name=name,
        precision=precision,
        backend=f"onnxruntime {runtime_version()} CPU",
        size_bytes=model.size_bytes,
        num_samples=num_samples,
        metrics=metrics,
        latency=latencies[0] if latencies else None,
        sweep=tuple(latencies[1:]),
        notes=tuple(notes),
        representative=representative,
        device="cpu",
    )
