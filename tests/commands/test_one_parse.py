"""A command parses its float model once, and what it makes is of that model, whatever happens to the file meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from quantkit.backends.tensorrt.build.precision import Typing
from quantkit.calibration.table import load_table
from quantkit.cli import app
from quantkit.commands import calibration_run
from quantkit.commands.build_inputs import load_build_inputs
from quantkit.commands.calibrate import calibrate
from quantkit.commands.engine_graph import make_graph
from quantkit.commands.evaluate import evaluate
from quantkit.commands.quantize import quantize
from quantkit.errors import ModelError, StaleTableError
from quantkit.graph import model as model_module
from quantkit.graph.float_model import FloatModel
from quantkit.types.options import EngineOptions
from quantkit.types.quantization import Precision

from ..cli.conftest import CALIB, DIGITS, conv_model, write_images
from ..graph.quantizing import write

SOURCES = Path(model_module.__file__).parents[1]


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a model was parsed so far."""
    original, count = ir.from_proto, 0

    def from_proto(proto: object) -> object:
        nonlocal count
        count += 1
        return original(proto)

    monkeypatch.setattr(ir, "from_proto", from_proto)
    return lambda: count


def invoke(*words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_there_is_one_place_that_parses() -> None:
    """So that counting its calls counts parses."""
    found = {
        path.name: path.read_text(encoding="utf-8").count("ir.from_proto(")
        for path in SOURCES.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ("ir.load(", "onnx.load", "from_proto("))
    }
    assert found == {"model.py": 1}


def test_calibrate_and_quantize_parse_once(tmp_path: Path, parses: Callable[[], int]) -> None:
    words = ("--calibrator", "quantkit", "--num-samples", 8, "--accuracy", "fast")
    invoke("calibrate", DIGITS, "--data", CALIB, "-o", tmp_path, "-q", *words)
    assert parses() == 1
    invoke("quantize", DIGITS, "--table", tmp_path / "digits.calib.json", "-o", tmp_path / "m.onnx")
    assert parses() == 2


def test_python_functions_share_an_open_model(tmp_path: Path, parses: Callable[[], int]) -> None:
    model = FloatModel(DIGITS)
    table = calibrate(model, CALIB, num_samples=8, method="entropy", progress=False)
    quantize(model, table, tmp_path / "int8.onnx")
    assert parses() == 1
    assert table.model_hash == model.hash


def test_inspect_parses_once(parses: Callable[[], int]) -> None:
    invoke("inspect", DIGITS)
    assert parses() == 1


def test_evaluate_parses_every_model_once(tmp_path: Path, parses: Callable[[], int]) -> None:
    """The float model, the variants that are made of it, and a finished model."""
    table = calibrate(DIGITS, CALIB, num_samples=8, method="entropy", progress=False)
    quantize(DIGITS, table, tmp_path / "finished.onnx")
    before = parses()
    evaluate(
        DIGITS,
        CALIB,
        table=table,
        variants=("fp16", "int8"),
        models={"finished": tmp_path / "finished.onnx"},
        num_samples=8,
        latency_s=0,
        layer_samples=4,
        progress=False,
    )
    assert parses() - before == 1 + 2 + 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_build_parses_once(tmp_path: Path, parses: Callable[[], int], precision: Precision) -> None:
    """Without a library: up to the graph that it would get."""
    table = calibrate(DIGITS, CALIB, num_samples=8, method="entropy", progress=False) if precision == "int8" else None
    before = parses()
    exclude = ["Gemm"] if table else ()
    source = load_build_inputs(DIGITS, EngineOptions(precision=precision, table=table, exclude=exclude))
    make_graph(source, Typing(precision, "explicit", strong=True, flags=()), tmp_path)
    assert source.model.hash
    assert parses() - before == 1


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does something after the model was opened, before it is run."""

    def before_collecting(action: Callable[[], object]) -> None:
        original = calibration_run.collect_statistics

        def collect(*arguments: object, **options: object) -> object:
            action()
            return original(*arguments, **options)

        monkeypatch.setattr(calibration_run, "collect_statistics", collect)

    return before_collecting


def other_model(path: Path) -> Path:
    return conv_model(path, weight=np.full((8, 3, 3, 3), 10.0, np.float32))


def test_a_table_holds_the_ranges_of_the_model_that_it_names(
    tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """The file is replaced by another model after it was opened."""
    images = write_images(tmp_path / "images", 8)
    model, other = conv_model(tmp_path / "m.onnx"), other_model(tmp_path / "other.onnx")
    expected = calibrate(model, images, progress=False)
    assert calibrate(other, images, progress=False).tensors != expected.tensors
    meanwhile(lambda: other.replace(model))
    table = calibrate(model, images, table_path=tmp_path / "m.calib.json", progress=False)
    assert table.tensors == load_table(tmp_path / "m.calib.json").tensors == expected.tensors
    assert table.model_hash == expected.model_hash
    with pytest.raises(StaleTableError, match=r"calibrate 'm\.onnx' again"):
        quantize(model, table, tmp_path / "int8.onnx")


def test_mapped_weights_that_are_replaced_leave_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    """With the limit lowered: larger external data stay on disk, and are refused if their file changes."""
    images = write_images(tmp_path / "images", 8)
    path = write(onnx.load(conv_model(tmp_path / "inside.onnx")), tmp_path / "m.onnx", external=True)
    monkeypatch.setattr(model_module, "LARGE_MODEL_BYTES", 100)
    monkeypatch.setattr(model_module, "_SMALL_TENSOR_BYTES", 100)
    (tmp_path / "new.data").write_bytes(path.with_name("m.onnx.data").read_bytes()[::-1])
    meanwhile(lambda: (tmp_path / "new.data").replace(path.with_name("m.onnx.data")))
    with pytest.raises(ModelError, match=r"m\.onnx\.data was changed while it was in use: run again"):
        calibrate(path, images, table_path=tmp_path / "m.calib.json", keep_statistics=True, progress=False)
    assert sorted(file.name for file in tmp_path.iterdir() if "calib" in file.name and file.suffix != ".lock") == []
