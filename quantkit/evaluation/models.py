"""ONNX models among the variants of an evaluation: which there can be, what was measured and what it is worth."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from quantkit.backends.onnxruntime import runtime_version
from quantkit.errors import EvaluationError
from quantkit.evaluation.accurate_session import computes_in_fp16, is_for_gpu
from quantkit.evaluation.run import metric_notes
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision
from quantkit.graph.passes.prepare import has_signed_activations, scheme_of
from quantkit.registry import suggest
from quantkit.types import SCHEMES, CalibrationTable, Evaluation, Latency, PathLike, Precision

VARIANTS = ("fp32", "fp16", "int8", "int8-cpu")
"""What `evaluate` can make: the FP32 model itself, FP16, INT8 as TensorRT takes it, INT8 for ONNX Runtime on x86.

A model of FP16 is the baseline itself.
"""

OTHER_FORMATS = tuple(name for name in SCHEMES if name != "int8")
"""Variants that are made where they are named: other formats of `quantkit quantize`.

Their weights are those that are kept beside the table, others are rounded to nearest.
"""

VARIANT_NAMES = (*VARIANTS, *OTHER_FORMATS)


def no_table(model: PathLike = "MODEL") -> str:
    """What INT8 lacks without a table, and the fix."""
    fix = f"run `quantkit calibrate {shlex.quote(str(model))} --data DATA`, or pass --table or --calibrate-data"
    return f"INT8 needs a calibration table: {fix}"


def known_variants(variants: Iterable[str], baseline: Literal["fp32", "fp16"] = "fp32") -> tuple[str, ...]:
    """The names that variants of a model may have, all of `variants` among them.

    Raises:
        EvaluationError: there is no such variant.
    """
    known = VARIANT_NAMES[VARIANT_NAMES.index(baseline) :]
    for name in variants:
        if name.lower() not in known:
            of_half = " for a model of FP16" if baseline == "fp16" else ""
            raise EvaluationError(f"--variants: there is no {name!r}{of_half}: {suggest(name.lower(), known)}")
    return known


def choose_variants(
    variants: Sequence[str] | None,
    table: CalibrationTable | PathLike | None,
    baseline: Literal["fp32", "fp16"] = "fp32",
) -> tuple[str, ...]:
    """Which variants to make, the model itself, of that precision, first.

    Raises:
        EvaluationError: there is no such variant, or no table for it.
    """
    known = known_variants(variants or (), baseline)
    if variants is None:
        return tuple(name for name in known if name in VARIANTS and (table is not None or not name.startswith("int8")))
    variants = [name.lower() for name in variants]
    if table is None and any(name.startswith("int8") or name in OTHER_FORMATS for name in variants):
        raise EvaluationError(no_table())
    return tuple(name for name in known if name == baseline or name in variants)


def model_evaluation(
    name: str,
    model: FloatModel,
    metrics: Mapping[str, float],
    latencies: Sequence[Latency],
    *,
    num_samples: int,
    origin: Sequence[str],
    device: Literal["cpu", "gpu"] = "cpu",
) -> Evaluation:
    """What was measured of a variant that ONNX Runtime ran.

    Args:
        name: of the variant.
        model: its ONNX model.
        metrics: of its outputs.
        latencies: at each batch size; empty where it was not timed.
        num_samples: behind the metrics.
        origin: which table it was made of, one sentence each.
        device: that it ran on.
    """
    precision: Precision = float_precision(model.graph)
    if model.is_quantized:
        precision = scheme_of(model.graph)
    notes = [*metric_notes(metrics), *origin]
    for_gpu = is_for_gpu(model)
    if has_signed_activations(model.graph):
        notes.append("its accuracy is computed with Q/DQ in float, as on TensorRT, on any processor")
    elif model.is_quantized:
        notes.append("its accuracy is that of ONNX Runtime's integer kernels on this processor")
    if computes_in_fp16(model):
        notes.append("its accuracy is computed with sums in FP32 and every result rounded to FP16, as on a GPU")
    on_gpu = device == "gpu"
    if on_gpu and latencies:
        notes.append("its latency is that of ONNX Runtime's CUDA provider, not of TensorRT")
    elif for_gpu and latencies:
        notes.append("its latency on a CPU says nothing about a GPU")
    return Evaluation(
        name=name,
        precision=precision,
        backend=f"onnxruntime {runtime_version()} {'CUDA' if on_gpu else 'CPU'}",
        size_bytes=model.size_bytes,
        num_samples=num_samples,
        metrics=metrics,
        latency=latencies[0] if latencies else None,
        sweep=tuple(latencies[1:]),
        notes=tuple(notes),
        representative=not (on_gpu or (for_gpu and latencies)),
        device=device,
        target="tensorrt" if for_gpu else "cpu" if model.is_quantized else None,
    )
