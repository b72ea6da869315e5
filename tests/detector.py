"""A small detector that works, and images for it to look at: red and green squares on gray noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

CLASSES = ("red", "green")
INPUT_SIDE = 64
SQUARE = 16
"""Side of a square in the input; twice as many pixels in the images."""
_STRIDE = 2
_COLORS = ((230, 30, 40), (30, 220, 50))


def make_detector(path: Path, *, layout: str = "yolov8") -> Path:
    """Two convolutions that answer where a square of their color fills a window; inputs from 0 to 1 (preset "yolo").

    Args:
        path: of the ONNX file.
        layout: "yolov8" [N, 6, B], "yolov5" [N, B, 7], "yolov10" [N, 30, 6] (best windows first, none removed), or
            "ssd-no-background": boxes [N, B, 4] and scores [N, B, 2].
    """
    places = np.arange(0, INPUT_SIDE - SQUARE + 1, _STRIDE, dtype=np.float32) + SQUARE / 2
    y, x = np.meshgrid(places, places, indexing="ij")
    count = y.size
    side = np.full(count, SQUARE, np.float32)
    boxes = np.stack((x.ravel(), y.ravel(), side, side))
    colors = np.zeros((4, 3, 1, 1), np.float32)
    colors[0, :, 0, 0], colors[1, :, 0, 0] = (1, -1, -0.3), (-1, 1, -0.3)
    colors[2, :, 0, 0], colors[3, :, 0, 0] = (0.2, 0.1, 0.6), (0.3, 0.3, 0.3)
    window = np.zeros((2, 4, SQUARE, SQUARE), np.float32)
    window[0, 0] = window[1, 1] = 60 / SQUARE**2
    constants = {
        "w1": colors,
        "w2": window,
        "b2": np.full(2, -30, np.float32),
        "flat": np.array([0, 2, -1], np.int64),
        "xywh": boxes[None],
        "tail": np.array([1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["c1"], name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], strides=[_STRIDE, _STRIDE], name="conv2"),
        helper.make_node("Sigmoid", ["c2"], ["s2"], name="sigmoid"),
        helper.make_node("Reshape", ["s2", "flat"], ["scores_by_class"], name="flatten"),
        helper.make_node("Shape", ["images"], ["n"], start=0, end=1, name="batch"),
        helper.make_node("Concat", ["n", "tail"], ["repeats"], axis=0, name="repeats"),
    ]
    nodes += _HEADS[layout](constants, boxes)
    outputs = [("boxes", (4,)), ("scores", (2,))] if layout == "ssd-no-background" else [("output0", ())]
    dims: dict[str, list[int | str]] = {
        "yolov8": ["N", 6, count],
        "yolov5": ["N", count, 7],
        "yolov10": ["N", 30, 6],
        "ssd-no-background": ["N", count],
    }
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, INPUT_SIDE, INPUT_SIDE])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [*dims[layout], *tail]) for n, tail in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def make_images(folder: Path, *, count: int = 24, seed: int = 0) -> tuple[Path, Path]:
    """Writes ``folder/images/val/*.png``, ``folder/annotations.json`` (COCO) and ``folder/labels/val/*.txt`` (YOLO).

    Images are 128 x 128, 128 x 96 or 96 x 128 pixels; one in eight shows nothing. COCO's category ids have a gap: red
    is 3, green is 7.

    Returns:
        The folder of the images, and COCO's file.
    """
    generator = np.random.default_rng(seed)
    images, labels = folder / "images" / "val", folder / "labels" / "val"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    coco: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "green"}, {"id": 3, "name": "red"}],
    }
    for number in range(count):
        width, height = ((128, 128), (128, 96), (96, 128))[number % 3]
        pixels = generator.integers(0, 220, (height, width, 1)) + generator.integers(0, 30, (height, width, 3))
        pixels = pixels.astype(np.uint8)
        squares = [] if number % 8 == 7 else _place(generator, width, height)
        name = f"{number:04}.png"
        lines = []
        for left, top, index in squares:
            side = 2 * SQUARE
            shade = generator.integers(-25, 25, (side, side, 3))
            color = np.array(_COLORS[index]) * generator.uniform(0.78, 1)  # dim ones rank below shifted bright windows
            pixels[top : top + side, left : left + side] = np.clip(color + shade, 0, 255)
            lines.append(
                f"{index} {(left + SQUARE) / width:.6f} {(top + SQUARE) / height:.6f} "
                f"{side / width:.6f} {side / height:.6f}"
            )
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": number,
                    "category_id": (3, 7)[index],
                    "bbox": [left, top, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(images / name)
        coco["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        if lines:
            (labels / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps(coco))
    return images, annotations


def _place(generator: np.random.Generator, width: int, height: int) -> list[tuple[int, int, int]]:
    """Left, top and class of up to three squares that do not touch, at multiples of 4: windows of the detector."""
    side = 2 * SQUARE
    placed: list[tuple[int, int, int]] = []
    for _ in range(int(generator.integers(1, 4))):
        left = 4 * int(generator.integers(0, (width - side) // 4 + 1))
        top = 4 * int(generator.integers(0, (height - side) // 4 + 1))
        if all(abs(left - x) > side + 4 or abs(top - y) > side + 4 for x, y, _ in placed):
            placed.append((left, top, int(generator.integers(0, 2))))
    return placed


def _columns(constants: dict[str, np.ndarray], boxes: np.ndarray) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Expand", ["xywh", "repeats"], ["boxes_of_all"], name="expand"),
        helper.make_node("Concat", ["boxes_of_all", "scores_by_class"], ["output0"], axis=1, name="join"),
    ]


def _objectness(constants: dict[str, np.ndarray], boxes: np.ndarray) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Expand", ["xywh", "repeats"], ["boxes_of_all"], name="expand"),
        helper.make_node("ReduceMax", ["scores_by_class"], ["objectness"], axes=[1], keepdims=1, name="objectness"),
        helper.make_node("Concat", ["boxes_of_all", "objectness", "scores_by_class"], ["joined"], axis=1, name="join"),
        helper.make_node("Transpose", ["joined"], ["output0"], perm=[0, 2, 1], name="rows"),
    ]


def _ranked(constants: dict[str, np.ndarray], boxes: np.ndarray) -> list[onnx.NodeProto]:
    constants["xyxy"] = _corners(boxes)[None]
    constants["k"] = np.array([30], np.int64)
    constants["k_and_four"] = np.array([30, 4], np.int64)
    constants["last"] = np.array([2], np.int64)
    return [
        helper.make_node("ReduceMax", ["scores_by_class"], ["best"], axes=[1], keepdims=0, name="best"),
        helper.make_node("ArgMax", ["scores_by_class"], ["class_of"], axis=1, keepdims=0, name="class"),
        helper.make_node("TopK", ["best", "k"], ["top", "places"], axis=1, name="top"),
        helper.make_node("GatherElements", ["class_of", "places"], ["top_class"], axis=1, name="classes"),
        helper.make_node("Cast", ["top_class"], ["top_label"], to=TensorProto.FLOAT, name="label"),
        helper.make_node("Expand", ["xyxy", "repeats"], ["corners_of_all"], name="expand"),
        helper.make_node("Unsqueeze", ["places", "last"], ["places_column"], name="column"),
        helper.make_node("Concat", ["n", "k_and_four"], ["shape_of_places"], axis=0, name="shape"),
        helper.make_node("Expand", ["places_column", "shape_of_places"], ["places_of_corners"], name="spread"),
        helper.make_node(
            "GatherElements", ["corners_of_all", "places_of_corners"], ["top_corners"], axis=1, name="pick"
        ),
        helper.make_node("Unsqueeze", ["top", "last"], ["top_column"], name="scores"),
        helper.make_node("Unsqueeze", ["top_label", "last"], ["label_column"], name="labels"),
        helper.make_node("Concat", ["top_corners", "top_column", "label_column"], ["output0"], axis=2, name="join"),
    ]


def _two(constants: dict[str, np.ndarray], boxes: np.ndarray) -> list[onnx.NodeProto]:
    constants["fractions"] = _corners(boxes)[None] / INPUT_SIDE
    return [
        helper.make_node("Expand", ["fractions", "repeats"], ["boxes"], name="expand"),
        helper.make_node("Transpose", ["scores_by_class"], ["scores"], perm=[0, 2, 1], name="rows"),
    ]


def _corners(boxes: np.ndarray) -> np.ndarray:
    x, y, width, height = boxes
    return np.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), axis=1).astype(np.float32)


_HEADS = {"yolov8": _columns, "yolov5": _objectness, "yolov10": _ranked, "ssd-no-background": _two}
