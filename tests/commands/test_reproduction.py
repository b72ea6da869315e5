"""The command that makes a table again, where the table says that all samples were taken."""

import shlex
from dataclasses import replace

import pytest

from quantkit.calibration.table import load_table
from quantkit.commands.calibrate import calibrate
from quantkit.commands.evaluate import evaluate
from quantkit.commands.reproduction import calibrate_command
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing
from tests.cli.conftest import CALIB, DIGITS


@pytest.mark.parametrize(("asked", "stated"), [(64, 64), (300, None), (1024, None)])
def test_the_number_asked_for_is_kept_only_where_it_decides(asked, stated):
    table = calibrate(DIGITS, CALIB, num_samples=asked, method="entropy", progress=False)
    assert table.settings["num_samples"] == stated
    words = shlex.split(calibrate_command(table, "m.onnx"))
    given = int(words[words.index("--num-samples") + 1]) if "--num-samples" in words else 1024
    assert given == stated or (stated is None and given >= 300)


@pytest.mark.parametrize(("count", "least"), [(40, 80), (512, 1024), (1000, 2000), (99_999, 200_000)])
def test_all_samples_are_taken_again_though_some_could_not_be_read(count, least):
    table = replace(calibrate(DIGITS, CALIB, num_samples=20, method="entropy", progress=False), num_samples=count)
    table = replace(table, settings={**table.settings, "num_samples": None})
    words = shlex.split(calibrate_command(table, "m.onnx"))
    given = int(words[words.index("--num-samples") + 1]) if "--num-samples" in words else 1024
    assert given >= least


@pytest.mark.parametrize(
    ("preprocessing", "settings", "words"),
    [
        (
            Preprocessing(size=(48, 320), resize="height", pad_position="top-left", multiple_of=8),
            {},
            "--resize height --interpolation bilinear --pad-value 114 --pad-position top-left --multiple-of 8",
        ),
        (Preprocessing(size=(0, 0), function="own.py:f", function_hash="ab"), {}, "--preprocess own.py:f"),
        (None, {"loader": "own.py:load (source 0123)"}, "--loader own.py:load"),
    ],
)
def test_preparation_of_every_kind_is_written(preprocessing, settings, words):
    table = calibrate(DIGITS, CALIB, num_samples=20, method="entropy", progress=False)
    table = replace(table, preprocessing=preprocessing, settings={**table.settings, **settings})
    assert words in calibrate_command(table, "m.onnx")


def test_a_table_of_a_functions_images_is_used_where_the_function_is_named(tmp_path):
    source = tmp_path / "own.py"
    body = "return np.asarray(image.convert('L'), np.float32)[None] / 255"
    source.write_text(f"import numpy as np\ndef f(image):\n    {body}\n")
    options = {"num_samples": 20, "method": "entropy", "progress": False, "table_path": tmp_path / "t.json"}
    table = calibrate(DIGITS, CALIB, preprocess=f"{source}:f", **options)
    assert load_table(tmp_path / "t.json").preprocessing == table.preprocessing
    plain = calibrate(DIGITS, CALIB, num_samples=20, method="entropy", progress=False)
    assert {t: r.amax for t, r in table.tensors.items()} == {t: r.amax for t, r in plain.tensors.items()}
    with pytest.raises(DatasetError, match="which runs only where it is named"):
        evaluate(
            DIGITS, CALIB, table=table, variants=["int8"], num_samples=10, latency_s=0, layer_samples=0, progress=False
        )
    told = []
    calibrate(DIGITS, CALIB, preprocess=f"{source}:f", notify=told.append, **options)
    assert any("fits" in n.text or "reus" in n.text.lower() for n in told), [n.text for n in told]
    source.write_text(source.read_text() + "# edited\n")
    report = evaluate(
        DIGITS,
        CALIB,
        table=table,
        preprocess=f"{source}:f",
        num_samples=10,
        latency_s=0,
        layer_samples=0,
        progress=False,
    )
    assert "the data were prepared differently than for calibration: the INT8 ranges may not fit" in report.warnings
