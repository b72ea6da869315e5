"""Where files go, and what is printed: of activations that stay in float, quietly, as JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from quantkit.cli.output import megabytes, output_path, print_quantized
from quantkit.graph.float_model import FloatModel
from quantkit.types import CalibrationTable, QuantizedModel, TensorRange
from quantkit.types.options import QuantizeOptions

from .conftest import CALIB, conv_model


def test_nothing_is_said_where_nothing_stays_in_float(tmp_path, capsys):
    model = FloatModel(conv_model(tmp_path / "m.onnx"))
    ranges = {"x": TensorRange(1.0, 0.0, 1.0)}
    table = CalibrationTable(tensors=ranges, model_hash=model.hash, dataset_fingerprint="", num_samples=8, settings={})
    print_quantized(
        model, QuantizedModel(Path("o.onnx"), 1, 1, {}, size_bytes=100), table, QuantizeOptions(), list_float=False
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[:-1]] == ["operators in INT8", "model size"]
    assert lines[-1] == "wrote o.onnx"


def test_float_activations_are_named_with_what_they_would_cost(tmp_path, capsys):
    model = FloatModel(conv_model(tmp_path / "m.onnx"))
    reasons = {f"t{i}": f"more accurate in float ({i})" for i in range(10)}
    table = CalibrationTable(
        tensors={name: TensorRange(1.0, 0.0, 1.0) for name in [*reasons, "x", "y"]},
        model_hash=model.hash,
        dataset_fingerprint="",
        num_samples=8,
        settings={"method": "auto"},
        float_tensors={**reasons, "y": "kept on TensorRT alone"},
    )
    quantized = QuantizedModel(Path("o.onnx"), 1, 2, {**reasons, "z": "constant of Add"}, size_bytes=100)
    print_quantized(model, quantized, table, QuantizeOptions(), list_float=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["activations", "in", "float", "10"]
    assert [line.strip() for line in lines[1:9]] == [f"{name}: {reasons[name]}" for name in list(reasons)[:8]]
    assert lines[9].strip().startswith("2 more")
    assert not any("kept on TensorRT alone" in line for line in lines)
    assert lines[lines.index("  11 tensors stay in float:") + 1].split("  ")[-2:] == ["10", "more accurate in float"]
    print_quantized(model, replace(quantized, format="fp8"), table, QuantizeOptions(format="fp8"), list_float=False)
    assert "activations in float" not in capsys.readouterr().out.partition("tensors stay in float:")[0]  # INT8's choice


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "models/m.int8.onnx"),
        ("out", "out/m.int8.onnx"),
        ("runs/v1.2", "runs/v1.2/m.int8.onnx"),
        ("out/new.onnx", "out/new.onnx"),
        ("out/new.json", "out/new.json"),
    ],
)
def test_output_is_a_file_by_its_suffix_or_a_folder(given, expected):
    found = output_path(None if given is None else Path(given), Path("models/m.int8.onnx"), ".json")
    assert found == Path(expected)


def test_an_existing_folder_is_a_folder_whatever_its_name(tmp_path):
    folder = tmp_path / "set.onnx"
    folder.mkdir()
    assert output_path(folder, Path("m.int8.onnx")) == folder / "m.int8.onnx"


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(typer.BadParameter, match=r"x\.engine is neither a \.onnx file nor a folder"):
        output_path(Path("x.engine"), Path("m.int8.onnx"))
    with pytest.raises(typer.BadParameter, match=r"x\.PNG is neither a \.onnx file nor a folder"):
        output_path(Path("x.PNG"), Path("m.int8.onnx"))
    with pytest.raises(typer.BadParameter, match="cannot go to standard output"):
        output_path(Path("-"), Path("m.int8.onnx"))


def test_calibrate_and_quantize_write_where_output_says(quantkit, digits, tmp_path):
    table, model = tmp_path / "t" / "own.calib.json", tmp_path / "m" / "own.onnx"
    words = ("--data", CALIB, digits, "--num-samples", "4", "--accuracy", "fast")
    assert quantkit("calibrate", *words, "-o", table).code == 0
    assert {"own.calib.json", "own.calib", "own.int8.onnx"} <= {path.name for path in table.parent.iterdir()}
    assert quantkit("calibrate", *words, "-o", model).code == 0
    assert {"own.onnx", "digits.calib.json"} <= {path.name for path in model.parent.iterdir()}
    assert quantkit("quantize", "--table", table, digits, "-o", tmp_path / "q").code == 0
    assert (tmp_path / "q" / "digits.int8.onnx").exists()


def test_evaluate_prints_one_json_document_or_verdicts_alone(quantkit, digits, tmp_path):
    words = ("evaluate", "--data", CALIB, digits, "--num-samples", "30", "--latency-s", "0", "--layer-samples", "0")
    outcome = quantkit(*words, "--json", "-o", tmp_path / "own.json")
    assert json.loads(outcome.out) == json.loads((tmp_path / "own.json").read_text())
    assert f"wrote {tmp_path / 'own.html'}" in outcome.err
    quiet = quantkit(*words, "--quiet").out.splitlines()
    assert any(line.startswith("fp16 ") for line in quiet)
    assert not any("Variant" in line for line in quiet)


def test_no_quality_is_stated_of_a_model_that_was_not_measured(quantkit, digits):
    words = ("--data", CALIB, digits, "--num-samples", "4", "--accuracy", "fast")
    assert json.loads(quantkit("calibrate", *words, "--json").out)["quality"]["num_samples"] > 0
    again = ("quantize", digits, "--table", digits.with_name("digits.calib.json"), "--json")
    stated = {
        options: json.loads(quantkit(*again, *options).out)["quality"]
        for options in ((), ("--format", "fp8"), ("--exclude", "Gemm"), ("--target", "cpu"))
    }
    assert [options for options, quality in stated.items() if quality] == [()]


@pytest.mark.parametrize(
    ("size", "text"), [(1_234, "1.23 kB"), (13_600, "14 kB"), (1_230_000, "1.23 MB"), (2e8, "200 MB")]
)
def test_sizes_of_small_files_are_told_apart(size, text):
    assert megabytes(size) == text
