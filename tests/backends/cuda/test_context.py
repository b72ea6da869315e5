import builtins
import sys
import threading

import pytest

from quantkit.backends.cuda.context import PrimaryContext, load_driver
from quantkit.errors import BackendError, BackendUnavailableError
from tests.backends import gpu as imaginary


@pytest.fixture
def gpu(monkeypatch):
    device = imaginary.Gpu()
    device.driver = imaginary.install(device, monkeypatch)
    return device


def test_nested_entry_restores_the_thread(gpu):
    context = PrimaryContext()
    with context:
        with context:
            assert len(gpu.stack) == 2
        assert len(gpu.stack) == 1
    assert gpu.stack == []


def test_exception_leaves_the_context(gpu):
    with pytest.raises(KeyboardInterrupt), PrimaryContext():
        raise KeyboardInterrupt
    assert gpu.stack == []


def test_primary_context_is_retained_once(gpu):
    contexts = [PrimaryContext() for _ in range(3)]
    with contexts[0]:
        assert gpu.stack == [contexts[2]._context]
    assert gpu.retained == 1


def test_each_thread_enters_separately(gpu):
    context = PrimaryContext()
    seen = []

    def work():
        seen.append(len(gpu.stack))
        with context:
            seen.append(len(gpu.stack))

    with context:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [0, 1]


def test_memory_is_reported_in_bytes(gpu):
    context = PrimaryContext()
    with context:
        allocation = gpu.driver.mem_alloc(1000)
    assert context.memory_bytes() == (gpu.capacity - 1000, gpu.capacity)
    with context:
        allocation.free()


def test_missing_gpu_is_named(gpu):
    with pytest.raises(BackendError, match="no GPU 3: CUDA finds 1"):
        PrimaryContext(3)


def test_gpu_error_is_a_backend_error(gpu, monkeypatch):
    def fail():
        raise imaginary.CudaLogicError("cuCtxSynchronize failed: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(gpu.driver.Context, "synchronize", fail)
    with pytest.raises(BackendError, match=r"GPU 0 failed: .* illegal memory access was encountered$"):
        PrimaryContext().synchronize()


def test_missing_pycuda_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"pip install"):
        load_driver()


def test_missing_driver_is_reported(monkeypatch):
    real = builtins.__import__

    def fail(name, *arguments):
        if name == "pycuda.driver":
            raise ImportError("libcuda.so.1: cannot open shared object file")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(BackendError, match=r"libcuda\.so\.1.*driver installed"):
        load_driver()


@pytest.mark.parametrize("how", ["init fails", "none there"])
def test_no_gpu_is_reported(gpu, monkeypatch, how):
    def fail():
        raise imaginary.CudaError("cuInit failed: no CUDA-capable device is detected")

    if how == "init fails":
        monkeypatch.setattr(gpu.driver, "init", fail)
    else:
        monkeypatch.setattr(gpu.driver.Device, "count", staticmethod(lambda: 0))
    with pytest.raises(BackendError, match="finds no GPU"):
        load_driver()
