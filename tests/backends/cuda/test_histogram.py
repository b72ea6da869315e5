"""Histograms on a GPU that is none; benchmarks/gpu_calibration.py checks the kernels on a real one."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from quantkit.backends.cuda import histogram
from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.device_array import DeviceArray
from quantkit.backends.cuda.histogram import DeviceHistograms
from quantkit.calibration.statistics import EXACT_BINS, new_statistics, update
from tests.backends import gpu as fake


@pytest.fixture
def gpu(monkeypatch):
    gpu = fake.Gpu()
    fake.install(gpu, monkeypatch)
    return gpu


def upload(gpu, context, array):
    with context:
        memory = gpu.allocate(array.nbytes)
        gpu.copy_in_now(memory, array)
    return DeviceArray(int(memory), array.shape, array.dtype, memory, context)


def free(context, *arrays):
    with context:
        for array in arrays:
            array.owner.free()


def same(found, wanted):
    assert (found.bin_width, found.minimum, found.maximum) == (wanted.bin_width, wanted.minimum, wanted.maximum)
    np.testing.assert_array_equal(found.histogram, wanted.histogram)


def normal(*shape, scale=1.0):
    return (scale * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


BATCHES = {
    "grows": [normal(7, 5), normal(7, 5, scale=9), normal(3, scale=1e6)],
    "zeros first": [np.zeros(9, np.float32), np.full(9, -0.0, np.float32), normal(4)],
    "half": [normal(8).astype(np.float16), normal(8, scale=3).astype(np.float16), normal(0).astype(np.float16)],
    "shrinks": [normal(5, scale=1e30), normal(5, scale=1e-30), normal(5)],
}


@pytest.mark.parametrize("on_device", [True, False])
def test_statistics_are_those_of_the_host(gpu, on_device):
    context = PrimaryContext()
    histograms = DeviceHistograms(context, BATCHES)
    wanted = {name: new_statistics() for name in BATCHES}
    for i in range(3):
        batch = {name: arrays[i] for name, arrays in BATCHES.items()}
        held = {n: upload(gpu, context, a) if on_device and a.size else a for n, a in batch.items()}
        histograms.add(held)
        for name, array in batch.items():
            update(wanted[name], array)
        assert histograms.wait() == ()
        free(context, *(a for a in held.values() if isinstance(a, DeviceArray)))
    for name, found in histograms.statistics().items():
        same(found, wanted[name])
    histograms.free()
    histograms.free()
    assert (gpu.memory, gpu.pinned, gpu.faults) == ({}, {}, [])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_and_the_others_count(gpu, bad):
    histograms = DeviceHistograms(PrimaryContext(), ["a", "b"])
    histograms.add({"a": np.float32([1, bad, 2]), "b": np.float32([1, 2])})
    assert histograms.wait() == ("a",)
    assert histograms.statistics()["b"].count == 2
    histograms.free()


def test_a_batch_is_held_until_it_is_counted(gpu):
    """The values are read when the stream gets to them: the fake runs it only when somebody waits."""
    context = PrimaryContext()
    histograms = DeviceHistograms(context, ["x"])
    array = upload(gpu, context, normal(10))
    histograms.add({"x": array})
    assert histograms._held["x"] is array
    histograms.add({"x": np.float32([1])})
    assert histograms.statistics()["x"].count == 11
    assert not histograms._held
    free(context, array)
    histograms.free()


def test_only_the_first_entries_of_an_array_can_be_taken(gpu):
    context = PrimaryContext()
    array = upload(gpu, context, normal(6, 2))
    np.testing.assert_array_equal(np.asarray(array[:4]), normal(6, 2)[:4])
    assert array[:9].shape == (6, 2)
    with pytest.raises(IndexError):
        array[1:]
    free(context, array)


def test_the_kernels_are_compiled_from_their_source():
    folder = Path(histogram.__file__).parent
    digest = hashlib.sha256((folder / "histogram.cu").read_bytes()).hexdigest()
    ptx = (folder / "histogram.ptx").read_text()
    assert ptx.startswith(f"// compiled from histogram.cu, SHA-256 {digest}"), "run .ci/compile_kernels.py"
    assert set(re.findall(r"\.entry (\w+)", ptx)) == set(histogram._THREADS)
    assert histogram.BINS == EXACT_BINS
