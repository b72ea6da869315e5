"""Reports for the tests of this folder: one that is plausible, one of hostile names, and any that can exist."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import strategies as st

from quantkit.reporting.columns import TABLES
from quantkit.types import (
    TOP1,
    ChangedSample,
    ClassScore,
    Evaluation,
    Latency,
    LayerPlacement,
    Preprocessing,
    RankedUnit,
    Report,
    Score,
    SensitivityRanking,
    TensorQuality,
)

CPU = "onnxruntime 1.31.1 CPU"
GPU = "TensorRT 10.16.1 NVIDIA H100"
HOSTILE = "<script>alert('x')</script>|`a`*b*\n[red]\x1b[31m&\u202e"


def latency(median_ms: float) -> Latency:
    return Latency(
        batch_size=4,
        iterations=1234,
        threads=1,
        median_ms=median_ms,
        mean_ms=median_ms * 1.03,
        minimum_ms=median_ms * 0.9,
        p90_ms=median_ms * 1.1,
        p99_ms=median_ms * 1.3,
        throughput=4000 / median_ms,
        speedup_interval=(0.98 * 0.5 / median_ms, 1.02 * 0.5 / median_ms),
    )


def device_latency(compute_ms: float) -> Latency:
    return replace(
        latency(compute_ms + 0.75),
        threads=0,
        method="device",
        compute_ms=compute_ms,
        compute_p99_ms=compute_ms * 1.25,
        compute_variation=0.01,
        h2d_ms=0.5,
        d2h_ms=0.25,
        enqueue_ms=0.0625,
        speedup_interval=(0.98 / compute_ms, 1.02 / compute_ms),
    )


def metrics(top1: float, *, low: float, high: float, sqnr_db: float = 24.87) -> dict[str, float]:
    return {
        "top1": top1,
        "top5": 0.9875,
        "num_classes": 10.0,
        "fixed": 78.0,
        "broken": 88.0,
        "p_value": 0.4853,
        "top1_difference_low": low,
        "top1_difference_high": high,
        "agreement": 0.9748,
        "cosine": 0.998379,
        "sqnr_db": sqnr_db,
        "non_finite": 0.0,
    }


def make_report(**changes: object) -> Report:
    base = {"top1": 0.8103, "top5": 0.988, "num_classes": 10.0, "non_finite": 0.0}
    report = Report(
        model_name="resnet20.onnx",
        model_hash="9f2c7c0a",
        evaluations=(
            Evaluation("fp32", "fp32", CPU, 1_104_213, 10_000, base, latency(0.5), device="cpu"),
            Evaluation(
                "fp16",
                "fp16",
                CPU,
                561_022,
                10_000,
                metrics(0.8104, low=-0.0003, high=0.0005),
                latency(0.561),
                ("computed by casting",),
                representative=False,
                device="cpu",
                target="tensorrt",
            ),
            Evaluation(
                "int8",
                "int8",
                CPU,
                331_022,
                10_000,
                metrics(0.8093, low=-0.0035, high=0.0015),
                latency(0.245),
                device="cpu",
                target="cpu",
            ),
        ),
        dataset={"name": "cifar10/test", "num_samples": 10_000, "missing": None},
        environment={"cpu": "Some CPU", "python": "3.11.7"},
        preprocessing=Preprocessing(size=(32, 32), scale=1 / 255, mean=(0.5,), std=(0.25,)),
        calibration={"method": "entropy", "num_samples": 512, "percentile": None, "shuffled": True},
        skipped={"Softmax_41": "keeps float precision"},
        warnings=("Calibration and evaluation share 12 samples.",),
        created="2026-11-22T14:03:11Z",
    )
    return replace(report, **changes)  # type: ignore[arg-type]


def make_engines() -> Report:
    """FP32 on a CPU, and FP32 and INT8 engines on a GPU, which takes a fourth of the time."""
    report = make_report()
    fp32, _, int8 = report.evaluations
    engines = (
        replace(int8, name="trt-fp32", precision="fp32", backend=GPU, device="gpu", latency=device_latency(1.0)),
        replace(
            int8, name="trt-int8", backend=GPU, device="gpu", latency=replace(device_latency(0.25), cuda_graph=True)
        ),
    )
    return replace(report, evaluations=(fp32, *engines))


def cells(name: str, rows: Iterable[object], field: str) -> list[str]:
    """The texts of a column, or of the interval that goes with one, of a table's rows."""
    columns = TABLES[name].columns
    found = [c for column in columns for c in (column, column.interval) if c is not None and c.field == field]
    return [found[0].text(row) for row in rows]


