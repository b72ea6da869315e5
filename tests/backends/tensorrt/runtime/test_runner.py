from __future__ import annotations

import gc

import numpy as np
import pytest

from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.types import TimedRunner

from ...gpu import COPY_MS, NAME, Gpu, install
from ...runner_contract import RunnerContract, X, Y
from ..engines import COMPUTE_MS, DataType, Plan, Tensor, TensorFormat, affine_plan, make_library, nonzero_plan


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    gpu = Gpu()
    install(gpu, monkeypatch)
    return gpu


def open_plan(gpu: Gpu, plan: Plan, **options) -> TensorRTRunner:
    return TensorRTRunner(b"plan", library=make_library(gpu, {b"plan": plan}), name="e.engine", **options)


def calls_of(gpu: Gpu) -> list[str]:
    calls, gpu.calls = gpu.calls, []
    return calls


def refused(call) -> str:
    """The message; nothing of the exception stays, whose frames hold the fake's context, which is Python."""
    try:
        call()
    except BackendError as error:
        return str(error)
    finally:
        gc.collect()
    raise AssertionError("it was not refused")


@pytest.fixture(params=[False, True], ids=["plain", "graph"])
def cuda_graph(request) -> bool:
    return request.param


class TestTensorRTRunner(RunnerContract):
    @pytest.fixture(autouse=True)
    def _gpu(self, gpu, cuda_graph):
        self.gpu, self.cuda_graph = gpu, cuda_graph
        yield
        gc.collect()
        assert gpu.is_empty(), vars(gpu)

    def open(self):
        return open_plan(self.gpu, affine_plan(), cuda_graph=self.cuda_graph)


def test_it_times_queries_and_names_library_and_gpu(gpu):
    with open_plan(gpu, affine_plan()) as runner:
        assert isinstance(runner, TimedRunner)
        assert runner.backend == f"TensorRT 10.16.1 {NAME}"
        assert runner.max_batch_size == 8
        assert runner.inputs[0].shape == (None, 3)


def test_its_layers_are_listed_until_it_is_closed(gpu):
    with open_plan(gpu, affine_plan()) as runner:
        assert "only a name" in runner.describe_layers()
    with pytest.raises(BackendError, match="closed"):
        runner.describe_layers()


def test_a_path_does_as_well_and_a_missing_one_is_named(gpu, tmp_path):
    library = make_library(gpu, {b"plan": affine_plan()})
    path = tmp_path / "e.engine"
    path.write_bytes(b"plan")
    with TensorRTRunner(path, library=library) as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
    with pytest.raises(BackendError, match=r"cannot read int8 .*gone\.engine: No such file"):
        TensorRTRunner(tmp_path / "gone.engine", library=library, name="int8")


def test_a_run_copies_in_computes_and_copies_out_then_waits(gpu):
    with open_plan(gpu, affine_plan()) as runner:
        calls_of(gpu)
        runner.run({"x": X})
        assert calls_of(gpu) == ["h2d", "execute", "d2h", "synchronize"]


def test_tensorrt_is_told_only_what_changed(gpu):
    plan = affine_plan()
    with open_plan(gpu, plan) as runner:
        runner.run({"x": X})
        told = ["address x", "shape x (2, 3)", "infer", "address y"]
        assert plan.log == told
        runner.run({"x": X})
        assert plan.log == told
        runner.run({"x": X[:1]})
        assert plan.log == [*told, "shape x (1, 3)", "infer"]
        runner.run({"x": np.tile(X, (4, 1))})
        assert plan.log[6:] == ["address x", "shape x (8, 3)", "infer", "address y"]


def test_shapes_beyond_the_profile_are_refused_with_the_way_out(gpu):
    with open_plan(gpu, affine_plan()) as runner, pytest.raises(BackendError) as caught:
        runner.run({"x": np.zeros((9, 3), np.float32)})
    assert str(caught.value) == (
        "e.engine: input 'x' has shape 9x3; the engine takes 1x3 to 8x3: use --batch-size 8 at most, or build it with "
        "--max-shapes x:9x3"
    )
    plan = affine_plan(inputs=[Tensor("x", (-1, 3), low=(4, 3), high=(8, 3))])
    with (
        open_plan(gpu, plan) as runner,
        pytest.raises(BackendError, match=r"4x3 to 8x3: build it with --min-shapes x:2x3"),
    ):
        runner.run({"x": X})
    fixed = affine_plan(inputs=[Tensor("x", (2, 3))])
    with open_plan(gpu, fixed) as runner:
        assert runner.max_batch_size is None
        with pytest.raises(BackendError, match="the engine takes 2x3 only"):
            runner.run({"x": X[:1]})
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)


