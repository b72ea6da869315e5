"""Loaders and metrics of `published_models.py`, for its --loader, --postprocess and --metric."""

from __future__ import annotations

import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

WINDOW, CONTEXT, STATE = 512, 64, (2, 1, 128)
VOICE_MODEL = "silero_vad_op18_ifless.onnx"


def speech(path: Path) -> Iterator[dict[str, object]]:
    """Windows of 16 kHz for Silero's voice detector, with the state that the float model has when it hears them.

    `path` is a list of WAV files of 8 kHz (every sample is repeated), relative to its folder; the model lies in
    models/ beside it. Silence and noise around each word make windows without a voice.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = path.parent / "models" / VOICE_MODEL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for line in path.read_text(encoding="utf-8").splitlines():
        with wave.open(str(path.parent / line)) as audio:
            word = np.frombuffer(audio.readframes(audio.getnframes()), "<i2").astype(np.float32) / 32768
        quiet = generator.normal(0, 0.003, (2, 8 * WINDOW)).astype(np.float32)
        signal = np.concatenate((quiet[0], np.repeat(word, 2), quiet[1]))
        state, context = np.zeros(STATE, np.float32), np.zeros(CONTEXT, np.float32)
        for start in range(0, len(signal) - WINDOW + 1, WINDOW):
            window = np.concatenate((context, signal[start : start + WINDOW]))
            yield {"id": f"{line} at {start / 16_000:.3f} s", "input": window, "state": state[:, 0]}
            feeds = {"input": window[None], "state": state, "sr": np.array(16_000, np.int64)}
            _, state = session.run(None, feeds)
            context = window[-CONTEXT:]


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
