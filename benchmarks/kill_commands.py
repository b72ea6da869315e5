"""Ends commands with signals at random moments, and runs several at once on one folder.

Each case starts from the files of an earlier run. After a signal each file is that of the earlier run or of the new;
after one that can be handled nothing is left over and the exit code is 128 + its number, within two seconds. The next
run completes all files and removes what a killed one left.

    python -m benchmarks.kill_commands --processes 8 --seconds 300 --output kills.json
    python -m benchmarks.kill_commands --case 17 --keep /tmp/case
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign import (
    OUTSIDE,
    Child,
    Outcome,
    OutOfTimeError,
    choose,
    make_parser,
    run_campaign,
    save_images,
    save_model,
    what_is_wrong,
)
from quantkit.calibration.statistics_file import load_statistics
from quantkit.calibration.table import load_table

LIMIT_S = 2.0
"""From a signal to the end of the process, as promised."""

VOLATILE = ("report.json", "report.md", "report.html", "net.engine.json")
"""Files with a time in them."""

FAKE = "tests/fake_trt/"
"""In a traceback of the fake library: its code in Python is interrupted where that of the real one is native."""

LIBRARY: list[str] = []
"""Folders of the stubs of TensorRT and of its bindings; empty where there are none."""


def load_library() -> None:
    """Makes `import tensorrt` find the bindings over the fake library."""
    from tests.fake_trt.library import load

    load(*LIBRARY)


@dataclass(frozen=True)
class Command:
    """What is typed, relative to the folder of the case, and what comes before it."""

    words: tuple[str, ...]
    prepared_by: tuple[tuple[str, ...], ...]
    before: Callable[[], None] = lambda: None


_MODEL = ("--data", "imgs", "net.onnx")
_OLD = ("calibrate", *_MODEL, "-o", "out", "--method", "minmax", "--keep-statistics")
_EVALUATION = ("evaluate", *_MODEL, "--table", "out/net.calib.json", "--latency-s=0.05", "-o", "out")
_SHARDS = [
    ("calibrate", "--data", f"shard{i}", "net.onnx", "-o", f"part{i}", "--method", "minmax", "--keep-statistics")
    for i in (0, 1)
]
COMMANDS = {
    "calibrate": Command(("calibrate", *_MODEL, "-o", "out", "--keep-statistics"), (_OLD,)),
    "evaluate": Command(_EVALUATION, (_OLD,)),
    "report": Command(("report", "out/report.json"), (_OLD, _EVALUATION)),
    "merge": Command(
        ("cache", "merge", "part0/net.calib.stats", "part1/net.calib.stats", "-o", "out/net.calib.json"),
        (*_SHARDS, _OLD),
    ),
}
BUILD = Command(
    ("build", "net.onnx", "--precision", "int8", "--table", "out/net.calib.json", "-o", "out/net.engine"),
    (_OLD, ("build", "net.onnx", "--precision", "fp32", "-o", "out/net.engine")),
    load_library,
)
WEIGHTS = {"calibrate": 4, "evaluate": 4, "report": 1, "merge": 2, "build": 2}


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Expected:
    """A folder in which a command can be run, the files before and after, and how long it takes."""

    folder: Path
    before: dict[str, bytes]
    after: dict[str, bytes]
    seconds: float


def prepare(command: Command, folder: Path, side: Path) -> Expected:
    """Makes the folder, and runs the command once undisturbed in a copy."""
    folder.mkdir(parents=True)
    save_model(folder / "net.onnx")
    save_images(folder / "imgs", 24, seed=1)
    for i in (0, 1):
        save_images(folder / f"shard{i}", 4, seed=2 + i)
    for words in command.prepared_by:
        run_to_end(words, folder, side, command.before if words[0] == "build" else lambda: None)
    whole = shutil.copytree(folder, folder.with_name(folder.name + "-whole"))
    started = time.monotonic()
    run_to_end(command.words, whole, side, command.before)
    return Expected(folder, contents(folder / "out"), contents(whole / "out"), time.monotonic() - started)


def start(words: tuple[str, ...], folder: Path, side: Path, before: Callable[[], None]) -> Child:
    """A command in a folder; what it says and its temporary files go to another one."""
    side.mkdir(exist_ok=True)

    def enter() -> None:
        os.chdir(folder)
        before()

    return Child(list(words), before=enter, folder=side)


def run_to_end(words: tuple[str, ...], folder: Path, side: Path, before: Callable[[], None]) -> None:
    """Runs a command that has to succeed."""
    child = start(words, folder, side, before)
    code, _ = child.wait(120)
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {child.said()}")


def what_is_broken(found: dict[str, bytes], known: list[dict[str, bytes]]) -> list[str]:
    """Files that are none of what undisturbed runs write."""
    wrong = []
    for name, content in found.items():
        base = name.rpartition("/")[2]
        if base in VOLATILE:
            if base.endswith(".json"):
                try:
                    json.loads(content)
                except ValueError:
                    wrong.append(f"{name} is no JSON")
            elif base.endswith(".html") and not content.rstrip().endswith(b"</html>"):
                wrong.append(f"{name} is cut")
        elif not is_temporary(name) and all(content != files.get(name) for files in known):
            wrong.append(f"{name} is of no run" if any(name in files for files in known) else f"{name} is new")
    return wrong


def is_temporary(name: str) -> bool:
    """What a killed process may leave until the next run: files under another name, locks, checkpoints."""
    return name.endswith((".tmp", ".lock", ".partial")) or ".tmp/" in name


def left_over(folder: Path) -> list[str]:
    """Temporary files and locks below a folder."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return [f"left {name}" for name in found if name.endswith((".tmp", ".lock")) or "quantkit-run-" in name]


