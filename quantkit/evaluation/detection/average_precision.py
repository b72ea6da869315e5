"""COCO's average precision of matched images, weighted by any weights. Matching is left to `matching`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.bootstrap import NUM_DRAWS, draw_weights, percentile_interval
from quantkit.evaluation.detection.matching import IOU_THRESHOLDS, ImageMatches

_Indices = npt.NDArray[np.int64]

_RECALLS: npt.NDArray[np.float64] = np.linspace(0, 1, 101)
"""COCO's 101 recalls at which the precision is read."""
_LEAST_DRAWS = 100
_BUDGET = 3_000_000_000
"""Numbers that all draws may add up together: about ten seconds."""
_COST_OF_HIT = 15
"""What a hit costs more than a detection that only counts as false."""


class WeightedPrecision:
    """Average precision of each class at each IoU threshold, where an image counts as often as its weight says.

    With weights of 1 it is what pycocotools computes; with the draws of a bootstrap, what it would compute on images
    that are repeated so often (but for the order of equal scores within one image, which repeating would change).
    Precision falls between two hits, so only hits can decide the precision at a recall.

    Args:
        images: one entry for each image.
        num_classes: K; detections of other classes do not matter.
    """

    def __init__(self, images: Sequence[ImageMatches], num_classes: int) -> None:
        self._num_classes = num_classes
        self.num_images = len(images)
        self._objects = _join([i.object_classes for i in images])
        self._object_image = _images_of([i.object_classes for i in images])
        classes = _join([i.classes for i in images])
        order = np.lexsort((-np.concatenate([i.scores for i in images]), classes))
        order = order[(classes[order] >= 0) & (classes[order] < num_classes)]
        ignored = _join([i.ignored for i in images])[order]
        matched = _join([i.matched for i in images])[order] & ~ignored
        classes, image = classes[order], _images_of([i.classes for i in images])[order]
        keep = _before_last_hit(classes, matched > 0)
        classes, self._image, matched, ignored = classes[keep], image[keep], matched[keep], ignored[keep]
        starts = np.searchsorted(classes, np.arange(num_classes))
        thresholds = range(len(IOU_THRESHOLDS))
        hits = [np.flatnonzero(matched >> t & 1) for t in thresholds]
        away = [np.flatnonzero(ignored >> t & 1) for t in thresholds]
        self._hit = np.concatenate(hits)
        self._hit_image, self._hit_class = self._image[self._hit], classes[self._hit]
        self._segment = np.repeat(thresholds, [len(h) for h in hits]) * num_classes + self._hit_class
        self._segment_start = np.searchsorted(self._segment, self._segment)
        self._class_start = starts[self._hit_class]
        self._away_image = self._image[np.concatenate(away)]
        self._away_before, self._away_start = _positions(hits, away, [starts[classes[h]] for h in hits])

    @property
    def work(self) -> int:
        """Roughly how many numbers one weighting adds up."""
        return len(self._image) + _COST_OF_HIT * len(self._hit) + len(self._objects)

    def compute(self, weights: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Average precision [10, K], 0 to 1; NaN for classes without an object in images of any weight.

        Args:
            weights: how often each image counts, [num_images]; once if not given.
        """
        if weights is None:
            weights = np.ones(self.num_images, np.int64)
        objects = np.bincount(self._objects, weights[self._object_image], minlength=self._num_classes)
        shape = (len(IOU_THRESHOLDS), self._num_classes)
        best = np.zeros((shape[0] * shape[1], len(_RECALLS)), np.float64)
        if self._hit.size:
            seen = _running(weights[self._image])
            hits = _running(weights[self._hit_image])
            away = _running(weights[self._away_image])
            found = hits[1:] - hits[self._segment_start]
            counted = seen[self._hit + 1] - seen[self._class_start]
            counted = counted - (away[self._away_before] - away[self._away_start])
            precision = found / (counted + np.spacing(1))
            with np.errstate(invalid="ignore", divide="ignore"):
                recall = np.nan_to_num(found / objects[self._hit_class])
            cell = self._segment * len(_RECALLS) + _last_reached(recall)
            firsts = np.flatnonzero(np.diff(cell, prepend=-1))
            best.reshape(-1)[cell[firsts]] = np.maximum.reduceat(precision, firsts)
        envelope = np.maximum.accumulate(best[:, ::-1], axis=1)
        result: npt.NDArray[np.float64] = envelope.mean(axis=1).reshape(shape)
        result[:, objects == 0] = np.nan
        return result


def count_differing(baseline: Sequence[ImageMatches], variant: Sequence[ImageMatches]) -> int:
    """Images in which other detections match: of other classes, in another order, or on objects at other thresholds.

    Scores alone are no difference: each of them is another number in a quantized model, whatever it finds.
    """
    return sum(
        not all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("classes", "matched", "ignored"))
        for a, b in zip(baseline, variant, strict=True)
    )


def plan_draws(scores: Mapping[str, WeightedPrecision]) -> int:
    """How many draws the data allows: the usual number, fewer where one is so much work that it would take minutes.

    It depends on the data and the variants alone, so that the same gives the same interval on every machine.
    """
    work = sum(score.work for score in scores.values())
    return int(np.clip(_BUDGET // max(work, 1), _LEAST_DRAWS, NUM_DRAWS))


def difference_intervals(scores: Mapping[str, WeightedPrecision], *, num_draws: int) -> dict[str, tuple[float, float]]:
    """95% interval of each variant's mAP less that of the first, by a paired bootstrap over images.

    It is the basic interval: the percentiles of the draws, turned around the difference that was measured. Average
    precision comes out higher on few images than on many, and on drawn images again higher than on these; the plain
    percentiles would count that twice. Source: Davison and Hinkley (1997), Bootstrap Methods and their Application,
    5.2.

    Raises:
        ValueError: no draw holds an object.
    """
    (_, reference), *others = scores.items()
    differences: dict[str, list[float]] = {name: [] for name, _ in others}
    for weights in draw_weights(reference.num_images, num_draws=num_draws):
        expected = mean_of(reference.compute(weights))
        for name, score in others:
            differences[name].append(mean_of(score.compute(weights)) - expected)
    measured = mean_of(reference.compute())
    intervals = {}
    for name, score in others:
        low, high = percentile_interval(differences[name])
        difference = mean_of(score.compute()) - measured
        # Where few images are drawn, all draws may lie on one side of what was measured.
        intervals[name] = (min(2 * difference - high, difference), max(2 * difference - low, difference))
    return intervals


def mean_of(precisions: npt.NDArray[np.float64]) -> float:
    """Mean over classes that have objects, and thresholds if there are several; NaN where there are none."""
    known = precisions[np.isfinite(precisions)]
    return float(known.mean()) if known.size else float("nan")


def _positions(
    hits: Sequence[_Indices], away: Sequence[_Indices], class_starts: Sequence[_Indices]
) -> tuple[_Indices, _Indices]:
    """For each hit: which of all ignored detections is the first after it, and the first of its class and threshold."""
    bases = np.cumsum([0, *(len(a) for a in away)])[:-1]
    before = [base + np.searchsorted(a, h) for base, a, h in zip(bases, away, hits, strict=True)]
    first = [base + np.searchsorted(a, s) for base, a, s in zip(bases, away, class_starts, strict=True)]
    return np.concatenate(before), np.concatenate(first)


def _before_last_hit(classes: _Indices, is_hit: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which detections, sorted by class, are not below the last hit of their class: the others change nothing."""
    last = np.full(int(classes.max(initial=-1)) + 1, -1)
    rows = np.flatnonzero(is_hit)
    last[classes[rows]] = rows  # of several, the last one is kept
    result: npt.NDArray[np.bool_] = np.arange(len(classes)) <= last[classes]
    return result


def _last_reached(recalls: npt.NDArray[np.float64]) -> _Indices:
    """Index of the largest of COCO's recalls that each of `recalls` reaches."""
    places = (recalls * (len(_RECALLS) - 1)).astype(np.int64)
    # One more or less where the product was rounded.
    places += recalls >= _RECALLS[np.minimum(places + 1, len(_RECALLS) - 1)]
    np.minimum(places, len(_RECALLS) - 1, out=places)
    places -= recalls < _RECALLS[places]
    return places


def _running(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sums of the first 0, 1, ... values."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _images_of(parts: Sequence[npt.NDArray[np.int32]]) -> _Indices:
    """The image that each element of the joined parts is of."""
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _join(parts: Sequence[npt.NDArray[Any]]) -> _Indices:
    return np.concatenate(parts).astype(np.int64)
