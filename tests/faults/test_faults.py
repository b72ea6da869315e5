"""Each step of a command at which the system can fail, made to fail: old or new files, one line, no leftovers."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import REPOSITORY, conv_model, write_images

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs LD_PRELOAD and a C compiler"
)

VOLATILE = ("report.json", "report.md", "report.html")
"""Files with a date in them."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def contents(folder):
    return {p.name: p.read_bytes().hex()[-64:] for p in sorted(folder.rglob("*")) if p.is_file()}


def quantkit(*words):
    command = [sys.executable, "-m", "quantkit", *map(str, words)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)


def fail_everywhere(shim, folder, words, *, step, code=errno.EIO):
    """Runs with faults: call, its number, exit code, error output and files, for each."""
    given = {"folder": str(folder), "out": str(folder / "out"), "words": list(map(str, words))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.driver", json.dumps(given | {"step": step, "code": code})],
        cwd=REPOSITORY,
        env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(runs, before, after):
    assert runs
    for call, number, code, said, files in runs:
        where = f"{call} {number}: exit code {code}\n{said}\n{sorted(files)}"
        errors = [line for line in said.splitlines() if line.startswith("quantkit: error:")]
        assert (code, len(errors)) in ((0, 0), (1, 1)), where
        assert "Traceback" not in said, where
        assert "unexpected" not in said, where
        for name, content in files.items():
            assert name in before or name in after, where
            assert name in VOLATILE or content in (before.get(name), after.get(name)), where
        assert files.keys() >= before.keys() & after.keys(), where
        if code == 0:
            assert files.keys() == after.keys(), where
    return {call for call, *_ in runs}


@pytest.fixture
def folder(tmp_path):
    """A model, images and what an earlier run made of them, in one folder."""
    folder = tmp_path / "files"
    folder.mkdir()
    conv_model(folder / "net.onnx")
    write_images(folder / "imgs", 3)
    return folder


def calibration(folder, method):
    return ("calibrate", "--data", folder / "imgs", folder / "net.onnx", "-o", folder / "out", "--method", method)


def campaign(shim, folder, words, *, step, code=errno.EIO):
    """The calls that were made to fail."""
    out, spare = folder / "out", folder.parent / "spare"
    before = contents(out)
    shutil.copytree(out, spare)
    quantkit(*words)
    after = contents(out)
    shutil.rmtree(out)
    shutil.copytree(spare, out)
    return check(fail_everywhere(shim, folder, words, step=step, code=code), before, after)


@pytest.mark.parametrize(
    "code", [errno.EIO, pytest.param(errno.ENOSPC, marks=pytest.mark.slow)], ids=errno.errorcode.get
)
def test_some_faults_of_a_calibration(shim, folder, code):
    quantkit(*calibration(folder, "minmax"))
    failed = campaign(shim, folder, calibration(folder, "entropy"), step=100, code=code)
    assert failed == {"write", "fsync", "rename", "open", "read"}


@pytest.mark.slow
def test_every_fault_of_a_calibration(shim, folder):
    quantkit(*calibration(folder, "minmax"))
    campaign(shim, folder, (*calibration(folder, "entropy"), "--keep-statistics"), step=1)


@pytest.mark.slow
def test_every_fault_of_an_evaluation(shim, folder):
    quantkit(*calibration(folder, "minmax"))
    table = folder / "out" / "net.calib.json"
    words = ("evaluate", "--data", folder / "imgs", folder / "net.onnx", "--table", table, "--latency-s", "0")
    campaign(shim, folder, (*words, "-o", folder / "out"), step=1)


@pytest.mark.slow
def test_every_fault_of_a_merge(shim, folder):
    for number, seed in enumerate((1, 2)):
        write_images(folder / f"shard{number}", 3, seed=seed)
        words = ("calibrate", "--data", folder / f"shard{number}", folder / "net.onnx", "--keep-statistics")
        quantkit(*words, "-o", folder / f"part{number}", "--method", "minmax")
    quantkit(*calibration(folder, "minmax"))
    parts = [folder / f"part{number}" / "net.calib.stats" for number in (0, 1)]
    campaign(shim, folder, ("cache", "merge", *parts, "-o", folder / "out" / "net.calib.json"), step=1)
