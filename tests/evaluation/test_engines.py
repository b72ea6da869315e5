"""Evaluation of engines beside the ONNX model: NVIDIA's part and the GPU are fakes, whose engines compute the model."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from quantkit.backends.tensorrt.build.manifest import Manifest, manifest_path, save_manifest
from quantkit.backends.tensorrt.gpu import find_gpu, find_gpu_address
from quantkit.commands.evaluate import evaluate
from quantkit.errors import BackendError, BackendUnavailableError, EvaluationError
from quantkit.evaluation import describe_gpu_settings
from quantkit.evaluation.engines import describe_gpu
from quantkit.evaluation.latency.sweep import time_variants
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model_hash import model_hash
from quantkit.reporting import load_report, report_json, report_markdown
from quantkit.types import QueryTimes

from ..backends.gpu import NAME, Gpu, install
from ..backends.tensorrt.engines import COMPUTE_MS, Plan, Tensor, make_library

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "examples" / "digits.onnx"
VAL = REPOSITORY / "calib_data" / "digits" / "val"

_INT8 = {"Name": "x", "Dimensions": [1], "Format/Datatype": "Row major Int8 format"}
_CONV = {"Name": "c", "LayerType": "CaskConvolution", "Inputs": [_INT8], "Outputs": [_INT8], "TacticName": "sm90_xmma"}
INT8_LAYERS = json.dumps({"Layers": [_CONV], "Bindings": ["x", "y"]})


def digits_plan(noise: float = 0.0, *, largest: int = 8, layers: str | None = None) -> Plan:
    session = onnxruntime.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    image = tuple(x.shape[1:])
    rng = np.random.default_rng(0)

    def compute(arrays):
        (scores,) = session.run(None, {x.name: arrays[x.name]})
        return {y.name: (scores + noise * rng.standard_normal(scores.shape)).astype(np.float32)}

    plan = Plan(
        inputs=[Tensor(x.name, (-1, *image), low=(1, *image), high=(largest, *image))],
        outputs=[Tensor(y.name, (-1, *y.shape[1:]))],
        compute=compute,
        shape_of=lambda name, shapes: (shapes[x.name][0], *y.shape[1:]),
    )
    return plan if layers is None else replace(plan, layers=layers)


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    gpu = Gpu(capacity=1 << 28)
    install(gpu, monkeypatch)
    plans = {b"fp32": digits_plan(), b"int8": digits_plan(0.01, layers=INT8_LAYERS)}
    monkeypatch.setitem(sys.modules, "tensorrt", make_library(gpu, plans).module)
    return gpu


@pytest.fixture
def engines(tmp_path) -> dict[str, Path]:
    paths = {"trt-fp32": tmp_path / "digits.engine", "trt-int8": tmp_path / "digits.other.plan"}
    for path, content in zip(paths.values(), (b"fp32", b"int8"), strict=True):
        path.write_bytes(content)
    return paths


def run(**options):
    settings = {"variants": ["fp32"], "num_samples": 24, "latency_s": 0.02, "progress": False, "threads": 1} | options
    return evaluate(DIGITS, VAL, **settings)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_engines_are_run_timed_and_compared_among_themselves(gpu, engines, tmp_path, cuda_graph):
    report = run(engines=engines, cuda_graph=cuda_graph)
    fp32, trt_fp32, trt_int8 = report.evaluations
    assert [e.name for e in report.evaluations] == ["fp32", "trt-fp32", "trt-int8"]
    assert trt_fp32.backend == trt_int8.backend == f"TensorRT 10.16.1 {NAME}"
    assert (fp32.latency.method, trt_fp32.latency.method) == ("host", "device")
    assert trt_fp32.latency.compute_ms == pytest.approx(COMPUTE_MS)
    assert trt_fp32.latency.iterations >= 10
    assert trt_fp32.latency.cuda_graph == cuda_graph
    assert trt_fp32.metrics["top1"] == fp32.metrics["top1"]
    assert trt_fp32.metrics["sqnr_db"] > 100 > trt_int8.metrics["sqnr_db"] > 20
    assert (trt_fp32.precision, trt_int8.precision) == ("fp32", "int8")
    assert "the engine does not report its precision: fp32 is taken from its name" in trt_fp32.notes
    assert trt_fp32.size_bytes == 4
    assert report.speed_reference(trt_int8) is trt_fp32
    assert report.environment["gpu"] == f"{NAME} (sm90)"
    path = tmp_path / "report.json"
    path.write_text(report_json(report))
    assert load_report(path) == report
    assert "GPU events, as in trtexec" in report_markdown(report)
    assert gpu.is_empty()


def test_engine_is_recognized_by_suffix(gpu, engines):
    report = run(models={"mine": engines["trt-int8"]}, latency_s=0)
    assert [e.name for e in report.evaluations] == ["fp32", "mine"]
    assert report.evaluations[1].precision == "int8"
    assert report.evaluations[1].latency is None


def test_manifest_gives_precision_and_mismatches(gpu, engines):
    path = engines["trt-fp32"]
    manifest = Manifest(
        model_name="digits.onnx",
        model_hash=model_hash(FloatModel(DIGITS).graph),
        precision="fp16",
        mode="explicit",
        library="tensorrt",
        library_version="10.16.1",
        gpu=str(find_gpu()),
        quantkit_version="1",
        engine_sha256=hashlib.sha256(b"fp32").hexdigest(),
    )
    save_manifest(manifest, manifest_path(path))
    report = run(engines={"a": path}, latency_s=0)
    assert (report.evaluations[1].precision, report.evaluations[1].notes) == ("fp16", ())
    save_manifest(replace(manifest, model_hash="0" * 64, model_name="older.onnx"), manifest_path(path))
    (note,) = run(engines={"a": path}, latency_s=0).evaluations[1].notes
    assert note == "it was built from 'older.onnx', which is not the baseline's file"
    save_manifest(replace(manifest, library_version="10.3.0"), manifest_path(path))
    with pytest.raises(BackendError, match=r"built with version 10\.3\.0, this is TensorRT 10\.16\.1"):
        run(engines={"a": path}, latency_s=0)
    save_manifest(replace(manifest, engine_sha256="0" * 64, library_version="10.3.0"), manifest_path(path))
    assert run(engines={"a": path}, latency_s=0).evaluations[1].precision == "fp32"  # it is of another engine


def test_names_and_files_that_do_not_fit_are_refused(gpu, engines, tmp_path):
    path = engines["trt-fp32"]
    with pytest.raises(EvaluationError, match="--engine fp32: that name is taken"):
        run(engines={"fp32": path}, latency_s=0)
    with pytest.raises(EvaluationError, match="--engine a: that name is taken"):
        run(engines={"a": path}, models={"a": path}, latency_s=0)
    with pytest.raises(BackendError, match=r"engine a: cannot read .*gone\.engine: No such file"):
        run(engines={"a": tmp_path / "gone.engine"}, latency_s=0)
    path.write_bytes(b"of another version")
    with pytest.raises(BackendError, match=r"TensorRT 10\.16\.1 cannot load engine a: .*stdVersionRead"):
        run(engines={"a": path}, latency_s=0)
    assert gpu.is_empty()


def test_missing_tensorrt_names_the_pip_command(gpu, engines, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install tensorrt pycuda"):
        run(engines=engines)


def test_gpu_is_queried_by_pci_bus(gpu, monkeypatch, tmp_path):
    assert find_gpu_address() == "0000:01:00.0"
    script = tmp_path / "nvidia-smi"
    answer = "550.1, 345 MHz, 1980 MHz, 2619 MHz, 69 W, 700 W, 31, 0 %, Enabled"
    script.write_text(f'#!/bin/sh\ncase "$*" in *--id=0000:01:00.0*) echo "{answer}";; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_gpu() == {"gpu": f"{NAME} (sm90)", **describe_gpu_settings("0000:01:00.0")}
    assert describe_gpu()["gpu_clock"] == "345 MHz, at most 1980 MHz"


def test_engines_of_different_libraries_are_not_compared_in_their_intervals():
    class Engine:
        inputs = outputs = ()
        uses_cuda_graph = False

        def __init__(self, backend, compute_ms):
            self.backend, self.compute_ms = backend, compute_ms

        def time_block(self, inputs, *, duration_ms, min_queries=1):
            count = int(duration_ms)
            return QueryTimes((0.0,) * count, (self.compute_ms,) * count, (0.0,) * count, (0.0,) * count, count)

        def run(self, inputs):
            raise AssertionError

        def close(self): ...

        def __enter__(self): ...

        def __exit__(self, *exc): ...

    runners = {"t32": Engine("TensorRT", 4.0), "r32": Engine("RTX", 3.0), "t8": Engine("TensorRT", 1.0)}
    timed = time_variants(
        runners, {"x": np.zeros((1, 2), np.float32)}, duration_s=1.0, threads=0, on_progress=lambda share: None
    )
    assert {name: latency.speedup_interval for name, latency in timed.items()} == {
        "t32": None,
        "r32": None,
        "t8": (4, 4),
    }
