"""Samples replaced while a run uses them: refused in one line, and no table that mixes the two."""

import numpy as np
import pytest
from PIL import Image

from quantkit.commands import calibrate as calibrate_module
from quantkit.commands import calibration_run
from quantkit.commands import evaluate as evaluate_module
from tests.cli.conftest import conv_model, write_images
from tests.cli.test_bad_input import assert_refused

BETWEEN = {
    "hashing and calibration": ("calibrate", calibrate_module, "_origin"),
    "two passes of calibration": ("calibrate", calibration_run, "refine_table"),
    "two passes of evaluation": ("evaluate", evaluate_module, "analyze_layers"),
}


def repaint(folder):
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "003.png")


def remove(folder):
    (folder / "003.png").unlink()


def overwrite_rows(folder):
    stored = np.load(folder / "x.npy", mmap_mode="r+")
    stored[3] += 1


def cut_rows(folder):
    content = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(content[:-400])


def rewrite_sample(folder):
    np.savez(folder / "samples" / "3.npz", x=np.ones((3, 8, 8), np.float32))


@pytest.fixture
def data(tmp_path):
    folder = write_images(tmp_path / "imgs", 10)
    rows = np.random.default_rng(0).standard_normal((10, 3, 8, 8)).astype(np.float32)
    np.save(folder / "x.npy", rows)
    (folder / "samples").mkdir()
    for i, row in enumerate(rows):
        np.savez(folder / "samples" / f"{i}.npz", x=row)
    return folder


@pytest.mark.parametrize(
    ("replace", "given", "word"),
    [
        (repaint, "", "003.png"),
        (remove, "", "003.png"),
        (overwrite_rows, "x.npy", "row 3"),
        (cut_rows, "x.npy", "x.npy"),
        (rewrite_sample, "samples", "3.npz"),
    ],
)
@pytest.mark.parametrize("moment", BETWEEN)
def test_replaced_samples_are_refused(quantkit, tmp_path, data, monkeypatch, moment, replace, given, word):
    command, module, function = BETWEEN[moment]
    model = conv_model(tmp_path / "net.onnx")
    if command == "evaluate":
        assert quantkit("calibrate", "--data", data / given, model, "--accuracy", "fast").code == 0
    before = sorted(p.name for p in tmp_path.iterdir())
    original = getattr(module, function)

    def replacing(*arguments, **options):
        replace(data)
        return original(*arguments, **options)

    monkeypatch.setattr(module, function, replacing)
    options = ["--latency-s", "0"] if command == "evaluate" else ["--accuracy", "balanced"]
    outcome = quantkit(command, "--data", data / given, model, *options)
    assert_refused(outcome, 1, word, "while it was in use", folder=tmp_path, kept=before)


def test_a_row_file_that_is_renamed_over_changes_nothing(quantkit, tmp_path, data, monkeypatch):
    model = conv_model(tmp_path / "net.onnx")
    options = ("--accuracy", "fast", "--data", data / "x.npy", model, "-o")
    assert quantkit("calibrate", *options, tmp_path / "whole").code == 0
    original = calibrate_module._origin

    def replacing(*arguments, **keywords):
        np.save(data / "new.npy", np.ones((10, 3, 8, 8), np.float32))
        (data / "new.npy").replace(data / "x.npy")
        return original(*arguments, **keywords)

    monkeypatch.setattr(calibrate_module, "_origin", replacing)
    assert quantkit("calibrate", *options, tmp_path / "during").code == 0
    assert (tmp_path / "during/net.calib.json").read_bytes() == (tmp_path / "whole/net.calib.json").read_bytes()
