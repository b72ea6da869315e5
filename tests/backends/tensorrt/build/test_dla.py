"""Builds for a DLA: NVIDIA's bindings over a fake library with two cores, on which everything runs but Softmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import quantkit
from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner

from ....graph.builder import Builder
from ...gpu import Gpu, install
from ...runner_contract import X, Y
from .. import asked
from ..engines import affine_plan, make_library

WITH_DLA = {8: "8.6.1", 10: "10.7.0", 11: "11.4.1"}
"""What the bindings of each major version call themselves here."""


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A convolution alone, one with Softmax behind it, and the table of the first."""
    folder = tmp_path_factory.mktemp("dla")
    for name in ("plain", "softmax"):
        g = Builder()
        x = g.op("Relu", g.conv(g.input("x", 3, 8, 8), 3, 16))
        onnx.save(
            g.model(g.op("Softmax", x, name="probabilities") if name == "softmax" else x), folder / f"{name}.onnx"
        )
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    quantkit.calibrate(
        folder / "plain.onnx", folder / "x.npy", table_path=folder / "net.calib.json", accuracy="fast", progress=False
    )
    return folder


@pytest.fixture
def ask(bindings, material, tmp_path):
    def build(model="plain", *, version=None, options=None, **words):
        words = {"precision": "fp16", "output": str(tmp_path / "net.engine"), **words}
        options = {"dla_core": 1, **(options or {})}
        version = WITH_DLA[bindings.release.major] if version is None else version
        return bindings.call(asked.build_on_jetson, str(material / f"{model}.onnx"), words, options, version)

    return build


def test_a_core_one_shape_and_no_fp32(bindings, ask, material):
    for words in ({"precision": "fp16"}, {"precision": "int8", "table": str(material / "net.calib.json")}):
        answer = ask(**words)
        assert "engine" in answer, answer
        engine = answer["engine"]
        assert engine["properties"]["DLACore"] == 1
        assert engine["default_device"] == 1
        assert engine["profiles"] == [{"x": [[1, 3, 8, 8]] * 3}]
        assert answer["manifest"]["options"]["dla_core"] == 1
        is_old = bindings.release.major < 11
        assert ("FP16" in engine["flags"]) == is_old
        # Strongly typed from 11 on, where the parser adjusts the network; up to 10 flags and ranges decide.
        assert engine["parser_flags"] == ([] if is_old else ["ADJUST_FOR_DLA"])
        if words["precision"] == "int8":
            assert (engine["qdq"] == 0) == is_old
            assert bool(engine["dynamic_ranges"]) == is_old
    assert "a DLA has no FP32" in ask(precision="fp32")["message"]
    table = {"precision": "int8", "table": str(material / "net.calib.json")}
    assert "omit --high-precision fp32" in ask(high_precision="fp32", **table)["message"]
    assert "this machine has 2 DLA cores" in ask(options={"dla_core": 2})["message"]


def test_shapes_that_vary_are_refused(ask):
    profiles = [{"x": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}]
    said = ask(options={"profiles": profiles})["message"]
    assert "a DLA takes one shape, and the profile of input 'x' is 1x3x8x8 / 2x3x8x8 / 4x3x8x8" in said
    static = ask(options={"profiles": [{"x": [[4, 3, 8, 8]] * 3}]})
    assert static["engine"]["profiles"] == [{"x": [[4, 3, 8, 8]] * 3}]


def test_what_the_gpu_takes_over_is_listed_before_the_build(ask):
    said = ask("softmax")["message"]
    assert "layers cannot run on the DLA: probabilities; --allow-gpu-fallback lets the GPU" in said
    answer = ask("softmax", options={"allow_gpu_fallback": True})
    assert "GPU_FALLBACK" in answer["engine"]["flags"]
    assert any("layers cannot run on the DLA: probabilities; the GPU runs them" in line for line in answer["told"])


@pytest.mark.parametrize("bindings", ["10.16", "11.4"], indirect=True)
def test_versions_without_dla_say_so(bindings, ask):
    for version in ("10.8.0", "10.16.1") if bindings.release.major == 10 else ("11.0.0", "11.4.0"):
        said = ask(version=version)["message"]
        assert f"TensorRT {version} has no DLA; 10.7 was the last" in said


def test_the_core_is_chosen_at_run_time_too(monkeypatch):
    gpu = Gpu(capacity=1 << 28)
    install(gpu, monkeypatch)
    library = make_library(gpu, {b"plan": affine_plan(dla_core=1)})
    with TensorRTRunner(b"plan", library=library, dla_core=1) as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
