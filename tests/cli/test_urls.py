"""Data at URLs on the command line: what they give, and that nothing shows their credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import quantkit
from quantkit.cli import main
from quantkit.commands.data_check import check_data
from quantkit.errors import EvaluationError
from quantkit.evaluation.gate import check_unlabeled
from quantkit.evaluation.limits import Drop, Limits

from .conftest import conv_model, write_images

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model, and data in fsspec's memory."""
    monkeypatch.chdir(tmp_path)
    conv_model(tmp_path / "model.onnx", shape=["n", 3, 8, 8])
    for label in ("cat", "dog"):
        write_images(tmp_path / "calib" / label, 12, seed=len(label) + ord(label[0]))
    system = fsspec.filesystem("memory")
    system.put(f"{tmp_path}/calib/", "/set", recursive=True)
    yield tmp_path
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def run(*words: str, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    if monkeypatch is not None:
        monkeypatch.setattr("sys.argv", ["quantkit", *words])
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_every_command_that_takes_data_takes_a_url(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, quick = "memory://set", ["--latency-s", "0", "--layer-samples", "0"]
    assert run("init", "model.onnx", "--data", url) == 0
    assert 'data = "memory://set"' in (here / "quantkit.toml").read_text()
    assert run("data", "check", "model.onnx", "--data", url, "--against", "calib") == 1
    assert "24 of 24 samples are also in calib" in capsys.readouterr().out
    assert run("calibrate", "model.onnx", "--config", "quantkit.toml", "--accuracy", "fast") == 0
    assert "data: 24 samples of memory://set" in capsys.readouterr().err
    assert run("calibrate", "model.onnx", "--data", "calib", "--accuracy", "fast", "--num-samples", "512") == 0
    assert "Reusing model.calib.json" in capsys.readouterr().err
    assert run("evaluate", "model.onnx", "--data", url, *quick) == 0
    assert run("sensitivity", "model.onnx", "--data", url, "--num-samples", "8") == 0
    assert run("tune", "model.onnx", "--data", url, "--val", url, "--max-drop", "100", "--dry-run") == 0
    assert run("calibrate", "model.onnx", "--data", "memory://none") == 1
    assert "error: memory://none does not exist" in capsys.readouterr().err


def test_nothing_shows_credentials(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_strip_protocol", classmethod(_only_the_folder))
    url = "memory://me:s3cr3t@host/set?token=s3cr3t"
    for words in (
        ["calibrate", "model.onnx", "--data", url, "--accuracy", "fast", "--log-file", "log.txt"],
        ["evaluate", "model.onnx", "--data", url, "--latency-s", "0", "--layer-samples", "0", "--with-paths"],
        ["data", "check", "model.onnx", "--data", url, "--json"],
        ["init", "model.onnx", "--data", url],
        ["evaluate", "model.onnx", "--data", url.replace("/set", "/none")],
    ):
        run(*words, monkeypatch=monkeypatch)
    output = capsys.readouterr()
    assert "memory://host/set" in output.err
    assert "s3cr3t" not in output.out + output.err
    written = [path for path in here.rglob("*") if path.is_file()]
    assert [path for path in written if b"s3cr3t" in path.read_bytes()] == []
    report = json.loads((here / "model.report" / "report.json").read_text())
    assert report["dataset"]["name"] == "set"
    assert any("memory://host/set" in command for command in report["commands"])


def test_what_the_library_logs_has_no_credentials_either(here: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_strip_protocol", classmethod(_only_the_folder))
    url = "memory://me:s3cr3t@host/set?token=s3cr3t"
    with caplog.at_level("DEBUG", "quantkit"):
        quantkit.calibrate("model.onnx", url, accuracy="fast", table_path="t.json", progress=False)
        findings = check_data("model.onnx", url, against=url, progress=False).findings
        with pytest.raises(EvaluationError) as raised:
            check_unlabeled(Limits(max_drop=Drop(0.01)), url)
    assert "open_samples memory://host/set took" in caplog.text
    assert "s3cr3t" not in f"{caplog.text} {raised.value} {findings}"


def _only_the_folder(cls: type, path: str) -> str:
    """A file system that takes credentials in its URLs, as some do, and keeps them out of its paths."""
    path = path.partition("?")[0].removeprefix("memory://")
    return "/" + path.rpartition("@")[2].removeprefix("host/").strip("/") if path.strip("/") else ""