def kill(name: str, command: Command, expected: Expected, rng: random.Random, folder: Path, end: float) -> Outcome:
    """Sends a signal, looks at what there is, and runs the command again."""
    number = getattr(signal, choose(rng, SIGKILL=3, SIGTERM=2, SIGINT=2, SIGHUP=1))
    work, side = shutil.copytree(expected.folder, folder / "work"), folder / "side"
    child = start(command.words, work, side, command.before)
    time.sleep(rng.uniform(0, 1.1 * expected.seconds))
    sent = time.monotonic()
    child.signal(number)
    code, _ = child.wait(40)
    took = time.monotonic() - sent
    said, where = child.said(), f"{name}, {number.name}"
    failures = []
    ended = {None: "hangs", 0: "complete", -number: "killed"}.get(code, f"exit code {code}")
    if code not in (0, -number, OUTSIDE) and FAKE not in said:
        wrong = what_is_wrong(code, said, codes=frozenset({128 + number}))
        failures += [f"{where}: {wrong}"] if wrong else []
        if took > LIMIT_S + 0.5:
            failures.append(f"{where}: took {took:.1f} s to end: {said[-300:]}")
    if number != signal.SIGKILL:
        failures += [f"{where}, {ended}: {what}" for what in left_over(work) + left_over(side)]
    known = [expected.before, expected.after]
    failures += [f"{where}, {ended}: {what}" for what in what_is_broken(contents(work / "out"), known)]
    missing = expected.before.keys() & expected.after.keys() - contents(work / "out").keys()
    failures += [f"{where}, {ended}: {file} is gone" for file in missing]
    failures += complete(f"{where}, {ended}", command, expected, work, side, end)
    return Outcome([f"{name} {number.name} {ended}"], failures)


def complete(where: str, command: Command, expected: Expected, work: Path, side: Path, end: float) -> list[str]:
    """Runs a command in a folder that others have left: what is wrong afterwards."""
    child = start(command.words, work, side, command.before)
    code, _ = child.wait(max(1.0, min(60.0, end - time.monotonic())))
    if code is None and time.monotonic() > end - 1:
        raise OutOfTimeError
    if code:
        return [f"{where}, the next run: {what_is_wrong(code, child.said(), codes=frozenset({0}))}"]
    found = contents(work / "out")
    failures = what_is_broken(found, [expected.after]) + left_over(work) + left_over(side)
    failures += [f"{file} is missing" for file in expected.after.keys() - found.keys()]
    failures += [f"{file} stays" for file in found.keys() - expected.after.keys() - expected.before.keys()]
    return [f"{where}, the next run: {what}" for what in failures]


