r"""Metrics of one's own for --task custom: a text recognizer's character errors, a voice detector's right frames.

quantkit evaluate rec.onnx --data lines/ --task custom --metric metrics.py:CharacterErrorRate \
    --postprocess metrics.py:read_text
quantkit evaluate vad.onnx --data recordings/ --loader loaders.py:wav_windows --task custom \
    --metric metrics.py:VoiceActivity
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ.get("METRICS_FOLDER", Path(__file__).parent))
BLANK = 0


def read_text(outputs: Mapping[str, np.ndarray], ids: Sequence[str]) -> list[str]:
    """Greedy CTC: the best class of each step, repetitions merged, blanks left out.

    The output is [N, T, C]; class 0 is the blank, class n the n-th line of alphabet.txt.
    """
    alphabet = (FOLDER / "alphabet.txt").read_text(encoding="utf-8").split("\n")
    (scores,) = outputs.values()
    texts = []
    for best in scores.argmax(axis=2):
        kept = [int(c) for i, c in enumerate(best) if c != BLANK and (i == 0 or c != best[i - 1])]
        texts.append("".join(alphabet[c - 1] for c in kept))
    return texts


def edit_distance(a: str, b: str) -> int:
    """Characters to insert, remove or replace (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row, last = [i], row
        for j, y in enumerate(b, start=1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
    return row[-1]


class CharacterErrorRate:
    """Edits over characters, mean over lines. texts.csv (columns file, text) has the truth.

    Without it, the truth is what FP32 reads: `reference` is FP32's prediction of the same lines.
    """

    name = "cer"
    label = "Character error rate"
    is_fraction = False
    higher_is_better = False
    definition = "Edit distance to the true text over its length, mean over lines."
    compares_outputs = True

    def __init__(self) -> None:
        truth = FOLDER / "texts.csv"
        self.truth: dict[str, str] | None = None
        if truth.exists():
            with open(truth, newline="", encoding="utf-8") as file:
                self.truth = {row["file"]: row["text"] for row in csv.DictReader(file)}
        self.errors: list[float] = []

    def update(
        self, predictions: Sequence[str], ids: Sequence[str], targets: object, reference: Sequence[str]
    ) -> list[float]:
        """Errors of each line of a batch."""
        truths = reference if self.truth is None else [self.truth[name] for name in ids]
        errors = [
            edit_distance(text, truth) / max(len(truth), 1) for text, truth in zip(predictions, truths, strict=True)
        ]
        self.errors += errors
        return errors

    def compute(self) -> float:
        """The mean."""
        return float(np.mean(self.errors))


class VoiceActivity:
    """Share of windows whose decision (speech above 0.5) is the label, or without labels, FP32's."""

    name = "right"
    label = "Right windows"
    is_fraction = True
    definition = "Share of windows whose decision, speech or not, is right."

    def __init__(self) -> None:
        self.right: list[float] = []

    def update(
        self,
        predictions: Mapping[str, np.ndarray],
        ids: Sequence[str],
        targets: np.ndarray | None,
        reference: Mapping[str, np.ndarray],
    ) -> list[float]:
        """1 for each right window of a batch."""
        decisions, expected = (self._decide(outputs, len(ids)) for outputs in (predictions, reference))
        right = (decisions == (expected if targets is None else targets == 1)).astype(float).tolist()
        self.right += right
        return right

    def compute(self) -> float:
        """The share."""
        return float(np.mean(self.right))

    @staticmethod
    def _decide(outputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        first = next(iter(outputs.values()))
        return first.reshape(count, -1)[:, 0] > 0.5
