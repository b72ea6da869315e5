"""Raw outputs of detectors: found by their values, errors against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.notices import Notice
from quantkit.refinement.damage import OutputDamage
from quantkit.refinement.raw_boxes import RawBoxes, find_boxes

ROWS, CLASSES = 60, 5


def detections(seed: int = 0, num_images: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centers and sizes [N, B, 4] in pixels, objectness [N, B, 1] and conditional probabilities [N, B, C]."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate((rng.uniform(0, 300, (num_images, ROWS, 2)), rng.uniform(10, 90, (num_images, ROWS, 2))), 2)
    objectness = np.where(rng.uniform(size=(num_images, ROWS, 1)) < 0.1, 0.8, 0.001)
    classes = rng.dirichlet(np.full(CLASSES, 0.2), (num_images, ROWS)) * 0.99
    return tuple(np.asarray(a, np.float32) for a in (boxes, objectness, classes))  # type: ignore[return-value]


def batches(**outputs: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{name: array[i : i + 2] for name, array in outputs.items()} for i in range(0, 4, 2)]


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2), axis=-1)


def values(name: str, axis: int) -> MeasuredOutput:
    return MeasuredOutput(name, "values", axis)


ALL = tuple(range(CLASSES))


def test_rows_with_objectness_are_found() -> None:
    boxes, objectness, classes = detections()
    rows = np.concatenate((boxes, objectness, classes), axis=2)
    expected = RawBoxes("y", "y", 2, (0, 1, 2, 3), tuple(5 + c for c in ALL), objectness=("y", 4))
    assert find_boxes([values("y", 2)], batches(y=rows)) == (expected,)


def test_columns_of_classes_alone_are_found() -> None:
    boxes, objectness, classes = detections()
    columns = np.concatenate((boxes, objectness * classes), axis=2)
    expected = RawBoxes("y", "y", 1, (0, 1, 2, 3), tuple(4 + c for c in ALL))
    assert find_boxes([values("y", 1)], batches(y=columns.swapaxes(1, 2))) == (expected,)
    expected = RawBoxes("y", "y", 2, (0, 1, 2, 3), tuple(4 + c for c in ALL))
    assert find_boxes([values("y", 2)], batches(y=columns)) == (expected,)


def test_outputs_that_are_empty_on_a_batch_are_no_boxes() -> None:
    boxes, _, classes = detections()
    full, other = batches(boxes=boxes, scores=classes)
    outputs = [values("boxes", 2), values("scores", 2)]
    assert find_boxes(outputs, [full, other])
    assert find_boxes(outputs, [full, {name: array[:, :0] for name, array in other.items()}]) == ()


def test_maps_whose_objectness_comes_first_are_found() -> None:
    boxes, objectness, classes = detections()
    maps = np.concatenate((objectness, boxes, classes), axis=2).swapaxes(1, 2).reshape(4, -1, 6, 10)
    expected = RawBoxes("y", "y", 1, (1, 2, 3, 4), tuple(5 + c for c in ALL), objectness=("y", 0))
    assert find_boxes([values("y", 1)], batches(y=maps)) == (expected,)


def test_scores_are_paired_with_boxes_of_as_many_rows() -> None:
    boxes, objectness, classes = detections()
    rng = np.random.default_rng(0)
    scores, sides = objectness * classes, rng.normal(size=(4, ROWS, 32)).astype(np.float32)
    outputs = {"s0": scores, "s1": scores[:, :20], "b0": sides, "b1": sides[:, :20]}
    found = find_boxes([values(name, 2) for name in outputs], batches(**outputs))
    assert {(b.boxes, b.scores, len(b.columns)) for b in found} == {("b0", "s0", 32), ("b1", "s1", 32)}
    background = np.concatenate((1 - scores.sum(axis=2, keepdims=True), scores), axis=2)
    outputs = {"s": background, "b": corners(boxes) / 400}
    kinds = [MeasuredOutput("s", "probabilities", -1), values("b", 2)]
    assert find_boxes(kinds, batches(**outputs)) == (RawBoxes("b", "s", -1, (0, 1, 2, 3), tuple(1 + c for c in ALL)),)


def test_points_and_objectness_of_their_own_are_found() -> None:
    """As face detectors have them: YuNet, SCRFD, RetinaFace."""
    boxes, objectness, classes = detections()
    points = np.random.default_rng(0).normal(size=(4, ROWS, 10)).astype(np.float32)
    outputs = {"cls": classes[..., :1], "obj": objectness, "box": boxes, "kps": points}
    outputs |= {f"{name}_2": array[:, :20] for name, array in outputs.items()}
    outputs["kps_2"] = np.clip(outputs["kps_2"], 0, 1)  # as by chance on a coarse grid
    expected = RawBoxes("box", "cls", 2, (0, 1, 2, 3), (0,), objectness=("obj", 0), points="kps")
    found = find_boxes([values(name, 2) for name in outputs], batches(**outputs))
    assert found == (expected, RawBoxes("box_2", "cls_2", 2, (0, 1, 2, 3), (0,), ("obj_2", 0), "kps_2"))
    coordinates, scores = found[0].read(batches(**outputs)[1])
    np.testing.assert_array_equal(coordinates, np.concatenate((boxes, points), axis=2)[2:].reshape(-1, 14))
    np.testing.assert_array_equal(scores, (classes[..., :1] * objectness)[2:].reshape(-1, 1))
    outputs["kps_2"] = points[:, :20]
    del outputs["obj"], outputs["obj_2"]
    faces = find_boxes([values(name, 2) for name in outputs], batches(**outputs))
    assert [(f.objectness, f.points) for f in faces] == [(None, "kps"), (None, "kps_2")]
    outputs["features"] = points[..., :6]
    assert find_boxes([values(name, 2) for name in outputs], batches(**outputs)) == ()


@pytest.mark.parametrize("shape", [(4, 20, 16), (4, 6, 12, 12), (4, 16)])
def test_nothing_else_is_taken_for_boxes(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for y in (array, np.clip(array, 0, 1)):
        assert find_boxes([values("y", 1)], batches(y=y)) == ()
    boxes, objectness, classes = detections()
    assert find_boxes([values("y", 1), values("b", 2)], batches(y=array, b=boxes)) == ()
    features = np.random.default_rng(0).normal(size=(4, ROWS, 256)).astype(np.float32)
    assert find_boxes([values("s", 2), values("f", 2)], batches(s=objectness * classes, f=features)) == ()


@pytest.mark.parametrize("form", ["corners", "sizes", "logarithms"])
def test_errors_of_scores_and_boxes_by_the_formula(form: str) -> None:
    boxes, objectness, classes = detections()
    rng = np.random.default_rng(1)
    sizes = boxes[..., 2:].prod(axis=2)
    units = np.repeat(sizes[..., None], 4, axis=2)
    if form == "corners":
        boxes = corners(boxes)
    elif form == "logarithms":
        boxes[..., 2:] = np.log(boxes[..., 2:] / 32)
        units = np.stack((sizes / 32**2, sizes / 32**2, np.ones_like(sizes), np.ones_like(sizes)), axis=2)
    rows = np.concatenate((boxes, objectness, classes), axis=2)
    got = rows + rng.normal(size=rows.shape).astype(np.float32) * 0.01
    scores, after = (r[..., 4:5] * r[..., 5:] for r in (rows, got))
    weights = scores.max(axis=2) ** 2
    missed, signal = np.square(after - scores).sum(), np.square(scores).sum()
    moved = (weights[..., None] * np.square(got[..., :4] - boxes) / units).sum()
    expected = (missed / (missed + signal) + moved / (moved + weights.sum())) / 2
    damage = OutputDamage([values("y", 2)], batches(y=rows))
    assert str(damage.boxes) == "boxes with 5 scores times objectness"
    assert damage.of(batches(y=got)) == pytest.approx(expected, rel=1e-3)
    assert damage.of(batches(y=rows)) == 0
    assert damage.of(batches(y=np.full_like(got, np.nan))) == 1


@pytest.mark.parametrize("form", ["distances", "logarithms"])
def test_errors_of_points_by_the_formula(form: str) -> None:
    boxes, objectness, classes = detections()
    rng = np.random.default_rng(1)
    boxes, points = boxes / 100, rng.normal(size=(4, ROWS, 10)).astype(np.float32)
    scores = classes * objectness
    weights = scores.max(axis=2) ** 2
    if form == "distances":
        boxes[objectness[..., 0] < 0.5] -= 0.5  # some of background are below 0
        areas = (boxes[..., :2] + boxes[..., 2:]).prod(axis=2)
        least = 0.01 * (weights * areas).sum() / weights.sum()
        units = np.repeat(np.maximum(areas, least)[..., None], 14, axis=2)
    else:
        boxes[..., 2:] = np.log(boxes[..., 2:])
        areas, mean = np.exp(boxes[..., 2:].sum(axis=2)), np.average(points, axis=(0, 1), weights=weights)
        spread = np.average(np.square(points - mean), axis=(0, 1), weights=weights)
        units = np.concatenate((np.stack((areas, areas, 0 * areas + 1, 0 * areas + 1), axis=2), 0 * points + spread), 2)
    outputs = {"s": scores, "b": boxes, "p": points}
    got = {name: array + rng.normal(size=array.shape).astype(np.float32) * 0.01 for name, array in outputs.items()}
    missed, signal = np.square(got["s"] - scores).sum(), np.square(scores).sum()
    errors = np.concatenate((got["b"] - boxes, got["p"] - points), axis=2)
    moved = 4 * (weights * (np.square(errors) / units).mean(axis=2)).sum()
    expected = (missed / (missed + signal) + moved / (moved + weights.sum())) / 2
    damage = OutputDamage([values(name, 2) for name in outputs], batches(**outputs))
    assert str(damage.boxes) == "boxes with 5 scores and points"
    assert damage.of(batches(**got)) == pytest.approx(expected, rel=1e-3)


def test_samples_in_which_something_is_detected_are_counted() -> None:
    """Choices fit only what these show: a face detector is to be calibrated on faces."""
    boxes, objectness, classes = detections()
    scores = 0.4 * classes * objectness
    scores[1, 7, 2], scores[2, 8, 0], scores[2, 3, 1] = 0.5, 0.9, 0.6
    heard: list[Notice] = []
    outputs = {"s": scores, "b": boxes, "s_2": 0.1 * scores[:, :20], "b_2": boxes[:, :20]}
    damage = OutputDamage([values(name, 2) for name in outputs], batches(**outputs), heard.append)
    assert damage.boxes is not None
    assert damage.boxes.detects.tolist() == [False, True, True, False]
    assert [notice.text for notice in heard] == [
        "the outputs are boxes with 5 scores: their errors count where something is detected (2 of 4 samples have a "
        "score of 0.5 or more)"
    ]


def test_what_is_detected_counts_more_than_background() -> None:
    """By a mean over channels, classes of which there is none would count as much as boxes of what there is."""
    boxes, objectness, classes = detections()
    classes[..., 0], classes[..., 1:] = 0.9, 0.01 * classes[..., 1:]
    rows = np.concatenate((boxes, objectness, classes), axis=2)
    background, moved = rows.copy(), rows.copy()
    background[..., 6:] += np.where(objectness < 0.5, 0.01, 0).astype(np.float32)
    moved[..., :2] += np.where(objectness > 0.5, 0.2, 0).astype(np.float32) * boxes[..., 2:]
    damage = OutputDamage([values("y", 2)], batches(y=rows))
    assert damage.of(batches(y=moved)) > 100 * damage.of(batches(y=background))
