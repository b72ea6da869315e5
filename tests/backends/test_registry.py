from __future__ import annotations

from pathlib import Path

import pytest

from quantkit.backends import BACKENDS, find_backend


@pytest.mark.parametrize(
    ("name", "backend"),
    [("m.engine", "tensorrt"), ("m.PLAN", "tensorrt"), ("m.onnx", "onnxruntime"), ("without_suffix", "onnxruntime")],
)
def test_the_suffix_decides_and_what_nobody_claims_is_onnx(name, backend):
    assert find_backend(name) == (backend, Path(name))


def test_a_name_before_the_path_decides():
    assert find_backend("tensorrt:m.bin") == ("tensorrt", Path("m.bin"))
    assert find_backend(Path("onnxruntime:a/m.engine")) == ("onnxruntime", Path("a/m.engine"))
    assert find_backend("C:/m.engine") == ("tensorrt", Path("C:/m.engine"))


def test_no_suffix_belongs_to_two_runtimes():
    suffixes = [suffix for backend in BACKENDS.values() for suffix in backend.suffixes]
    assert len(set(suffixes)) == len(suffixes)
