"""What `quantize` prints of activations that stay in float for the sake of accuracy."""

from pathlib import Path

from quantkit.cli.output import print_quantized
from quantkit.graph.float_model import FloatModel
from quantkit.types import CalibrationTable, QuantizedModel, TensorRange

from .conftest import conv_model


def test_nothing_is_said_where_nothing_stays_in_float(tmp_path, capsys):
    model = FloatModel(conv_model(tmp_path / "m.onnx"))
    ranges = {"x": TensorRange(1.0, 0.0, 1.0)}
    table = CalibrationTable(tensors=ranges, model_hash=model.hash, dataset_fingerprint="", num_samples=8, settings={})
    print_quantized(model, QuantizedModel(Path("o.onnx"), 1, 1, {}, size_bytes=100), table, list_float=False)
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
    print_quantized(model, quantized, table, list_float=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["activations", "in", "float", "10", "of", "12"]
    assert [line.strip() for line in lines[1:9]] == [f"{name}: {reasons[name]}" for name in list(reasons)[:8]]
    assert lines[9].strip().startswith("2 more")
    assert not any("kept on TensorRT alone" in line for line in lines)
    assert "11 tensors stay in float:" in "\n".join(lines)
