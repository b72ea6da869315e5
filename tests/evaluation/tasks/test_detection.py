from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets import iterate_batches, open_dataset, resolve_preprocessing
from quantkit.datasets.boxes import open_boxes
from quantkit.errors import EvaluationError
from quantkit.evaluation.bootstrap import NUM_DRAWS
from quantkit.evaluation.run import evaluate
from quantkit.evaluation.tasks import TASKS, Task
from quantkit.evaluation.tasks.detection import Detection
from quantkit.numerics import fit_image
from quantkit.significance import DIFFERING
from quantkit.types import Batch, BoxAnnotations, Boxes, Preprocessing
from tests.detector import CLASSES, make_detector, make_images
from tests.evaluation.detection.encoding import ENCODERS, SIDE
from tests.geometry import input_from_image

LETTERBOX = Preprocessing((SIDE, SIDE), resize="letterbox")
SIZE = (96, 128)  # height, width of the images

CAT, DOG, OWL = ([8, 8, 40, 40], 0), ([60, 10, 110, 50], 1), ([10, 50, 50, 90], 2)
AWAY = ([70, 60, 120, 90], 0)


def boxes(objects, *, scores=None, divide=1):
    corners = np.array([corners for corners, _ in objects], np.float64).reshape(-1, 4) / divide
    return Boxes(corners, np.array([index for _, index in objects], np.int64), scores)


def annotate(images, *, classes=("cat", "dog", "owl"), **more):
    found = {f"{n}.png": boxes(objects) for n, objects in enumerate(images)}
    return BoxAnnotations("labels.json", found, classes, is_relative=False, fingerprint="0", **more)


def batch_of(count, size=SIZE, start=0):
    ids = tuple(f"{n}.png" for n in range(start, start + count))
    return Batch({"x": np.zeros((count, 1), np.float32)}, ids, image_sizes=(size,) * count)


def outputs(images, layout="yolov8", num_classes=3, preprocessing=LETTERBOX):
    """What a model would give for objects ((corners, class, score) in pixels of the image)."""
    fit = fit_image(SIZE, preprocessing)
    raw = [
        (
            input_from_image(fit, np.array([c for c, _, _ in image], np.float64).reshape(-1, 4)),
            np.array([score for _, _, score in image], np.float64),
            np.array([index for _, index, _ in image], np.int64),
        )
        for image in images
    ]
    return ENCODERS[layout](raw, num_classes)


def sure(*objects, score=0.9):
    return [(corners, index, score) for corners, index in objects]


TRUTH = [[CAT, DOG, OWL], [CAT], []]


def run(baseline, variant=None, *, truth=TRUTH, layout="yolov8", **options):
    task = Detection(annotate(truth), LETTERBOX, layout=layout, **options)
    found = {"fp32": outputs(baseline, layout)}
    if variant is not None:
        found["int8"] = outputs(variant, layout)
    task.update(batch_of(len(truth)), found)
    return task


RIGHT = [sure(CAT, DOG, OWL), sure(CAT), []]


def test_it_is_a_task():
    task: Task = Detection(annotate(TRUTH), LETTERBOX, layout="yolov8")
    assert TASKS["detect"] is Detection
    assert task.score is None


@pytest.mark.parametrize("layout", ENCODERS)
def test_perfect_detections_score_one_in_every_layout(layout):
    task = run(RIGHT, RIGHT, layout=layout)
    metrics = task.compute()
    assert metrics["fp32"]["map"] == pytest.approx(1)
    assert metrics["int8"]["map50"] == pytest.approx(1)
    assert metrics["fp32"]["num_detections"] == 4
    assert metrics["int8"][DIFFERING] == 0
    assert "map_difference_low" not in metrics["int8"].keys() | metrics["fp32"].keys()
    assert task.changes() == ()
    assert task.score is not None
    assert task.score.name == "map"


def test_only_where_rows_mean_the_same_raw_outputs_are_compared():
    aligned = {n for n in ENCODERS if Detection(annotate(TRUTH), LETTERBOX, layout=n).metrics}
    assert aligned == {"yolov5", "yolov8", "yolox", "detr", "ssd", "ssd-no-background"}
    assert set(run(RIGHT).metrics) == {"cosine", "sqnr", "non_finite"}
    assert run(RIGHT, layout="yolov10").compute()["fp32"]["non_finite"] == 0
    assert "non_finite" not in run(RIGHT).compute()["fp32"]


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
def test_boxes_go_back_to_the_image(resize):
    preprocessing = Preprocessing((SIDE, SIDE), resize=resize, shorter_side=64 if resize == "crop" else None)
    task = Detection(annotate([[([40, 20, 70, 60], 1)]]), preprocessing, layout="yolov8")
    task.update(batch_of(1), {"fp32": outputs([sure(([40, 20, 70, 60], 1))], preprocessing=preprocessing)})
    assert task.compute()["fp32"]["map"] == pytest.approx(1)


