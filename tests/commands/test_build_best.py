"""`build --precision best` and `tune --objective latency`: engines of a fake libnvinfer, whose time each test says."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import quantkit
from quantkit.calibration.table import load_table, table_checksum
from quantkit.commands.timed_builds import Timings
from quantkit.errors import BackendUnavailableError, OptionError
from quantkit.types.options import TimedBuildOptions

from ..backends.tensorrt import timed
from ..fake_trt.processes import running_bindings
from ..fake_trt.releases import RELEASES


@pytest.fixture(scope="module")
def processes():
    """One for each release, started when it is first asked for: each call installs the fake GPU that it needs."""
    with running_bindings() as of:
        yield of


@pytest.fixture(params=sorted({*list(RELEASES)[:1], *list(RELEASES)[-1:]}))
def any_bindings(request, processes):
    return processes(request.param)


@pytest.fixture
def bindings(processes):
    return processes(list(RELEASES)[-1])


@pytest.fixture
def oldest_bindings(processes):
    return processes(next(iter(RELEASES)))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Four convolutions, conv_0 to conv_3, and their calibration."""
    folder = tmp_path_factory.mktemp("net")
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "x"
    for index in range(4):
        weights.append(numpy_helper.from_array(rng.standard_normal((16, 16, 1, 1)).astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [name, f"w{index}"], [f"c{index}"], name=f"conv_{index}"))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu_{index}"))
        name = f"r{index}"
    shape = ["n", 16, 4, 4]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        weights,
    )
    model, data = folder / "net.onnx", folder / "data.npy"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    np.save(data, rng.standard_normal((16, 16, 4, 4)).astype(np.float32))
    table = folder / "net.calib.json"
    quantkit.calibrate(model, data, table_path=table, accuracy="fast", progress=False)
    return str(model), str(table)


def test_int8_is_kept_where_it_is_faster(any_bindings, material, tmp_path):
    found = any_bindings.call(timed.best, *material, {}, str(tmp_path / "net.engine"), {"max_builds": 2})
    assert found["chosen"] == "int8", found
    assert found["precision"] == "int8"
    assert len(found["engine"]["int8_products"]) == 4
    assert set(found["trials"]) == {"fp16", "int8"}
    assert found["trials"]["int8"][1] == pytest.approx(
        (timed.CALL_MS + 4 * timed.FLOAT_MS) / (timed.CALL_MS + 4 * timed.INT8_MS)
    )
    assert found["selection"]["chosen"] == "int8"
    assert found["selection"]["reason"] == found["reason"]


def test_fp16_is_kept_where_int8_gains_less_than_two_percent(bindings, material, tmp_path):
    int8_ms = dict.fromkeys(["conv_0", "conv_1", "conv_2", "conv_3"], timed.FLOAT_MS - 0.01)
    found = bindings.call(timed.best, *material, int8_ms, str(tmp_path / "net.engine"), {})
    assert found["chosen"] == found["precision"] == "fp16"
    assert found["engine"]["int8_products"] == []
    assert 1 < found["trials"]["int8"][1] < 1.02
    assert "and not clearly 1.02x" in found["reason"]


def test_operators_that_int8_slows_down_stay_in_float_together(bindings, material, tmp_path):
    output = str(tmp_path / "net.engine")
    found = bindings.call(timed.best, *material, {"conv_1": 0.9, "conv_3": 0.7}, output, {})
    assert found["chosen"] == "int8-mixed"
    assert found["engine"]["int8_products"] == ["conv_0", "conv_2"]
    assert found["exclude"] == ["conv_1", "conv_3"]
    assert found["trials"]["int8-2"][0] == "conv_1"
    assert found["trials"]["int8-mixed"][0] == "as in int8-2, int8-4"
    assert max(found["trials"], key=lambda name: found["trials"][name][1]) == "int8-mixed"
    again = bindings.call(timed.best, *material, {}, output, {})
    assert again["built"] == 0
    assert again["trials"] == found["trials"]
    assert bindings.call(timed.best, *material, {}, output, {"max_builds": 2})["chosen"] == "int8"


def test_engines_are_timed_on_the_gpu_that_was_asked_for(bindings, material, tmp_path):
    words = {"max_builds": 2, "device": "cuda:1"}
    found = bindings.call(timed.best, *material, {}, str(tmp_path / "net.engine"), words)
    assert found["gpu"] == "Imaginary GPU 3000 1 (sm90)"
    assert found["used"] == [1]


def test_one_run_that_helps_needs_no_engine_of_its_own(bindings, material, tmp_path):
    found = bindings.call(timed.best, *material, {"conv_2": 0.9}, str(tmp_path / "net.engine"), {})
    assert found["chosen"] == "int8-3"
    assert found["built"] == len(found["trials"]) == 6


