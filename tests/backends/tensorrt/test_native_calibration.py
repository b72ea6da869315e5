"""`quantkit.calibrate` with TensorRT's calibrator: NVIDIA's bindings, a fake library that calls it, a fake GPU."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.backends.tensorrt.calibrators.choice import choose_calibrator
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.errors import BackendUnavailableError, CalibrationError

from ...cli.conftest import conv_model, write_images
from ...fake_trt.releases import RELEASES
from ...graph.builder import Builder
from ...graph.quantizing import write
from . import native


@pytest.fixture
def material(tmp_path):
    (tmp_path / "out").mkdir()
    return conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 10), tmp_path / "out"


def run(bindings, material, **options):
    model, data, out = material
    options = {"method": "entropy", **options}
    return bindings.call(native.calibrate, str(model), str(data), str(out), options)


@pytest.mark.parametrize(("method", "algorithm"), [("entropy", "EntropyCalibration2"), ("minmax", "MinMaxCalibration")])
def test_table_cache_and_engine_come_from_tensorrt(calibrating, material, method, algorithm):
    result = run(calibrating, material, method=method, batch_size=4)
    assert "error" not in result, result
    cache = parse_cache(result["cache"])
    assert cache.algorithm == algorithm
    assert cache.version == calibrating.release.library_version
    assert result["amax"] == {name: amax for name, amax in cache.amax.items() if amax > 0 and name in result["amax"]}
    assert {"x", "r"} <= result["amax"].keys()
    assert result["num_samples"] == 10
    assert result["settings"]["calibrator"].startswith("TensorRT ")
    assert result["settings"]["histogram"] == "tensorrt"
    assert result["files"] == ["net.calib", "net.calib.json", "net.int8.engine", "net.int8.engine.json"]
    assert result["live_bytes"] == 0
    told = "\n".join(result["told"])
    assert "it is installed, and there is a GPU" in told
    assert "completed with 2 samples" in told


def test_three_full_batches_of_the_calibration_profile(calibrating, material):
    engine = run(calibrating, material, batch_size=4)["engine"]
    assert engine["calibration"]["batches"] == 3
    assert engine["calibration_profile"] == {"x": [4, 3, 8, 8]}


def test_a_fixed_batch_size_goes_before_the_option(calibrating, tmp_path):
    (tmp_path / "out").mkdir()
    material = (
        conv_model(tmp_path / "net.onnx", shape=(5, 3, 8, 8)),
        write_images(tmp_path / "imgs", 10),
        tmp_path / "out",
    )
    engine = run(calibrating, material, batch_size=4)["engine"]
    assert engine["calibration"]["batches"] == 2
    assert engine["calibration_profile"] == {"x": [5, 3, 8, 8]}


def test_dynamic_height_and_width_take_the_size_of_the_images(calibrating, tmp_path):
    (tmp_path / "out").mkdir()
    model = conv_model(tmp_path / "net.onnx", shape=("n", 3, "h", "w"))
    material = (model, write_images(tmp_path / "imgs", 10), tmp_path / "out")
    result = run(calibrating, material, batch_size=4, preprocess={"size": [8, 16]})
    assert "error" not in result, result
    assert result["engine"]["calibration_profile"] == {"x": [4, 3, 8, 16]}
    assert result["engine"]["profiles"][0]["x"][2][1:] == [3, 8, 16]


def test_batch_axes_and_constants_are_fed_as_the_model_has_them(calibrating, tmp_path):
    """A state [2, N, 3] with its batch in the middle, and a gain that never changes."""
    (tmp_path / "out").mkdir()
    g = Builder()
    x = g.op("MatMul", g.input("x", 4), g.constant(np.ones((4, 3))))
    g.batch = 2
    state = g.op("ReduceSum", g.input("state", "M", 3), g.constant([0]), keepdims=0)
    g.batch = 1
    model = write(g.model(g.op("Mul", g.op("Add", x, state), g.input("gain"))), tmp_path / "net.onnx")
    rows = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows[:, :4], state=rows.reshape(10, 2, 3))
    words = {"batch_axis": {"state": 1}, "constant": {"gain": 2.0}}
    result = run(calibrating, (model, tmp_path / "data.npz", tmp_path / "out"), batch_size=4, preprocess=words)
    assert "error" not in result, result
    assert result["engine"]["calibration_profile"] == {"x": [4, 4], "state": [2, 4, 3], "gain": [1]}
    assert result["engine"]["calibration"]["batches"] == 3
    assert [shapes["state"] for shapes in result["engine"]["profiles"]] == [[[2, 1, 3], [2, 8, 3], [2, 32, 3]]]
    assert result["live_bytes"] == 0


def test_exclusions_reach_the_engine(calibrating, material):
    result = run(calibrating, material, batch_size=4, exclude=["Gemm"])
    assert "error" not in result, result
    assert result["engine"]["precisions"]


def test_unreadable_images_are_left_out_of_the_plan(calibrating, material):
    (material[1] / "004b.png").write_bytes(b"no image")
    result = run(calibrating, material, batch_size=5)
    assert result["num_samples"] == 10
    assert result["engine"]["calibration"]["batches"] == 2
    assert any("1 unreadable image was left out" in line for line in result["told"])


def test_strict_raises_what_the_callback_met(calibrating, material):
    (material[1] / "004b.png").write_bytes(b"no image")
    result = run(calibrating, material, batch_size=5, strict=True)
    assert result["error"] == "UnreadableSampleError"
    assert "004b.png" in result["message"]
    assert result["files"] == []
    assert result["live_bytes"] == 0


def test_ctrl_c_while_data_are_read(calibrating, material):
    model, data, out = material
    result = calibrating.call(native.calibrate_and_interrupt, str(model), str(data), str(out))
    assert result == {"raised": "KeyboardInterrupt", "files": [], "live_bytes": 0}


def test_a_second_run_reuses_the_table_and_build_reuses_the_engine(calibrating, material):
    model, _, out = material
    run(calibrating, material, batch_size=4)
    again = run(calibrating, material, batch_size=4)
    assert any(line.startswith("Reusing") for line in again["told"])
    told = calibrating.call(native.build_again, str(model), str(out / "net.calib.json"), str(out / "net.int8.engine"))
    assert any(line.startswith("Reusing") for line in told), told


@pytest.fixture
def clipped(tmp_path):
    """A network that ignores what exceeds 1, on data up to 8: no method can know, but TensorRT's calibrator says 1."""
    (tmp_path / "out").mkdir()
    g = Builder()
    conv = g.op("Conv", g.input("x", 3, 8, 8), g.constant(np.eye(3)[:, :, None, None]))
    model = write(g.model(g.op("Clip", conv, g.constant(-1.0), g.constant(1.0))), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-8, 8, (24, 3, 8, 8)).astype(np.float32))
    return model, tmp_path / "x.npy", tmp_path / "out"


