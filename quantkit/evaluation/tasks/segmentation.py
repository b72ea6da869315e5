"""A class for every pixel: mIoU with its paired interval, pixel accuracy, IoU of each class, images that changed.

How an output becomes the class of each pixel of an image is left to `class_maps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from quantkit.datasets.masks import open_masks
from quantkit.errors import EvaluationError
from quantkit.evaluation.bootstrap import can_draw, draw_weights, explain_no_interval, percentile_interval
from quantkit.evaluation.tasks.changes import CHANGED_POINTS
from quantkit.evaluation.tasks.class_maps import NO_CLASS, Head, View, find_head, read_classes, view_image
from quantkit.evaluation.tasks.pixel_counts import (
    RIGHT,
    TRUE,
    Counts,
    are_equal,
    count_pixels,
    iou_of,
    mean_iou,
    mean_over_truth,
    only_background,
    weighted_totals,
)
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions, class_title
from quantkit.numerics import ImageTransform, fit_image
from quantkit.significance import DIFFERING
from quantkit.types import (
    Array,
    Batch,
    ChangedSample,
    ClassScore,
    Dataset,
    MaskAnnotations,
    PathLike,
    Preprocessing,
    Score,
)

MIOU = Score(
    "miou",
    "mIoU",
    definition="Mean over the classes of intersection over union, TP / (TP + FP + FN), of the pixels of all images "
    "together; a class that is neither in the masks nor predicted is left out. An image is broken or fixed where its "
    "own mIoU, over the classes in its mask, falls or rises by a point or more.",
)

_NAMED_CLASSES = 3


@dataclass(frozen=True)
class _Segmented:
    """An image.

    Attributes:
        sample: its id.
        pixels: of its mask that are judged.
        ignored: that the mask ignores.
        cropped: that the model did not see.
        counts: by variant, the baseline first.
        same: pixels with the baseline's class, by variant.
        truth: the largest classes of its mask by name.
    """

    sample: str
    pixels: int
    ignored: int
    cropped: int
    counts: Mapping[str, Counts]
    same: Mapping[str, int]
    truth: str


class Segmentation(Task):
    """mIoU against masks, at the masks' own resolution.

    The output is the first one of shape [N, C, h, w] with scores (the highest wins; [N, h, w, C] where the
    preprocessing's layout is NHWC), [N, h, w] or [N, 1, h, w] with integer class indices, or [N, 1, h, w] or [N, h, w]
    with one floating value, which `binary` must declare. Pixels that the mask ignores, and those that the
    preprocessing crops away, count for nothing.

    Args:
        annotations: the masks. Where there are two classes and nothing is ignored, 255 stands for class 1.
        preprocessing: how images were fitted into the input; None for arrays that masks cover exactly.
        class_names: by index, those of the annotations if empty; there must be one for each channel.
        binary: what a single output channel holds: "logits" (class 1 above 0) or "probabilities" (above 0.5).
        output: name of the output, where it is not the first that fits.
        upsampling: how an output of another size than the mask is read, see `class_maps.read_classes`.
    """

    numbers = ("miou", "pixel_accuracy", "agreement")
    options = ("labels", "ignored", "mask_map", "binary")
    required: ClassVar[Mapping[str | tuple[str, ...], str]] = {
        "labels": "a folder of PNG masks with the names of the images"
    }

    def __init__(
        self,
        annotations: MaskAnnotations,
        preprocessing: Preprocessing | None,
        *,
        class_names: Sequence[str] = (),
        binary: str | None = None,
        output: str | None = None,
        upsampling: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        super().__init__()
        if binary not in (None, "logits", "probabilities"):
            raise EvaluationError(f"--binary: there is no {binary!r}: choose one of logits, probabilities")
        self._annotations = annotations
        self._preprocessing = preprocessing
        self._names = tuple(class_names or annotations.classes)
        self._binary = binary
        self._output = output
        self._upsampling = upsampling
        self._head: Head | None = None
        self._counts: dict[str, list[Counts]] = {}
        self._same: dict[str, int] = {}
        self._differing: dict[str, int] = {}
        self._pixels = 0
        self._ignored_pixels = 0
        self._cropped_pixels = 0

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """Opens the masks of the images."""
        if options.labels is None:
            raise EvaluationError("--task segment needs --labels")
        if dataset.preprocessing is None:
            raise EvaluationError("--task segment needs images: masks are of their pixels")
        ignored = 255 if options.ignored is None else options.ignored
        annotations = open_masks(
            Path(options.labels), dataset, classes=classes, ignored=ignored, mapping=options.mask_map
        )
        task = cls(annotations, dataset.preprocessing, class_names=tuple(classes or ()), binary=options.binary)
        facts: dict[str, str | int | float | None] = {
            "labels": Path(options.labels).name,
            "labels_fingerprint": annotations.fingerprint,
            "ignored_value": ignored,
            "binary": options.binary,
            **options.given("mask_map"),
        }
        return OpenTask(task, tuple(classes or annotations.classes), facts)

    @property
    def score(self) -> Score | None:
        """The mIoU."""
        return MIOU

    @property
    def notes(self) -> tuple[str, ...]:
        """How much of the masks was not judged, what they do not hold, and why there is no interval."""
        told = []
        if self._cropped_pixels:
            share = self._cropped_pixels / (self._cropped_pixels + self._ignored_pixels + self._pixels)
            told.append(
                f"{100 * share:.1f}% of the masks' pixels were cut off by the crop and are not judged: other ways to "
                "resize (stretch, letterbox) show the model whole images."
            )
        baseline, images = next(iter(self._counts.items()), ("", []))
        if images and only_background(images):
            told.append("The masks contain only class 0: the other classes cannot be evaluated.")
        why = explain_no_interval(MIOU.label, self._differing, num_samples=len(images), baseline=baseline)
        return (*told, *why)

    @property
    def facts(self) -> dict[str, int]:
        """How many pixels of the masks were judged: neither ignored nor cut off."""
        return {"num_pixels": self._pixels}

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> tuple[_Segmented, ...]:
        """Counts the pixels of each image.

        Raises:
            DatasetError: a mask that cannot be read.
            EvaluationError: outputs that are no class map; a mask of another size or with other classes than the model.
        """
        if self._head is None:
            self._head = self._find_head(next(iter(outputs.values())))
        return tuple(self._judge_image(batch, row, outputs, self._head) for row in range(len(batch)))

    def add(self, judged: Sequence[_Segmented]) -> None:
        """Keeps the counts of each image, and notes which ones changed."""
        for image in judged:
            self._pixels += image.pixels
            self._ignored_pixels += image.ignored
            self._cropped_pixels += image.cropped
            (_, expected), *others = image.counts.items()
            for variant, counts in image.counts.items():
                self._counts.setdefault(variant, []).append(counts)
            for variant, counts in others:
                is_other = not are_equal(counts, expected)
                self._differing[variant] = self._differing.get(variant, 0) + is_other
                self._same[variant] = self._same.get(variant, 0) + image.same[variant]
                self._note_change(variant, image, mean_over_truth(expected), mean_over_truth(counts))

    def compute(self) -> dict[str, dict[str, float]]:
        """mIoU, pixel accuracy, share of pixels with the baseline's class, and the interval of the mIoU's difference,
        where enough images differ for one.

        Raises:
            EvaluationError: masks in which nothing is to be found.
        """
        self._check_masks()
        weights = self._draw()
        result: dict[str, dict[str, float]] = {}
        expected: npt.NDArray[np.float64] | None = None
        for variant, images in self._counts.items():
            totals = weighted_totals(images, weights, self._num_classes())
            mious = mean_iou(totals)
            right, true = totals[0, RIGHT].sum(), totals[0, TRUE].sum()
            found = result[variant] = {"miou": float(mious[0]), "pixel_accuracy": float(right / true)}
            if expected is None:
                expected = mious
                continue
            found["agreement"] = self._same[variant] / self._pixels
            found[DIFFERING] = float(self._differing[variant])
            if can_draw(len(images), self._differing[variant]):
                low, high = percentile_interval((mious - expected)[1:].tolist())
                found |= {"miou_difference_low": low, "miou_difference_high": high}
        return result

    def classes(self) -> tuple[ClassScore, ...]:
        """IoU of each class and how many pixels the masks have of it; the mean of a variant's scores is its mIoU."""
        num_classes = self._num_classes()
        one = {
            variant: weighted_totals(images, np.ones((1, len(images)), np.uint16), num_classes)[0]
            for variant, images in self._counts.items()
        }
        ious = {variant: iou_of(totals) for variant, totals in one.items()}
        true = next(iter(one.values()))[TRUE] if one else np.zeros(0)
        found = (
            ClassScore(
                label=class_title(self._names, index),
                count=int(true[index]),
                scores={variant: float(iou[index]) for variant, iou in ious.items() if not np.isnan(iou[index])},
            )
            for index in range(num_classes)
        )
        return tuple(score for score in found if score.scores)

    def _find_head(self, outputs: Mapping[str, Array]) -> Head:
        layout = "NCHW" if self._preprocessing is None else self._preprocessing.layout
        head = find_head(outputs, layout=layout, binary=self._binary, output=self._output)
        names = len(self._names)
        if head.num_classes is None:
            return replace(head, num_classes=names or None)
        if names and names != head.num_classes:
            shape = list(outputs[head.output].shape)
            raise EvaluationError(
                f"output {head.output!r} {shape} has {head.num_classes} classes as {layout}, but {names} class names "
                "were passed: pass one for each, or check --layout"
            )
        return head

    def _fit(self, mask: npt.NDArray[np.uint8], sample: str, batch: Batch, row: int) -> ImageTransform:
        height, width = mask.shape
        if self._preprocessing is None:
            return ImageTransform((height, width), (height, width), (0, 0), (height, width))
        size = (height, width) if batch.image_sizes is None else batch.image_sizes[row]
        if size != (height, width):
            turned = ": the image is turned by its EXIF orientation, the mask is not" if size == (width, height) else ""
            raise EvaluationError(
                f"{self._annotations.source}: the mask of {sample!r} is {width} x {height} pixels, the image "
                f"{size[1]} x {size[0]}{turned or ': both must have one size'}"
            )
        return fit_image(size, self._preprocessing)

    def _truth(
        self, mask: npt.NDArray[np.uint8], sample: str, head: Head
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Classes of the pixels that count, [P], and which these are, [rows, columns]."""
        ignored = self._annotations.ignored
        counted = np.ones(mask.shape, bool) if ignored is None else mask != ignored
        truth = mask[counted]
        if ignored is None and head.num_classes == 2:
            truth = np.where(truth == 255, np.uint8(1), truth)  # black and white, the usual form of binary masks
        if head.num_classes is not None and truth.size and (highest := int(truth.max())) >= head.num_classes:
            hint = "; if it counts for nothing, say --ignored 255" if highest == 255 else ""
            raise EvaluationError(
                f"{self._annotations.source}: the mask of {sample!r} holds class {highest}, but output {head.output!r} "
                f"has {head.num_classes} classes, 0 to {head.num_classes - 1}{hint}"
            )
        return truth, counted

    def _predict(self, outputs: Mapping[str, Array], row: int, head: Head, view: View) -> npt.NDArray[np.int16]:
        return read_classes(outputs[head.output][row], head, view, upsampling=self._upsampling)

    def _judge_image(
        self, batch: Batch, row: int, outputs: Mapping[str, Mapping[str, Array]], head: Head
    ) -> _Segmented:
        sample = batch.ids[row]
        mask = self._annotations[sample]
        view = view_image(self._fit(mask, sample, batch, row))
        truth, counted = self._truth(mask[view.rows, view.columns], sample, head)
        predicted = {v: self._predict(found, row, head, view)[counted] for v, found in outputs.items()}
        true = np.bincount(truth, minlength=max(256, head.num_classes or 0))
        (_, expected), *others = predicted.items()
        same = {v: int(np.count_nonzero((classes == expected) & (classes != NO_CLASS))) for v, classes in others}
        return _Segmented(
            sample=sample,
            pixels=truth.size,
            ignored=counted.size - truth.size,
            cropped=mask.size - counted.size,
            counts={v: count_pixels(truth, true, classes) for v, classes in predicted.items()},
            same=same,
            truth=self._describe(true),
        )

    def _note_change(self, variant: str, image: _Segmented, before: float, after: float) -> None:
        if image.pixels and abs(after - before) >= CHANGED_POINTS:
            self._changes.add(
                ChangedSample(
                    variant=variant,
                    sample=image.sample,
                    kind="broken" if after < before else "fixed",
                    truth=image.truth,
                    before=f"mIoU {100 * before:.1f}%",
                    after=f"{100 * after:.1f}%",
                    severity=abs(after - before),
                )
            )

    def _describe(self, true: npt.NDArray[np.int64]) -> str:
        """The largest classes of a mask by name."""
        largest = [int(i) for i in np.argsort(-true, kind="stable") if true[i]]
        names = [class_title(self._names, index) for index in largest[:_NAMED_CLASSES]]
        more = len(largest) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")

    def _check_masks(self) -> None:
        source = self._annotations.source
        if not self._pixels:
            raise EvaluationError(
                f"{source}: no pixel of the masks counts: all are {self._annotations.ignored}, ignored"
            )
        images = next(iter(self._counts.values()))
        if self._ignored_pixels and only_background(images):
            # Whatever the model finds beyond the background would be wrong: the score would mean nothing.
            classes = None if self._head is None else self._head.num_classes
            ignored = self._annotations.ignored
            fix = f"masks with the model's {classes} classes are needed, 0 to {(classes or 0) - 1}"
            if classes is None:
                fix = "if that is the foreground, say --ignored -1, and the names of both classes by --classes"
            elif classes == 2:
                fix = "if that is the foreground, say --ignored -1"
            raise EvaluationError(f"{source}: the masks hold 0 and the ignored value {ignored} alone: {fix}")

    def _draw(self) -> npt.NDArray[np.uint16]:
        """How often each image counts: once in the first row, then in each draw; [1 + draws, N]."""
        count = len(next(iter(self._counts.values())))
        draws = (weights.astype(np.uint16) for weights in (draw_weights(count) if count > 1 else ()))
        return np.stack([np.ones(count, np.uint16), *draws])

    def _num_classes(self) -> int:
        if self._head is not None and self._head.num_classes is not None:
            return self._head.num_classes
        found = (int(classes[-1]) for images in self._counts.values() for classes, _ in images if classes.size)
        return max(found, default=-1) + 1


TASKS["segment"] = Segmentation