def test_relative_annotations_are_fractions_of_each_image():
    objects = boxes([CAT, DOG], divide=np.array([128, 96, 128, 96]))
    annotations = BoxAnnotations("labels", {"0.png": objects}, (), is_relative=True, fingerprint="0")
    task = Detection(annotations, LETTERBOX, layout="yolov8", class_names=("cat", "dog", "owl"))
    task.update(batch_of(1), {"fp32": outputs([sure(CAT, DOG)])})
    assert task.compute()["fp32"]["map"] == pytest.approx(1)
    assert [c.label for c in task.classes()] == ["cat", "dog"]


def test_each_class_has_its_ap_and_number_of_objects():
    task = run(RIGHT, [sure(CAT, DOG), sure(CAT), []])
    assert [(c.label, c.count) for c in task.classes()] == [("cat", 2), ("dog", 1), ("owl", 1)]
    assert [c.scores["int8"] for c in task.classes()] == pytest.approx([1, 1, 0])
    assert task.compute()["int8"]["map"] == pytest.approx(2 / 3)


def test_duplicates_are_removed_where_the_layout_leaves_them():
    twice = [[*sure(CAT), (np.array(CAT[0]) + 1.0, 0, 0.8)]]
    assert run(twice, truth=[[CAT]]).compute()["fp32"]["num_detections"] == 1
    assert run(twice, truth=[[CAT]], iou_threshold=1.0).compute()["fp32"]["num_detections"] == 2
    assert run(twice, truth=[[CAT]], layout="yolov10").compute()["fp32"]["num_detections"] == 2


def test_thresholds_and_limits_are_applied():
    image = [[*sure(CAT), *sure(DOG, score=0.5), *sure(OWL, score=0.1)]]
    for options, count in (({}, 3), ({"score_threshold": 0.3}, 2), ({"max_detections": 1}, 1)):
        for layout in ("yolov8", "yolov10"):
            task = run(image, truth=TRUTH[:1], layout=layout, **options)
            assert task.compute()["fp32"]["num_detections"] == count


def test_changes_say_what_is_found_before_and_after():
    after = [sure(CAT, AWAY), sure(CAT), sure(DOG)]
    task = run(RIGHT, after)
    changes = {c.sample: c for c in task.changes()}
    assert changes.keys() == {"0.png", "2.png"}
    first = changes["0.png"]
    assert (first.variant, first.kind, first.truth) == ("int8", "broken", "3 objects: 1 cat, 1 dog, 1 owl")
    assert (first.before, first.after) == ("AP 100.0%, 3 of 3 found, 0 false", "AP 33.3%, 1 of 3 found, 1 false")
    assert first.severity == pytest.approx(2 / 3)
    assert (changes["2.png"].truth, changes["2.png"].after) == ("no object", "AP 10.0%, nothing to find, 1 false")
    assert changes["2.png"].severity == pytest.approx(0.9)
    assert task.num_changes() == {"int8": {"broken": 2}}
    assert [c.kind for c in run(after, RIGHT).changes()] == ["fixed", "fixed"]


def test_another_object_at_the_same_precision_is_a_change():
    (change,) = run([sure(CAT, DOG), [], []], [sure(CAT, OWL), [], []]).changes()
    assert (change.kind, change.severity, change.before) == ("changed", 0, "AP 66.7%, 2 of 3 found, 0 false")


def test_broken_and_fixed_follow_the_score():
    """Fewer false boxes, every object still found at IoU 0.5, but all boxes beside their objects: mAP falls."""
    shifted = [([left + 8, top, right + 8, bottom], index) for (left, top, right, bottom), index in (CAT, DOG, OWL)]
    before = [[*sure(CAT, DOG, OWL), *sure(AWAY, score=0.3)], [*sure(CAT), *sure(AWAY, score=0.3)], []]
    task = run(before, [sure(*shifted), sure(shifted[0]), []])
    metrics = task.compute()
    assert metrics["int8"]["map"] < metrics["fp32"]["map"] - 0.3
    assert metrics["int8"]["map50"] == pytest.approx(1)
    assert task.num_changes() == {"int8": {"broken": 2}}
    assert task.changes()[0].after.endswith("3 of 3 found, 0 false") or task.changes()[0].sample == "1.png"


