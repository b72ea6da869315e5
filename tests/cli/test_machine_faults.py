"""A disk or a memory that fails while samples are read: one line, no table; never fewer samples than there are."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from quantkit import machine
from tests.cli.test_bad_input import assert_refused

FAULTS = [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOMEM]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(machine, "_PAUSES_S", (0, 0, 0))


@pytest.fixture
def fail(monkeypatch):
    """Opening a file of this name fails so many times."""

    def arrange(name, code, times=10**9):
        original, left = os.open, iter(range(times))

        def opened(path, *arguments, **options):
            if os.fspath(path).endswith(name) and next(left, None) is not None:
                raise OSError(code, os.strerror(code), path)
            return original(path, *arguments, **options)

        monkeypatch.setattr(machine.os, "open", opened)

    return arrange


@pytest.mark.parametrize("code", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_a_fault_ends_the_run_in_one_line(quantkit, tmp_path, model, images, fail, code, command):
    fail("003.png", code)
    outcome = quantkit(command, "--data", images, model)
    assert_refused(outcome, 1, "003.png", os.strerror(code), "machine", folder=tmp_path, kept=["imgs", "net.onnx"])


def test_a_passing_fault_changes_nothing(quantkit, tmp_path, model, images, fail):
    options = ("--accuracy", "fast", "-o")
    assert quantkit("calibrate", "--data", images, model, *options, tmp_path / "whole").code == 0
    fail("003.png", errno.EIO, times=2)
    outcome = quantkit("calibrate", "--data", images, model, *options, tmp_path / "shaken")
    assert outcome.code == 0
    assert "unreadable" not in outcome.err
    for name in ("net.calib.json", "net.int8.onnx"):
        assert (tmp_path / "shaken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_too_little_memory_to_decode_is_no_damage(quantkit, tmp_path, model, images, monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    outcome = quantkit("calibrate", "--data", images, model)
    assert_refused(outcome, 1, ".png", "not enough memory", folder=tmp_path, kept=["imgs", "net.onnx"])


def test_arrays_and_their_files_too(quantkit, tmp_path, model, fail):
    rows = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "samples").mkdir()
    for i, row in enumerate(rows):
        np.savez(tmp_path / "samples" / f"{i}.npz", x=row)
    fail("x.npy", errno.EIO)
    assert_refused(quantkit("calibrate", "--data", tmp_path / "x.npy", model), 1, "x.npy", "machine")
    fail("2.npz", errno.ESTALE)
    assert_refused(quantkit("calibrate", "--data", tmp_path / "samples", model), 1, "2.npz", "machine")


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_too_few_readable_images_are_refused(quantkit, tmp_path, model, images, command):
    for number in (3, 4):
        (images / f"{number:03}.png").write_bytes(b"no image")
    outcome = quantkit(command, "--data", images, model)
    words = ("2 of 10 samples cannot be read", "--min-readable 0.9", "003.png")
    assert_refused(outcome, 1, *words, folder=tmp_path, kept=["imgs", "net.onnx"])
    options = ("--min-readable", "0.8", *(["--accuracy", "fast"] if command == "calibrate" else ["--latency-s", "0"]))
    outcome = quantkit(command, "--data", images, model, *options)
    assert outcome.code == 0, outcome.err
    assert "2 unreadable images were left out" in outcome.out + outcome.err


@pytest.mark.parametrize("value", ["nan", "-0.1", "1.5"])
def test_a_share_is_from_0_to_1(quantkit, model, images, value):
    for command in ("calibrate", "evaluate"):
        outcome = quantkit(command, "--data", images, model, f"--min-readable={value}")
        assert_refused(outcome, 1, "--min-readable", "fraction")


@pytest.mark.parametrize(
    ("keep", "said"),
    [([], "readable samples: 10 → 11"), (["--keep-statistics"], "1 samples that were left out can be read now")],
)
def test_what_left_samples_out_is_made_again_once_they_can_be_read(
    quantkit, tmp_path, model, images, monkeypatch, keep, said
):
    """As when a decoder was installed meanwhile: the files are what they were."""
    Image.new("RGB", (8, 8)).save(images / "odd.bmp")
    options = ("--accuracy", "fast", *keep)
    with monkeypatch.context() as patch:
        patch.setattr("quantkit.datasets.image_decoding.READ_FORMATS", ("PNG",))
        assert quantkit("calibrate", "--data", images, model, *options).code == 0
        outcome = quantkit("calibrate", "--data", images, model, *options)
        assert "leaves out 1 of 11 samples" in outcome.err
    outcome = quantkit("calibrate", "--data", images, model, *options)
    assert outcome.code == 0
    assert said in outcome.err
    assert "unreadable" not in outcome.err


def test_a_table_that_left_too_much_out_is_not_reused(quantkit, model, images):
    for number in (3, 4):
        (images / f"{number:03}.png").write_bytes(b"no image")
    options = ("--accuracy", "fast")
    assert quantkit("calibrate", "--data", images, model, *options, "--min-readable", "0.8").code == 0
    assert_refused(quantkit("calibrate", "--data", images, model, *options), 1, "2 of 10 samples cannot be read")