@pytest.mark.parametrize("bindings", ["8.6", "10.16"], indirect=True)
def test_tensorrt_ranges_are_candidates_of_auto(calibrating, clipped):
    """The table names TensorRT's range where it wins; cache as TensorRT wrote it, engine of the table's ranges."""
    model, _, out = clipped
    result = run(calibrating, clipped, method="auto", batch_size=8)
    assert "error" not in result, result
    cache = parse_cache(result["cache"])
    assert set(cache.scale_bits.values()) == {0x3C010A14}
    assert "tensorrt" in result["methods"].values()
    for name, method in result["methods"].items():
        assert (result["amax"][name] == cache.amax[name]) == (method == "tensorrt")
    assert result["settings"]["calibrator"].startswith("TensorRT ")
    assert result["settings"]["calibrator"].endswith(" and quantkit")
    assert (result["settings"]["method"], result["settings"]["accuracy"]) == ("auto", "balanced")
    assert {"quantkit", "onnxruntime", "tensorrt"} <= result["versions"].keys()
    assert result["engine"]["qdq"] == 3
    assert "calibration" not in result["engine"]
    assert result["files"] == [
        "net.calib",
        "net.calib.json",
        "net.calib.weights",
        "net.int8.engine",
        "net.int8.engine.json",
    ]
    assert result["live_bytes"] == 0
    assert calibrating.call(native.verify, str(model), str(out / "net.calib.json")) == []
    assert any(line.startswith("Reusing") for line in run(calibrating, clipped, method="auto", batch_size=8)["told"])
    assert "batch size" in run(calibrating, clipped, method="auto", batch_size=4, reuse_only=True)["message"]