def test_floats_are_cast_and_integers_only_if_they_fit(gpu):
    half = affine_plan(inputs=[Tensor("x", (-1, 3), DataType.HALF, (1, 3), (8, 3))])
    half.compute = lambda a: {"y": a["x"].astype(np.float32)}
    with open_plan(gpu, half) as runner:
        np.testing.assert_array_equal(runner.run({"x": X.astype(np.float64)})["y"], X)
    whole = affine_plan(inputs=[Tensor("x", (-1, 3), DataType.INT32, (1, 3), (8, 3))])
    whole.compute = lambda a: {"y": a["x"].astype(np.float32)}
    with open_plan(gpu, whole) as runner:
        numbers = np.array([[1, -2, 2**31 - 1]])
        np.testing.assert_array_equal(runner.run({"x": numbers})["y"], numbers.astype(np.float32))
        with pytest.raises(BackendError, match=r"holds 1 to 2147483648, which int32 cannot hold"):
            runner.run({"x": np.array([[1, 2, 2**31]])})
        with pytest.raises(BackendError, match=r"input 'x' is of type float32, the engine takes int32"):
            runner.run({"x": X})


def test_outputs_whose_shape_the_data_decide(gpu):
    with open_plan(gpu, nonzero_plan(), cuda_graph=True) as runner:
        for x in ([3, -1, 2], [-1, -2, -3], [1] * 64, [0, 5], [], [7, 8, 9]):
            outputs = runner.run({"x": np.array(x, np.float32)})
            np.testing.assert_array_equal(outputs["positive"], [v for v in x if v > 0])
            np.testing.assert_array_equal(outputs["sum"], [sum(x)])
        runner.run({"x": np.array([7, 8, 9], np.float32)})
        assert not runner.uses_cuda_graph
        assert len(runner.time_block({"x": np.ones(5, np.float32)}, duration_ms=0, min_queries=4)) == 4
        assert runner.notes == (
            "it runs without a CUDA graph: the data decide the shape of an output, or a shape lies on the host",
        )
    gc.collect()
    assert gpu.is_empty()


def test_an_empty_batch_has_an_address_too(gpu):
    with open_plan(gpu, nonzero_plan()) as runner:
        assert runner.run({"x": np.empty(0, np.float32)})["positive"].shape == (0,)


def test_no_memory_for_such_an_output_is_told(gpu):
    with open_plan(gpu, nonzero_plan()) as runner:
        runner.run({"x": np.ones(2, np.float32)})
        used = sum(map(len, gpu.memory.values()))
        gpu.capacity = used + 40  # enough for the input to grow to, not for the output beside it
        message = refused(lambda: runner.run({"x": np.ones(12, np.float32)}))
        assert message.startswith("e.engine: it cannot be run: out of memory (cuMemAlloc failed: out of memory, ")
        gpu.capacity = 1 << 20
        np.testing.assert_array_equal(runner.run({"x": np.ones(12, np.float32)})["positive"], np.ones(12))
    gc.collect()
    assert gpu.is_empty()


def test_after_running_out_of_memory_the_same_batch_runs_once_there_is_some(gpu):
    with open_plan(gpu, affine_plan()) as runner:
        runner.run({"x": X[:1]})
        used = sum(map(len, gpu.memory.values()))
        for spare in (0, 90):  # neither input nor output fits; then the input alone
            gpu.capacity = used + spare
            with pytest.raises(BackendError, match="out of memory"):
                runner.run({"x": np.tile(X, (4, 1))})
        gpu.capacity = 1 << 20
        np.testing.assert_array_equal(runner.run({"x": np.tile(X, (4, 1))})["y"], np.tile(Y, (4, 1)))


def test_shape_tensors_lie_on_the_host_and_their_values_are_read_each_time(gpu):
    plan = Plan(
        inputs=[Tensor("x", (2, 3)), Tensor("factor", (2,), DataType.INT64, on_host=True)],
        outputs=[Tensor("y", (2, 3))],
        compute=lambda a: {"y": a["x"] * np.float32(a["factor"][0])},
        shape_of=lambda name, shapes: (2, 3),
    )
    with open_plan(gpu, plan, cuda_graph=True) as runner:
        for factor in (2, 3, 3, 3):
            np.testing.assert_array_equal(runner.run({"x": X, "factor": np.array([factor, 0])})["y"], X * factor)
        assert plan.log.count("infer") == 4
        assert not runner.uses_cuda_graph


def test_the_profile_asked_for_is_used(gpu):
    plan = affine_plan(num_profiles=3)
    with open_plan(gpu, plan, profile=2) as runner:
        assert plan.log == ["profile 2"]
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
    with pytest.raises(BackendError, match="has 3 optimization profiles, counted from 0, not 3"):
        open_plan(gpu, plan, profile=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": [Tensor("y", (-1, 3), DataType.BF16)]},
            "output 'y' is BF16, which numpy does not have: export the model with a Cast to float32",
        ),
        ({"inputs": [Tensor("x", (2, 3), DataType.FP8)]}, "input 'x' is FP8, which numpy does not have"),
        ({"inputs": [Tensor("x", (2, 3), format=TensorFormat.CHW32)]}, "input 'x' is laid out as CHW32"),
        ({"context_bytes": 1 << 30}, "finds no room for e.engine on the GPU: .*OutOfMemory .*smaller --max-shapes"),
    ],
)
def test_an_engine_that_cannot_be_used_leaves_nothing_behind(gpu, changes, message):
    with pytest.raises(BackendError, match=message):
        open_plan(gpu, affine_plan(**changes))
    gc.collect()
    assert gpu.is_empty()


