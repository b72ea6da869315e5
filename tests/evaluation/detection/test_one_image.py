from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.evaluation.detection.average_precision import WeightedPrecision, mean_of
from quantkit.evaluation.detection.matching import ImageMatches, match_images
from quantkit.evaluation.detection.one_image import ImageAnswer, image_precision
from quantkit.types import Boxes


def boxes(corners, *, scores=None, classes=None, crowds=None):
    corners = np.array(corners, np.float64).reshape(-1, 4)
    classes = np.zeros(len(corners), np.int64) if classes is None else np.array(classes, np.int64)
    return Boxes(corners, classes, None if scores is None else np.array(scores, np.float64), crowds)


def matches(truth, found):
    return match_images([truth], [found])[0]


A, B, AWAY = [0, 0, 10, 10], [20, 0, 30, 10], [60, 60, 70, 70]


def test_shifted_box_counts_up_to_its_iou():
    """IoU 8 / 12: found at 0.50, 0.55, 0.60 and 0.65."""
    assert image_precision(matches(boxes([A]), boxes([[2, 0, 12, 10]], scores=[0.9]))) == pytest.approx(4 / 10)


def test_false_positives_count_if_ranked_above_an_object():
    truth = boxes([A, B])
    for scores, classes, expected in [
        ([0.9, 0.8, 0.1], [0, 0, 0], 1),
        ([0.9, 0.7, 0.8], [0, 0, 0], (1 + 2 / 3) / 2),
        ([0.9, 0.7, 0.8], [0, 0, 5], (1 + 2 / 3) / 2),
        ([0.8, 0.7, 0.9], [0, 0, 5], (2 / 3 + 2 / 3) / 2),
    ]:
        found = matches(truth, boxes([A, B, AWAY], scores=scores, classes=classes))
        assert image_precision(found) == pytest.approx(expected)
    assert image_precision(matches(truth, boxes([A], scores=[0.9]))) == 0.5
    assert image_precision(matches(truth, boxes([]))) == 0


def test_image_without_objects_scores_by_its_highest_box():
    assert image_precision(matches(boxes([]), boxes([A, B], scores=[0.2, 0.7]))) == pytest.approx(0.3)
    assert image_precision(matches(boxes([]), boxes([]))) == 1
    crowd = boxes([A], crowds=np.array([True]))
    assert image_precision(matches(crowd, boxes([A], scores=[0.9]))) == 1


def test_detection_on_a_crowd_is_ignored():
    truth = boxes([A, B], crowds=np.array([True, False]))
    image = matches(truth, boxes([A, B], scores=[0.9, 0.8]))
    assert image_precision(image) == 1
    assert ImageAnswer(image).describe() == "AP 100.0%, 1 of 1 found, 0 false"


@given(st.integers(0, 10_000))
def test_single_class_ap_equals_coco_without_recall_sampling(seed):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 80, (rng.integers(1, 6), 2))
    truth = np.concatenate((start, start + rng.uniform(5, 20, start.shape)), axis=1)
    near = truth[rng.integers(0, len(truth), 8)] + rng.normal(0, 1.5, (8, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    image = matches(boxes(truth), boxes(near, scores=rng.uniform(0.05, 1, 8)))
    assert image_precision(image) == pytest.approx(mean_of(WeightedPrecision([image], 1).compute()), abs=0.011)


def test_equal_scores_keep_their_order():
    bits = np.array([0, 1023], np.uint16)
    image = ImageMatches(
        classes=np.array([0, 0], np.int32),
        scores=np.array([0.5, 0.5], np.float32),
        matched=bits,
        ignored=np.zeros(2, np.uint16),
        objects=np.array([0]),
        object_classes=np.array([0], np.int32),
        found_by=np.array([1], np.int32),
    )
    assert image_precision(image) == 0.5
