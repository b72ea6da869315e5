"""Objects in images: mAP of each variant with its interval, AP of each class, images that are answered otherwise.

What the outputs mean is left to `quantkit.evaluation.detection`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from quantkit.datasets.boxes import open_boxes
from quantkit.errors import EvaluationError
from quantkit.evaluation.bootstrap import NUM_DRAWS, can_draw, explain_no_interval
from quantkit.evaluation.detection.average_precision import (
    WeightedPrecision,
    count_differing,
    difference_intervals,
    mean_of,
    plan_draws,
)
from quantkit.evaluation.detection.declared import Bound, parse_layout
from quantkit.evaluation.detection.decoding import Candidates, Frame
from quantkit.evaluation.detection.matching import ImageMatches, match_images
from quantkit.evaluation.detection.one_image import SHOWN_SCORE, ImageAnswer
from quantkit.evaluation.detection.suppression import suppress
from quantkit.evaluation.detection.user_decoder import UserDecoder
from quantkit.evaluation.metrics import Scope
from quantkit.evaluation.tasks.changes import CHANGED_POINTS
from quantkit.evaluation.tasks.task import TASKS, OpenTask, Task, TaskOptions, class_title
from quantkit.numerics import fit_image
from quantkit.significance import DIFFERING
from quantkit.types import (
    Array,
    Batch,
    BoxAnnotations,
    Boxes,
    ChangedSample,
    ClassScore,
    Dataset,
    PathLike,
    Preprocessing,
    Score,
)
from quantkit.urls import data_path
from quantkit.user_code import load_symbol, short_name, source_hash

MAP = Score(
    "map",
    "mAP",
    definition="Average precision by COCO's rules (101 recalls, at most 100 detections of a class in an image), mean "
    "over classes and over the IoU thresholds 0.50, 0.55, ... 0.95; computed with pycocotools. An image is "
    "broken or fixed where its own AP, of all its detections in one ranking over the same thresholds, falls or rises "
    "by a point or more; changed where it does not, but other objects are found, or others falsely, at IoU 0.5 and "
    f"score {SHOWN_SCORE}.",
)


_Matched = tuple[tuple[str, ...], dict[str, tuple[list[ImageMatches], int]]]
"""What judging a batch gives: ids, and by variant the matches of each image and how many scores are not finite."""


class Detection(Task):
    """mAP where objects are annotated by boxes.

    Args:
        annotations: of every sample that will come.
        preprocessing: how images become inputs; boxes are carried back to the image through it.
        layout: what `--detections` takes, see `quantkit.evaluation.detection.parse_layout`; or a function that reads
            the outputs, see `quantkit.evaluation.detection.user_decoder.UserDecoder`.
        score_threshold: detections must be above it. mAP wants nearly all of them, so it is low.
        iou_threshold: of non-maximum suppression, where the layout leaves it to the reader: boxes of a class that
            overlap more are one object. 0.7 is Ultralytics'; YOLOv5 and YOLOX are published with 0.6 and 0.65.
        max_detections: in one image, those with the highest scores.
        class_names: of the model by index, where the annotations do not know them.

    Raises:
        EvaluationError: a layout or a number that makes no sense.
    """

    numbers = ("map", "map50", "num_detections", "non_finite")
    options = ("labels", "detections", "decoder", "score_threshold", "iou_threshold", "max_detections")
    required: ClassVar[Mapping[str | tuple[str, ...], str]] = {
        "labels": "COCO's JSON, or a folder of labels or data.yaml in YOLO's format",
        (
            "detections",
            "decoder",
        ): "how the outputs are laid out, such as yolov8, or file.py:function, which reads them "
        "(docs/how-to/detection.md)",
    }

    def __init__(
        self,
        annotations: BoxAnnotations,
        preprocessing: Preprocessing,
        *,
        layout: str | Callable[..., Any],
        score_threshold: float = 0.001,
        iou_threshold: float = 0.7,
        max_detections: int = 300,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for option, value in (("--score-threshold", score_threshold), ("--iou-threshold", iou_threshold)):
            if not 0 <= value <= 1:
                raise EvaluationError(f"{option} {value} must be from 0 to 1")
        if max_detections < 1:
            raise EvaluationError(f"--max-detections {max_detections} must be at least 1")
        self._declared = parse_layout(layout) if isinstance(layout, str) else UserDecoder(layout)
        self._annotations = annotations
        self._preprocessing = preprocessing
        self._score_threshold = score_threshold
        self._iou_threshold = iou_threshold
        self._max_detections = max_detections
        self._names = annotations.classes or tuple(class_names)
        self._skipped = annotations.notes
        largest = max((int(b.classes.max(initial=-1)) for b in annotations.boxes.values()), default=-1)
        self._num_classes = max(len(self._names), largest + 1)
        self._bound: Bound | None = None
        self._matches: dict[str, list[ImageMatches]] = {}
        self._non_finite: Counter[str] = Counter()
        self._precisions: dict[str, WeightedPrecision] = {}
        self._num_draws = NUM_DRAWS
        self._differing: dict[str, int] = {}

    @classmethod
    def open(cls, options: TaskOptions, dataset: Dataset, data: PathLike, classes: Sequence[str] | None) -> OpenTask:
        """Opens the boxes of the images."""
        layout: str | Callable[..., Any] | None = options.detections or options.decoder
        if options.labels is None or layout is None:
            raise EvaluationError("--task detect needs --labels, and --detections or --decoder")
        if options.detections is not None and options.decoder is not None:
            raise EvaluationError("--detections and --decoder exclude each other: both say what the outputs mean")
        if dataset.preprocessing is None:
            raise EvaluationError("--task detect needs images: boxes are found in their pixels")
        # Before annotations are read, which may take long.
        if options.detections is not None:
            parse_layout(options.detections)
            meaning = {"detections": options.detections}
        elif isinstance(options.decoder, str):
            layout = load_symbol(options.decoder)
            meaning = {"decoder": f"{short_name(options.decoder)} (source {source_hash(options.decoder)[:12]})"}
        else:
            meaning = {"decoder": str(getattr(options.decoder, "__name__", options.decoder))}
        annotations = open_boxes(Path(options.labels), dataset, data=data_path(data), classes=classes)
        given = options.given("score_threshold", "iou_threshold", "max_detections")
        facts = {
            "labels": Path(options.labels).name,
            "labels_fingerprint": annotations.fingerprint,
            **meaning,
            **given,
        }
        task = cls(annotations, dataset.preprocessing, layout=layout, **given)
        return OpenTask(task, annotations.classes, facts)

    @property
    def metric_scopes(self) -> tuple[Scope, ...]:
        """Floating outputs, where a row means the same in every variant; else none."""
        return ("floats",) if self._declared.is_aligned else ()

    @property
    def score(self) -> Score | None:
        """mAP, where there is an object to be found."""
        found = next(iter(self._matches.values()), [])
        return MAP if any(image.object_classes.size for image in found) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the numbers, one sentence each. Complete after `compute`."""
        baseline, images = next(iter(self._matches.items()), ("", []))
        why = explain_no_interval(MAP.label, self._differing, num_samples=len(images), baseline=baseline)
        if self._num_draws < NUM_DRAWS:
            drawn = f"The interval of mAP is from {self._num_draws} draws instead of {NUM_DRAWS}, to save time."
            return (*self._skipped, drawn, *why)
        return (*self._skipped, *why)

    @property
    def facts(self) -> dict[str, int]:
        """How many objects there were to be found in the images that were judged; crowds do not count."""
        return {"num_objects": sum(image.object_classes.size for image in next(iter(self._matches.values()), []))}

    def judge(self, batch: Batch, outputs: Mapping[str, Mapping[str, Array]]) -> _Matched:
        """Matches what each variant finds with the annotated objects.

        Raises:
            EvaluationError: outputs that are not laid out as declared, another number of classes than annotated, an
                image without annotations or of another size than they say.
        """
        if batch.image_sizes is None:
            raise EvaluationError(f"{batch.ids[0]!r} is not an image, which detection needs")
        sizes = batch.image_sizes
        truths = [self._truth(name, size) for name, size in zip(batch.ids, sizes, strict=True)]
        (baseline, reference), *_ = outputs.items()
        if self._bound is None:
            self._bound = self._declared.bind(reference, num_samples=len(batch), num_classes=len(self._names) or None)
            self._check_classes(self._bound.num_classes)
        input_size = fit_image(sizes[0], self._preprocessing).input_size  # that of all: a batch has one shape
        frame = Frame(len(batch), input_size, self._score_threshold, self._declared.options)
        matched: dict[str, tuple[list[ImageMatches], int]] = {}
        for variant, found in outputs.items():
            candidates = self._decode(variant, found, self._bound, frame, is_baseline=variant == baseline)
            if variant == baseline:
                self._check_labels(candidates)
            boxes = [self._finish(c, size) for c, size in zip(candidates, sizes, strict=True)]
            matched[variant] = match_images(truths, boxes), sum(c.non_finite for c in candidates)
        return batch.ids, matched

    def add(self, judged: _Matched) -> None:
        """Keeps the matches of each image, and notes which ones changed."""
        ids, matched = judged
        (baseline, (expected, _)), *_ = matched.items()
        for variant, (matches, non_finite) in matched.items():
            self._non_finite[variant] += non_finite
            self._matches.setdefault(variant, []).extend(matches)
            if variant != baseline:
                for name, before, after in zip(ids, expected, matches, strict=True):
                    self._note_change(variant, name, before, after)
        self._precisions.clear()

    def compute(self) -> dict[str, dict[str, float]]:
        """mAP, mAP at IoU 0.5, the number of detections; the interval of the difference in mAP from the baseline, where
        enough images differ for one.

        Scores that are NaN or infinite are counted as `non_finite` where no metric of the raw outputs does that.
        """
        scores = self._scores()
        result: dict[str, dict[str, float]] = {}
        for variant, score in scores.items():
            found = result[variant] = {"num_detections": float(sum(len(m.scores) for m in self._matches[variant]))}
            if not self.metrics:
                found["non_finite"] = float(self._non_finite[variant])
            if self.score is not None:
                precisions = score.compute()
                found |= {"map": mean_of(precisions), "map50": mean_of(precisions[0])}
        if self.score is None:
            return result
        (baseline, expected), *others = self._matches.items()
        self._differing = {variant: count_differing(expected, matches) for variant, matches in others}
        for variant, count in self._differing.items():
            result[variant][DIFFERING] = float(count)
        drawn = [variant for variant, count in self._differing.items() if can_draw(len(expected), count)]
        if drawn:
            compared = {variant: scores[variant] for variant in (baseline, *drawn)}
            self._num_draws = plan_draws(compared)
            for variant, (low, high) in difference_intervals(compared, num_draws=self._num_draws).items():
                result[variant] |= {"map_difference_low": low, "map_difference_high": high}
        return result

    def classes(self) -> tuple[ClassScore, ...]:
        """AP of each class, mean over the IoU thresholds, and how many objects of it are annotated."""
        precisions = {variant: score.compute().mean(axis=0) for variant, score in self._scores().items()}
        counts: Counter[int] = Counter()
        for image in next(iter(self._matches.values()), []):
            counts.update(image.object_classes.tolist())
        return tuple(
            ClassScore(
                label=class_title(self._names, index),
                count=count,
                scores={variant: float(values[index]) for variant, values in precisions.items()},
            )
            for index, count in sorted(counts.items())
        )

    def _scores(self) -> dict[str, WeightedPrecision]:
        if not self._precisions:
            self._precisions = {
                variant: WeightedPrecision(matches, self._num_classes) for variant, matches in self._matches.items()
            }
        return self._precisions

    def _truth(self, sample: str, size: tuple[int, int]) -> Boxes:
        """The annotated boxes of an image of (height, width) pixels, in pixels."""
        source = self._annotations.source
        boxes = self._annotations.boxes.get(sample)
        if boxes is None:
            raise EvaluationError(f"{source} has no boxes for {sample!r}")
        height, width = size
        if self._annotations.is_relative:
            return Boxes(boxes.corners * np.array([width, height, width, height]), boxes.classes, crowds=boxes.crowds)
        said = self._annotations.image_sizes.get(sample, size)
        if said != size:
            turned = "; its EXIF orientation turns it" if said == size[::-1] else ""
            raise EvaluationError(
                f"{source} was made for {sample!r} of {said[1]} x {said[0]} pixels, but it has {width} x {height}"
                f"{turned}"
            )
        x, y = boxes.corners.reshape(-1, 2, 2).mean(axis=1).T
        if len(boxes) and (max(x) > width or max(y) > height or min(x) < 0 or min(y) < 0):
            raise EvaluationError(
                f"{source}: the center of a box is outside of {sample!r}, which has {width} x {height} pixels: was it "
                "made for images of another size?"
            )
        return boxes

    def _check_classes(self, scored: int | None) -> None:
        if scored is not None and self._num_classes > scored:
            raise EvaluationError(
                f"{self._annotations.source} has objects of class {self._num_classes - 1}, but the model scores "
                f"{scored} classes, 0 to {scored - 1}"
            )

    def _check_labels(self, found: Sequence[Candidates]) -> None:
        largest = max((int(c.classes.max(initial=-1)) for c in found), default=-1)
        if self._names and largest >= len(self._names):
            raise EvaluationError(
                f"the model finds class {largest}, but {self._annotations.source} has {len(self._names)} classes, 0 to "
                f"{len(self._names) - 1}: pass the class names in the model's order with --classes"
            )

    def _decode(
        self, variant: str, outputs: Mapping[str, Array], bound: Bound, frame: Frame, *, is_baseline: bool
    ) -> list[Candidates]:
        try:
            return self._declared.decode(outputs, bound, frame, is_checked=is_baseline)
        except EvaluationError as error:
            if is_baseline:
                raise
            raise EvaluationError(f"variant {variant!r}: {error}") from error

    def _finish(self, found: Candidates, size: tuple[int, int]) -> Boxes:
        """Candidates without duplicates, the best ones, in pixels of the image of (height, width)."""
        if self._declared.suppresses:
            rows = suppress(
                found.corners,
                found.scores,
                found.classes,
                iou_threshold=self._iou_threshold,
                max_detections=self._max_detections,
            )
        else:
            rows = np.argsort(-found.scores, kind="stable")[: self._max_detections]
        fit = fit_image(size, self._preprocessing)
        corners = fit.image_from_input(found.corners[rows].astype(np.float64))
        return Boxes(corners, found.classes[rows], found.scores[rows].astype(np.float64))

    def _note_change(self, variant: str, sample: str, before: ImageMatches, after: ImageMatches) -> None:
        was, now = ImageAnswer(before), ImageAnswer(after)
        kind: Literal["broken", "fixed", "changed"] = "changed"
        moved = abs(now.precision - was.precision)
        if moved >= CHANGED_POINTS:
            kind = "broken" if now.precision < was.precision else "fixed"
        elif (was.found, was.num_false) == (now.found, now.num_false):
            return
        self._changes.add(
            ChangedSample(
                variant=variant,
                sample=sample,
                kind=kind,
                truth=self._describe(before.object_classes),
                before=was.describe(),
                after=now.describe(),
                severity=moved,
            )
        )

    def _describe(self, classes: npt.NDArray[np.int32]) -> str:
        """``3 objects: 2 dog, 1 cat``."""
        if not len(classes):
            return "no object"
        counts = Counter(classes.tolist()).most_common()
        shown = ", ".join(f"{count} {class_title(self._names, index)}" for index, count in counts[:3])
        more = f" and {len(counts) - 3} more classes" if len(counts) > 3 else ""
        return f"{len(classes)} object{'s' if len(classes) > 1 else ''}: {shown}{more}"


TASKS["detect"] = Detection
