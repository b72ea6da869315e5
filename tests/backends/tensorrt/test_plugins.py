"""Plugins: NVIDIA's are registered before a builder, the user's are loaded, and their operators pass through."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantkit
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_extensions
from quantkit.backends.tensorrt.library import Library
from quantkit.backends.tensorrt.plugins import load_plugins
from quantkit.calibration.table import load_table
from quantkit.cli import main
from quantkit.commands.extensions import extension_identity
from quantkit.commands.quantize import write_tensorrt_cache
from quantkit.errors import BackendError, IncompleteCacheError
from quantkit.types.options import CalibrationOptions

from ...cli.conftest import Outcome
from ...graph.builder import Builder
from . import asked


@pytest.fixture
def command(capsys):
    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def plugin_libraries(tmp_path_factory):
    """One whose plugins register themselves, one whose plugins TensorRT asks for, and one for ONNX Runtime."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("plugins")
    sources = {
        "static": "int x;",
        "dynamic": "void *getCreators(int *count) { *count = 0; return 0; }",
        "extension": "int calls; void *RegisterCustomOps(void *options, const void *api) { calls++; return 0; }",
    }
    for name, source in sources.items():
        command = ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(folder / f"{name}.so")]
        subprocess.run(command, input=source.encode(), check=True)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Convolutions with EfficientNMS_TRT behind them, in the default domain, as graphsurgeon writes it; a table."""
    folder = tmp_path_factory.mktemp("detector")
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 3, 8, 8), 3, 16))
    boxes = g.op("Reshape", g.conv(x, 16, 16), g.constant([0, 256, 4]))
    g.op("EfficientNMS_TRT", boxes, g.op("Sigmoid", boxes), outputs=4, name="nms", max_output_boxes=10)
    model = g.model(boxes)
    del model.graph.output[:]
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    shapes = ([1], [10, 4], [10], [10])
    for name, kind, shape in zip(model.graph.node[-1].output, kinds, shapes, strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, ["N", *shape]))
    onnx.save(model, folder / "net.onnx")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    told = []
    quantkit.calibrate(
        folder / "net.onnx", folder / "x.npy", table_path=folder / "net.calib.json", accuracy="fast", progress=False,
        notify=lambda notice: told.append(notice.text),
    )  # fmt: skip
    assert any("stops in front of nms (EfficientNMS_TRT)" in text for text in told)
    return folder


def build(bindings, folder, options, **words):
    words = {"output": str(folder / "net.engine"), "force": True, **words}
    return bindings.call(asked.build_engine, str(folder / "net.onnx"), words, options)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_operator_of_a_plugin_reaches_tensorrt_as_it_was(bindings, detector, precision):
    """Through opset conversion, FP16 and Q/DQ; NVIDIA's plugins are registered before the builder is made."""
    answer = build(bindings, detector, {}, precision=precision, table=str(detector / "net.calib.json"))
    assert "engine" in answer, answer
    assert answer["engine"]["plugins"]["before_builder"]
    assert answer["engine"]["inputs"] == [["x", [-1, 3, 8, 8]]]
    assert len(answer["engine"]["outputs"]) == 4
    if precision == "int8":
        assert answer["engine"]["qdq"] > 4


def test_fp16_is_checked_on_samples_up_to_the_operator_of_a_plugin(bindings, detector):
    answer = build(bindings, detector, {}, precision="fp16", data=str(detector / "x.npy"))
    assert "engine" in answer, answer
    assert len(answer["engine"]["outputs"]) == 4


def test_plugin_libraries_are_loaded_once_and_carried_by_compatible_engines(bindings, detector, plugin_libraries):
    paths = [str(plugin_libraries / "static.so"), str(plugin_libraries / "dynamic.so")]
    plain = build(bindings, detector, {"plugins": paths})
    assert "engine" in plain, plain
    again = build(bindings, detector, {"plugins": paths, "version_compatible": True})
    for answer in (plain, again):
        assert answer["engine"]["plugins"]["loaded"] == [paths[1]]
        assert answer["manifest"]["options"]["plugins"] == ["static.so", "dynamic.so"]
    assert plain["engine"]["plugins"]["serialized"] == []
    assert again["engine"]["plugins"]["serialized"] == paths


