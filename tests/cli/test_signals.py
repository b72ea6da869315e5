"""Signals end a run wherever it is, in a kernel or a decoder that hangs; what was temporary goes, after kill -9 too."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit import interrupts, storage
from quantkit.cli.interruption import stop_on_interrupt
from quantkit.interrupts import EndedError, ending_on_signals
from tests.cli.conftest import REPOSITORY, conv_model, write_images

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

LONG_S = 600
"""What would run for so long has to end by the signal; nothing here measures how soon."""


def endless_model(path):
    """A product whose result a loop counts up, practically for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v", "one"], ["w"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
        helper.make_node("Loop", ["count", "", "c"], ["y"], name="loop", body=body),
    ]
    from numpy import array, float32, int64, ones

    weights = {"k": ones((2, 3, 3, 3), float32), "one": array(1, float32), "count": array(10**12, int64)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def start(tmp_path, *words):
    """A command in a process group of its own, with a folder for temporary files."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "quantkit", *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not begin")


def cpu_ticks(process):
    return sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def is_computing(process):
    """Whether it has the runtime, and has computed for longer than it takes to start."""

    def check():
        return "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text() and cpu_ticks(process) > 300

    return check


def hanging_function(tmp_path):
    """Prepares no image for ten minutes, and leaves a file when it begins."""
    file = tmp_path / "slow.py"
    begun = tmp_path / "begun"
    file.write_text(
        f"import pathlib, time\ndef slow(image):\n    pathlib.Path({str(begun)!r}).touch()\n    time.sleep({LONG_S})\n"
    )
    return f"{file}:slow", begun


@pytest.mark.parametrize("name", ["SIGTERM", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGINT", "SIGHUP"))])
def test_a_decoder_that_hangs_is_left(tmp_path, name):
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 4)
    function, begun = hanging_function(tmp_path)
    out = tmp_path / "out"
    process = start(tmp_path, "calibrate", "--data", images, model, "--preprocess", function, "-o", out)
    wait_for(begun.exists)
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=LONG_S / 2)[1]
    assert process.returncode == 128 + getattr(signal, name)
    by = "" if name == "SIGINT" else f" by {name}"
    assert said.splitlines()[-1] == f"quantkit: error: Interrupted{by}; existing files were not modified."
    assert "Traceback" not in said
    assert not out.exists() or not list(out.iterdir())
    assert not list((tmp_path / "tmp").glob("quantkit-*"))


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_thread_that_nobody_waits_for_does_not_hold_up_the_end(tmp_path, name):
    """A pool whose thread starts just as the signal comes does not know it either."""
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 8)
    (tmp_path / "threads.py").write_text(
        "import pathlib, threading, time\n"
        "def start(image):\n"
        f"    threading.Thread(target=time.sleep, args=({LONG_S},)).start()\n"
        f"    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    time.sleep(0.5)\n"
        "    return image\n"
    )
    function = f"{tmp_path / 'threads.py'}:start"
    process = start(tmp_path, "calibrate", "--data", images, model, "--preprocess", function, "-o", tmp_path / "out")
    wait_for((tmp_path / "begun").exists)
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=LONG_S / 2)[1]
    assert process.returncode == 128 + getattr(signal, name)
    assert said.splitlines()[-1].startswith("quantkit: error: Interrupted")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("evaluate", "SIGINT"),
        pytest.param("calibrate", "SIGTERM", marks=pytest.mark.slow),
        pytest.param("evaluate", "SIGHUP", marks=pytest.mark.slow),
        pytest.param("calibrate", "SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_kernel_is_left(tmp_path, command, name):
    model, images = endless_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 4)
    process = start(tmp_path, command, "--data", images, model, "-o", tmp_path / "out")
    wait_for(is_computing(process))
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=LONG_S / 2)[1]
    assert process.returncode == 128 + getattr(signal, name)
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("quantkit: error: Interrupted")
    assert not list((tmp_path / "tmp").glob("quantkit-*"))


def test_a_second_signal_ends_at_once(tmp_path):
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 4)
    function, begun = hanging_function(tmp_path)
    process = start(tmp_path, "evaluate", "--data", images, model, "--preprocess", function)
    wait_for(begun.exists)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=LONG_S / 2)[1]
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "Traceback" not in said


def test_a_wish_that_is_asked_for_is_fulfilled():
    """The command asks whether to stop, and takes longer than the grace to write what it has."""
    with ending_on_signals(str), stop_on_interrupt() as should_stop:
        signal.raise_signal(signal.SIGINT)
        wait_for(should_stop)
        time.sleep(0.1)
        assert should_stop()


def test_what_takes_too_long_to_write_is_given_up():
    child = os.fork()
    if child == 0:
        try:
            with ending_on_signals(str), stop_on_interrupt() as should_stop:
                signal.raise_signal(signal.SIGINT)
                wait_for(should_stop)
                time.sleep(LONG_S)
        finally:  # whatever fails here must not go on with the tests of the parent
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGINT


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_are_raised_and_handlers_put_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(EndedError) as raised, ending_on_signals(str):
        signal.raise_signal(number)
    assert raised.value.number == number
    assert signal.getsignal(number) is before


def test_a_signal_that_became_another_error_counts_all_the_same():
    def load():
        try:
            signal.raise_signal(signal.SIGTERM)
        except EndedError as ended:
            wait_for(lambda: interrupts._RUN.signal)
            raise ImportError("a library gave up") from ended

    with pytest.raises(EndedError), ending_on_signals(str):
        load()


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_on_signals(str):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_killed_writer_left_is_removed_by_the_next_run(tmp_path):
    """And what another process still writes is not."""
    child = os.fork()
    if child == 0:
        storage.write_atomically(tmp_path / "a.json", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()

    def during(temporary):
        storage.remove_leftovers(tmp_path)
        assert temporary.exists()
        assert not left.exists()
        temporary.write_text("whole")

    storage.write_atomically(tmp_path / "a.json", during)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "whole"


def test_folders_of_killed_runs_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        with storage.temporary_folder() as folder:
            (folder / "big").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    (tmp_path / "quantkit-run-link0001").symlink_to("/")
    with storage.temporary_folder() as folder, storage.temporary_folder() as other:
        assert not left.exists()
        assert folder.is_dir()
        assert other.is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["quantkit-run-link0001"]


def test_calibration_cleans_its_output_folder(quantkit, tmp_path):
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 4)
    out = tmp_path / "out"
    out.mkdir()
    (out / ".net.calib.json.abcd1234.tmp").write_text("half")
    (out / ".mine.tmp").write_text("of somebody")
    assert quantkit("calibrate", "--data", images, model, "-o", out, "--accuracy", "fast").code == 0
    assert sorted(p.name for p in out.iterdir()) == [".mine.tmp", "net.calib", "net.calib.json", "net.int8.onnx"]


def test_an_interrupted_calibration_says_how_to_resume(quantkit, tmp_path, monkeypatch):
    from quantkit.calibration.collect import Collector
    from quantkit.commands import collect

    monkeypatch.setattr(collect, "CHECKPOINT_S", 0)
    observe, calls = Collector.observe, iter(range(100))

    def interrupting(self, *arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        observe(self, *arguments)

    monkeypatch.setattr(Collector, "observe", interrupting)
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 12)
    words = ("calibrate", "--data", images, model, "--batch-size", "4", "--accuracy", "fast")
    stopped = quantkit(*words)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].endswith("The same command with --resume goes on after 8 of 12 samples.")
    resumed = quantkit(*words, "--resume")
    assert resumed.code == 0
    assert "Resuming after 8 of 12" in resumed.err


def test_a_sample_that_is_never_prepared_ends_the_run(tmp_path):
    """In one line, and without waiting for its thread."""
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "imgs", 4)
    function, _ = hanging_function(tmp_path)
    words = ["calibrate", "--data", str(images), str(model), "--preprocess", function, "-o", str(tmp_path / "out")]
    program = (
        "from quantkit.datasets import read_ahead; from quantkit.cli import main; "
        f"read_ahead.SAMPLE_LIMIT_S = 0.1; main({words!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=LONG_S / 2, check=False
    )
    assert done.returncode == 1
    assert re.match(
        r"quantkit: error: 00.\.png could not be read and prepared within 0.1 s", done.stderr.splitlines()[-1]
    )
    assert not (tmp_path / "out").exists()


def test_ctrl_c_during_imports_is_one_line():
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from quantkit.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "quantkit: error: Interrupted.\n")
