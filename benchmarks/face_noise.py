"""How well a face detector finds its own boxes again if its images change by less than anyone sees, and in INT8.

python benchmarks/face_noise.py FOLDER

FOLDER is that of `published_models.py`, which has run `ultraface` there: the INT8 model lies beside the float model.
Photographs with more faces than COCO counts are left out. Prints the Markdown table of
docs/measurements/published_models.md: mean average precision, and those at two thresholds of overlap.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from published_models import LEAST_SCORE
from slight_changes import save_as_jpeg, with_noise

from quantkit import ImageOptions
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import open_samples
from quantkit.evaluation.detection.average_precision import WeightedPrecision, mean_of
from quantkit.evaluation.detection.declared import parse_layout
from quantkit.evaluation.detection.decoding import Frame
from quantkit.evaluation.detection.matching import MAX_PER_CLASS, match_images
from quantkit.evaluation.detection.suppression import suppress
from quantkit.types import Boxes

MODEL = "version-RFB-320"
IMAGES = ImageOptions(preset="none", mean=(127,), std=(128,))
LEVEL = 1 / 128
"""One step of an 8-bit pixel in the model's input."""


@dataclass(frozen=True)
class Detector:
    """Boxes of a model, in pixels of its input."""

    runner: OnnxRuntimeRunner

    def read(self, folder: Path) -> list[np.ndarray]:
        """The images of a folder as the model takes them, in the order of their names without suffix."""
        dataset = open_samples(self.runner.inputs, folder, IMAGES, None, num_samples=None, seed=0, order="given")
        batches = list(make_batches(dataset, 1, strict=True, workers=None, skipped={}))
        batches.sort(key=lambda batch: Path(batch.ids[0]).stem)
        return [next(iter(batch.inputs.values())) for batch in batches]

    def find(self, images: Sequence[np.ndarray], *, most: int = MAX_PER_CLASS) -> list[Boxes]:
        """Without duplicates, the best ones."""
        layout, (spec,) = parse_layout("ssd"), self.runner.inputs
        found = []
        for image in images:
            outputs = self.runner.run({spec.name: image})
            bound = layout.bind(outputs, num_samples=1, num_classes=None)
            (all_boxes,) = layout.decode(
                outputs, bound, Frame(1, image.shape[2:], 0.001, layout.options), is_checked=False
            )
            corners, scores, classes = all_boxes.corners, all_boxes.scores, all_boxes.classes
            rows = suppress(corners, scores, classes, iou_threshold=0.5, max_detections=most)
            found.append(Boxes(corners[rows].astype(np.float64), classes[rows], scores[rows].astype(np.float64)))
        return found


def row(name: str, truth: Sequence[Boxes], found: Sequence[Boxes]) -> str:
    """mAP, AP at 0.5, 0.75 and 0.95, %."""
    precisions = 100 * WeightedPrecision(match_images(truth, found), 1).compute()
    return " | ".join((f"| {name}", *(f"{mean_of(p):.2f}" for p in (precisions, *precisions[[0, 5, 9]])))) + " |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    photographs, jpeg = folder / "faces" / "imgs", folder / "made" / "faces_jpeg"
    save_as_jpeg(photographs, jpeg, subsampling=0)
    fp32 = Detector(OnnxRuntimeRunner(folder / "models" / f"{MODEL}.onnx", spinning=False))
    images = fp32.read(photographs)
    found = fp32.find(images, most=300)
    sure = [boxes.scores >= LEAST_SCORE for boxes in found]
    few = [number for number, rows in enumerate(sure) if rows.sum() <= MAX_PER_CLASS]
    truth = [Boxes(found[n].corners[sure[n]], found[n].classes[sure[n]]) for n in few]
    images, again = ([all_images[n] for n in few] for all_images in (images, fp32.read(jpeg)))
    print(f"| {len(few)} photographs, {sum(map(len, truth))} faces | mAP, % | at 0.5 | at 0.75 | at 0.95 |")
    print("|---|---|---|---|---|")
    for levels in (0.5, 1):
        print(row(f"FP32, noise of up to {levels:g} levels", truth, fp32.find(with_noise(images, LEVEL, levels))))
    print(row("FP32, photographs saved as JPEG of quality 95", truth, fp32.find(again)))
    int8 = Detector(OnnxRuntimeRunner(folder / "models" / f"{MODEL}.int8.onnx", spinning=False, fuse_qdq=False))
    print(row("INT8", truth, int8.find(images)))


if __name__ == "__main__":
    main()
