"""Data that no option describes: --loader for text and audio, --preprocess for images. Copy what you need.

quantkit calibrate minilm.onnx --data sentences.txt --loader loaders.py:sentences
quantkit calibrate vad.onnx --data recordings/ --loader loaders.py:wav_windows
quantkit calibrate faces.onnx --data photos/ --preprocess loaders.py:face
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MAX_TOKENS = 128
SAMPLE_RATE, WINDOW = 16_000, 512


def sentences(path: Path) -> Iterator[dict[str, object]]:
    """A text file, one sentence a line, for a sentence transformer; tokenizer.json of the model lies beside it.

    Sentences are not padded: those of different lengths go into different batches.
    """
    from tokenizers import Tokenizer  # pip install tokenizers

    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            encoding = tokenizer.encode(line.strip())
            yield {
                "id": f"line {number}",
                "input_ids": np.array(encoding.ids, np.int64),
                "attention_mask": np.array(encoding.attention_mask, np.int64),
                "token_type_ids": np.array(encoding.type_ids, np.int64),
            }


def wav_windows(path: Path) -> Iterator[dict[str, object]]:
    """A folder of 16-bit mono WAV files, cut into windows of 512 samples from -1 to 1, for a voice detector."""
    for file in sorted(path.glob("*.wav")):
        with wave.open(str(file)) as audio:
            form = (audio.getnchannels(), audio.getsampwidth(), audio.getframerate())
            if form != (1, 2, SAMPLE_RATE):
                raise ValueError(f"{file.name}: (channels, bytes, Hz) are {form}, not (1, 2, {SAMPLE_RATE})")
            signal = np.frombuffer(audio.readframes(audio.getnframes()), "<i2").astype(np.float32) / 32768
        for start in range(0, len(signal) - WINDOW + 1, WINDOW):
            yield {"id": f"{file.name} at {start / SAMPLE_RATE:.3f} s", "input": signal[start : start + WINDOW]}


def face(image: Image.Image) -> np.ndarray:
    """The middle of an image, 112 x 112, each image normalized by its own mean and deviation: [3, 112, 112]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.convert("RGB").crop((left, top, left + side, top + side)).resize((112, 112), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32)
    return ((pixels - pixels.mean()) / max(pixels.std(), 1.0)).transpose(2, 0, 1)
