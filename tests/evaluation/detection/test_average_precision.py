from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.evaluation.bootstrap import draw_weights
from quantkit.evaluation.detection import WeightedPrecision, match_images
from quantkit.evaluation.detection.average_precision import difference_intervals, mean_of, plan_draws
from quantkit.evaluation.detection.matching import IOU_THRESHOLDS
from quantkit.types import Boxes

NUM_CLASSES = 4


def make_scene(seed, num_images=8, *, noise=6.0, crowds=0.1):
    """Annotated boxes, and detections of which some are near them; many scores are equal."""
    generator = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(num_images):
        count = int(generator.integers(0, 6))
        starts = generator.uniform(0, 200, (count, 2))
        corners = np.concatenate((starts, starts + generator.uniform(20, 80, (count, 2))), axis=1)
        classes = generator.integers(0, NUM_CLASSES - 1, count)  # the last one is never annotated
        crowd = generator.random(count) < crowds
        truths.append(Boxes(corners, classes, crowds=crowd if crowd.any() else None))
        near = np.repeat(np.arange(count), 2)
        boxes = corners[near] + generator.normal(0, noise, (len(near), 4))
        false = generator.uniform(0, 200, (5, 2))
        boxes = np.concatenate((boxes, np.concatenate((false, false + 40), axis=1)))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
        kinds = np.concatenate((classes[near], generator.integers(0, NUM_CLASSES, 5)))
        scores = generator.integers(1, 20, len(boxes)) / 20
        found.append(Boxes(boxes, kinds, scores))
    return truths, found


