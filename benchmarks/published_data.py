"""Loaders and metrics of `published_models.py`, for its --loader, --postprocess and --metric."""

from __future__ import annotations

import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

WINDOW, CONTEXT = 512, 64


def speech(path: Path) -> Iterator[dict[str, object]]:
    """Words as sequences of windows of 16 kHz, each with the end of the one before, for Silero's voice detector.

    `path` is a list of WAV files of 8 kHz (every sample is repeated), relative to its folder. Silence and noise around
    each word make windows without a voice.
    """
    generator = np.random.default_rng(0)
    for line in path.read_text(encoding="utf-8").splitlines():
        with wave.open(str(path.parent / line)) as audio:
            word = np.frombuffer(audio.readframes(audio.getnframes()), "<i2").astype(np.float32) / 32768
        quiet = generator.normal(0, 0.003, (2, 8 * WINDOW)).astype(np.float32)
        signal = np.concatenate((np.zeros(CONTEXT, np.float32), quiet[0], np.repeat(word, 2), quiet[1]))
        windows = np.lib.stride_tricks.sliding_window_view(signal, CONTEXT + WINDOW)[::WINDOW]
        yield {"id": line, "input": windows}


def content(path: Path) -> Iterator[dict[str, object]]:
    """First and last 1,024 bytes of every file of a folder, 256 where there is none, for a file type detector."""
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        found = np.frombuffer(file.read_bytes(), np.uint8)
        if not len(found):
            continue
        values = np.full(2_048, 256, np.int32)
        first, last = found[:1_024], found[-1_024:]
        values[: len(first)], values[2_048 - len(last) :] = first, last
        yield {"id": file.relative_to(path).as_posix(), "bytes": values}


def characters(outputs: Mapping[str, np.ndarray], ids: Sequence[str]) -> list[tuple[int, ...]]:
    """Greedy CTC over [N, T, C], class 0 the blank."""
    (scores,) = outputs.values()
    return [
        tuple(int(c) for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])) for row in scores.argmax(axis=2)
    ]


class SameText:
    """Share of lines that read as the float model reads them."""

    name = "same_text"
    label = "Same text"
    is_fraction = True
    definition = "Share of lines whose characters are exactly those that the float model reads."

    def __init__(self) -> None:
        self.scores: list[float] = []

    def update(self, predictions: Sequence, ids: Sequence[str], targets: object, reference: Sequence) -> list[float]:
        """Whether each line reads the same."""
        scores = [float(mine == theirs) for mine, theirs in zip(predictions, reference, strict=True)]
        self.scores += scores
        return scores

    def compute(self) -> float:
        """The share."""
        return float(np.mean(self.scores))