def make_unlabeled() -> Report:
    report = make_report()
    evaluations = []
    for evaluation in report.evaluations:
        kept = ("agreement", "cosine", "sqnr_db", "non_finite")
        evaluations.append(
            replace(evaluation, metrics={k: v for k, v in evaluation.metrics.items() if k in kept}, latency=None)
        )
    return replace(report, evaluations=tuple(evaluations), score=None)


def plausible(report: Report) -> Report:
    """The report with shares and counts as any measurement gives them."""

    def fix(evaluation: Evaluation) -> Evaluation:
        found = {}
        for name, value in evaluation.metrics.items():
            low = evaluation.metrics.get(name.replace("_high", "_low"), value)
            found[name] = max(value, low) if name.endswith("_difference_high") else _share(value)
            if name in ("rmse", "sqnr_db", "cosine") or name.endswith("_low"):
                found[name] = value
        return replace(evaluation, metrics=found)

    classes = tuple(
        replace(c, scores={name: _share(value) for name, value in c.scores.items()}) for c in report.classes
    )
    return replace(report, evaluations=tuple(map(fix, report.evaluations)), classes=classes)


def _share(value: float) -> float:
    return abs(value) % 1 if math.isfinite(value) else math.nan if math.isnan(value) else math.inf


def make_hostile() -> Report:
    report = make_report()
    first, *others = report.evaluations
    last = replace(others[-1], name=HOSTILE, backend=HOSTILE, notes=(HOSTILE,))
    return replace(
        report,
        model_name=HOSTILE,
        model_hash=HOSTILE,
        evaluations=(first, others[0], last),
        dataset={HOSTILE: HOSTILE},
        environment={HOSTILE: HOSTILE},
        calibration={HOSTILE: HOSTILE},
        skipped={HOSTILE: HOSTILE},
        range_methods={HOSTILE: 2},
        float_tensors={HOSTILE: HOSTILE},
        sensitivity=SensitivityRanking(HOSTILE, 0.5, (RankedUnit(HOSTILE, "tensor", 0.5, -0.1),)),
        warnings=(HOSTILE,),
        created=HOSTILE,
    )


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_POSITIVE = st.floats(0, 1e6, allow_nan=False)
_INTEGER = st.integers(-(2**53), 2**53)

_INTERVAL = st.none() | st.tuples(_POSITIVE, _POSITIVE).map(sorted).map(tuple)

_BY_HOST = st.builds(
    Latency,
    median_interval_ms=_INTERVAL,
    p99_interval_ms=_INTERVAL,
    speedup_interval=_INTERVAL,
    batch_size=st.integers(1, 512),
    iterations=st.integers(1, 10**6),
    threads=st.integers(0, 64),
    median_ms=st.floats(1e-6, 1e6),
    mean_ms=_POSITIVE,
    minimum_ms=_POSITIVE,
    p90_ms=_POSITIVE,
    p99_ms=_POSITIVE,
    throughput=_POSITIVE,
)

_LATENCIES = _BY_HOST | st.builds(
    replace,
    _BY_HOST,
    method=st.just("device"),
    compute_ms=st.floats(1e-6, 1e6),
    compute_p99_ms=st.none() | _POSITIVE,
    compute_variation=st.none() | _POSITIVE,
    h2d_ms=st.none() | _POSITIVE,
    d2h_ms=st.none() | _POSITIVE,
    enqueue_ms=st.none() | _POSITIVE,
    cuda_graph=st.booleans(),
)

_SCORES = st.sampled_from([TOP1, Score("map", "mAP"), Score("rmse", "RMSE", False, False, "Metres."), None])

_ENDS = [f"{score}_difference_{end}" for score in ("top1", "map", "rmse") for end in ("low", "high")]
_KEYS = (
    st.sampled_from(
        ["top1", "map", "rmse", *_ENDS, "agreement", "sqnr_db", "cosine", "fixed", "broken", "p_value", "sqnr_db[y]"]
    )
    | _TEXT
)

_EVALUATIONS = st.builds(
    Evaluation,
    name=_TEXT,
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    backend=_TEXT,
    size_bytes=st.integers(0, 2**50),
    num_samples=st.integers(0, 10**9),
    metrics=st.dictionaries(_KEYS, _FINITE | st.sampled_from([math.inf, -math.inf]), max_size=5),
    latency=st.none() | _LATENCIES,
    notes=st.lists(_TEXT, max_size=2).map(tuple),
    representative=st.booleans(),
    device=st.sampled_from(["cpu", "gpu", None]),
)