def test_largest_loss_comes_first():
    near = ([12, 8, 44, 40], 0)
    truth = [[CAT]] * 3
    task = run([sure(CAT)] * 3, [sure(near), [], sure(CAT, score=0.5)], truth=truth)
    assert [(c.sample, c.kind) for c in task.changes()] == [("1.png", "broken"), ("0.png", "broken")]
    assert [c.severity for c in task.changes()] == pytest.approx([1, 0.4])


def test_facts_count_the_objects_of_evaluated_images():
    crowded = replace(boxes([CAT, DOG]), crowds=np.array([False, True]))
    annotations = annotate([[CAT], [CAT, DOG, OWL], [CAT, DOG]])
    annotations = replace(annotations, boxes={**annotations.boxes, "1.png": crowded})
    task = Detection(annotations, LETTERBOX, layout="yolov8")
    assert task.facts == {"num_objects": 0}
    task.update(batch_of(2), {"fp32": outputs([sure(CAT), sure(CAT)])})
    assert task.facts == {"num_objects": 2}
    assert sum(c.count for c in task.classes()) == 2


def test_variant_with_another_layout_is_named():
    """The layout itself holds for the baseline: it is the variant that is another export."""
    task = Detection(annotate([[CAT]]), LETTERBOX, layout="yolov10")
    with pytest.raises(EvaluationError, match=r"^variant 'int8': output 'output0' \[1, 7, 40\] of 1 image"):
        task.update(
            batch_of(1), {"fp32": outputs([sure(CAT)], "yolov10"), "int8": {"output0": outputs([[]])["output0"]}}
        )


def test_changes_below_the_display_threshold_are_ignored():
    unsure = [[*sure(CAT, DOG, OWL), *sure(AWAY, score=0.2)], sure(CAT), []]
    assert run(RIGHT, unsure).changes() == ()
    low = [sure(CAT, DOG, OWL), sure(CAT, score=0.2), []]
    (change,) = run(RIGHT, low).changes()
    assert (change.kind, change.after) == ("changed", "AP 100.0%, 0 of 1 found, 0 false")


def test_crowd_is_ignored():
    annotations = annotate([[CAT]])
    crowd = replace(boxes([CAT, ([50, 0, 128, 96], 0)]), crowds=np.array([False, True]))
    task = Detection(replace(annotations, boxes={"0.png": crowd}), LETTERBOX, layout="yolov8")
    task.update(batch_of(1), {"fp32": outputs([sure(CAT)]), "int8": outputs([sure(CAT, AWAY)])})
    assert (task.compute()["int8"]["map"], task.changes()) == (pytest.approx(1), ())
    assert task.classes()[0].count == 1


def test_the_interval_is_paired_over_images():
    truth = [[CAT, DOG]] * 40
    baseline = [sure(CAT, DOG)] * 40
    variant = [sure(CAT) if n % 4 == 0 else sure(CAT, DOG) for n in range(40)]
    metrics = run(baseline, variant, truth=truth).compute()["int8"]
    difference = metrics["map"] - 1
    assert metrics["map_difference_low"] < difference < metrics["map_difference_high"] < 0
    assert metrics["map_difference_low"] > -0.3


def test_batches_add_up():
    whole = run(RIGHT, [sure(CAT), [], []])
    task = Detection(annotate(TRUTH), LETTERBOX, layout="yolov8")
    for start, stop in ((0, 1), (1, 3)):
        found = {"fp32": outputs(RIGHT[start:stop]), "int8": outputs([sure(CAT), [], []][start:stop])}
        task.update(batch_of(stop - start, start=start), found)
    assert task.compute() == whole.compute()
    assert task.changes() == whole.changes()


def test_nan_of_a_variant_is_counted_where_no_metric_does():
    task = Detection(annotate([[CAT]]), LETTERBOX, layout="yolov10")
    broken = outputs([sure(CAT)], "yolov10")
    broken["output0"][0, :2, 4] = np.nan
    task.update(batch_of(1), {"fp32": outputs([sure(CAT)], "yolov10"), "int8": broken})
    metrics = task.compute()["int8"]
    assert (metrics["non_finite"], metrics["map"], metrics["num_detections"]) == (2, 0, 0)


def test_new_class_is_a_false_positive():
    """The class of a row is a number among others, and is rounded with them."""
    task = Detection(annotate([[CAT]]), LETTERBOX, layout="yolov10")
    broken = outputs([sure(CAT)], "yolov10")
    broken["output0"][0, :, 5] = 900.4
    task.update(batch_of(1), {"fp32": outputs([sure(CAT)], "yolov10"), "int8": broken})
    assert task.compute()["int8"]["map"] == 0
    assert task.changes()[0].after == "AP 0.0%, 0 of 1 found, 1 false"