def test_a_plugin_library_that_is_missing_or_broken_is_named(bindings, detector, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    for path, said in ((tmp_path / "gone.so", "gone.so: no such file"), (broken, "broken.so does not load: ")):
        assert said in build(bindings, detector, {"plugins": [str(path)]})["message"]


def test_tensorrt_rtx_takes_no_plugins():
    library = Library(module=None, name="tensorrt-rtx", version=(1, 7, 1))
    with pytest.raises(BackendError, match=r"--plugins has no use with TensorRT-RTX 1\.7\.1"):
        load_plugins(library, ["a.so"])


@pytest.mark.parametrize("domain", ["", "trt.plugins"])
def test_the_int8_model_keeps_an_unknown_operator_in_its_domain(tmp_path, domain):
    """A plugin between convolutions: what is behind it cannot be observed, and stays in float with the reason."""
    g = Builder()
    if domain:
        g.domains[domain] = 1
    x = g.op("Act_TRT", g.conv(g.input("x", 3, 8, 8), 3, 16), name="act", domain=domain, slope=0.5)
    onnx.save(g.model(g.conv(x, 16, 16)), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((4, 3, 8, 8), np.float32))
    table = quantkit.calibrate(tmp_path / "net.onnx", tmp_path / "x.npy", accuracy="fast", progress=False)
    assert table.skipped["act_out"] == "behind an operator that calibration could not run"
    for half in ("fp32", "fp16"):
        made = quantkit.quantize(tmp_path / "net.onnx", table, tmp_path / "int8.onnx", high_precision=half)
        assert (made.num_quantized, made.num_weighted) == (1, 2)
        (node,) = [n for n in onnx.load(tmp_path / "int8.onnx").graph.node if n.op_type == "Act_TRT"]
        assert (node.domain, node.name, node.attribute[0].f) == (domain, "act", 0.5)


def test_a_cache_that_lacks_what_a_plugin_makes_gives_the_reason(detector):
    with pytest.raises(IncompleteCacheError, match=r"behind an operator that .* in float: use the INT8 model"):
        write_tensorrt_cache(detector / "net.onnx", load_table(detector / "net.calib.json"), detector / "net.calib")


def test_a_calibration_up_to_a_plugin_is_forecast(command, detector):
    outcome = command("calibrate", detector / "net.onnx", "--data", detector / "x.npy", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    ranges = load_table(detector / "net.calib.json").tensors
    assert json.loads(outcome.out)["runs"][0].endswith(f"of which {len(ranges)} tensors get a range")


def test_evaluate_names_the_operator_that_onnx_runtime_lacks(command, detector):
    outcome = command("evaluate", detector / "net.onnx", "--data", detector / "x.npy", "--latency-s", "0")
    assert outcome.code == 1
    assert "ONNX Runtime has no operator for nms (EfficientNMS_TRT): --ort-extension LIBRARY" in outcome.err


def test_an_extension_of_onnx_runtime_is_loaded(command, detector, plugin_libraries):
    """This one registers nothing: ONNX Runtime says what it misses."""
    words = ("--data", detector / "x.npy", "--output", detector, "--force")
    path = plugin_libraries / "static.so"
    outcome = command("calibrate", detector / "net.onnx", *words, "--ort-extension", path)
    assert outcome.code == 1
    assert f"--ort-extension {path}: ONNX Runtime cannot load it: " in outcome.err
    assert "RegisterCustomOps" in outcome.err
    gone = command("calibrate", detector / "net.onnx", *words, "--ort-extension", "gone.so")
    assert "--ort-extension gone.so: no such file" in gone.err


def test_what_is_no_library_is_refused_where_no_session_opens(command, detector, tmp_path):
    (tmp_path / "junk.so").write_text("junk")
    words = (detector / "net.onnx", "--table", tmp_path / "t.json", "--ort-extension", tmp_path / "junk.so")
    outcome = command("quantize", *words, "-o", tmp_path / "new.onnx")
    assert outcome.code == 1
    assert f"--ort-extension {tmp_path / 'junk.so'}: ONNX Runtime cannot load it: " in outcome.err


def test_every_session_gets_the_extension(tmp_path, plugin_libraries):
    g = Builder()
    onnx.save(g.model(g.conv(g.input("x", 3, 8, 8), 3, 16)), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((4, 3, 8, 8), np.float32))
    path = plugin_libraries / "extension.so"
    calls = ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "calls")
    words = {"accuracy": "fast", "progress": False}
    quantkit.calibrate(tmp_path / "net.onnx", tmp_path / "x.npy", ort_extension=[path], **words)
    registered = calls.value
    assert registered > 0
    quantkit.calibrate(tmp_path / "net.onnx", tmp_path / "x.npy", **words)
    assert calls.value == registered


def test_a_table_is_stale_once_the_extension_is_another(tmp_path, plugin_libraries):
    g = Builder()
    onnx.save(g.model(g.conv(g.input("x", 3, 8, 8), 3, 16)), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.ones((4, 3, 8, 8), np.float32))
    path = shutil.copy(plugin_libraries / "extension.so", tmp_path / "ops.so")
    told = []
    for change in (b"", b"", b"another"):
        with open(path, "ab") as file:
            file.write(change)
        quantkit.calibrate(
            tmp_path / "net.onnx", tmp_path / "x.npy", table_path=tmp_path / "t.json", ort_extension=[path],
            accuracy="fast", progress=False, notify=lambda notice: told.append(notice.text),
        )  # fmt: skip
    reused, stale = [text for text in told if text.startswith(("Reusing", "Recalibrating"))]
    assert reused.startswith("Reusing")
    assert "ort extension: ops.so:" in stale


def test_extensions_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / folder / "ops.so" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(path.parent.name.encode())
    one, two = (extension_identity(CalibrationOptions(ort_extension=[path])) for path in paths)
    assert one != two
    assert extension_identity(CalibrationOptions(ort_extension=paths)) == f"{one},{two}"


@pytest.mark.parametrize("verb", ["quantize", "sensitivity", "tune"])
def test_the_analysis_and_other_formats_get_the_extension_too(verb, tmp_path, plugin_libraries):
    """Once for a session, also where one command runs another."""
    g = Builder()
    y = g.op("Flatten", g.op("GlobalAveragePool", g.conv(g.conv(g.input("x", 3, 8, 8), 3, 32), 32, 32)))
    onnx.save(g.model(y), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((4, 3, 8, 8), np.float32), labels=np.zeros(4, np.int64))
    path, name = plugin_libraries / "extension.so", tmp_path / "net.onnx"
    calls = ctypes.c_int.in_dll(ctypes.CDLL(str(path)), "calls")
    table = quantkit.calibrate(name, tmp_path / "x.npz", accuracy="fast", progress=False)
    before = calls.value
    if verb == "quantize":
        words = {"data": tmp_path / "x.npz", "format": "fp8", "ort_extension": [path, path]}
        quantkit.quantize(name, table, tmp_path / "fp8.onnx", **words)
    elif verb == "sensitivity":
        quantkit.sensitivity(name, tmp_path / "x.npz", table=table, ort_extension=[path], progress=False)
    else:
        words = {"table": table, "ort_extension": [path], "progress": False}
        quantkit.tune(name, tmp_path / "x.npz", tmp_path / "x.npz", **words)
    assert calls.value > before
    with pytest.raises(BackendError, match=r"--ort-extension gone\.so: no such file"), using_extensions(["gone.so"]):
        pass
    with using_extensions([path]), using_extensions([path]):
        before = calls.value
        OnnxRuntimeRunner(name).close()
        assert calls.value == before + 1


def test_inspect_reads_a_model_with_plugins(command, detector):
    outcome = command("inspect", detector / "net.onnx", "--json")
    assert outcome.code == 0, outcome.err
    assert "EfficientNMS_TRT" in json.dumps(json.loads(outcome.out))