@pytest.mark.parametrize("bindings", ["10.16"], indirect=True)
def test_a_range_of_tensorrt_that_hurts_is_not_taken(calibrating, material):
    result = run(calibrating, material, method="auto", batch_size=4, scale_bits=dict.fromkeys(("x", "r"), "3a010a14"))
    assert result["settings"]["calibrator"].endswith("and quantkit")
    assert "tensorrt" not in result["methods"].values()


@pytest.mark.parametrize("bindings", ["10.16"], indirect=True)
def test_fast_takes_the_ranges_of_tensorrt_alone(calibrating, material):
    result = run(calibrating, material, method="auto", accuracy="fast", batch_size=4)
    assert result["settings"]["method"] == "entropy"
    assert result["settings"]["calibrator"].startswith("TensorRT ")
    assert not result["settings"]["calibrator"].endswith("quantkit")
    assert result["engine"]["calibration"]["batches"] == 3


def test_other_methods_are_quantkits_own(calibrating, material):
    result = run(calibrating, material, method="mse")
    assert result["settings"]["calibrator"] == "quantkit"
    assert result["files"] == ["net.calib.json"]
    assert any("mse is not a TensorRT calibration method" in line for line in result["told"])


@pytest.mark.parametrize("bindings", [n for n, r in RELEASES.items() if r.major > 10], indirect=True)
def test_tensorrt_11_has_no_calibrators(bindings, material):
    result = run(bindings, material, calibrator="tensorrt")
    assert result["error"] == "BackendUnavailableError"
    assert 'has no calibrators: pip install "tensorrt<11" pycuda' in result["message"]


def test_the_choice_is_explained_without_tensorrt():
    library, reason = choose_calibrator("auto", method="entropy", histogram="exact")
    if library is None and find_gpu() is None:
        assert reason == "there is no NVIDIA GPU"  # before software that needs one
    assert choose_calibrator("quantkit", method="entropy", histogram="exact") == (None, "as asked")
    assert choose_calibrator("auto", method="mse", histogram="exact")[0] is None
    assert choose_calibrator("auto", method="entropy", histogram="tensorrt")[0] is None
    with pytest.raises(CalibrationError, match="no method 'mse'"):
        choose_calibrator("tensorrt", method="mse", histogram="exact")
    with pytest.raises(CalibrationError, match="--histogram"):
        choose_calibrator("tensorrt", method="entropy", histogram="tensorrt")
    with pytest.raises(CalibrationError, match="choose auto"):
        choose_calibrator("magic", method="entropy", histogram="exact")  # type: ignore[arg-type]
    if library is None:
        with pytest.raises(BackendUnavailableError, match="--calibrator"):
            choose_calibrator("tensorrt", method="entropy", histogram="exact")


def test_calibrator_and_builds_are_on_the_gpu_that_was_asked_for(calibrating, material):
    found = calibrating.call(native.work_on_second_gpu, *map(str, material))
    assert found["memory"] == [1]
    assert found["building"] == [1, 1, 0]
    assert found["gpus"] == ["Imaginary GPU 3000 1 (sm90)"] * 2 + ["Imaginary GPU 3000 (sm90)"]
