from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation.detection import LAYOUTS, parse_layout
from quantkit.evaluation.detection.decoding import Frame
from quantkit.evaluation.detection.layouts import OPTIONS
from tests.evaluation.detection.encoding import ENCODERS

IMAGE = (np.array([[4, 4, 20, 20], [30, 30, 50, 60]], np.float64), np.array([0.9, 0.8]), np.array([1, 0]))


def zeros(dtype=np.float32, **shapes):
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def bind(text, outputs, num_samples=1, num_classes=None):
    return parse_layout(text).bind(outputs, num_samples=num_samples, num_classes=num_classes)


def decode(text, outputs, *, is_checked=True, num_classes=3):
    declared = parse_layout(text)
    bound = declared.bind(outputs, num_samples=1, num_classes=num_classes)
    return declared.decode(outputs, bound, Frame(1, (64, 64), 0.001, declared.options), is_checked=is_checked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yolo8", r"--detections: there is no 'yolo8': did you mean 'yolov8'\?"),
        ("detr:pred_boxes", r"'pred_boxes' must be role=output or option=value; the roles of detr are boxes, scores"),
        ("detr:rows=x", "'rows=x' must be role=output"),
        ("yolov8:background=first", "'background=first' must be .*, its options coordinates, order$"),
        ("yolox:order=xyxy", "its options none"),
        ("yolov8:order=xywh", "order is one of xyxy, yxyx, cxcywh, not 'xywh'"),
        ("ssd:boxes=a,scores=a", "output 'a' is named for two roles"),
        ("", "there is no '': choose one of yolov5, "),
    ],
)
def test_invalid_declaration_is_one_line(text, message):
    with pytest.raises(EvaluationError, match=message) as error:
        parse_layout(text)
    assert "\n" not in str(error.value)


def test_options_and_outputs_are_parsed():
    declared = parse_layout("detr:logits=a, boxes=b:0,background=none")
    assert (declared.names, declared.options["background"]) == ({"scores": "a", "boxes": "b:0"}, "none")
    assert declared.options["activation"] == "softmax"


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_has_a_source_and_known_options(name):
    layout = LAYOUTS[name]
    assert layout.source
    assert all(value in OPTIONS[option] for option, value in layout.options.items())
    assert all(set(form) == set(layout.roles) for form in layout.forms)
    assert all(set(names) == set(layout.roles) for names in layout.names)


def test_mismatched_layout_is_refused_with_matching_ones():
    with pytest.raises(EvaluationError) as error:
        bind("yolov5", zeros(output0=(1, 84, 8400)), num_classes=80)
    assert str(error.value) == (
        "output 'output0' [1, 84, 8400] of 1 image(s) do not fit layout yolov5, which takes detections [N, B, 5+C] "
        "with C = 80 classes; their shapes fit yolov8; --decoder file.py:function reads any other"
    )
    with pytest.raises(EvaluationError, match="their shapes fit yolov5, yolox"):
        bind("yolov8", zeros(output=(1, 25200, 85)), num_classes=80)
    with pytest.raises(EvaluationError, match="their shapes fit yolov5, yolox, yolov10"):
        bind("yolov8", zeros(output=(1, 300, 6)), num_classes=1)
    with pytest.raises(EvaluationError, match="they fit, with another number of classes, yolov5, yolox"):
        bind("yolov8", zeros(scores=(1, 2704, 80)), num_classes=80)
    with pytest.raises(EvaluationError, match="they fit no layout known here"):
        bind("yolov8", zeros(output=(1, 3, 80, 80, 85)))


def test_mismatched_number_of_classes_is_refused():
    with pytest.raises(
        EvaluationError, match=r"'o' \[1, 84, 8400\]: layout yolov8 makes that 80 classes.*have 20.*--cl"
    ):
        bind("yolov8", zeros(o=(1, 84, 8400)), num_classes=20)


def test_batch_dimension_must_match_the_samples():
    with pytest.raises(EvaluationError, match="of 2 image"):
        bind("yolov8", zeros(o=(1, 84, 8400)), num_samples=2)
    assert bind("yolov8", zeros(o=(2, 84, 8400)), num_samples=2).num_classes == 80


def test_further_outputs_are_ignored():
    """YOLOv5's older exports give the raw grids too."""
    outputs = zeros(output=(1, 25200, 85), a=(1, 3, 80, 80, 85), b=(1, 3, 40, 40, 85))
    assert bind("yolov5", outputs).names == {"detections": "output"}


