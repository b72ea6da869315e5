import numpy as np
import pytest

from quantkit.backends.onnxruntime import OnnxRuntimeRunner, using_gpu
from quantkit.errors import OutOfDeviceMemoryError
from quantkit.graph.moments_model import moments_model
from quantkit.refinement import moment_sums as module
from quantkit.refinement.moment_sums import DeviceSums, HostSums, sums_where_they_pay


def columns(seed, count=70):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, size=(2, 5, count)).astype(np.float32)
    quantized = x + rng.normal(0.1, 0.2, size=x.shape).astype(np.float32)
    return x, quantized, rng.uniform(0, 2, count).astype(np.float32)


def assert_same(sums, expected):
    for found, wanted in zip(sums.values(), expected.values(), strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_host_sums_are_as_defined():
    x, quantized, counts = columns(0)
    sums = HostSums.of_nothing(2, 5, True)
    sums.add(x, quantized, counts)
    q, d = quantized.astype(np.float64), x.astype(np.float64) - quantized
    of_columns, products = sums.values()
    np.testing.assert_allclose(of_columns, [(a * counts).sum(2) for a in (q, d)], rtol=1e-5, atol=1e-4)
    pairs = (q, q), (d, q), (d, d)
    np.testing.assert_allclose(products, [(a * counts) @ b.swapaxes(1, 2) for a, b in pairs], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("with_error", [False, True])
def test_the_model_for_a_gpu_adds_up_what_the_host_does(with_error):
    on_host = HostSums.of_nothing(2, 5, with_error)
    with OnnxRuntimeRunner(moments_model(with_error=with_error)) as runner:
        on_device = DeviceSums(runner, 2, 5, with_error)
        for seed, count in enumerate((70, 1, 33)):
            on_host.add(*columns(seed, count))
            on_device.add(*columns(seed, count))
        for _ in range(2):  # reading changes nothing
            assert_same(on_device, on_host)


def test_no_columns_are_sums_of_zero():
    with OnnxRuntimeRunner(moments_model(with_error=True)) as runner:
        sums, products = DeviceSums(runner, 2, 5, True).values()
    assert (sums.shape, products.shape) == ((2, 2, 5), (3, 2, 5, 5))
    assert not sums.any()
    assert not products.any()


def test_what_a_gpu_has_no_memory_for_is_added_on_the_host():
    class SmallRunner(OnnxRuntimeRunner):
        def run(self, inputs):
            if inputs["x"].shape[2] > 50:
                raise OutOfDeviceMemoryError("out of memory")
            return super().run(inputs)

    expected = HostSums.of_nothing(2, 5, True)
    with SmallRunner(moments_model(with_error=True)) as runner:
        sums = DeviceSums(runner, 2, 5, True)
        for seed, count in enumerate((33, 70, 20)):
            sums.add(*columns(seed, count))
            expected.add(*columns(seed, count))
        assert_same(sums, expected)


def test_wide_layers_are_added_up_on_the_gpu(monkeypatch):
    monkeypatch.setattr(module, "PrimaryContext", lambda device: device)
    monkeypatch.setattr(module, "DeviceRunner", lambda model, context: OnnxRuntimeRunner(model))
    with sums_where_they_pay() as make:
        assert isinstance(make(1, 4096, True), HostSums)
    monkeypatch.setattr(module, "chosen_gpu", lambda: 0)
    with sums_where_they_pay() as make:
        assert isinstance(make(1, 256, True), DeviceSums)
        assert isinstance(make(960, 9, False), HostSums)


def test_with_using_gpu_none_sums_are_on_the_host():
    with using_gpu(None), sums_where_they_pay() as make:
        assert isinstance(make(1, 4096, False), HostSums)
