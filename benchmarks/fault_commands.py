"""Makes the n-th write, fsync, rename, open, read or request for memory of a command fail, for every n.

Each case starts from the files of an earlier run. Afterwards each file is that of the earlier run or of the new one,
nothing is left over, and the command has ended well or with one line. Where memory is short, libraries in C++ may end
the process instead: that is counted, and the files have to be whole all the same. Linux with a C compiler.

    python -m benchmarks.fault_commands --processes 8 --seconds 300 --output faults.json
    python -m benchmarks.fault_commands --case 17 --keep /tmp/case
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign import Child, Outcome, OutOfTimeError, make_parser, run_campaign, what_is_wrong
from benchmarks.kill_commands import (
    BUILD,
    COMMANDS,
    LIBRARY,
    Command,
    Expected,
    contents,
    left_over,
    parse_library,
    prepare,
    what_is_broken,
)

CALLS = ("write", "fsync", "rename", "open", "read", "malloc")
"""In the order of the shim."""

SIZES = (1 << 16, 1 << 12, 1 << 9)
"""Requests for so many bytes and more are made to fail, one after the other; --sizes takes others."""

SHIM = "QUANTKIT_FAULT_SHIM"


@dataclass(frozen=True)
class Fault:
    """The n-th call of a function in a command, and what it fails with; of malloc, how many bytes count."""

    command: str
    call: str
    number: int
    code: int
    bytes: int = 0

    def __str__(self) -> str:
        size = f" of {self.bytes} bytes" if self.bytes else ""
        return f"{self.command}, {self.call}{size} {self.number}, {errno.errorcode[self.code]}"


def start(command: Command, fault: Fault, work: Path, side: Path) -> Child:
    """A command with a call that will fail; answers whether it has."""
    shim: Any = ctypes.CDLL(None)
    side.mkdir(exist_ok=True)

    def arm() -> None:
        os.chdir(work)
        command.before()
        shim.fault_arm(
            CALLS.index(fault.call), fault.number, fault.code, os.fsencode(work), ctypes.c_size_t(fault.bytes)
        )

    def disarm() -> bool:
        has_fired = bool(shim.fault_fired())
        shim.fault_arm(-1, 0, 0, b"", ctypes.c_size_t(0))
        return has_fired

    return Child(list(command.words), before=arm, after=disarm, folder=side)


def count_calls(command: Command, expected: Expected, size: int, folder: Path) -> list[int]:
    """How many calls of each kind an undisturbed run makes."""
    shim: Any = ctypes.CDLL(None)
    shim.fault_counted.restype = ctypes.c_long
    work = shutil.copytree(expected.folder, folder / "counted")

    def count() -> None:
        os.chdir(work)
        command.before()
        shim.fault_count(os.fsencode(work), ctypes.c_size_t(size))

    child = Child(
        list(command.words),
        before=count,
        after=lambda: [int(shim.fault_counted(i)) for i in range(len(CALLS))],
        folder=folder / "side",
    )
    code, counts = child.wait(120)
    shutil.rmtree(work)
    if code != 0:
        raise RuntimeError(f"{command.words} ended with {code}: {child.said()}")
    return list(counts)


def all_faults(counts: dict[tuple[str, str, int], int]) -> Iterator[Fault]:
    """Each call, by each fault that it has in practice; for memory the large requests first."""
    for (name, call, size), number in sorted(counts.items(), key=lambda item: (item[0][1] == "malloc", -item[0][2])):
        codes = {"malloc": [errno.ENOMEM], "read": [errno.EIO]}.get(call, [errno.EIO, errno.ENOSPC, errno.EDQUOT])
        for code in codes:
            yield from (Fault(name, call, n, code, size) for n in range(1, number + 1))


def ends_elsewhere(code: int | str | None, said: str) -> bool:
    """Whether code that cannot be told of want of memory ended a run.

    C++ ends the process by a signal, and glibc with 127; Python's parser calls it invalid syntax of a module.
    """
    if not isinstance(code, int):
        return False
    return code < 0 or (code == 127 and said.rstrip().endswith("ABORT")) or "unexpected SyntaxError" in said


def run(fault: Fault, command: Command, expected: Expected, folder: Path, timeout: float) -> Outcome:
    """Lets one call fail, and looks at what there is."""
    work, side = shutil.copytree(expected.folder, folder / "work"), folder / "side"
    child = start(command, fault, work, side)
    code, answer = child.wait(timeout)
    if code is None and timeout < 60:
        raise OutOfTimeError
    said, found = child.said(), contents(work / "out")
    is_of_others = fault.call == "malloc" and ends_elsewhere(code, said)
    wrong = "" if is_of_others else what_is_wrong(code, said, codes=frozenset({0, 1}))
    failures = [f"{fault}: {wrong}"] if wrong else []
    if not is_of_others:  # the next run removes what is left
        failures += [f"{fault}: {what}" for what in left_over(work) + left_over(side)]
        missing = expected.after.keys() - found.keys() if code == 0 else set()
        failures += [f"{fault}: exit code 0 without {name}" for name in missing]
    failures += [f"{fault}: {what}" for what in what_is_broken(found, [expected.before, expected.after])]
    failures += [f"{fault}: {name} is gone" for name in expected.before.keys() & expected.after.keys() - found.keys()]
    kind = f"{fault.command} {fault.call}"
    if is_of_others:
        last = (said.strip().splitlines() or ["nothing"])[-1][:80]
        return Outcome([f"{kind} ended elsewhere with {code}, said {last!r}"], failures)
    happened = "not reached" if answer is False else f"exit code {code}"
    return Outcome([f"{kind} {happened}"], failures)


@dataclass(frozen=True)
class Chosen:
    """Which faults: of these commands and functions, every so many calls; of memory, requests of these sizes."""

    commands: tuple[str, ...]
    calls: tuple[str, ...]
    every: int
    sizes: tuple[int, ...] = SIZES

    def make_case(self, prepared: Path, end: float) -> Callable[[int, Path], Outcome]:
        """Prepares the folders of all commands and counts their calls; see `run_campaign`."""
        known = {**COMMANDS, **({"build": BUILD} if LIBRARY else {})}
        commands = {name: command for name, command in known.items() if name in self.commands}
        expected = {name: prepare(command, prepared / name, prepared / "side") for name, command in commands.items()}
        counts = {}
        for size in self.sizes if "malloc" in self.calls else self.sizes[:1]:
            for name, command in commands.items():
                numbers = dict(zip(CALLS, count_calls(command, expected[name], size, prepared), strict=True))
                found = {(name, call, size if call == "malloc" else 0): n for call, n in numbers.items()}
                counts.update({key: n for key, n in found.items() if key[1] in self.calls})
        faults = [fault for fault in all_faults(counts) if (fault.number - 1) % self.every == 0]
        print(f"{len(faults)} faults", {" ".join(map(str, key)): number for key, number in counts.items()}, flush=True)

        def run_case(number: int, folder: Path) -> Outcome:
            if number >= len(faults):
                raise OutOfTimeError
            fault = faults[number]
            left = min(60.0, max(1.0, end - time.monotonic()))
            return run(fault, commands[fault.command], expected[fault.command], folder, left)

        return run_case


def preload() -> None:
    """Compiles the shim and starts this program again under it."""
    if SHIM in os.environ:
        return
    source = Path(__file__).parents[1] / "tests" / "faults" / "shim.c"
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder) / "shim.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
        words = [sys.executable, "-m", "benchmarks.fault_commands", *sys.argv[1:]]
        environment = {**os.environ, "LD_PRELOAD": str(shim), SHIM: "1", "MALLOC_ARENA_MAX": "2"}
        sys.exit(subprocess.run(words, env=environment, check=False).returncode)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--library", metavar="STUBS:BINDINGS", help="of the fake TensorRT, for builds")
    parser.add_argument("--commands", nargs="+", default=[*COMMANDS, "build"])
    parser.add_argument("--calls", nargs="+", default=CALLS, choices=CALLS)
    parser.add_argument("--every", type=int, default=1, help="every so many calls of each kind")
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, help="bytes of the requests for memory that fail"
    )
    options = parser.parse_args()
    preload()
    parse_library(options.library)
    chosen = Chosen(tuple(options.commands), tuple(options.calls), options.every, tuple(options.sizes))
    sys.exit(run_campaign(options, chosen.make_case))
