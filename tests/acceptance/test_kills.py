"""Calibration killed at random moments, and several at once on one folder: what lies there is whole, and of one run."""

import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from quantkit import storage
from quantkit.calibration.statistics_file import load_statistics
from quantkit.calibration.table import TABLE_KEY, load_table, table_checksum
from quantkit.cli import main
from quantkit.commands import collect
from quantkit.errors import CalibrationError
from tests.cli.conftest import CALIB, DIGITS, conv_model, write_images

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

METHODS = ("minmax", "entropy")
NAMES = ("digits.calib.stats", "digits.calib.json", "digits.calib", "digits.int8.onnx")
PARTIAL = "digits.calib.partial"
OPTIONS = ("--num-samples", "40", "--batch-size", "4", "--keep-statistics", "--calibrator", "quantkit", "--quiet")


STEPS = ("begun", "half", "written", "named")
"""Of writing a file: it is there under another name; half of it is; all of it is; it has its name."""


def watch(stage) -> None:
    """Keeps `stage` at what this process does: b"computing", or the name of the file that it writes."""
    write = storage.write_atomically

    def written(path, dump):
        stage.value = Path(path).name.encode()
        write(path, dump)
        stage.value = b"computing"

    stage.value = b"computing"
    storage.write_atomically = written


def die_at(step: str, name: str) -> None:
    """Makes this process kill itself at one step of writing one file."""

    def die(*_) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def halve(path, content) -> None:
        path.write_bytes(content[: len(content) // 2])
        die()

    def is_it(path) -> bool:
        return re.fullmatch(rf"\.{re.escape(name)}\.(\w+\.tmp)?", Path(path).name) is not None

    begin, dump, name_it = tempfile.mkstemp, storage._dump, os.replace
    if step == "begun":
        tempfile.mkstemp = lambda **options: (begin(**options), is_it(options["prefix"]) and die())[0]
    elif step == "half":
        storage._dump = lambda path, content: halve(path, content) if is_it(path) else dump(path, content)
    elif step == "written":
        os.replace = lambda old, new: die() if is_it(old) else name_it(old, new)
    else:
        os.replace = lambda old, new: (name_it(old, new), is_it(old) and die())


def calibrate_until(folder: Path, method: str, step: str, name: str) -> None:
    die_at(step, name)
    with open(os.devnull, "w") as silence:
        sys.stdout = silence
        calibrate(folder, method, "--force")


def calibrate(folder: Path, method: str, *words: str) -> None:
    """`quantkit calibrate` in this process, with a checkpoint after each batch."""
    collect.CHECKPOINT_S = 0.0
    try:
        main(["calibrate", "--data", str(CALIB), str(folder / "digits.onnx"), "--method", method, *OPTIONS, *words])
    except SystemExit as stop:
        if stop.code:
            raise


def calibrate_often(folder: Path, methods: tuple[str, ...], rounds: int, stage=None) -> None:
    if stage is not None:
        watch(stage)
    with open(os.devnull, "w") as silence:
        sys.stdout = silence
        for _ in range(rounds):
            for method in methods:
                calibrate(folder, method, "--force")


def resume(folder: Path, method: str) -> None:
    with open(os.devnull, "w") as silence:
        sys.stdout = silence
        calibrate(folder, method, "--force", "--resume")


@pytest.fixture(scope="module")
def processes():
    """Processes that have everything imported when they start, and no thread of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["quantkit.graph.passes.expose", "onnxruntime", __name__])
    return context


@dataclass(frozen=True)
class Expected:
    """What an undisturbed run writes, by method and name of the file, and how long it takes on this machine now."""

    files: dict[str, dict[str, bytes]]
    run_s: float

    def check_whole(self, folder: Path) -> None:
        """Each file is absent or that of one of the runs, to the last byte."""
        for name in NAMES:
            if (folder / name).exists():
                assert (folder / name).read_bytes() in [files[name] for files in self.files.values()], name
        for name, load in ((NAMES[0], load_statistics), (PARTIAL, load_statistics), (NAMES[1], load_table)):
            try:
                load(folder / name)
            except CalibrationError:  # a checkpoint goes when its run ends
                assert not (folder / name).exists(), name

    def check_consistent(self, folder: Path, methods: tuple[str, ...]) -> None:
        """All files are there, of the same run, and the INT8 model names the table beside it."""
        found = {name: (folder / name).read_bytes() for name in NAMES}
        assert found in [self.files[method] for method in methods]
        metadata = {p.key: p.value for p in onnx.load(folder / NAMES[3]).metadata_props}
        assert metadata[TABLE_KEY] == table_checksum(load_table(folder / NAMES[1]))
        assert not (folder / PARTIAL).exists()


@pytest.fixture(scope="module")
def expected(tmp_path_factory, processes):
    files = {}
    for method in METHODS:
        folder = fresh_folder(tmp_path_factory.mktemp("expected"))
        process = processes.Process(target=calibrate_often, args=(folder, (method,), 1))
        started = time.monotonic()
        process.start()
        process.join()
        run_s = time.monotonic() - started  # the second process finds everything imported
        files[method] = {name: (folder / name).read_bytes() for name in NAMES}
        assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, "digits.onnx"])
    assert files["minmax"][NAMES[0]] == files["entropy"][NAMES[0]]
    assert all(files["minmax"][name] != files["entropy"][name] for name in NAMES[1:])
    return Expected(files, run_s)


def fresh_folder(folder: Path) -> Path:
    shutil.copyfile(DIGITS, folder / "digits.onnx")
    return folder


def kill_and_check(folder, processes, expected, *, kills, seed) -> Counter[str]:
    """Kills runs that write alternately two tables' files; then one that resumes must complete and tidy them.

    Returns:
        What the runs did when they were killed, and how often.
    """
    rng = random.Random(seed)
    stages: Counter[str] = Counter()
    for number in range(kills):
        stage = processes.Array("c", 100, lock=False)
        process = processes.Process(target=calibrate_often, args=(folder, METHODS, 1000, stage))
        process.start()
        process.join(rng.uniform(0, 2 * expected.run_s))
        assert process.exitcode is None, "the run ended by itself"
        process.kill()
        process.join()
        stages[stage.value.decode() or "starting"] += 1
        expected.check_whole(folder)
        if number % 10 == 9:
            method = METHODS[number // 10 % 2]
            process = processes.Process(target=resume, args=(folder, method))
            process.start()
            process.join()
            assert process.exitcode == 0
            expected.check_consistent(folder, (method,))
    return stages


def kill_at_steps(folder, processes, expected, steps):
    """Kills runs at steps of files, over the files of another method; then one that resumes must complete them."""
    old, new = METHODS
    for file, content in expected.files[old].items():
        (folder / file).write_bytes(content)
    for name, step in steps:
        process = processes.Process(target=calibrate_until, args=(folder, new, step, name))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (name, step)
        expected.check_whole(folder)
        if name == PARTIAL:
            assert (folder / name).exists() == (step == "named")
            (folder / name).unlink(missing_ok=True)
        elif name != NAMES[0]:  # statistics are the same for both methods
            changed = (folder / name).read_bytes() == expected.files[new][name]
            assert changed == (step == "named"), (name, step)
            (folder / name).write_bytes(expected.files[old][name])
    process = processes.Process(target=resume, args=(folder, new))
    process.start()
    process.join()
    assert process.exitcode == 0
    expected.check_consistent(folder, (new,))


def test_kills_at_some_steps_of_each_file(tmp_path, processes, expected):
    steps = zip([PARTIAL, *NAMES], ("half", "begun", "written", "half", "named"), strict=True)
    kill_at_steps(fresh_folder(tmp_path), processes, expected, steps)


@pytest.mark.slow
def test_kills_at_every_step_of_each_file(tmp_path, processes, expected):
    kill_at_steps(fresh_folder(tmp_path), processes, expected, itertools.product([PARTIAL, *NAMES], STEPS))


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """A model, images, what their calibration writes, and what that of other images wrote before."""
    folder = tmp_path_factory.mktemp("refined")
    model = conv_model(folder / "net.onnx")
    old, new = (write_images(folder / str(count), count) for count in (8, 16))
    for data, target in ((new, folder / "whole"), (old, folder / "before")):
        refine(model, data, target)
    return model, new, folder / "whole", folder / "before"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["net.calib.weights", "net.calib.json"])
def test_a_kill_never_leaves_weights_that_another_table_would_take(tmp_path, processes, refined, step, name):
    """Over the files of another run; the next calibration makes the set of one run of it, byte for byte."""
    model, new, whole, before = refined
    folder = shutil.copytree(before, tmp_path / "killed")
    process = processes.Process(target=refine_until, args=(model, new, folder, step, name))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    table = load_table(folder / "net.calib.json")
    is_whole = (name, step) != ("net.calib.weights", "named") and not (name == "net.calib.json" and step != "named")
    assert (table.refinement is not None) == is_whole
    refine(model, new, folder)
    for file in whole.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def refine(model: Path, data: Path, folder: Path) -> None:
    """A calibration by default, beyond ranges."""
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", "--data", str(data), str(model), "-o", str(folder), "--quiet", "--calibrator", "quantkit"])
    assert not stop.value.code


def refine_until(model: Path, data: Path, folder: Path, step: str, name: str) -> None:
    die_at(step, name)
    with open(os.devnull, "w") as silence:
        sys.stdout = sys.stderr = silence
        refine(model, data, folder)


def test_kills_leave_old_or_new_files(tmp_path, processes, expected):
    kill_and_check(fresh_folder(tmp_path), processes, expected, kills=20, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_leave_old_or_new_files(tmp_path, processes, expected, record_property):
    stages = kill_and_check(fresh_folder(tmp_path), processes, expected, kills=200, seed=2)
    for stage, count in stages.items():
        record_property(stage, count)
    assert sum(stages.values()) == 200
    # Writing takes a few ms of a run: test_kills_at_every_step_of_each_file strikes at each moment of it.
    assert stages["computing"]
    assert stages[PARTIAL]


def test_runs_at_once_do_not_mix_their_files(tmp_path, processes, expected):
    folder = fresh_folder(tmp_path)
    for _ in range(3):
        runs = [processes.Process(target=calibrate_often, args=(folder, (method,), 1)) for method in METHODS]
        for process in runs:
            process.start()
        while any(process.is_alive() for process in runs):
            runs[0].join(0.02)
            expected.check_whole(folder)
        assert [process.exitcode for process in runs] == [0, 0]
        expected.check_consistent(folder, METHODS)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, "digits.onnx"])


def test_a_run_goes_on_when_the_other_is_killed(tmp_path, processes, expected):
    folder, rng = fresh_folder(tmp_path), random.Random(3)
    for _ in range(6):
        runs = [processes.Process(target=calibrate_often, args=(folder, (method,), 1)) for method in METHODS]
        for process in runs:
            process.start()
        victim, other = rng.sample(runs, 2)
        victim.join(rng.uniform(0, expected.run_s))
        victim.kill()
        other.join()
        victim.join()
        assert other.exitcode == 0
        expected.check_whole(folder)
    process = processes.Process(target=resume, args=(folder, METHODS[0]))
    process.start()
    process.join()
    expected.check_consistent(folder, METHODS[:1])
