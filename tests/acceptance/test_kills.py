"""Calibration killed at random moments, and several at once on one folder: what lies there is whole, and of one run."""

import multiprocessing
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from quantkit.calibration.statistics_file import load_statistics
from quantkit.calibration.table import load_table, table_checksum
from quantkit.cli import main
from quantkit.pipeline import statistics as kept_module
from quantkit.pipeline.quantization import TABLE_KEY
from tests.cli.conftest import CALIB, DIGITS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")

METHODS = ("minmax", "entropy")
NAMES = ("digits.calib.stats", "digits.calib.json", "digits.calib", "digits.int8.onnx")
PARTIAL = "digits.calib.partial"
OPTIONS = ("--num-samples", "40", "--batch-size", "4", "--keep-statistics", "--calibrator", "quantkit", "--quiet")


def calibrate(folder: Path, method: str, *words: str) -> None:
    """`quantkit calibrate` in this process, with a checkpoint after each batch."""
    kept_module.CHECKPOINT_S = 0.0
    try:
        main(["calibrate", "--data", str(CALIB), str(folder / "digits.onnx"), "--method", method, *OPTIONS, *words])
    except SystemExit as stop:
        if stop.code:
            raise


def calibrate_often(folder: Path, methods: tuple[str, ...], rounds: int) -> None:
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
    context.set_forkserver_preload(["quantkit.graph.expose", "onnxruntime", __name__])
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
            if (folder / name).exists():
                load(folder / name)

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


def kill_and_check(folder, processes, expected, *, kills, seed):
    """Kills runs that write alternately two tables' files; then one that resumes must complete and tidy them."""
    rng = random.Random(seed)
    for number in range(kills):
        process = processes.Process(target=calibrate_often, args=(folder, METHODS, 1000))
        process.start()
        process.join(rng.uniform(0, 2 * expected.run_s))
        assert process.exitcode is None, "the run ended by itself"
        process.kill()
        process.join()
        expected.check_whole(folder)
        if number % 10 == 9:
            method = METHODS[number // 10 % 2]
            process = processes.Process(target=resume, args=(folder, method))
            process.start()
            process.join()
            assert process.exitcode == 0
            expected.check_consistent(folder, (method,))


def test_kills_leave_old_or_new_files(tmp_path, processes, expected):
    kill_and_check(fresh_folder(tmp_path), processes, expected, kills=20, seed=1)


@pytest.mark.slow
@pytest.mark.skipif("QUANTKIT_SLOW" not in os.environ, reason="a minute: set QUANTKIT_SLOW")
def test_two_hundred_kills_leave_old_or_new_files(tmp_path, processes, expected):
    kill_and_check(fresh_folder(tmp_path), processes, expected, kills=200, seed=2)


def test_runs_at_once_do_not_mix_their_files(tmp_path, processes, expected):
    folder = fresh_folder(tmp_path)
    for _ in range(5):
        runs = [processes.Process(target=calibrate_often, args=(folder, (method,), 1)) for method in METHODS]
        for process in runs:
            process.start()
        while any(process.is_alive() for process in runs):
            runs[0].join(0.02)
            expected.check_whole(folder)
        assert [process.exitcode for process in runs] == [0, 0]
        expected.check_consistent(folder, METHODS)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, "digits.onnx"])
