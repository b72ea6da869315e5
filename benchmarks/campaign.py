"""Cases by number in many processes, until there are enough or time is over; what failed goes into one file of JSON.

The modules of `fuzz_commands.py`, `kill_commands.py` and `fault_commands.py` say what a case is. Everything is imported
once, before the processes fork, so that a command costs what it computes and no start of an interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import quantkit.commands.build
import quantkit.commands.calibrate
import quantkit.commands.evaluate
import quantkit.commands.inspect
import quantkit.commands.quantize  # noqa: F401 - what commands import when they begin
from quantkit.cli import load_command, main

COMMANDS = ("calibrate", "quantize", "evaluate", "inspect", "report", "compare", "cache", "build", "data")
MEMORY_BYTES = 6 << 30
MOST_FAILURES = 2000
OUTSIDE = "interrupted outside of the command"


@dataclass
class Outcome:
    """Of a case: how its commands ended, and what was wrong."""

    ends: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class OutOfTimeError(Exception):
    """The campaign is over in the middle of a case, which says nothing."""


class Child:
    """One command in a process of its own: `main(words)`, with what it says kept.

    Args:
        words: of the command line.
        before: called in the process before the command.
        folder: for temporary files.
        memory: that it may have, in bytes of addresses.
    """

    def __init__(
        self,
        words: list[str],
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], Any] = lambda: None,
        folder: Path,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self.words = words
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reading)
            said = _enter(folder, memory)
            code = _command(words, before, said)
            with contextlib.suppress(BaseException):
                os.write(writing, json.dumps([code, after()]).encode())
            os._exit(0)
        os.close(writing)
        self.said_file = folder / "said.txt"

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> tuple[int | None, Any]:
        """Exit code, negative for a signal, and what `after` returned; None for the code if it had to be killed."""
        deadline, answer = time.monotonic() + timeout, b""
        while (left := deadline - time.monotonic()) > 0 and select.select([self._reading], [], [], left)[0]:
            part = os.read(self._reading, 1 << 16)
            if not part:
                break
            answer += part
        else:
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._reading)
            return None, None
        os.close(self._reading)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status or not answer:
            return status, None
        code, result = json.loads(answer)
        return code, result

    def said(self) -> str:
        """The end of its error output."""
        return self.said_file.read_text(errors="backslashreplace")[-8000:]


class Commands:
    """A process that runs one command after the other, each as a `Child` does, and is begun anew where one ends it.

    Args:
        after: called with the words of a command that has ended.
        folder: for temporary files.
    """

    def __init__(self, after: Callable[[list[str]], Any], folder: Path) -> None:
        self._after, self._folder = after, folder
        self._pid = 0

    def _begin(self) -> None:
        asked, self._asking = os.pipe()
        self._answers, answering = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(asked)
            os.close(answering)
            return
        os.close(self._asking)
        os.close(self._answers)
        said = _enter(self._folder, MEMORY_BYTES)
        for line in os.fdopen(asked):
            said.seek(0)
            said.truncate()
            words = json.loads(line)
            code = _command(words, lambda: None, said)
            os.write(answering, json.dumps([code, self._after(words)]).encode() + b"\n")
        os._exit(0)

    def run(self, words: list[str], timeout: float) -> tuple[int | str | None, Any]:
        """Exit code and what `after` returned, as `Child.wait`."""
        if not self._pid:
            self._begin()
        os.write(self._asking, json.dumps(words).encode() + b"\n")
        deadline, answer = time.monotonic() + timeout, b""
        while not answer.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                return self.end() and None, None
            if not (part := os.read(self._answers, 1 << 16)):
                return self.end(), None
            answer += part
        code, result = json.loads(answer)
        return code, result

    def said(self) -> str:
        """The end of the error output of the last command."""
        return (self._folder / "said.txt").read_text(errors="backslashreplace")[-8000:]

    def end(self) -> int:
        """Ends the process, if it has not ended; its exit code, negative for a signal."""
        if not self._pid:
            return 0
        pid, self._pid = self._pid, 0
        for pipe in (self._asking, self._answers):
            os.close(pipe)
        time.sleep(0.01)
        done, status = os.waitpid(pid, os.WNOHANG)
        if not done:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)


def _enter(folder: Path, memory: int) -> io.TextIOWrapper:
    """Makes a child what a command expects of its process; returns where its error output goes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    said = open(folder / "said.txt", "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.dup2(said.fileno(), 2)  # native code speaks too
    logging.getLogger("quantkit").propagate = False
    return said


def _command(words: list[str], before: Callable[[], None], said: io.TextIOWrapper) -> int | str:
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            before()
        except BaseException:
            return OUTSIDE
        try:
            main(words)
        except SystemExit as stop:
            return int(stop.code or 0)
        except KeyboardInterrupt:
            return OUTSIDE
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
    return 0


def what_is_wrong(
    code: Any, said: str, *, codes: frozenset[int] = frozenset(range(5)), is_verdict: bool = False
) -> str:
    """What a command may not end with, "" if nothing; the code of a verdict on files or data needs no error line."""
    errors = [line for line in said.splitlines() if line.startswith("quantkit: error:")]
    if code is None:
        return "does not end in time"
    if code not in codes:
        return f"exit code {code}: {said[-600:]}"
    if "Traceback" in said or "unexpected" in said:
        return f"unexpected: {said[-600:]}"
    if not (code != 0 and not is_verdict) <= len(errors) <= (code != 0):
        return f"{len(errors)} error lines with exit code {code}: {said[-400:]}"
    return ""


def warm_up() -> None:
    """Runs commands that import, compile and cache what each child would otherwise for itself."""
    for verb in COMMANDS:
        load_command(verb)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()) as silence:
        folder = Path(name)
        save_model(folder / "net.onnx")
        save_images(folder / "imgs", 8, seed=0)
        data = ["--data", str(folder / "imgs"), str(folder / "net.onnx")]
        for words in (["calibrate", *data], ["evaluate", *data, "--latency-s=0"]):
            with contextlib.redirect_stderr(silence), contextlib.suppress(SystemExit):
                main(words)
    gc.collect()
    gc.freeze()