def test_ambiguous_outputs_must_be_named():
    outputs = zeros(out0=(1, 100, 4), out1=(1, 100, 4), logits=(1, 100, 5))
    with pytest.raises(EvaluationError, match=r"several outputs fit layout detr.*--detections detr:boxes=out0,scores="):
        bind("detr", outputs, num_classes=4)
    assert bind("detr:boxes=out1", outputs, num_classes=4).names == {"boxes": "out1", "scores": "logits"}
    with pytest.raises(EvaluationError, match="there is no output 'out2', but outputs 'out0'"):
        bind("detr:boxes=out2", outputs)


def test_labels_and_scores_are_distinguished_by_type_or_name():
    outputs = zeros(a=(1, 9, 4), b=(1, 9)) | zeros(np.int64, c=(1, 9))
    assert bind("torchvision", outputs).names == {"boxes": "a", "labels": "c", "scores": "b"}
    floating = zeros(a=(1, 9, 4), b=(1, 9), c=(1, 9))
    with pytest.raises(EvaluationError, match="several outputs fit"):
        bind("torchvision", floating)
    named = zeros(boxes=(1, 9, 4), labels=(1, 9), scores=(1, 9))
    assert bind("torchvision", named).names == {"boxes": "boxes", "labels": "labels", "scores": "scores"}


def test_declared_names_override_exporter_names():
    outputs = zeros(boxes=(1, 100, 4), scores=(1, 100, 4), mine=(1, 100, 4))
    assert bind("ssd:boxes=mine", outputs, num_classes=3).names == {"boxes": "mine", "scores": "scores"}


def test_background_column_determines_the_number_of_classes():
    assert bind("ssd", zeros(boxes=(1, 100, 4), scores=(1, 100, 21))).num_classes == 20
    assert bind("ssd:background=none", zeros(boxes=(1, 100, 4), scores=(1, 100, 21))).num_classes == 21


def test_values_of_another_layout_are_refused():
    pixels = ENCODERS["yolov8"]([IMAGE], 3)
    fractions = {"o": pixels["output0"].copy()}
    fractions["o"][:, :4] /= 64
    with pytest.raises(EvaluationError, match=r"reach only .*coordinates=relative"):
        decode("yolov8", fractions)
    assert np.allclose(decode("yolov8:coordinates=relative", fractions)[0].corners, decode("yolov8", pixels)[0].corners)
    with pytest.raises(EvaluationError, match=r"times the input.*coordinates=pixels"):
        decode("yolov8:coordinates=relative", pixels)
    logits = {"o": pixels["output0"] * np.array([1] * 4 + [9] * 3, np.float32)[:, None]}
    with pytest.raises(EvaluationError, match=r"scores of output 'o' reach 8\.1"):
        decode("yolov8", logits)
    with pytest.raises(EvaluationError, match="end before they begin"):
        decode("yolov10", {"o": np.array([[[40, 40, 10, 10, 0.9, 1]] * 3], np.float32)})
    with pytest.raises(EvaluationError, match="has label 0, but layout torchvision counts from 1"):
        decode("torchvision", ENCODERS["rtdetr-original"]([IMAGE], 3))


def test_variant_values_are_not_checked():
    """One scale for boxes and scores makes scores of 0 or 5: that is what quantization costs, no other layout."""
    output = ENCODERS["yolov8"]([IMAGE], 3)["output0"]
    coarse = {"o": np.rint(output / 5) * 5}
    coarse["o"][0, 5, 0] = 5
    assert decode("yolov8", coarse, is_checked=False)[0].scores.tolist() == [5]


def test_grid_of_another_input_size_is_refused():
    with pytest.raises(EvaluationError, match="cannot be decoded as yolox for an input of 64 x 64 pixels"):
        decode("yolox", zeros(o=(1, 100, 8)))


def test_changing_shape_is_refused():
    declared = parse_layout("yolov8")
    bound = declared.bind(zeros(o=(1, 7, 50)), num_samples=1, num_classes=3)
    frame = Frame(2, (64, 64), 0.001, declared.options)
    with pytest.raises(EvaluationError, match=r"'o' \[1, 7, 50\] of 2 image"):
        declared.decode(zeros(o=(1, 7, 50)), bound, frame, is_checked=False)


def test_the_documentation_names_every_layout_and_option():
    text = (Path(__file__).parents[3] / "docs" / "how-to" / "detection.md").read_text(encoding="utf-8")
    for name, layout in LAYOUTS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        if name not in ("torchvision", "mlperf-ssd"):  # "the same", "or without N"
            assert any(all(shape in row for shape in form.values()) for form in layout.forms)
    assert all(
        f"| `{option}` |" in text and all(f"`{v}`" in text for v in values) for option, values in OPTIONS.items()
    )