def by_pycocotools(truths, found):
    """AP [10, K] of pycocotools from end to end, with its own reading, matching and averaging; NaN for no object."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(images):
        for image, boxes in enumerate(images):
            for row, (left, top, right, bottom) in enumerate(boxes.corners.tolist()):
                yield {
                    "image_id": image,
                    "category_id": int(boxes.classes[row]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "score": 0.0 if boxes.scores is None else float(boxes.scores[row]),
                    "iscrowd": 0 if boxes.crowds is None else int(boxes.crowds[row]),
                }

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": index} for index in range(NUM_CLASSES)],
            "annotations": [{"id": number + 1, **entry} for number, entry in enumerate(entries(truths))],
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(list(entries(found))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    result = precision.mean(axis=1)
    result[precision[:, 0] < 0] = np.nan
    return result, evaluation.stats


@given(seed=st.integers(0, 2**32 - 1))
def test_average_precision_equals_pycocotools(seed):
    truths, found = make_scene(seed)
    precisions = WeightedPrecision(match_images(truths, found), NUM_CLASSES).compute()
    expected, stats = by_pycocotools(truths, found)
    np.testing.assert_allclose(precisions, expected, rtol=0, atol=1e-12)
    if np.isfinite(expected).any():
        assert mean_of(precisions) == pytest.approx(stats[0], abs=1e-12)
        assert mean_of(precisions[0]) == pytest.approx(stats[1], abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_weights_equal_repeated_images(seed):
    truths, found = make_scene(seed)
    generator = np.random.default_rng(seed)
    # Equal scores in different images, but not within one.
    found = [Boxes(b.corners, b.classes, generator.permutation(len(b)) / 20) for b in found]
    weights = np.random.default_rng(seed).integers(0, 4, len(truths))
    weights[0] += not weights.any()
    again = np.repeat(np.arange(len(truths)), weights)
    expected, _ = by_pycocotools([truths[i] for i in again], [found[i] for i in again])
    precisions = WeightedPrecision(match_images(truths, found), NUM_CLASSES).compute(weights)
    np.testing.assert_allclose(precisions, expected, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 7))
def test_images_may_be_matched_in_any_batches(seed, cut):
    truths, found = make_scene(seed)
    whole = match_images(truths, found)
    parts = match_images(truths[:cut], found[:cut]) + match_images(truths[cut:], found[cut:])
    for one, other in zip(whole, parts, strict=True):
        for name in ("classes", "scores", "matched", "ignored", "objects", "object_classes", "found_by"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def boxes(corners, classes, scores=None, crowds=None):
    return Boxes(
        np.array(corners, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
        None if scores is None else np.array(scores, np.float64),
        None if crowds is None else np.array(crowds, np.bool_),
    )


def test_average_precision_of_a_worked_example():
    """Two objects; found: one exactly, one false between, the other at IoU 0.8.

    Precision is 1 up to recall 1/2 (recalls 0.00 to 0.50: 51 of 101); then 2/3 where 0.8 is enough (7 of 10
    thresholds), else 0.
    """
    truths = [boxes([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])]
    found = [boxes([[0, 0, 10, 10], [30, 30, 40, 40], [50, 50, 60, 58]], [0, 0, 0], [0.9, 0.8, 0.7])]
    (matches,) = match_images(truths, found)
    assert matches.matched.tolist() == [0b11_1111_1111, 0, 0b111_1111]
    assert matches.found_by.tolist() == [0, 2]
    precisions = WeightedPrecision([matches], 1).compute()[:, 0]
    assert precisions[:7] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert precisions[7:] == pytest.approx(51 / 101)


def test_an_object_is_found_from_half_overlap_on():
    truths = [boxes([[0, 0, 100, 100], [200, 0, 300, 100]], [0, 0])]
    found = [boxes([[0, 0, 100, 52], [200, 0, 300, 48]], [0, 0], [0.9, 0.8])]
    (matches,) = match_images(truths, found)
    assert (matches.matched.tolist(), matches.found_by.tolist()) == ([1, 0], [0, -1])


def test_a_crowd_counts_neither_as_found_nor_as_missed():
    truths = [boxes([[0, 0, 10, 10], [20, 20, 90, 90]], [0, 0], crowds=[False, True])]
    found = [boxes([[30, 30, 40, 40], [50, 50, 60, 60], [0, 0, 10, 10]], [0, 0, 0], [0.9, 0.8, 0.7])]
    (matches,) = match_images(truths, found)
    assert matches.ignored.tolist() == [1023, 1023, 0]
    assert matches.objects.tolist() == [0]
    assert WeightedPrecision([matches], 1).compute() == pytest.approx(1.0)


def test_classes_without_objects_are_left_out():
    truths, found = [boxes([[0, 0, 10, 10]], [1])], [boxes([[0, 0, 10, 10]] * 2, [1, 0], [0.5, 0.9])]
    precisions = WeightedPrecision(match_images(truths, found), 3).compute()
    assert np.isnan(precisions[0]).tolist() == [True, False, True]
    assert mean_of(precisions) == pytest.approx(1.0)


def test_no_detections_score_zero_and_no_objects_have_no_score():
    nothing = boxes([], [], [])
    assert mean_of(WeightedPrecision(match_images([boxes([[0, 0, 9, 9]], [0])], [nothing]), 1).compute()) == 0.0
    empty = WeightedPrecision(match_images([boxes([], [])], [nothing]), 1)
    assert np.isnan(mean_of(empty.compute()))
    with pytest.raises(ValueError, match="no draw"):
        difference_intervals({"a": empty, "b": empty}, num_draws=10)


def test_unknown_class_changes_nothing():
    truths, found = make_scene(3)
    odd = [Boxes(b.corners, np.where(b.classes == NUM_CLASSES - 1, 900, b.classes), b.scores) for b in found]
    one, other = (WeightedPrecision(match_images(truths, f), NUM_CLASSES).compute() for f in (found, odd))
    np.testing.assert_array_equal(one, other)


def test_interval_is_paired_and_contains_the_difference():
    truths, found = make_scene(1, 120)
    _, worse = make_scene(1, 120, noise=12.0)
    scores = {n: WeightedPrecision(match_images(truths, f), NUM_CLASSES) for n, f in (("a", found), ("b", worse))}
    intervals = difference_intervals(scores | {"same": scores["a"]}, num_draws=200)
    difference = mean_of(scores["b"].compute()) - mean_of(scores["a"].compute())
    low, high = intervals["b"]
    assert low < difference < high < 0
    assert intervals["same"] == (0.0, 0.0)
    by_hand = [
        mean_of(scores["b"].compute(weights)) - mean_of(scores["a"].compute(weights))
        for weights in draw_weights(120, num_draws=200)
    ]
    assert (low, high) == pytest.approx(tuple(2 * difference - np.quantile(by_hand, (0.975, 0.025))))


@pytest.mark.slow
def test_interval_has_nominal_coverage():
    """Of many samples of 40 images, the interval holds the difference on all 1,600 images in about 95%."""
    truths, found = make_scene(5, 1600, crowds=0.0)
    _, worse = make_scene(5, 1600, noise=8.0, crowds=0.0)
    all_a, all_b = match_images(truths, found), match_images(truths, worse)
    whole = [mean_of(WeightedPrecision(m, NUM_CLASSES).compute()) for m in (all_a, all_b)]
    held = 0
    for start in range(0, 1600, 40):
        part = slice(start, start + 40)
        scores = {"a": WeightedPrecision(all_a[part], NUM_CLASSES), "b": WeightedPrecision(all_b[part], NUM_CLASSES)}
        low, high = difference_intervals(scores, num_draws=100)["b"]
        held += low <= whole[1] - whole[0] <= high
    assert held >= 34  # of 40; with 95%, fewer come in one of 250 runs


def test_draws_depend_on_the_amount_of_data_alone():
    truths, found = make_scene(1)
    score = WeightedPrecision(match_images(truths, found), NUM_CLASSES)
    assert plan_draws({"a": score}) == 1000
    assert len(IOU_THRESHOLDS) == 10


def test_large_data_gets_fewer_draws():
    class Huge(WeightedPrecision):
        @property
        def work(self):
            return 10**9

    assert plan_draws({"a": Huge(match_images([boxes([], [])], [boxes([], [], [])]), 1)}) == 100


def test_nothing_is_printed(capfd):
    match_images(*make_scene(0))
    assert capfd.readouterr() == ("", "")
