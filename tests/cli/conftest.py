"""The command line, run in this process: exit code, standard output and error output."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from quantkit.cli import main

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "examples" / "digits.onnx"
CALIB = REPOSITORY / "calib_data" / "digits" / "calib"
VAL = REPOSITORY / "calib_data" / "digits" / "val"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def piped(monkeypatch):
    """Lines are not wrapped, whatever terminal the tests run in: parallel workers are told a width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def quantkit(capsys):
    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def digits(tmp_path) -> Path:
    """The demo model alone in a folder."""
    path = tmp_path / "digits.onnx"
    path.write_bytes(DIGITS.read_bytes())
    return path


@pytest.fixture(scope="session")
def calibration(tmp_path_factory) -> Path:
    """Folder with the demo model, and what its calibration with --method entropy wrote."""
    folder = tmp_path_factory.mktemp("calibration")
    shutil.copy(DIGITS, folder)
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "--method", "entropy", "--data", str(CALIB), str(folder / DIGITS.name), "-q"])
    assert not stop.value.code
    return folder


@pytest.fixture
def calibrated(digits, calibration) -> Path:
    """The demo model, with its calibration beside it."""
    shutil.copytree(calibration, digits.parent, dirs_exist_ok=True)
    return digits


@pytest.fixture
def model(tmp_path) -> Path:
    return conv_model(tmp_path / "net.onnx")


@pytest.fixture
def images(tmp_path) -> Path:
    return write_images(tmp_path / "imgs", 10)


def conv_model(
    path: Path,
    *,
    shape=("n", 3, 8, 8),
    opset=17,
    weight=None,
    extra_input=False,
    dtype=TensorProto.FLOAT,
) -> Path:
    """Conv → Relu → GlobalAveragePool → Flatten → Gemm with seeded weights."""
    rng = np.random.default_rng(3)
    channels = shape[1] if isinstance(shape[1], int) else 3
    weight = rng.standard_normal((8, channels, 3, 3)).astype(np.float32) if weight is None else weight
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="fc"),
    ]
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    if extra_input:
        nodes.insert(0, helper.make_node("Add", ["x0", "x1"], ["x"], name="sum"))
        inputs = [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i in (0, 1)]
    tensors = {"w": weight, "b": np.zeros(8, np.float32), "v": rng.standard_normal((8, 8)).astype(np.float32)}
    graph = helper.make_graph(
        nodes,
        "net",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 8])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def write_images(folder: Path, count=4, *, mode="RGB", size=(8, 8), seed=0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i:03}.png")
    return folder