_SWEPT = st.builds(
    lambda evaluation, sizes: replace(
        evaluation,
        latency=evaluation.latency and replace(evaluation.latency, batch_size=600),
        sweep=tuple(replace(evaluation.latency, batch_size=size) for size in sizes) if evaluation.latency else (),
    ),
    _EVALUATIONS,
    st.lists(st.integers(1, 512), unique=True, max_size=3),
)

_VARIANTS = st.sampled_from(["", "0", "int8"]) | _TEXT
_DECIBELS = st.none() | st.floats(-400, 400) | st.sampled_from([math.inf, -math.inf])

_TENSORS = st.builds(
    TensorQuality,
    variant=_VARIANTS,
    tensor=_TEXT,
    producer=_TEXT,
    sqnr_db=_DECIBELS,
    own_sqnr_db=_DECIBELS,
    amax=_POSITIVE | st.just(math.inf),
    minimum=_FINITE,
    maximum=_FINITE,
    clipped=st.floats(0, 1),
    histogram=st.lists(st.integers(0, 2**53), max_size=90).map(tuple),
    histogram_top=_POSITIVE,
)

any_report = st.builds(
    Report,
    model_name=_TEXT,
    model_hash=_TEXT,
    evaluations=st.lists(_EVALUATIONS | _SWEPT, min_size=1, max_size=3, unique_by=lambda e: e.name).map(tuple),
    dataset=st.dictionaries(_TEXT, _TEXT | _INTEGER | _FINITE | st.none(), max_size=3),
    environment=st.dictionaries(_TEXT, _TEXT, max_size=3),
    preprocessing=st.none()
    | st.builds(
        Preprocessing,
        size=st.tuples(st.integers(1, 512), st.integers(1, 512)),
        scale=st.floats(1e-6, 10),
        mean=st.tuples(*[st.floats(-10, 300)] * 3),
    ),
    calibration=st.dictionaries(_TEXT, _TEXT | _INTEGER | _FINITE | st.booleans() | st.none(), max_size=3),
    skipped=st.dictionaries(_TEXT, _TEXT, max_size=3),
    range_methods=st.dictionaries(_TEXT, st.integers(0, 10**9), max_size=3),
    float_tensors=st.dictionaries(_TEXT, _TEXT, max_size=3),
    sensitivity=st.none()
    | st.builds(
        SensitivityRanking,
        measure=_TEXT,
        damage=_FINITE,
        units=st.lists(
            st.builds(
                RankedUnit,
                name=_TEXT,
                kind=st.sampled_from(["tensor", "operator"]),
                damage=_FINITE,
                saved=_FINITE,
            ),
            max_size=3,
        ).map(tuple),
    ),
    warnings=st.lists(_TEXT, max_size=2).map(tuple),
    timing_warnings=st.lists(_TEXT, max_size=2).map(tuple),
    created=_TEXT,
    task=st.sampled_from(["classify", "detect", "segment", "custom", "none"]),
    score=_SCORES,
    planned_samples=st.none() | st.integers(1, 10**9),
    classes=st.lists(
        st.builds(
            ClassScore, label=_TEXT, count=st.integers(0, 10**9), scores=st.dictionaries(_VARIANTS, _FINITE, max_size=3)
        ),
        max_size=3,
    ).map(tuple),
    changes=st.lists(
        st.builds(
            ChangedSample,
            variant=_VARIANTS,
            sample=_TEXT,
            kind=st.sampled_from(["broken", "fixed", "changed"]),
            truth=_TEXT,
            before=_TEXT,
            after=_TEXT,
            severity=_FINITE,
            thumbnail=_TEXT | st.just("data:image/png;base64,iVBORw0KGgo="),
        ),
        max_size=3,
    ).map(tuple),
    num_changes=st.dictionaries(
        _VARIANTS, st.dictionaries(st.sampled_from(["broken", "fixed", "changed"]), st.integers(0, 10**9)), max_size=2
    ),
    tensors=st.lists(_TENSORS, max_size=5).map(tuple),
    layers=st.lists(
        st.builds(LayerPlacement, variant=_VARIANTS, node=_TEXT, op_type=_TEXT, is_int8=st.booleans(), reason=_TEXT),
        max_size=3,
    ).map(tuple),
    commands=st.lists(_TEXT, max_size=2).map(tuple),
)