def test_what_is_no_engine_here_is_refused_with_tensorrts_words(gpu):
    with pytest.raises(BackendError) as caught:
        TensorRTRunner(b"other", library=make_library(gpu, {}), name="e.engine")
    assert str(caught.value) == (
        "TensorRT 10.16.1 cannot load e.engine: Serialization assertion stdVersionRead failed.: an engine runs only "
        "with the version and on the kind of GPU that it was built for; build it here"
    )
    gc.collect()
    assert gpu.is_empty()


def test_a_refused_execution_has_tensorrts_words_and_nothing_stays_in_flight(gpu):
    plan = affine_plan(fails=True)
    with open_plan(gpu, plan) as runner:
        with pytest.raises(BackendError, match=r"cannot run e\.engine: IExecutionContext::enqueueV3: Error Code 1"):
            runner.run({"x": X})
        plan.fails = False
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)


def test_shapes_that_do_not_fit_together_are_named(gpu):
    pair = [Tensor(name, (-1, 3), low=(1, 3), high=(8, 3)) for name in "xz"]
    with open_plan(gpu, affine_plan(inputs=pair)) as runner:
        with pytest.raises(BackendError, match="these shapes do not fit together: x:2x3, z:1x3"):
            runner.run({"x": X, "z": X[:1]})
        np.testing.assert_array_equal(runner.run({"x": X, "z": X})["y"], Y)


def test_a_graph_is_captured_on_the_second_run_and_replayed_until_the_shape_changes(gpu):
    with open_plan(gpu, affine_plan(), cuda_graph=True) as runner:
        calls_of(gpu)
        runner.run({"x": X})
        assert calls_of(gpu) == ["h2d", "execute", "d2h", "synchronize"]
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
        assert calls_of(gpu) == ["h2d", "begin capture", "execute", "end capture", "launch", "d2h", "synchronize"]
        np.testing.assert_array_equal(runner.run({"x": X + 1})["y"], np.maximum(2 * X + 3, 0))
        assert calls_of(gpu) == ["h2d", "launch", "d2h", "synchronize"]
        assert runner.uses_cuda_graph
        np.testing.assert_array_equal(runner.run({"x": X[:1]})["y"], Y[:1])
        assert "launch" not in calls_of(gpu)
        assert runner.notes == ()
    gc.collect()
    assert gpu.is_empty()


def test_an_engine_that_cannot_be_captured_runs_plainly_and_says_so(gpu):
    with open_plan(gpu, affine_plan(capturable=False), cuda_graph=True) as runner:
        for _ in range(3):
            np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
        assert not runner.uses_cuda_graph
        assert runner.notes == ("it runs without a CUDA graph: it does something that cannot be captured",)
        assert gpu.calls.count("begin capture") == 1
    gc.collect()
    assert gpu.is_empty()


def test_queries_are_timed_by_events_two_in_flight(gpu, cuda_graph):
    with open_plan(gpu, affine_plan(), cuda_graph=cuda_graph) as runner:
        times = runner.time_block({"x": X}, duration_ms=0, min_queries=5)
        assert len(times) == 5
        assert set(times.h2d_ms) == set(times.d2h_ms) == {COPY_MS}
        assert set(times.compute_ms) == {COMPUTE_MS}
        assert all(ms >= 0 for ms in times.enqueue_ms)
        assert times.span_ms == 5 * (COMPUTE_MS + 2 * COPY_MS)
        assert gpu.calls.count("launch") == (6 if cuda_graph else 0)
        assert runner.uses_cuda_graph == cuda_graph
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)
        again = runner.time_block({"x": X[:1]}, duration_ms=5)
        assert again.span_ms == pytest.approx(len(again) * (COMPUTE_MS + 2 * COPY_MS))
    gc.collect()
    assert gpu.is_empty()


def test_host_code_runs_only_where_it_is_allowed(gpu):
    library = make_library(gpu, {b"plan": affine_plan(host_code=True)})
    with pytest.raises(BackendError, match="contains host code"):
        TensorRTRunner(b"plan", library=library)
    with TensorRTRunner(b"plan", library=library, host_code=True) as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], Y)


def test_without_pycuda_or_tensorrt_the_pip_line_is_told(gpu, monkeypatch):
    library = make_library(gpu, {})
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    monkeypatch.setitem(__import__("sys").modules, "pycuda.driver", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install"):
        TensorRTRunner(b"plan", library=library)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install"):
        TensorRTRunner(b"plan")