def limit_threads(number: int) -> None:
    """Sessions of ONNX Runtime take so many threads where they would take one for each core of the machine."""

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, number if name == "intra_op_num_threads" and value == 0 else value)

    onnxruntime.SessionOptions = Options


def save_model(path: Path) -> None:
    """A convolution, a residual product and a classifier of eight classes over images of 8 by 8."""
    numbers = np.random.default_rng(3)
    weights = {
        "w": numbers.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "u": (numbers.standard_normal((8, 8, 1, 1)) / 4).astype(np.float32),
        "v": numbers.standard_normal((8, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "u"], ["d"], name="point"),
        helper.make_node("Add", ["d", "r"], ["s"], name="sum"),
        helper.make_node("GlobalAveragePool", ["s"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="classes"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def save_images(folder: Path, count: int, *, seed: int) -> None:
    """Noise of 8 by 8."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(numbers.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i:03}.png")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a campaign."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=60, help="after which no case is begun")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=1 << 60, help="at most so many")
    parser.add_argument("--output", type=Path, help="JSON of what ran and what failed")
    parser.add_argument("--case", type=int, help="this one only")
    parser.add_argument("--keep", type=Path, help="folder for the files of --case, which stay")
    return parser


def run_campaign(
    given: argparse.Namespace,
    make_case: Callable[[Path, float], Callable[[int, Path], Outcome]],
    *,
    last: int = 1 << 60,
) -> int:
    """Runs the cases, prints and writes what failed; the exit code.

    Args:
        given: options of `make_parser`.
        make_case: called once, with a folder of its own and the time when all has to be over; returns what runs a case
            by its number, in a folder that is empty.
        last: number after the last case that there is.
    """
    limit_threads(1)
    warm_up()
    started = time.monotonic()
    end = started + (given.seconds if given.case is None else 1e6)
    root = Path(tempfile.mkdtemp(prefix="campaign-", dir=os.environ.get("TMPDIR") or "/tmp"))
    try:
        (root / "prepared").mkdir()
        run_case = make_case(root / "prepared", end + 10)
        if given.case is not None:
            folder = given.keep or root / "case"
            folder.mkdir(parents=True, exist_ok=True)
            outcome = run_case(given.case, folder)
            print(json.dumps({"ends": outcome.ends, "failures": outcome.failures}, indent=1))
            return int(bool(outcome.failures))
        most = min(last, given.seed + given.cases)
        lines = _in_processes(given, run_case, root, end, most)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return _tell(given, lines, time.monotonic() - started)


def _in_processes(given: argparse.Namespace, run_case: Any, root: Path, end: float, most: int) -> list[Any]:
    """Lines of all processes: number, ends, failures, seconds of each case."""
    workers = {}
    for index in range(given.processes):
        own = root / f"worker{index}"
        own.mkdir()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            code = 1
            try:
                _work(given, run_case, own, end, most, index)
                code = 0
            finally:
                os._exit(code)
        workers[pid] = own
    lines: list[Any] = []
    for pid, own in workers.items():
        status = None
        while time.monotonic() < end + 15:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if status:
            lines.append([-1, [], [f"process ended with {status}: {(own / 'error.txt').read_text()[-2000:]}"], 0])
        lines += [json.loads(line) for line in (own / "lines.txt").read_text().splitlines()]
    return lines


def _work(given: argparse.Namespace, run_case: Any, own: Path, end: float, most: int, index: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if given.processes >= len(cores):  # fewer would keep to the first cores, which others may use too
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    with open(own / "lines.txt", "w", buffering=1) as lines, open(own / "error.txt", "w", buffering=1) as sys.stderr:
        for number in range(given.seed + index, most, given.processes):
            begun = time.monotonic()
            if begun >= end:
                break
            folder = own / "case"
            folder.mkdir()
            try:
                outcome = run_case(number, folder)
            except OutOfTimeError:
                break
            except Exception:
                outcome = Outcome(["the campaign failed"], [traceback.format_exc()[-1500:]])
            lines.write(json.dumps([number, outcome.ends, outcome.failures, time.monotonic() - begun]) + "\n")
            shutil.rmtree(folder, ignore_errors=True)


def _tell(given: argparse.Namespace, lines: list[Any], seconds: float) -> int:
    program = Path(sys.argv[0]).name
    ends = Counter(end for _, found, _, _ in lines for end in found)
    failures = [{"case": number, "what": what[:1500]} for number, _, wrong, _ in sorted(lines) for what in wrong]
    result = {
        "program": program,
        "cases": len(lines),
        "commands": sum(ends.values()),
        "seconds": round(seconds, 1),
        "slowest_s": round(max((s for *_, s in lines), default=0), 1),
        "ends": dict(ends.most_common()),
        "reproduce": f"python -m benchmarks.{program.removesuffix('.py')} --case N --keep FOLDER",
        "num_failures": len(failures),
        "failures": failures[:MOST_FAILURES],
    }
    if given.output is not None:
        given.output.write_text(json.dumps(result, indent=1))
    for failure in failures[:50]:
        print(ascii(f"case {failure['case']}: {failure['what']}"))
    print(f"{len(lines)} cases, {sum(ends.values())} commands, {len(failures)} failures in {seconds:.0f} s")
    print(json.dumps(result["ends"]))
    return int(bool(failures))


def choose(rng: random.Random, **weights: int) -> str:
    """One of the names, by weight."""
    return rng.choices(list(weights), list(weights.values()))[0]