def test_no_objects_have_no_score():
    """An interrupted run may have seen images without objects alone."""
    task = run([sure(CAT)], [[]], truth=[[]])
    assert (task.score, task.classes()) == (None, ())
    assert task.compute()["int8"] == {"num_detections": 0}


def test_change_rule_is_a_definition():
    task = run(RIGHT)
    assert task.notes == ()
    assert "its own AP" in task.score.definition
    assert "at IoU 0.5 and score 0.25." in task.score.definition
    task._num_draws = NUM_DRAWS // 2
    assert "from 500 draws instead of 1000" in task.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 3.0}, "^--score-threshold 3.0 must be from 0 to 1$"),
        ({"iou_threshold": float("nan")}, "^--iou-threshold nan must be from 0 to 1$"),
        ({"max_detections": 0}, "^--max-detections 0 must be at least 1$"),
        ({"layout": "yolo"}, "there is no 'yolo': did you mean"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(EvaluationError, match=message):
        Detection(annotate(TRUTH), LETTERBOX, **{"layout": "yolov8", **options})


def update(task, found, batch=None):
    task.update(batch or batch_of(1), {"fp32": found})


def test_classes_must_be_the_models():
    task = Detection(annotate([[CAT]], classes=("cat", "dog")), LETTERBOX, layout="yolov8")
    with pytest.raises(EvaluationError, match=r"makes that 3 classes, but the annotations have 2: give .* --classes"):
        update(task, outputs([sure(CAT)]))
    unnamed = Detection(annotate([[([1, 1, 9, 9], 7)]], classes=()), LETTERBOX, layout="yolov8")
    with pytest.raises(EvaluationError, match=r"labels\.json has objects of class 7, but the model scores 3 classes"):
        update(unnamed, outputs([sure(CAT)]))
    labels = Detection(annotate([[CAT]], classes=("cat", "dog")), LETTERBOX, layout="yolov10")
    with pytest.raises(EvaluationError, match=r"the model finds class 2, but .* has 2 classes, 0 to 1"):
        update(labels, outputs([sure(OWL)], "yolov10"))


def test_annotations_must_be_of_these_images():
    good = outputs([sure(CAT)])
    with pytest.raises(
        EvaluationError, match=r"'0\.png' of 96 x 128 pixels, but it has 128 x 96; its EXIF orientation"
    ):
        update(Detection(annotate([[CAT]], image_sizes={"0.png": (128, 96)}), LETTERBOX, layout="yolov8"), good)
    with pytest.raises(EvaluationError, match=r"'0\.png' of 640 x 480 pixels, but it has 128 x 96$"):
        update(Detection(annotate([[CAT]], image_sizes={"0.png": (480, 640)}), LETTERBOX, layout="yolov8"), good)
    with pytest.raises(EvaluationError, match=r"the center of a box is outside of '0\.png', which has 128 x 96 pixels"):
        update(Detection(annotate([[([200, 10, 300, 50], 0)]]), LETTERBOX, layout="yolov8"), good)
    with pytest.raises(EvaluationError, match=r"labels\.json has no boxes for '5\.png'"):
        update(Detection(annotate([[CAT]]), LETTERBOX, layout="yolov8"), good, batch_of(1, start=5))
    with pytest.raises(EvaluationError, match="is not an image"):
        update(Detection(annotate([[CAT]]), LETTERBOX, layout="yolov8"), good, replace(batch_of(1), image_sizes=None))


@pytest.mark.parametrize("layout", ["yolov8", "yolov5", "yolov10", "ssd-no-background"])
def test_model_is_evaluated_on_files(tmp_path, layout):
    images, coco = make_images(tmp_path)
    model = make_detector(tmp_path / "model.onnx", layout=layout)
    with OnnxRuntimeRunner(model) as runner:
        preprocessing = resolve_preprocessing(runner.inputs[0], preset="yolo")
        dataset = open_dataset(images, runner.inputs, preprocessing=preprocessing)
        by_source = []
        for labels in (coco, tmp_path / "labels"):
            annotations = open_boxes(labels, dataset, data=images)
            assert annotations.classes == CLASSES
            task = Detection(annotations, preprocessing, layout=layout)
            batches = iterate_batches(dataset, 5)
            measured = evaluate({"fp32": runner, "same": runner}, batches, baseline="fp32", task=task)
            by_source.append(measured.metrics["fp32"]["map"])
            assert measured.metrics["same"]["map"] == measured.metrics["fp32"]["map"]
            assert measured.metrics["same"][DIFFERING] == 0
            assert task.num_changes() == {}
    # The ranked one does not remove duplicates, as YOLOv10 is trained to make none.
    assert by_source[0] > (0.7 if layout == "yolov10" else 0.98)
    assert by_source[1] == pytest.approx(by_source[0], abs=1e-3)
