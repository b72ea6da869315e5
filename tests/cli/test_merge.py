"""`quantkit cache merge`, as a user types it."""

import shutil
from dataclasses import replace

import onnx
import pytest

from quantkit.calibration.table import TABLE_KEY, load_table, table_json
from tests.cli.conftest import CALIB


@pytest.fixture
def part(quantkit, digits, tmp_path):
    """Calibrates with the images of some classes and returns the kept statistics."""

    def run(name, classes, *words):
        data, names = tmp_path / f"data-{name}", tmp_path / "classes.txt"
        names.write_text("\n".join(map(str, range(10))))
        for number in classes:
            images = sorted((CALIB / str(number)).iterdir())[:10]
            (data / str(number)).mkdir(parents=True)
            for image in images:
                shutil.copy(image, data / str(number))
        options = ["--batch-size", "10", "--classes", names, "--keep-statistics", "--calibrator", "quantkit"]
        options += ["--accuracy", "fast"]
        outcome = quantkit("calibrate", "--data", data, digits, "-o", tmp_path / name, *options, *words)
        assert outcome.code == 0, outcome.err
        return tmp_path / name / "digits.calib.stats"

    return run


def test_merged_shards_equal_the_whole(quantkit, part, digits, tmp_path):
    whole = part("whole", range(10))
    parts = [part("a", range(3)), part("b", [3]), part("c", range(4, 10))]
    table = tmp_path / "out" / "digits.calib.json"
    outcome = quantkit("cache", "merge", *parts, "-o", table)
    assert outcome.code == 0, outcome.err
    # A merge has no model to tell what the output is worth.
    expected = replace(load_table(whole.with_name("digits.calib.json")), quality={})
    assert f"wrote {table}" in outcome.out
    assert "100 in 3 parts" in outcome.out
    assert table.read_text() == table_json(expected)
    made = quantkit("quantize", digits, "--table", table, "-o", tmp_path / "out" / "int8.onnx")
    assert made.code == 0
    models = [onnx.load(path) for path in (tmp_path / "out" / "int8.onnx", whole.with_name("digits.int8.onnx"))]
    for model in models:
        assert model.metadata_props.pop().key == TABLE_KEY
    assert models[0] == models[1]
    other = quantkit("cache", "merge", *parts, "-o", table, "--method", "percentile", "--percentile", "99.5")
    assert other.code == 0
    assert load_table(table).tensors != expected.tensors
    refused = quantkit("cache", "merge", parts[1], "-o", table)
    assert (refused.code, load_table(table).num_samples) == (1, 100)
    assert f"{table} was made from 100 samples and would be replaced by one from 10 samples: pass all" in refused.err


def test_incompatible_shards_are_refused(quantkit, part, tmp_path):
    first, second = part("a", [0, 1]), part("b", [1, 2])
    table = tmp_path / "t.json"
    overlap = quantkit("cache", "merge", first, second, "-o", table)
    assert overlap.code == 1
    assert "both contain 1/" in overlap.err
    assert "each sample may count only once" in overlap.err
    other = quantkit("cache", "merge", first, part("c", [3], "--no-all-tensors"), "-o", table)
    assert "cannot be merged: observed tensors: " in other.err
    foreign = quantkit("cache", "merge", first, first.with_name("digits.calib.json"), "-o", table)
    assert "digits.calib.json is not a statistics file of calibrate --keep-statistics" in foreign.err
    missing = quantkit("cache", "merge", first, tmp_path / "none.stats", "-o", table)
    assert "cannot read statistics" in missing.err
    for outcome in (overlap, other, foreign, missing):
        assert outcome.code == 1
        assert outcome.err.strip().count("\n") == 0
    assert not table.exists()
    assert quantkit("cache", "merge", first, "-o", tmp_path).code == 2


def test_calibrate_reports_reused_and_missing_statistics(quantkit, part, digits, tmp_path):
    stats = part("a", [0, 1])
    data, names = tmp_path / "data-a", tmp_path / "classes.txt"
    words = ["calibrate", "--data", data, digits, "-o", stats.parent, "--classes", names, "--calibrator", "quantkit"]
    outcome = quantkit(*words, "--method", "mse")
    assert "the model does not have to run" in outcome.err
    resumed = quantkit(*words, "--method", "mse", "--force", "--resume")
    assert "Nothing to resume" in resumed.err
    assert resumed.code == 0
