"""Every failure is one line: too little memory, mistakes of our own, odd names, odd numbers, broken graphs."""

import contextlib
import logging
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit import cli
from quantkit.calibration.table import load_table
from tests.cli.conftest import REPOSITORY, conv_model, write_images
from tests.cli.test_bad_input import assert_refused

FAST = ("--accuracy", "fast")


@pytest.fixture
def breaking(monkeypatch):
    """Makes a step of `calibrate` raise."""

    def arrange(error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr("quantkit.commands.calibration_run.expose", fail)

    return arrange


def test_too_little_memory_says_what_was_done_and_what_there_is(quantkit, model, images, breaking):
    breaking(MemoryError("Unable to allocate 3 GiB"))
    outcome = quantkit("calibrate", "--data", images, model)
    assert_refused(outcome, 1, "not enough memory while", "Unable to allocate 3 GiB", "the process had", "--batch-size")


def test_memory_is_named_with_the_work_it_lacked_for(quantkit, model, images, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("quantkit.calibration.collect.update", fail)
    assert_refused(quantkit("calibrate", "--data", images, model), 1, "while counting values of activations")


def test_a_mistake_of_ours_is_one_line_and_says_where(quantkit, model, images, breaking):
    breaking(ZeroDivisionError("division\nby zero"))
    outcome = quantkit("calibrate", "--data", images, model)
    words = ("unexpected ZeroDivisionError: division", "commands/calibration_run.py:", "report it", "--verbose")
    assert_refused(outcome, 1, *words)
    assert "by zero" not in outcome.err


def test_its_traceback_is_shown_or_logged_as_asked(quantkit, tmp_path, model, images, breaking):
    breaking(ZeroDivisionError("division"))
    shown = quantkit("calibrate", "--data", images, model, "--verbose")
    assert "Traceback" in shown.err
    assert shown.err.splitlines()[-1].startswith("quantkit: error: unexpected ZeroDivisionError: division")
    logged = quantkit("calibrate", "--data", images, model, "--log-file", tmp_path / "log")
    assert "Traceback" not in logged.err
    assert "Traceback" in (tmp_path / "log").read_text()


LIMITED = """
import resource, sys
from quantkit.errors import MachineError
from quantkit.graph.float_model import FloatModel
page = resource.getpagesize()
for mib in range(0, 400, 8):
    used = int(open("/proc/self/statm").read().split()[0]) * page
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20, resource.RLIM_INFINITY))
    try:
        FloatModel(sys.argv[1]).hash
        print("read")
        break
    except MachineError as error:
        assert "not enough memory" in str(error), error
        print("refused")
    except MemoryError:
        print("refused")
"""
"""Reads a model within more and more addresses, until they suffice."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of addresses that the system keeps")
def test_a_good_model_is_never_called_damaged_for_want_of_memory(tmp_path):
    weight = np.ones((2000, 3000), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3000])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    command = [sys.executable, "-c", LIMITED, tmp_path / "n.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    *before, last = done.stdout.split()
    assert last == "read"
    assert set(before) == {"refused"}


def odd(text):
    """A name in Latin-1, as a zip of Windows leaves it."""
    return os.fsdecode(text.encode("latin-1"))


@pytest.fixture
def odd_names(tmp_path):
    try:
        (tmp_path / odd("é")).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("the file system takes UTF-8 only")


@pytest.mark.usefixtures("odd_names")
def test_names_that_are_not_utf8_are_written_out(tmp_path):
    """In a process of its own: pytest-xdist cannot hand on such names."""
    model = conv_model(tmp_path / odd("modél.onnx"))
    for name in ("café", "naïve", "a", "b", "c"):
        write_images(tmp_path / odd("dàta") / odd(name), 2)
    data, out = tmp_path / odd("dàta"), tmp_path / odd("öut")
    table = out / odd("modél.calib.json")
    evaluation = ("evaluate", "--data", data, model, "--table", table, "-o", out, "--latency-s", "0")
    for words in (("calibrate", "--data", data, model, "-o", out, *FAST), evaluation):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                logging.disable()
                cli.main([os.fspath(word) for word in words])
            os._exit(not (table if words is not evaluation else out / "report.html").exists())
        assert os.waitpid(child, 0)[1] == 0
    assert r"mod\\xe9l.onnx" in table.read_text()
    report = (out / "report.json").read_text()
    assert r"mod\\xe9l.onnx" in report
    assert r"d\\xe0ta" in report


@pytest.mark.parametrize("option", ["--num-samples", "--seed", "--batch-size", "--workers", "--size", "--pad-value"])
@pytest.mark.parametrize("number", ["1e400", str(10**30), "-1", "nan"])
def test_absurd_numbers_are_one_line(quantkit, model, images, option, number):
    outcome = quantkit("calibrate", "--data", images, model, f"{option}={number}")
    assert outcome.code in (1, 2)
    assert "Traceback" not in outcome.err
    assert "unexpected" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("quantkit: error:")
    assert option in outcome.err or option.strip("-").replace("-", "_") in outcome.err


def test_the_largest_numbers_are_all_there_is(quantkit, model, images):
    most = 2**53
    outcome = quantkit("calibrate", "--data", images, model, *FAST, "--batch-size", most, "--workers", most)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
def test_an_operator_that_reads_an_undefined_tensor_is_named(quantkit, model, images, command):
    broken = onnx.load(model)
    broken.graph.node[1].input[0] = "nowhere"
    onnx.save(broken, model)
    outcome = quantkit(command, "--data", images, model)
    assert_refused(outcome, 1, "net.onnx", "node 'relu' (Relu) reads the tensor 'nowhere', which nothing makes")


def test_an_output_that_nothing_makes_is_named(quantkit, model):
    broken = onnx.load(model)
    broken.graph.output[0].name = "nowhere"
    onnx.save(broken, model)
    assert_refused(quantkit("inspect", model), 1, "nothing makes the output 'nowhere'")


def test_an_error_before_any_command_is_one_line_too(quantkit, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(cli, "app", fail)
    assert_refused(quantkit("doctor"), 1, "unexpected RuntimeError", "report it")


def test_threads_that_cannot_be_started_are_lack_of_memory(quantkit, model, images, breaking):
    breaking(RuntimeError("can't start new thread"))
    assert_refused(quantkit("calibrate", "--data", images, model), 1, "not enough memory while", "ulimit -u")


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams_do_no_harm(model, images, tmp_path, closed):
    """A file would get the number of a stream, and what is printed would land in it."""
    command = [sys.executable, "-m", "quantkit"]
    program = f"import os; [os.close(n) for n in {closed}]; os.execv({sys.executable!r}, {command} + "
    words = ["calibrate", "--data", str(images), str(model), "-o", str(tmp_path / "out"), *FAST]
    done = subprocess.run(
        [sys.executable, "-c", f"{program}{words})"], cwd=REPOSITORY, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    load_table(tmp_path / "out" / "net.calib.json")
    onnx.checker.check_model(tmp_path / "out" / "net.int8.onnx")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="has no such device")
@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "MODEL", "--table", "/dev/zero"),
        ("calibrate", "--data", "IMAGES", "/dev/zero"),
        ("calibrate", "--data", "IMAGES", "MODEL", "--config", "/dev/zero"),
        ("calibrate", "--data", "PIPE.txt", "MODEL"),
        ("evaluate", "--data", "IMAGES", "MODEL", "--classes", "PIPE.txt"),
        ("cache", "show", "/dev/zero"),
        ("cache", "merge", "/dev/zero", "-o", "t.calib.json"),
        ("inspect", "/dev/zero"),
        ("report", "/dev/zero"),
        ("compare", "PIPE.txt", "--max-drop", "1"),
    ],
)
def test_what_has_no_end_is_not_read(quantkit, model, images, tmp_path, words):
    os.mkfifo(tmp_path / "PIPE.txt")
    places = {"MODEL": model, "IMAGES": images, "PIPE.txt": tmp_path / "PIPE.txt"}
    outcome = quantkit(*(places.get(word, word) for word in words))
    assert outcome.code in (1, 2)
    last = outcome.err.splitlines()[-1]
    assert last.startswith("quantkit: error: ")
    assert any(words in last for words in ("not a regular file", "a device or pipe", "it is no file")), last
