"""--quiet, --verbose and --log-file: of every command, with results on stdout and all else on stderr."""

import os
import re
from pathlib import Path

import pytest
import typer

from quantkit.cli import VERBS, load_command
from tests.cli.conftest import CALIB, DIGITS

RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) quantkit[\w.]*: .+")


def every_command(command, path=()):
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    return [found for name, sub in inner.items() for found in every_command(sub, (*path, name))]


COMMANDS = [found for verb in VERBS for found in every_command(load_command(verb), (verb,))]


@pytest.mark.parametrize("command", [c for _, c in COMMANDS], ids=[" ".join(path) for path, _ in COMMANDS])
def test_every_command_has_the_three_options_once(command):
    flags = [flag for parameter in command.params for flag in parameter.opts]
    for flag in ("--quiet", "--verbose", "--log-file"):
        assert flags.count(flag) == 1


@pytest.fixture
def calibrate(tmp_path, quantkit):
    def calibrate(*arguments):
        return quantkit(
            *("calibrate", DIGITS, "--data", CALIB, "--num-samples", "8", "--output", tmp_path / "out"),
            *("--method", "entropy", *arguments),
        )

    return calibrate


def test_a_log_file_has_every_record_with_its_time(calibrate, tmp_path):
    file = tmp_path / "run.log"
    outcome = calibrate("--quiet", "--log-file", file)
    assert outcome.code == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    assert all(RECORD.fullmatch(line) for line in lines), lines
    for record in ("DEBUG quantkit: quantkit ", "INFO quantkit: data: ", "DEBUG quantkit.graph.model: parse_model "):
        assert any(record in line for line in lines), record
    assert "parse_model" not in outcome.err


def test_a_log_file_tells_what_failed(quantkit, tmp_path):
    file = tmp_path / "run.log"
    outcome = quantkit("inspect", tmp_path / "none.onnx", "--log-file", file)
    assert outcome.code == 1
    message = outcome.err.strip().removeprefix("quantkit: error: ")
    assert file.read_text(encoding="utf-8").splitlines()[-1].endswith(f"ERROR quantkit: {message}")


def test_a_log_file_that_cannot_be_written_ends_the_run_before_it_begins(calibrate, tmp_path):
    outcome = calibrate("--log-file", tmp_path / "none" / "run.log")
    assert outcome.code == 1
    assert outcome.out == ""
    assert re.fullmatch(r"quantkit: error: Cannot write the log file .*run\.log: [^\n]+\n", outcome.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes")
def test_a_log_is_not_added_to_a_file_that_is_none(quantkit, tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(Path(DIGITS).read_bytes())
    outcome = quantkit("inspect", model, "--log-file", model)
    assert outcome.code == 1
    assert f"--log-file {model} is there and no log of quantkit's" in outcome.err
    assert model.read_bytes() == Path(DIGITS).read_bytes()
    log = tmp_path / "log.txt"
    log.touch()
    for _ in range(2):
        assert quantkit("inspect", model, "--quiet", "--log-file", log).code == 0
    assert log.read_text().count("DEBUG quantkit: quantkit ") == 2


def test_a_pipe_that_nobody_reads_is_no_log_file(quantkit, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    outcome = quantkit("inspect", DIGITS, "--log-file", tmp_path / "pipe")
    assert outcome.code == 1
    assert (
        outcome.err
        == f"quantkit: error: Cannot write the log file {tmp_path / 'pipe'}: it is a pipe that nobody reads\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_the_log_file_alone(quantkit):
    outcome = quantkit("inspect", DIGITS, "--log-file", "/dev/full")
    assert outcome.code == 0
    assert outcome.err == "warning: the log file /dev/full ends here: No space left on device\n"


def test_verbose_adds_details_on_stderr(calibrate):
    plain = calibrate("--force")
    verbose = calibrate("--force", "--verbose")
    assert plain.out == verbose.out
    added = [line for line in verbose.err.splitlines() if line not in plain.err.splitlines()]
    assert any(re.fullmatch(r"quantkit\.commands\.collect: collect_statistics.* took [\d.]+ s", line) for line in added)
    assert all(line.startswith("quantkit") for line in added), added


def test_quiet_leaves_warnings_and_results(calibrate):
    loud, quiet = calibrate("--force"), calibrate("--force", "--quiet")
    paths = [line for line in loud.out.splitlines() if line.startswith(("wrote ", "kept "))]
    assert quiet.out.splitlines() == paths != []
    assert quiet.err.splitlines() == [line for line in loud.err.splitlines() if line.startswith("warning: ")] != []


@pytest.mark.parametrize("verb", ["calibrate", "data check", "cache verify"])
def test_quiet_shows_no_progress_bar(verb, quantkit, calibrate, tmp_path, monkeypatch):
    calibrate()
    bars = []
    monkeypatch.setattr("quantkit.progress.tqdm", lambda *_, disable, **__: bars.append(disable) or Bar())
    arguments = {
        "calibrate": [DIGITS, "--data", CALIB, "--num-samples", "8", "--force", "--output", tmp_path / "out"],
        "data check": [DIGITS, "--data", CALIB, "--probe-samples", "0"],
        "cache verify": [tmp_path / "out" / "digits.calib.json", "--model", DIGITS, "--data", CALIB],
    }[verb]
    for quiet in ([], ["--quiet"]):
        bars.clear()
        assert quantkit(*verb.split(), *arguments, *quiet).code in (0, 1), verb
        assert set(bars) == {True} if quiet else None in bars  # None: on a terminal


class Bar(list):
    """A progress bar that shows nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def update(self, count):
        pass


def test_an_unexpected_error_leaves_its_traceback_in_the_log_file(tmp_path):
    from quantkit.cli.messages import listening

    file = tmp_path / "run.log"
    with pytest.raises(ZeroDivisionError), listening(verbose=False, log_file=file):
        _ = 1 / 0
    text = file.read_text(encoding="utf-8")
    assert "ERROR quantkit: unexpected error\nTraceback" in text
    with pytest.raises(typer.Exit), listening(verbose=False, log_file=file):
        raise typer.Exit(3)
    assert file.read_text(encoding="utf-8").startswith(text)
    assert file.read_text(encoding="utf-8").count("ERROR") == 1
