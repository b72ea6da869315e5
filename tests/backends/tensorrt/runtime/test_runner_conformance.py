"""The runner against NVIDIA's real bindings of each release, without the library behind them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .. import conformance

RTX = "tensorrt_rtx"
FIRST_WITH_FP4 = 100800


class RtxProcess:
    """A process with TensorRT-RTX, whose table of virtual functions no test's own process should call into."""

    def call(self, function, *arguments):
        code = (
            f"import json; from {function.__module__} import {function.__name__} as f; "
            f"print(json.dumps(f(*{list(arguments)!r})))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def call(bindings, function):
    return bindings.call(function, "tensorrt")


def call_rtx(function):
    pytest.importorskip(RTX)
    return RtxProcess().call(function, RTX)


def check_answer(answer) -> None:
    first = conformance.FIRST
    assert answer == {
        "pointers": [first, first, first + 256, first + 512],  # grown once; an empty output has an address too
        "sizes": [100, 200, 1],
        "shapes": {"y": [5, 7]},
        "refused": None,
        "error": "MemoryError('too much')",
        "freed": 3,
    }


def test_the_scan_of_the_source_finds_what_matters():
    names = {f"{owner}.{name}/{count}" for owner, name, count in conformance.names_used()}
    assert len(names) > 25
    assert {
        "Runtime.deserialize_cuda_engine/1",
        "IExecutionContext.execute_async_v3/1",
        "IExecutionContext.set_input_shape/2",
        "ICudaEngine.get_tensor_profile_shape/2",
        "ICudaEngine.num_io_tensors/-1",
        "TensorIOMode.INPUT/-1",
        ".IOutputAllocator/-1",
    } <= names


def test_every_name_is_there_and_takes_what_it_is_given(bindings):
    assert call(bindings, conformance.check_names) == []


def test_types_that_numpy_lacks_are_those_that_the_runner_refuses(bindings):
    newer = ["BF16", "INT4"] if bindings.release.major > 8 else []
    newest = ["E8M0", "FP4"] if bindings.release.library_version >= FIRST_WITH_FP4 else []
    assert call(bindings, conformance.types_without_numpy) == sorted(["FP8", *newer, *newest])


def test_the_output_allocator_answers_calls_from_cpp(bindings):
    check_answer(call(bindings, conformance.call_allocator))


def test_tensorrt_rtx_has_every_name_too():
    assert call_rtx(conformance.check_names) == []
    assert call_rtx(conformance.types_without_numpy) == ["BF16", "E8M0", "FP4", "FP8", "INT4"]


def test_tensorrt_rtx_calls_the_output_allocator_too():
    check_answer(call_rtx(conformance.call_allocator))
