from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.evaluation.detection import LAYOUTS, parse_layout
from quantkit.evaluation.detection.decoding import Frame
from quantkit.numerics import fit_image
from quantkit.types import Preprocessing
from tests.evaluation.detection.encoding import ENCODERS, SIDE
from tests.geometry import input_from_image

NUM_CLASSES = 3


def decode(name, outputs, num_samples, *, num_classes=NUM_CLASSES, threshold=0.001, is_checked=True):
    declared = parse_layout(name)
    bound = declared.bind(outputs, num_samples=num_samples, num_classes=num_classes)
    frame = Frame(num_samples, (SIDE, SIDE), threshold, declared.options)
    return declared.decode(outputs, bound, frame, is_checked=is_checked)


@st.composite
def scenes(draw):
    """Image sizes, how they are fitted into the input, and boxes of each image in its pixels."""
    resize = draw(st.sampled_from(["stretch", "crop", "letterbox"]))
    preprocessing = Preprocessing((SIDE, SIDE), resize=resize, shorter_side=72 if resize == "crop" else None)
    images = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(60, 200), st.integers(60, 200)))
        count = draw(st.integers(0, 5))
        generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        starts = generator.uniform(0, 0.7, (count, 2))
        ends = starts + generator.uniform(0.1, 0.3, (count, 2))
        corners = np.concatenate((starts, ends), axis=1) * np.array([size[1], size[0]] * 2)
        scores = generator.permutation(np.linspace(0.1, 0.95, 18))[:count]
        images.append((size, corners, scores, generator.integers(0, NUM_CLASSES, count)))
    return preprocessing, images


def test_every_layout_has_an_encoder():
    assert ENCODERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
@given(scene=scenes())
def test_boxes_round_trip_through_layout_and_geometry(name, scene):
    preprocessing, images = scene
    fits = [fit_image(size, preprocessing) for size, *_ in images]
    raw = [(input_from_image(f, c), s, k) for f, (_, c, s, k) in zip(fits, images, strict=True)]
    found = decode(name, ENCODERS[name](raw, NUM_CLASSES), len(images))
    for fit, candidates, (_, corners, scores, classes) in zip(fits, found, images, strict=True):
        order = np.argsort(-candidates.scores)
        expected = np.argsort(-scores)
        assert candidates.classes[order].tolist() == classes[expected].tolist()
        assert candidates.scores[order] == pytest.approx(scores[expected], abs=1e-5)
        back = fit.image_from_input(candidates.corners[order].astype(np.float64))
        assert back == pytest.approx(corners[expected], abs=1e-2)
        assert candidates.non_finite == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_nan_is_dropped_and_counted(name):
    image = (np.array([[4, 4, 20, 20], [30, 30, 50, 60]], np.float64), np.array([0.9, 0.8]), np.array([1, 0]))
    outputs = ENCODERS[name]([image], NUM_CLASSES)
    key = next(k for k in outputs if "box" in k or k.startswith(("output", "dets")))
    values = outputs[key]
    values[values == values.flat[np.abs(values).argmax()]] = np.nan
    (found,) = decode(name, outputs, 1)
    assert len(found.scores) < 2
    assert found.non_finite >= 1
    assert np.isfinite(found.corners).all()


def test_half_precision_is_decoded():
    image = (np.array([[4, 4, 20, 20]], np.float64), np.array([0.875]), np.array([1]))
    outputs = {k: v.astype(np.float16) for k, v in ENCODERS["yolov8"]([image], NUM_CLASSES).items()}
    (found,) = decode("yolov8", outputs, 1)
    assert found.scores.dtype == np.float32
    assert found.corners.tolist() == [[4, 4, 20, 20]]


def test_rows_beyond_the_count_are_ignored():
    image = (np.array([[4, 4, 20, 20]], np.float64), np.array([0.5]), np.array([1]))
    (found,) = decode("tensorflow", ENCODERS["tensorflow"]([image], NUM_CLASSES), 1)
    assert found.scores.tolist() == [0.5]


def test_a_box_counts_for_each_class_above_the_threshold():
    output = np.zeros((1, 7, 20), np.float32)
    output[0, :4, 3] = 32, 32, 10, 10
    output[0, 4:, 3] = 0.5, 0.0625, 0.25
    (found,) = decode("yolov8", {"o": output}, 1, threshold=0.1)
    assert sorted(zip(found.classes.tolist(), found.scores.tolist(), strict=True)) == [(0, 0.5), (2, 0.25)]


def test_rows_without_a_batch_dimension_are_one_image():
    outputs = {
        "boxes": np.array([[1, 2, 30, 40]], np.float32),
        "labels": np.array([2], np.int64),
        "scores": np.array([0.7], np.float32),
    }
    (found,) = decode("torchvision", outputs, 1)
    assert (found.classes.tolist(), found.corners.tolist()) == ([1], [[1, 2, 30, 40]])


def test_empty_detections_are_decoded():
    outputs = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int64),
        "scores": np.zeros(0, np.float32),
    }
    (found,) = decode("torchvision", outputs, 1)
    assert len(found.scores) == 0
    assert [len(c.scores) for c in decode("yolov7-end2end", {"o": np.zeros((0, 7), np.float32)}, 2)] == [0, 0]
