"""Rich reports for the eye and for the tests: every part filled, and each in the ways that go wrong.

``python -m tests.reporting.samples FOLDER`` writes each of them in every form.
"""

from __future__ import annotations

import base64
import io
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from quantkit.reporting import write_report
from quantkit.types import (
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

from .reports import CPU, HOSTILE, metrics

GPU = "TensorRT 10.16.1 NVIDIA H100 80GB HBM3"
LONG = "features/denseblock_with_a_very_long_name/denselayer_17/conv2/Conv_output_0_quantized_activation_of_the_block"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MAP = Score("map", "mAP", definition="Mean over classes of average precision, averaged over IoU 0.5 to 0.95 (COCO).")
MIOU = Score("miou", "mIoU", definition="Mean over classes of intersection over union of the pixels.")
ERROR = Score(
    "rmse", "RMSE", is_fraction=False, higher_is_better=False, definition="Root mean square error, in metres."
)


def timed(median_ms: float, batch_size: int = 1, speedup: tuple[float, float] | None = None, **changes: object):
    """A latency with everything that the host's clock can say."""
    latency = Latency(
        batch_size=batch_size,
        iterations=4213,
        threads=4,
        median_ms=median_ms,
        mean_ms=median_ms * 1.03,
        minimum_ms=median_ms * 0.9,
        p90_ms=median_ms * 1.08,
        p99_ms=median_ms * 1.31,
        throughput=970 * batch_size / median_ms,
        median_interval_ms=(median_ms * 0.992, median_ms * 1.009),
        p90_interval_ms=(median_ms * 1.06, median_ms * 1.11),
        p99_interval_ms=(median_ms * 1.24, median_ms * 1.43),
        speedup_interval=speedup,
    )
    return replace(latency, **changes)


def by_device(compute_ms: float, batch_size: int = 1, speedup: tuple[float, float] | None = None) -> Latency:
    """A latency by the events of a GPU."""
    return timed(
        compute_ms + 0.11 * batch_size,
        batch_size,
        speedup,
        threads=0,
        method="device",
        compute_ms=compute_ms,
        compute_p99_ms=compute_ms * 1.06,
        compute_variation=0.01,
        h2d_ms=0.09 * batch_size,
        d2h_ms=0.02 * batch_size,
        enqueue_ms=0.031,
        cuda_graph=True,
    )


def sweep_of(base_ms: float, ratio: float | None, sizes: tuple[int, ...] = (1, 8, 32)) -> tuple[Latency, ...]:
    """Latencies at each batch size, `ratio` times as fast at the first and a little more at each after it."""
    found = []
    for i, size in enumerate(sizes):
        fast = 1.0 if ratio is None else ratio * (1 + 0.12 * i)
        interval = None if ratio is None else (fast * 0.985, fast * 1.02)
        found.append(timed(base_ms * size**0.86 / fast, size, interval))
    return tuple(found)


def picture(seed: int, size: int = 64) -> str:
    """A small picture as data URI: soft blobs, so that a page of them can be looked at."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.ones((size, size, 3)) * rng.uniform(0.25, 0.8, 3)
    for _ in range(5):
        cx, cy, r = (*rng.uniform(0.1, 0.9, 2).tolist(), rng.uniform(0.08, 0.35))
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / r**2)[..., None]
        image = image * (1 - blob) + blob * rng.uniform(0.05, 1, 3)
    buffer = io.BytesIO()
    Image.fromarray((255 * image).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def class_metrics(top1: float, low: float, high: float, **changes: float) -> dict[str, float]:
    found = metrics(top1, low=low, high=high)
    return found | {"sqnr_db[logits]": found["sqnr_db"], "equal": 0.0} | changes


def classes_of(names: tuple[str, ...], variants: tuple[str, ...], *, count: int = 1000) -> tuple[ClassScore, ...]:
    rng = np.random.default_rng(7)
    scores = []
    for name in names:
        base = rng.integers(int(0.55 * count), int(0.98 * count))
        shares = {variants[0]: base / count}
        for i, variant in enumerate(variants[1:]):
            spread = (0.001, 0.012, 0.03)[i % 3]
            shares[variant] = float(np.clip(round(base + rng.normal(-0.2, 1) * spread * count), 0, count)) / count
        scores.append(ClassScore(name, count, shares))
    return tuple(scores)


def changes_of(variant: str, kinds: dict[str, int], *, pictures: bool = True) -> tuple[ChangedSample, ...]:
    found = []
    for kind, number in kinds.items():
        for i in range(number):
            truth, other = CLASSES[(3 * i) % 10], CLASSES[(3 * i + 2 + i % 5) % 10]
            right, wrong = f"{truth} ({91 - 2 * i}%)", f"{other} ({48 + i}%)"
            found.append(
                ChangedSample(
                    variant=variant,
                    sample=f"{truth}/{137 * (i + 1) % 1000:04d}.jpg",
                    kind=kind,
                    truth="" if kind == "changed" else truth,
                    before=right if kind != "fixed" else wrong,
                    after=wrong if kind != "fixed" else right,
                    severity=0.9 - i / 50,
                    thumbnail=picture(i + 100 * len(kind)) if pictures else "",
                )
            )
    return tuple(found)


def tensors_of(variant: str, count: int = 57, *, seed: int = 3) -> tuple[TensorQuality, ...]:
    rng = np.random.default_rng(seed)
    found, sqnr = [], 46.0
    for i in range(count):
        own = float(np.clip(rng.normal(39, 3.5), 24, 46)) - (14 if i in (count // 3, count // 2 + 3) else 0)
        sqnr = -10 * math.log10(10 ** (-sqnr / 10) * 0.9 + 10 ** (-own / 10))
        top = float(rng.uniform(3, 18))
        values = np.minimum(np.abs(rng.laplace(0, top / 9, 20_000)), top)
        histogram, _ = np.histogram(values, 64, (0, top))
        amax = top * float(rng.uniform(0.35, 1.02))
        op = ("Conv", "Relu", "Add")[i % 3]
        found.append(
            TensorQuality(
                variant=variant,
                tensor=f"/layer{1 + i // 15}/block{i // 5 % 3}/{op.lower()}{i % 5}/{op}_output_0",
                producer="input" if i == 0 else f"{op} /layer{1 + i // 15}/block{i // 5 % 3}/{op.lower()}{i % 5}",
                sqnr_db=None if i == 0 else sqnr,
                own_sqnr_db=own,
                amax=amax,
                minimum=0.0 if op == "Relu" else -top * 0.9,
                maximum=top,
                clipped=float((values > amax).mean()),
                histogram=tuple(int(n) for n in histogram),
                histogram_top=top,
            )
        )
    return tuple(found)


def layers_of(variant: str) -> tuple[LayerPlacement, ...]:
    convs = [LayerPlacement(variant, f"/layer{i // 6}/conv{i % 6}", "Conv", True) for i in range(19)]
    depth = [
        LayerPlacement(variant, f"/layer{i}/depthwise", "Conv", False, "depthwise: INT8 gains no time here")
        for i in range(2)
    ]
    tail = [
        LayerPlacement(variant, "/fc/Gemm", "Gemm", True),
        LayerPlacement(variant, "/attention/MatMul", "MatMul", False, "excluded by --exclude"),
        LayerPlacement(variant, "/attention/MatMul_1", "MatMul", True),
    ]
    return (*convs, *depth, *tail)


def make_classification() -> Report:
    """A classifier with everything that a report can hold."""
    base = {"top1": 0.8103, "top5": 0.988, "num_classes": 10.0, "non_finite": 0.0}
    fp32, fp16, int8 = (sweep_of(2.41, ratio) for ratio in (None, 0.89, 2.31))
    worse = sweep_of(2.41, 2.38)
    return Report(
        model_name="resnet20_cifar10.onnx",
        model_hash="9f2c7c0a4be1d2c8",
        evaluations=(
            Evaluation("fp32", "fp32", CPU, 1_104_213, 10_000, base, fp32[0], sweep=fp32[1:], device="cpu"),
            Evaluation(
                "fp16",
                "fp16",
                CPU,
                561_022,
                10_000,
                class_metrics(0.8104, -0.0003, 0.0005, agreement=0.9994, fixed=4, broken=3, sqnr_db=64.1),
                fp16[0],
                ("computed by casting to FP32: its latency says nothing about a device that has FP16",),
                representative=False,
                sweep=fp16[1:],
                device="cpu",
                target="tensorrt",
            ),
            Evaluation(
                "int8",
                "int8",
                CPU,
                331_022,
                10_000,
                class_metrics(0.8093, -0.0035, 0.0015),
                int8[0],
                sweep=int8[1:],
                device="cpu",
                target="cpu",
            ),
            Evaluation(
                "int8-minmax",
                "int8",
                CPU,
                331_022,
                10_000,
                class_metrics(0.7961, -0.0189, -0.0095, agreement=0.9312, fixed=160, broken=302, p_value=1e-9),
                worse[0],
                sweep=worse[1:],
                device="cpu",
                target="cpu",
            ),
        ),
        dataset={
            "name": "cifar10/test",
            "num_samples": 10_000,
            "num_classes": 10,
            "fingerprint": "5f0c1be2a97d44aa",
            "skipped_files": None,
        },
        environment={
            "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 8 cores",
            "cpu_flags": "avx2 avx512f avx512_vnni amx_int8",
            "python": "3.11.7",
            "onnxruntime": "1.31.1",
            "quantkit": "0.4.0",
            "os": "Linux 6.8.0",
        },
        preprocessing=Preprocessing(size=(32, 32), scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.25,) * 3),
        calibration={"method": "entropy", "num_samples": 512, "histogram_bins": 2048, "percentile": None},
        skipped={
            "/attention/MatMul": "excluded by --exclude",
            "/Softmax_output_0": "Softmax keeps float precision",
            "/LayerNorm_output_0": "LayerNorm keeps float precision",
        },
        range_methods={"mse": 21, "minmax": 7, "tensorrt": 2, "percentile 99.999": 3},
        float_tensors={
            "/features/se/Mul_output_0": "more accurate in float (alone in INT8: KL divergence 0.031)",
            "/head/Relu_output_0": "left in float by the plan tune.json",
        },
        sensitivity=SensitivityRanking(
            "KL divergence",
            0.0123,
            (
                *(
                    RankedUnit(f"/layer{i}/Relu_output_0", "tensor", 0.031 / (i + 1) ** 2, 0.01 - i * 0.001)
                    for i in range(14)
                ),
                *(RankedUnit(f"/layer{i}/Conv", "operator", 0.02 / (i + 1) ** 2, 0.004) for i in range(5)),
            ),
        ),
        warnings=("Calibration and evaluation share 12 samples.",),
        created="2026-11-22T14:03:11Z",
        classes=classes_of(CLASSES, ("fp32", "fp16", "int8", "int8-minmax")),
        changes=(
            *changes_of("int8", {"broken": 24, "fixed": 24, "changed": 5}),
            *changes_of("int8-minmax", {"broken": 8, "fixed": 3}),
        ),
        num_changes={
            "int8": {"broken": 57, "fixed": 48, "changed": 5},
            "int8-minmax": {"broken": 302, "fixed": 160, "changed": 226},
        },
        tensors=(*tensors_of("int8"), *tensors_of("int8-minmax", seed=9)),
        layers=(*layers_of("int8"), *layers_of("int8-minmax")),
        commands=(
            "quantkit calibrate resnet20_cifar10.onnx --data cifar10/calib --num-samples 512 -o resnet20.table.json",
            "quantkit evaluate resnet20_cifar10.onnx --data cifar10/test --table resnet20.table.json "
            "--batch-sizes 1,8,32 --latency-s 10 -o resnet20.report",
        ),
    )


def make_detection() -> Report:
    """A detector on a GPU: low scores, classes without a score, AP that is no number."""
    names = ("person", "bicycle", "car", "traffic light", "toothbrush", "hair drier", "no such thing")
    counts = (11_004, 316, 1_932, 637, 57, 11, 0)
    scores = [
        {"fp32": 0.512, "trt-fp16": 0.512, "trt-int8": 0.488},
        {"fp32": 0.301, "trt-fp16": 0.3, "trt-int8": 0.295},
        {"fp32": 0.421, "trt-fp16": 0.42, "trt-int8": 0.431},
        {"fp32": 0.26, "trt-fp16": 0.26, "trt-int8": 0.1},
        {"fp32": 0.111, "trt-fp16": 0.113, "trt-int8": 0.02},
        {"fp32": 0.0, "trt-fp16": 0.0, "trt-int8": 0.0},
        {"fp32": math.nan, "trt-int8": math.nan},
    ]

    def scored(value: float, low: float | None = None, high: float | None = None) -> dict[str, float]:
        found = {"map": value, "map50": value * 1.5, "non_finite": 0.0}
        return found if low is None else found | {"map_difference_low": low, "map_difference_high": high}

    engines = {}
    for name, compute, ratio in (("trt-fp32", 1.62, None), ("trt-fp16", 0.71, 2.28), ("trt-int8", 0.49, 3.31)):
        engines[name] = tuple(
            by_device(compute * size**0.8, size, None if ratio is None else (ratio * 0.99, ratio * 1.01))
            for size in (1, 8, 64)
        )
    return Report(
        model_name="yolo11n.onnx",
        model_hash="77aa01",
        evaluations=(
            Evaluation("fp32", "fp32", CPU, 10_700_000, 5000, scored(0.3914), timed(41.3), device="cpu"),
            *(
                Evaluation(
                    name,
                    name[4:],
                    GPU,
                    size,
                    5000,
                    found,
                    engines[name][0],
                    sweep=engines[name][1:],
                    device="gpu",
                )
                for name, size, found in (
                    ("trt-fp32", 11_900_000, scored(0.3914, -0.0001, 0.0001)),
                    ("trt-fp16", 6_200_000, scored(0.3912, -0.0007, 0.0004)),
                    ("trt-int8", 4_100_000, scored(0.3721, -0.0236, -0.0151)),
                )
            ),
        ),
        dataset={"name": "coco/val2017", "num_samples": 5000},
        environment={"gpu": "NVIDIA H100 80GB HBM3", "driver": "575.57", "clocks": "1980 MHz, not locked"},
        preprocessing=Preprocessing(size=(640, 640), scale=1 / 255, resize="letterbox"),
        calibration={"method": "minmax", "num_samples": 500},
        created="2026-11-22T15:00:00Z",
        task="detect",
        score=MAP,
        classes=tuple(ClassScore(n, c, s) for n, c, s in zip(names, counts, scores, strict=True)),
        changes=(
            ChangedSample(
                "trt-int8",
                "000000000139.jpg",
                "broken",
                "2 person, 3 chair, 1 tv",
                "2 person, 3 chair, 1 tv (AP 0.81)",
                "1 person, 1 chair (AP 0.32)",
                0.49,
                picture(5, 96),
            ),
        ),
        num_changes={"trt-int8": {"broken": 1311, "fixed": 402}},
    )


def make_partial() -> Report:
    """A run that was interrupted, with too few images to say anything."""
    report = make_classification()
    few = tuple(
        replace(
            e,
            num_samples=200,
            metrics=e.metrics
            if i == 0
            else class_metrics(0.805, -0.033, 0.022, fixed=3, broken=4, p_value=1.0, agreement=0.955),
        )
        for i, e in enumerate(report.evaluations)
    )
    return replace(report, evaluations=few[:3:2], planned_samples=10_000)


def make_joined() -> Report:
    """Two runs side by side, as `join_reports` names them."""
    report = make_classification()
    runs = []
    for run, factor in (("xeon", 1.0), ("epyc", 1.7)):
        for e in report.evaluations:
            latencies = [
                replace(x, median_ms=x.median_ms * factor, throughput=x.throughput / factor, median_interval_ms=None)
                for x in e.latencies
            ]
            runs.append(
                replace(
                    e,
                    name=f"{run}/{e.name}",
                    backend=f"{e.backend} (run {run})",
                    latency=latencies[0],
                    sweep=tuple(latencies[1:]),
                )
            )
    return replace(
        report,
        evaluations=tuple(runs),
        classes=(),
        changes=(),
        num_changes={},
        tensors=(),
        layers=(),
        warnings=("speed-ups are within one run: times of different runs are not compared",),
    )


def make_unlabeled_arrays() -> Report:
    """No labels, no pictures: agreement alone."""
    report = make_classification()
    kept = ("agreement", "cosine", "sqnr_db", "non_finite")
    evaluations = tuple(
        replace(e, metrics={k: v for k, v in e.metrics.items() if k in kept}) for e in report.evaluations
    )
    return replace(
        report,
        evaluations=evaluations,
        score=None,
        preprocessing=None,
        classes=(),
        changes=changes_of("int8", {"changed": 16}, pictures=False),
        num_changes={"int8": {"changed": 252}},
    )


def make_report_of_classes(*classes: ClassScore) -> Report:
    """FP32 and INT8 with these classes."""
    report = make_classification()
    return replace(report, evaluations=report.evaluations[:3:2], classes=classes)


def make_imagenet() -> Report:
    """1000 classes of 50 samples, 200 tensors."""
    report = make_classification()
    names = tuple(f"{CLASSES[i % 10]} of kind {i}" for i in range(1000))
    return replace(
        report,
        model_name="efficientnet_b0.onnx",
        classes=classes_of(names, ("fp32", "fp16", "int8", "int8-minmax"), count=50),
        tensors=tensors_of("int8", 200),
        layers=layers_of("int8"),
    )


def make_error_score() -> Report:
    """A score that is no share and of which less is better."""
    report = make_classification()
    values = (4.213, 4.214, 4.31, 6.1)
    ends = (None, (-0.004, 0.006), (0.05, 0.15), (1.7, 2.1))
    evaluations = []
    for e, value, pair in zip(report.evaluations, values, ends, strict=True):
        measured = {"rmse": value}
        if pair:
            measured |= {"rmse_difference_low": pair[0], "rmse_difference_high": pair[1]}
        evaluations.append(replace(e, metrics=measured))
    return replace(
        report, evaluations=tuple(evaluations), task="custom", score=ERROR, classes=(), changes=(), num_changes={}
    )


def make_hostile_everywhere() -> Report:
    """Every text of others is an attack, is very long, runs from right to left or is a picture."""
    report = make_classification()
    names = {"fp32": "fp32", "fp16": LONG, "int8": HOSTILE, "int8-minmax": "שלום \N{ROCKET}\N{MAN}\u200d\N{ROCKET}"}

    def renamed(entries):
        return tuple(replace(entry, variant=names[entry.variant]) for entry in entries)

    bad = ("data:image/svg+xml;base64,PHN2Zz4=", "https://example.com/x.png", 'data:image/png;base64,AA" onerror="x')
    changes = [
        replace(c, sample=HOSTILE, truth=HOSTILE, before=LONG, after=HOSTILE, thumbnail=bad[i % 3])
        for i, c in enumerate(renamed(report.changes))
    ]
    return replace(
        report,
        model_name=HOSTILE,
        model_hash=HOSTILE,
        evaluations=tuple(replace(e, name=names[e.name], notes=(HOSTILE,)) for e in report.evaluations),
        dataset={HOSTILE: HOSTILE, "name": LONG},
        environment={HOSTILE: HOSTILE},
        calibration={HOSTILE: LONG},
        skipped={HOSTILE: HOSTILE, LONG: HOSTILE},
        warnings=(HOSTILE,),
        created=HOSTILE,
        score=replace(report.score, label="Top-1 <b>", definition=HOSTILE),
        classes=tuple(
            replace(
                c, label=HOSTILE if i % 2 else "מחלקה \N{CAT FACE}", scores={names[k]: v for k, v in c.scores.items()}
            )
            for i, c in enumerate(report.classes)
        ),
        changes=tuple(changes),
        num_changes={names[k]: v for k, v in report.num_changes.items()},
        tensors=tuple(replace(t, tensor=LONG, producer=HOSTILE) for t in renamed(report.tensors)),
        layers=tuple(
            replace(x, node=f"{LONG}{i}", op_type=HOSTILE, reason=HOSTILE) for i, x in enumerate(renamed(report.layers))
        ),
        commands=(f"quantkit evaluate '{HOSTILE}' ```", LONG * 3),
    )


SAMPLES = {
    "classification": make_classification,
    "detection": make_detection,
    "partial": make_partial,
    "joined": make_joined,
    "unlabeled": make_unlabeled_arrays,
    "imagenet": make_imagenet,
    "error": make_error_score,
    "hostile": make_hostile_everywhere,
}


if __name__ == "__main__":
    for name, make in SAMPLES.items():
        write_report(make(), Path(sys.argv[1]) / name)
