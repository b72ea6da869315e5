"""The metrics of examples/metrics.py, through the task that calls them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from quantkit.evaluation.tasks.custom import Custom
from quantkit.types import Batch
from quantkit.user_code import load_symbol

FILE = Path(__file__).parents[3] / "examples" / "metrics.py"


@pytest.fixture
def load(tmp_path, monkeypatch):
    (tmp_path / "alphabet.txt").write_text("a\nb\nc")
    monkeypatch.setenv("METRICS_FOLDER", str(tmp_path))
    source = tmp_path / "metrics.py"
    source.write_text(FILE.read_text())
    yield lambda name: load_symbol(f"{source}:{name}")
    for name in [name for name in sys.modules if name.startswith("quantkit_custom_")]:
        del sys.modules[name]


def steps(*rows: str) -> np.ndarray:
    """Scores [N, T, 4] whose best classes are the digits of each row."""
    return np.eye(4)[[[int(digit) for digit in row] for row in rows]]


def judge(task, fp32, int8, targets=None):
    batch = Batch({"x": np.zeros((len(fp32), 1))}, tuple(f"{i}.png" for i in range(len(fp32))), targets)
    task.update(batch, {"fp32": {"y": fp32}, "int8": {"y": int8}})
    return task.compute()


def test_character_errors_after_ctc(load, tmp_path):
    fp32, int8 = steps("110122", "033300"), steps("110120", "033303")  # aab, c; aab, cc
    assert load("read_text")({"y": fp32}, ["0", "1"]) == ["aab", "c"]
    found = judge(Custom(load("read_text"), load("CharacterErrorRate")), fp32, int8)
    assert (found["fp32"]["cer"], found["int8"]["cer"]) == (0, pytest.approx((0 + 1 / 1) / 2))
    (tmp_path / "texts.csv").write_text("file,text\n0.png,abab\n1.png,c\n")
    found = judge(Custom(load("read_text"), load("CharacterErrorRate")), fp32, int8)
    assert (found["fp32"]["cer"], found["int8"]["cer"]) == (pytest.approx(1 / 4 / 2), pytest.approx((1 / 4 + 1) / 2))


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
)
def test_edit_distance(load, a, b, distance):
    assert load("edit_distance")(a, b) == load("edit_distance")(b, a) == distance


def test_windows_of_speech(load):
    fp32, int8 = np.array([[0.9], [0.2], [0.6], [0.1]]), np.array([[0.8], [0.6], [0.4], [0.2]])
    found = judge(Custom(None, load("VoiceActivity")), fp32, int8)
    assert (found["fp32"]["right"], found["int8"]["right"]) == (1, 0.5)
    found = judge(Custom(None, load("VoiceActivity")), fp32, int8, np.array([1, 1, 1, 0]))
    assert (found["fp32"]["right"], found["int8"]["right"]) == (0.75, 0.75)
