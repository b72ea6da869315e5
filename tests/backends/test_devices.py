import contextlib

import pytest

from quantkit.backends import devices
from quantkit.backends.devices import choose_devices
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, chosen_gpu, using_gpu, using_gpu_where_it_pays
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.types.device_choice import parse_device


@pytest.mark.parametrize(
    ("text", "found"),
    [("auto", "auto"), ("cpu", ()), ("CUDA", (0,)), ("cuda:3", (3,)), ("cuda:1,0", (1, 0)), ("cuda:1,1", (1,))],
)
def test_devices_are_read(text, found):
    assert parse_device(text) == found


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "cuda:a", "cuda:0,", "cuda 0"])
def test_what_is_no_device_is_named(text):
    with pytest.raises(ValueError, match="--device takes auto, cpu, cuda"):
        parse_device(text)


def test_auto_is_the_cpu_where_the_runtime_is_not_built_for_cuda():
    found = choose_devices("auto")
    assert found.gpus == ()
    assert "not built for CUDA" in found.reason


def test_a_runtime_that_is_missing_is_told_by_what_needs_it(monkeypatch):
    def missing():
        raise BackendUnavailableError("ONNX Runtime is not installed")

    monkeypatch.setattr(devices, "has_cuda_provider", missing)
    assert choose_devices("auto") == devices.Devices((), "ONNX Runtime is not installed")


def test_a_gpu_that_is_asked_for_is_an_error_where_there_is_none():
    with pytest.raises(BackendUnavailableError, match=r"no provider CUDAExecutionProvider: run pip uninstall"):
        choose_devices("cuda")


def test_auto_is_the_first_gpu_that_works_and_else_says_why_not(monkeypatch):
    monkeypatch.setattr(devices, "has_cuda_provider", lambda: True)
    monkeypatch.setattr(devices, "OnnxRuntimeRunner", lambda *a, **k: contextlib.nullcontext())
    monkeypatch.setattr(devices, "PrimaryContext", lambda index: None)
    assert choose_devices("auto").gpus == (0,)
    assert str(choose_devices("cuda:2,0")) == "cuda:2,0"

    def broken(index):
        raise BackendError("pycuda does not load")

    monkeypatch.setattr(devices, "PrimaryContext", broken)
    assert choose_devices("auto").gpus == (0,)  # it was tried
    devices._check.cache_clear()
    assert choose_devices("auto") == devices.Devices((), "pycuda does not load", is_fallback=True)


def test_the_model_that_is_tried_runs():
    with OnnxRuntimeRunner(devices._IDENTITY) as runner:
        assert runner.device == "cpu"
        assert runner.inputs[0].name == "x"


def test_the_gpu_holds_inside_the_block_only():
    with using_gpu(1):
        assert chosen_gpu() == 1
        with using_gpu(None):
            assert chosen_gpu() is None
        assert chosen_gpu() == 1
    assert chosen_gpu() is None


def test_sessions_that_do_not_pay_stay_on_the_cpu():
    with using_gpu(0), using_gpu_where_it_pays(1e9):
        assert chosen_gpu() == 0
        with OnnxRuntimeRunner(devices._IDENTITY) as runner:
            assert runner.device == "cpu"
        for on_gpu in (using_gpu(0), using_gpu_where_it_pays(1e12)):
            with on_gpu, pytest.raises(BackendUnavailableError, match="CUDA"):
                OnnxRuntimeRunner(devices._IDENTITY)
