"""Each step of a command at which the system can fail, made to fail: old or new files, one line, no leftovers."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.cli.conftest import REPOSITORY
from tests.fake_trt.releases import RELEASES, UnobtainableError, build_stubs, obtain_bindings

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("gcc") is None, reason="needs LD_PRELOAD and a C compiler"
)

FILES = ("write", "fsync", "rename", "open", "read")


def ends_of_faults(folder, *words):
    """How the commands ended in which calls failed; none of them badly."""
    output = folder / "faults.json"
    command = [sys.executable, "-m", "benchmarks.fault_commands", "--processes", "2", "--seconds", "3000"]
    done = subprocess.run(
        [*command, "--output", str(output), *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.exists(), done.stderr[-2000:]
    found = json.loads(output.read_text())
    assert found["failures"] == []
    assert found["cases"] > 0
    return found["ends"]


def test_some_faults_of_a_merge(tmp_path):
    ends = ends_of_faults(tmp_path, "--commands", "merge", "--calls", *FILES, "--every", 4)
    assert {end.split()[1] for end in ends} == set(FILES)
    assert any(end.endswith("exit code 1") for end in ends)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["calibrate", "evaluate", "report", "merge"])
def test_every_fault_of_files(tmp_path, command):
    ends = ends_of_faults(tmp_path, "--commands", command, "--calls", *FILES)
    assert {end.split()[1] for end in ends} == set(FILES)


@pytest.mark.slow
def test_every_fault_of_files_in_a_build(tmp_path):
    release = RELEASES.get("10.16")
    if release is None:
        pytest.skip("QUANTKIT_TENSORRT_VERSIONS leaves out 10.16")
    try:
        library = f"{build_stubs(release)}:{obtain_bindings(release)}"
    except UnobtainableError as error:
        pytest.skip(str(error))
    ends = ends_of_faults(tmp_path, "--commands", "build", "--library", library, "--calls", *FILES)
    assert {end.split()[1] for end in ends} == set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "every"), [("calibrate", 400), ("evaluate", 1600), ("merge", 400)])
def test_some_faults_of_memory(tmp_path, command, every):
    ends_of_faults(tmp_path, "--commands", command, "--calls", "malloc", "--every", every)
