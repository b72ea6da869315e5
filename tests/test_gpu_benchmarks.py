"""The benchmarks that need a GPU, on one that is none: that they still run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .fake_trt.releases import RELEASES, UnobtainableError, build_stubs, obtain_bindings

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("gpu_best", "--seconds", "0.01"),
        ("calibrator_stream", "--images", "16", "--batch-size", "4", "--runs", "1", "--repeat", "1"),
    ],
    ids=lambda words: words[0],
)
def test_it_passes_its_own_checks(words):
    if "10.16" not in RELEASES:
        pytest.skip("another version was chosen")
    try:
        obtain_bindings(RELEASES["10.16"])
        build_stubs(RELEASES["10.16"])
    except UnobtainableError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", f"benchmarks.{words[0]}", *words[1:], "--fake-cuda"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
