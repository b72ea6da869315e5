"""Calibration on GPUs that are none: ONNX Runtime runs on the CPU, and its results lie in the imaginary memory."""

import json

import numpy as np
import pytest

from quantkit import calibrate, evaluate
from quantkit.backends import devices
from quantkit.backends.cuda.device_array import DeviceArray
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, chosen_gpu, using_gpu
from quantkit.commands import on_device
from quantkit.commands.data_check import check_data
from quantkit.errors import BackendError, BackendUnavailableError, CalibrationError, OutOfDeviceMemoryError
from tests.backends import gpu as fake
from tests.cli.conftest import conv_model


class RunnerOnGpu(OnnxRuntimeRunner):
    def __init__(self, model, context, *, name="model"):
        super().__init__(model, name=name)
        self.context = context

    def run(self, inputs):
        return {name: self.upload(array) for name, array in {**inputs, **super().run(inputs)}.items()}

    def upload(self, array):
        with self.context:
            memory = self.context.driver.mem_alloc(array.nbytes)
            self.context.driver.memcpy_htod(memory, array)
        return DeviceArray(int(memory), array.shape, array.dtype, memory, self.context)


@pytest.fixture
def gpu(monkeypatch):
    gpu = fake.Gpu(capacity=1 << 28)
    fake.install(gpu, monkeypatch)
    monkeypatch.setattr(on_device, "DeviceRunner", RunnerOnGpu)
    monkeypatch.setattr(on_device, "choose_devices", lambda text: devices.Devices((0,), "a test"))
    monkeypatch.setattr(on_device, "using_gpu", lambda device: on_device.ExitStack())
    return gpu


@pytest.fixture
def model(tmp_path):
    conv_model(tmp_path / "model.onnx", shape=["n", 3, 8, 8])
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((50, 3, 8, 8), np.float32))
    return tmp_path / "model.onnx"


def test_the_table_is_that_of_the_cpu(gpu, model, monkeypatch):
    data, path = model.with_name("data.npy"), model.with_name("t.json")
    notices = []
    found = calibrate(model, data, accuracy="fast", device="cuda", table_path=path, notify=notices.append)
    assert "device: cuda:0 (a test)" in [notice.text for notice in notices]
    monkeypatch.setattr(on_device, "choose_devices", lambda text: devices.Devices((), ""))
    wanted = calibrate(model, data, accuracy="fast", device="cpu")
    assert found.tensors == wanted.tensors
    assert "device" not in json.dumps(dict(found.settings))


def calibrated(path, samples, **options):
    data = np.random.default_rng(0).standard_normal((samples, 3, 8, 8), np.float32)
    np.save(path.with_name("many.npy"), data)
    table = path.with_name("t.json")
    calibrate(path, path.with_name("many.npy"), accuracy="fast", table_path=table, **options)
    return table.read_bytes()


@pytest.fixture
def sessions(monkeypatch):
    """What each session on the CPU was made of, as it was asked for: True where blocks are returned."""
    found = []

    class Runner(OnnxRuntimeRunner):
        def __init__(self, model, *, is_optimized=False, **keywords):
            super().__init__(model, is_optimized=is_optimized, **keywords)
            found.append(is_optimized)

    monkeypatch.setattr(on_device, "OnnxRuntimeRunner", Runner)
    return found


def test_many_samples_are_collected_in_blocks_with_the_same_table(model, sessions, monkeypatch):
    found = calibrated(model, 260)
    if not any(sessions):
        pytest.skip("ONNX Runtime computes without blocks on this processor")
    monkeypatch.setattr(on_device, "_MANY_SAMPLES", 300)
    assert calibrated(model, 260, force=True) == found
    assert sessions == [True, False]


def test_what_cannot_be_had_in_blocks_is_collected_without(model, sessions, monkeypatch):
    def fail(shared):
        raise BackendError("ONNX Runtime cannot optimize the model: no space left on the device")

    monkeypatch.setattr(on_device, "optimized_model", fail)
    assert calibrated(model, 260)
    monkeypatch.setattr(on_device, "_LARGEST_COPY", -1)
    monkeypatch.setattr(on_device, "optimized_model", None)
    assert calibrated(model, 260, force=True)
    assert calibrated(model, 20, force=True)
    assert sessions == [False] * 3


def test_several_gpus_need_the_exact_histogram(gpu, model, monkeypatch):
    monkeypatch.setattr(on_device, "choose_devices", lambda text: devices.Devices((0, 1), "a test"))
    with pytest.raises(CalibrationError, match="give --device one GPU"):
        calibrate(model, model.with_name("data.npy"), histogram="tensorrt", device="cuda:0,1")


@pytest.mark.parametrize("command", [calibrate, evaluate, check_data])
def test_a_gpu_that_is_asked_for_and_not_there_is_one_line(command, model):
    with pytest.raises(BackendUnavailableError, match="no provider CUDAExecutionProvider"):
        command(model, model.with_name("data.npy"), device="cuda")


@pytest.mark.parametrize("command", [calibrate, evaluate, check_data])
def test_a_device_that_is_none_is_named_before_anything_runs(command, model):
    with pytest.raises(CalibrationError, match="--device takes auto, cpu, cuda"):
        command(model, model.with_name("nothing.npy"), device="gpu")


def test_what_the_gpu_has_no_memory_for_runs_again_on_the_cpu():
    devices, notices = [], []

    def run():
        devices.append(chosen_gpu())
        if chosen_gpu() is not None:
            raise OutOfDeviceMemoryError("the model: out of memory")
        return "done"

    with using_gpu(0):
        assert on_device.or_on_cpu(run, notices.append) == "done"
    assert devices == [0, None]
    assert [notice.text for notice in notices] == ["on the CPU instead: the model: out of memory"]
