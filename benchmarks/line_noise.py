"""How many text lines a recognizer reads the same if their images change by less than anyone sees, and in INT8.

python benchmarks/line_noise.py FOLDER

FOLDER is that of `published_models.py`, which has run `ocr_recognition` there: the INT8 model lies beside the float
model. Prints the Markdown table of docs/measurements/published_models.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from published_data import characters
from slight_changes import save_as_jpeg, with_noise

from quantkit import ImageOptions
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import open_samples

MODEL = "ch_PP-OCRv4_rec_infer"
IMAGES = ImageOptions(
    preset="unit", color="BGR", mean=(0.5,), std=(0.5,), resize="height", size=(48, 320), pad_value=127
)
LEVEL = 2 / 255
"""One step of an 8-bit pixel in the model's input."""

Inputs = list[np.ndarray]
Texts = list[tuple[int, ...]]


def read_inputs(runner: OnnxRuntimeRunner, folder: Path) -> Inputs:
    """The lines of a folder in batches, as the model takes them, in the order of their names."""
    dataset = open_samples(runner.inputs, folder, IMAGES, None, num_samples=None, seed=0, order="given")
    batches = make_batches(dataset, 16, strict=True, workers=None, skipped={})
    return [next(iter(batch.inputs.values())) for batch in batches]


def read_texts(runner: OnnxRuntimeRunner, inputs: Inputs) -> Texts:
    """What the model reads in each line."""
    (spec,) = runner.inputs
    return [text for array in inputs for text in characters(runner.run({spec.name: array}), ())]


def same_texts(texts: Texts, others: Texts) -> np.ndarray:
    """Which lines have the same text."""
    return np.array([one == other for one, other in zip(texts, others, strict=True)])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    lines, jpeg = folder / "lines" / "val", folder / "made" / "lines_jpeg"
    save_as_jpeg(lines, jpeg)
    runner = OnnxRuntimeRunner(folder / "models" / f"{MODEL}.onnx", spinning=False)
    inputs = read_inputs(runner, lines)
    texts = read_texts(runner, inputs)
    changed = {
        f"FP32, noise of up to {levels:g} levels": with_noise(inputs, LEVEL, levels) for levels in (0.25, 0.5, 1)
    }
    changed |= {"FP32, lines saved as JPEG of quality 95": read_inputs(runner, jpeg)}
    same = {name: same_texts(texts, read_texts(runner, arrays)) for name, arrays in changed.items()}
    stable = same["FP32, noise of up to 0.5 levels"] & same["FP32, lines saved as JPEG of quality 95"]
    int8 = OnnxRuntimeRunner(folder / "models" / f"{MODEL}.int8.onnx", spinning=False, fuse_qdq=False)
    same["INT8"] = same_texts(texts, read_texts(int8, inputs))
    print(f"| {len(texts)} lines | same text, % |\n|---|---|")
    for name, lines_same in same.items():
        print(f"| {name} | {100 * lines_same.mean():.1f} |")
    print(f"| INT8, of the {stable.sum()} that FP32 reads the same | {100 * same['INT8'][stable].mean():.1f} |")


if __name__ == "__main__":
    main()
