"""TensorRT's own histograms and bins, where the shared material is there."""

import json

import numpy as np
import pytest

from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.calibration.methods.entropy import search


def test_search_finds_tensorrts_bin_on_its_own_histograms(shared):
    tensors = json.loads((shared / "entropy" / "trt_golden_lenet.json").read_text())["tensors"]
    assert len(tensors) == 7
    assert {name: search(np.array(t["hist"])) for name, t in tensors.items()} == {n: t["m"] for n, t in tensors.items()}


def test_caches_that_tensorrt_wrote_are_rewritten_byte_for_byte(shared):
    files = [p for p in sorted((shared / "tensorrt" / "caches").glob("*.cache")) if "NOT_TRT" not in p.name]
    assert len(files) >= 20
    for path in files:
        text = path.read_bytes().decode()
        assert parse_cache(text, name=path.name).text() == text, path.name


@pytest.mark.parametrize("name", ["ort_trt_ep_text_amax_NOT_TRT.cache"])
def test_another_tools_table_is_refused(shared, name):
    from quantkit.errors import CalibrationError

    with pytest.raises(CalibrationError, match="line 1"):
        parse_cache((shared / "tensorrt" / "caches" / name).read_text(), name=name)