def run_at_once(
    commands: dict[str, Command], expected: dict[str, Expected], rng: random.Random, folder: Path, end: float
) -> Outcome:
    """Several runs on one folder, of which one may be killed: the others end well, and each file is of one of them."""
    work = shutil.copytree(expected["calibrate"].folder, folder / "work")
    chosen = [
        "calibrate",
        *rng.choices([n for n in ("calibrate", "minmax", "evaluate", "build") if n in commands], k=2),
    ]
    runs = []
    for i, name in enumerate(chosen):
        runs.append(start(commands[name].words, work, folder / f"side{i}", commands[name].before))
        time.sleep(rng.uniform(0, 0.2))
    victim = rng.choice([None, 0, 1, 2])
    if victim is not None:
        time.sleep(rng.uniform(0, expected["calibrate"].seconds))
        runs[victim].signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    failures = []
    for i, child in enumerate(runs):
        code, _ = child.wait(max(1.0, min(90.0, end - time.monotonic())))
        if code is None and time.monotonic() > end - 1:
            raise OutOfTimeError
        if i != victim and (wrong := what_is_wrong(code, child.said(), codes=frozenset({0, 1}))):
            failures.append(f"at once {chosen}, {chosen[i]}: {wrong}")
        elif i != victim and code:
            failures.append(f"at once {chosen}, {chosen[i]} is refused: {child.said()[-300:]}")
    known = [files for e in expected.values() for files in (e.before, e.after)]
    found = contents(work / "out")
    # What an evaluation reads may be of either run; the engine is made of the table that was there.
    found = {name: content for name, content in found.items() if not name.startswith("net.engine")}
    failures += [f"at once {chosen}: {what}" for what in what_is_broken(found, known)]
    for file, load in (("net.calib.json", load_table), ("net.calib.stats", load_statistics)):
        load(work / "out" / file)
    if victim is None:
        failures += [f"at once {chosen}: {what}" for what in left_over(work)]
    where = f"at once {chosen}"
    failures += complete(where, commands["calibrate"], _with_others(expected, work), work, folder / "side", end)
    return Outcome([f"at once {'undisturbed' if victim is None else 'one killed'}"], failures)


def _with_others(expected: dict[str, Expected], work: Path) -> Expected:
    """What a calibration leaves where other commands have left files too."""
    own = expected["calibrate"]
    others = {n: c for n, c in contents(work / "out").items() if n.startswith(("report", "net.engine"))}
    return Expected(own.folder, own.before | others, own.after | others, own.seconds)


def make_case(prepared: Path, end: float) -> Callable[[int, Path], Outcome]:
    """Prepares the folders of all commands; see `run_campaign`."""
    commands = {**COMMANDS, **({"build": BUILD} if LIBRARY else {})}
    side = prepared / "side"
    expected = {name: prepare(command, prepared / name, side) for name, command in commands.items()}
    beside = {**commands, "minmax": Command(_OLD, ())}

    def run_case(number: int, folder: Path) -> Outcome:
        rng = random.Random(number)
        if number % 8 == 7:
            return run_at_once(beside, expected, rng, folder, end)
        name = choose(rng, **{n: w for n, w in WEIGHTS.items() if n in commands})
        return kill(name, commands[name], expected[name], rng, folder, end)

    return run_case


def parse_library(given: str | None) -> None:
    """Takes "STUBS:BINDINGS"."""
    LIBRARY[:] = given.split(":") if given else []


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--library", metavar="STUBS:BINDINGS", help="of the fake TensorRT, for builds")
    options = parser.parse_args()
    parse_library(options.library)
    sys.exit(run_campaign(options, make_case))