def test_no_more_is_built_than_allowed(bindings, material, tmp_path):
    found = bindings.call(timed.best, *material, {"conv_0": 0.9}, str(tmp_path / "net.engine"), {"max_builds": 5})
    assert found["built"] == 4
    assert found["trials"]["int8-1"][0] == "conv_0 to conv_1 (2 operators)"
    assert found["chosen"] == "int8-1"


def plan_without_float(table):
    """A plan file that misses its budget and leaves everything in INT8."""
    return {
        "format": "quantkit quantization plan", "format_version": 1, "model_name": "net.onnx",
        "model_hash": table.model_hash, "table_checksum": table_checksum(table), "float_tensors": {},
        "float_nodes": [], "max_drop": "0.5pt", "verdict": "missed", "explanation": "3 points lower",
        "score_name": "top1", "is_fraction": True, "loss_unit": "pt", "front": [], "dataset_fingerprint": "",
        "num_samples": 8, "point": {"num_float": 0, "quantized_work": 1, "score": 0.5, "loss": 0.03},
    }  # fmt: skip


def test_a_plan_that_misses_its_budget_keeps_int8_out(bindings, material, tmp_path):
    plan = {**plan_without_float(load_table(material[1])), "float_tensors": {"r0": "for it"}, "float_nodes": ["conv_1"]}
    for verdict in ("missed", "met"):
        path = tmp_path / f"{verdict}.plan.json"
        path.write_text(json.dumps({**plan, "verdict": verdict}))
        found = bindings.call(timed.best, *material, {}, str(tmp_path / f"{verdict}.engine"), {"plan": str(path)})
        if verdict == "missed":
            assert (found["chosen"], found["built"]) == ("fp16", 1)
            assert "INT8 was not tried: the plan misses its budget of 0.5pt: 3 points lower" in found["reason"]
        else:
            assert found["chosen"] == "int8"
            assert found["engine"]["int8_products"] == ["conv_0", "conv_2", "conv_3"]
            assert "the plan meets its budget of 0.5pt" in found["reason"]


def test_an_engine_is_not_reused_where_the_verdict_on_int8_is_another_one(bindings, material, tmp_path):
    table, path, output = load_table(material[1]), tmp_path / "net.plan.json", str(tmp_path / "net.engine")
    chosen = []
    for words in ({}, {"max_drop": "5pt", "verdict": "met"}, {"verdict": "missed"}, {"verdict": "missed"}):
        path.write_text(json.dumps({**plan_without_float(table), **words}))
        given = {"plan": str(path)} if words else {}
        found = bindings.call(timed.best, *material, {}, output, {**given, "max_builds": 2})
        chosen.append((found["chosen"], found["built"]))
    assert chosen == [("int8", 2), ("int8", 2), ("fp16", 1), ("fp16", 0)]


def test_what_a_cache_covers_is_said_once(oldest_bindings, material, tmp_path):
    cache, output = tmp_path / "net.calib", str(tmp_path / "net.engine")
    quantkit.write_tensorrt_cache(material[0], load_table(material[1]), cache, tensorrt_version="8.6.1")
    words = {"max_builds": 2, "calibration_cache": str(cache)}
    found = oldest_bindings.call(timed.best, material[0], None, {}, output, words)
    assert sum("net.calib has" in text for text in found["told"]) == 1


def test_tune_gives_back_to_int8_what_is_faster_there(bindings, material):
    found = bindings.call(timed.tune, *material, ["x", "r0", "r1"], {"conv_1": 0.6})
    assert found["in_float"] == ["r0", "r1"]  # r1 is needed; conv_1, which reads r0, is slower in INT8
    assert sorted(found["told"]) == [
        "r0 in float costs no measurable time of 2.8 ms",
        "x in float costs 0.2 ms of 2.8 ms",
    ]


def test_without_a_gpu_nothing_is_built(material, tmp_path):
    with pytest.raises(BackendUnavailableError, match="--precision best times engines: it needs an NVIDIA GPU"):
        quantkit.build_best(material[0], table=material[1], output=tmp_path / "net.engine")
    with pytest.raises(BackendUnavailableError, match="--objective latency times engines"):
        quantkit.tune(material[0], tmp_path, tmp_path, objective="latency")


@pytest.mark.parametrize("words", [{"max_builds": 1}, {"latency_s": 0.0}, {"latency_s": float("inf")}])
def test_numbers_that_make_no_sense_are_refused(words):
    with pytest.raises(OptionError):
        TimedBuildOptions(**words)


def test_an_interval_is_of_the_two_engines_that_are_compared():
    timings = Timings({"a": [[2.0, 2.1]] * 8, "b": [[1.0, 1.05]] * 8, "c": [[4.0, 4.2]] * 8})
    assert timings.speedup("b", "a") == pytest.approx(2)
    low, high = timings.interval("b", "a")
    assert low <= 2 <= high
    assert timings.interval("b", "c")[0] > high
