"""`quantkit inspect` as a user types it, on every kind of file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantkit.commands.inspect import inspect
from quantkit.errors import QuantKitError

from .. import rtx
from .conftest import CALIB, DIGITS, conv_model

NASTY = "a[bold]b[/bold]\x1b[31m\u202e:0"
SHOWN = r"a[bold]b[/bold]\x1b[31m\u202e:0"

ENGINE = {
    "Layers": [
        {
            "Name": "QuantizeLinear_0",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32", "Dimensions": [1, 3, 8, 8]}],
            "Outputs": [{"Name": "xq", "Format/Datatype": "Row major Int8 format", "Dimensions": [1, 3, 8, 8]}],
            "Origin": "QDQ",
        },
        {
            "Name": f"w + QuantizeLinear_1 + {NASTY}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "xq", "Format/Datatype": "Row major Int8 format", "Dimensions": [1, 3, 8, 8]}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32", "Dimensions": [1, 8, 8, 8]}],
            "Weights": {"Type": "Int8", "Count": 216},
            "TacticName": "sm80_xmma_fprop_" + "x" * 150,
            "Metadata": f"[ONNX Layer: {NASTY}]",
        },
        {
            "Name": "softmax",
            "LayerType": "CudaSoftMax",
            "Inputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32", "Dimensions": [1, 8, 8, 8]}],
            "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP32", "Dimensions": [1, 8, 8, 8]}],
        },
    ],
    "Bindings": ["x", "z"],
}
PROFILE = [
    {"count": 10},
    *({"name": x["Name"], "averageMs": ms} for x, ms in zip(ENGINE["Layers"], (0.25, 0.5, 0.25), strict=True)),
]


@pytest.fixture
def engine(tmp_path) -> Path:
    path = tmp_path / "net.engine.graph.json"
    path.write_text(json.dumps(ENGINE))
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
    return path


def fits(text: str, columns: int = 80) -> bool:
    return all(len(line) <= columns for line in text.splitlines())


def is_clean(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_engine_layer_times_come_from_the_profile(quantkit, engine, tmp_path):
    outcome = quantkit("inspect", engine, "--profile", tmp_path / "profile.json")
    assert outcome.code == 0, outcome.err
    assert "1 of 1 (100.0%)" in outcome.out
    assert "1 of 3 (33.3%)" in outcome.out
    assert "0.500 of 1.000 ms (50.0%)" in outcome.out
    assert "1, 0.250 ms" in outcome.out
    assert "no 8-bit kernel for softmax" in outcome.out
    assert SHOWN in outcome.out
    assert is_clean(outcome.out)


def test_engine_json_is_complete(quantkit, engine, tmp_path):
    outcome = quantkit("inspect", engine, "--profile", tmp_path / "profile.json", "--json")
    data = json.loads(outcome.out)
    assert data["int8_weighted_layers"] == {"int8": 1, "total": 1}
    assert data["int8_ms"] == {"int8": 0.5, "total": 1.0}
    assert [x["is_int8"] for x in data["layers"]] == [False, True, False]
    assert data["layers"][1]["onnx_nodes"] == [NASTY]
    assert "softmax" in data["layers"][2]["float_reason"]
    assert is_clean(outcome.out)


@pytest.mark.parametrize("words", [[], ["--all"], ["--filter", "a*"]])
def test_output_fits_80_columns(quantkit, engine, tmp_path, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = quantkit("inspect", engine, "--profile", tmp_path / "profile.json", *words)
    assert outcome.code == 0
    assert fits(outcome.out)
    assert is_clean(outcome.out)
    flat = "".join(outcome.out.split())
    assert "".join(SHOWN.split()) in flat
    if words:
        assert flat.count("x" * 30) >= 1  # the kernel's name folds, nothing is cut off


def test_piped_lines_are_not_wrapped(quantkit, engine, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    outcome = quantkit("inspect", engine, "--all")
    line = next(line for line in outcome.out.splitlines() if "sm80_xmma" in line)
    assert SHOWN in line
    assert line.endswith("x" * 150)


def test_rtx_plan_shows_int8_layers(quantkit, tmp_path):
    path = tmp_path / "net.engine"
    path.write_bytes(rtx.build(conv_model(tmp_path / "net.onnx", shape=(1, 3, 8, 8)).read_bytes()))
    outcome = quantkit("inspect", path)
    assert outcome.code == 0, outcome.err
    assert "sm86 sm89 sm120" in outcome.out
    assert "0 of 2 (0.0%)" in outcome.out
    assert "undocumented" in outcome.out
    data = json.loads(quantkit("inspect", path, "--json").out)
    assert data["int8_weighted_layers"] == {"int8": 0, "total": 2}


def test_engine_int8_layers_match_calibrate_output(quantkit, tmp_path, digits):
    calibrated = quantkit("calibrate", "--method", "entropy", "--data", CALIB, digits, "--num-samples", "32")
    said = int(next(line for line in calibrated.out.splitlines() if "operators in INT8" in line).split()[-1])
    path = tmp_path / "digits.engine"
    path.write_bytes(rtx.build(tmp_path / "digits.int8.onnx"))
    data = json.loads(quantkit("inspect", path, "--json").out)
    assert data["int8_weighted_layers"] == {"int8": said, "total": said}


def test_float_model_lists_quantizable_layers(quantkit):
    outcome = quantkit("inspect", DIGITS)
    assert outcome.code == 0, outcome.err
    assert "10 of 10 convolutions" in outcome.out
    assert "opset 18" in outcome.out
    data = json.loads(quantkit("inspect", DIGITS, "--json").out)
    assert (data["form"], data["num_int8"], data["findings"]) == ("float", 10, [])


@pytest.mark.usefixtures("calibrated")
def test_qdq_model_is_shown(quantkit, digits, tmp_path):
    outcome = quantkit("inspect", tmp_path / "digits.int8.onnx")
    assert "no violations" in outcome.out
    assert "10 of 10" in outcome.out
    quantkit("quantize", digits, "--table", tmp_path / "digits.calib.json", "--format", "fp8")
    outcome = quantkit("inspect", tmp_path / "digits.fp8.onnx")
    assert "rules: no violations\n  note: FP8: needs" in outcome.out
    quantkit("quantize", digits, "--table", tmp_path / "digits.calib.json", "--target", "cpu")
    outcome = quantkit("inspect", tmp_path / "digits.int8-cpu.onnx")
    assert "zero point is not 0: TensorRT rejects the model" in outcome.out
    short, long = (
        quantkit("inspect", tmp_path / "digits.int8-cpu.onnx", *words).out.count("UINT8") for words in ([], ["--all"])
    )
    assert 0 < short < long


def test_a_folder_is_refused_with_what_to_pass(quantkit, tmp_path):
    assert (
        quantkit("inspect", tmp_path).err
        == f"quantkit: error: cannot read {tmp_path}: it is a folder; pass a file in it\n"
    )


def test_model_without_quantizable_layers_is_shown(quantkit, tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"], name="r")],
        "net",
        [onnx.helper.make_tensor_value_info("x", 1, [1, "[red]n"])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "r.onnx")
    outcome = quantkit("inspect", tmp_path / "r.onnx")
    assert outcome.code == 0
    assert "no node to quantize" in outcome.out
    assert "1x[red]n" in outcome.out


def test_cache_and_table_are_shown(quantkit, digits, tmp_path):
    words = ("--method", "entropy", "--num-samples", "32", "--tensorrt-version", "8.6.1")
    quantkit("calibrate", "--data", CALIB, digits, *words)
    cache = quantkit("inspect", tmp_path / "digits.calib")
    assert "TensorRT 8.6.1 loads it with IInt8EntropyCalibrator2" in cache.out
    assert "3c010204" in cache.out
    table = quantkit("inspect", tmp_path / "digits.calib.json", "--sort", "amax", "--filter", "relu*")
    assert "digits.onnx" in table.out
    names = [line.split()[0] for line in table.out.splitlines() if line.strip().startswith("relu")]
    amax = [float(line.split()[1]) for line in table.out.splitlines() if line.strip().startswith("relu")]
    assert len(names) == 7
    assert amax == sorted(amax, reverse=True)
    data = json.loads(quantkit("inspect", tmp_path / "digits.calib.json", "--json", "--sort", "name").out)
    assert [t["name"] for t in data["tensors"]] == sorted(t["name"] for t in data["tensors"])
    assert data["num_samples"] == 32


def test_cache_flags_zeros_and_escapes_control_characters(quantkit, tmp_path):
    infinite = struct.pack(">f", float("inf")).hex()
    (tmp_path / "x.calib").write_text(f"TRT-100300-MinMaxCalibration\n{NASTY}: 3c010a14\ndead: 0\nodd: {infinite}\n")
    outcome = quantkit("inspect", tmp_path / "x.calib")
    assert outcome.code == 0
    assert "TensorRT 10.3.0 loads it with IInt8MinMaxCalibrator" in outcome.out
    assert "1 tensors have scale 0" in outcome.out
    assert SHOWN in outcome.out
    assert is_clean(outcome.out)
    tensors = json.loads(quantkit("inspect", tmp_path / "x.calib", "--json").out)["tensors"]
    assert [t["flag"] for t in tensors] == ["", "zero", "no range"]
    assert tensors[0]["amax"] == pytest.approx(1.00024414)


def test_real_caches_are_read(quantkit, shared):
    for path in sorted((shared / "tensorrt" / "caches").glob("*.cache")):
        outcome = quantkit("inspect", path)
        assert outcome.code == (1 if "NOT_TRT" in path.name else 0), path.name


@pytest.mark.parametrize(
    ("name", "content", "words", "said"),
    [
        ("x.engine", b"", [], "is empty"),
        ("x.engine", b"rubbish", [], "cannot be read here (this machine has no NVIDIA GPU): where it runs, export it"),
        ("x.engine", b"ftrt" + bytes(64), [], "exportLayerInfo"),
        ("x.json", b"{", [], "x.json is cut short after 1 bytes, in line 1"),
        ("x.json", b"{}", [], "no list named Layers"),
        ("x.json", b'[{"count": 1}, {"name": "a", "timeMs": 1}]', [], "--profile"),
        ("x.json", b'{"format": "quantkit engine"}', [], "manifest"),
        ("x.onnx", b"\x00\x01", [], "not an ONNX model"),
        ("x.calib", b"TRT-8601-X\nnope", [], "truncated"),
        ("x.calib", b"TRT-8601-X\n\xff: 1\n", [], "UTF-8"),
        ("x.png", b"\x89PNG", [], "not a file that can be inspected: expected an engine, "),
        ("x.calib", b"TRT-8601-X\n", ["--profile", "y.json"], "not an engine"),
        ("x.json", b"{}", ["--measure"], "not an engine"),
    ],
)
def test_other_files_are_refused_in_one_line(quantkit, tmp_path, name, content, words, said):
    path = tmp_path / name
    path.write_bytes(content)
    outcome = quantkit("inspect", path, *words)
    assert outcome.code == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert str(path) in outcome.err


def test_missing_files_are_named(quantkit, tmp_path, engine):
    for words in ([tmp_path / "no.engine"], [tmp_path], [engine, "--profile", tmp_path / "no.json"]):
        outcome = quantkit("inspect", *words)
        assert outcome.code == 1
        assert "cannot read" in outcome.err


def test_engine_manifest_is_shown(quantkit, tmp_path):
    import hashlib

    from quantkit.backends.tensorrt.build.manifest import Manifest, manifest_path, save_manifest

    path = tmp_path / "net.engine"
    path.write_bytes(rtx.build(conv_model(tmp_path / "net.onnx", shape=(1, 3, 8, 8)).read_bytes()))
    manifest = Manifest(
        model_name="net.onnx",
        model_hash="f" * 64,
        precision="fp32",
        mode="explicit",
        library="tensorrt-rtx",
        library_version="1.7.1",
        gpu=None,
        quantkit_version="1",
        engine_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    save_manifest(manifest, manifest_path(path))
    assert "net.onnx (hash ffffffffffff)" in quantkit("inspect", path).out
    path.write_bytes(path.read_bytes() + b"\0")
    assert "of another engine" in quantkit("inspect", path).out


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=100)
    | st.text(max_size=60).map(lambda t: b"TRT-8601-X\n" + t.encode("utf-8", "surrogatepass") + b": 3f\n")
    | st.sampled_from([b'{"Layers": ["a"]}', b"[[[[", b'{"format": "quantkit calibration table"}']),
    suffix=st.sampled_from([".engine", ".json", ".calib", ".onnx", "", ".plan"]),
)
def test_any_content_is_shown_or_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    said = ""
    try:
        inspect(path)
    except QuantKitError as error:
        said = str(error)
    assert "\n" not in said


def test_empty_engine_is_refused(quantkit, tmp_path):
    (tmp_path / "net.engine").write_bytes(b"")
    outcome = quantkit("inspect", tmp_path / "net.engine")
    assert outcome.code == 1
    assert "net.engine is empty" in outcome.err
