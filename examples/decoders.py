r"""Detectors whose outputs fit no layout: --decoder for FastestDet, NanoDet, YuNet and SCRFD. Copy what you need.

quantkit evaluate FastestDet.onnx --data val/ --task detect --labels instances.json \
    --decoder decoders.py:fastestdet --preprocess unit --color bgr
quantkit evaluate nanodet.onnx --data val/ --task detect --labels instances.json \
    --decoder decoders.py:nanodet --preprocess none --color bgr --mean 103.53,116.28,123.675 \
    --std 57.375,57.12,58.395 --resize letterbox --pad-value 0
quantkit evaluate yunet.onnx --data val/ --task detect --labels instances.json \
    --decoder decoders.py:yunet --preprocess none --color bgr
quantkit evaluate scrfd.onnx --data val/ --task detect --labels instances.json \
    --decoder decoders.py:scrfd --preprocess none --mean 127.5 --std 128

A decoder gets the outputs of a batch by name and the (height, width) of the input. For each image it returns boxes
[M, 4] (left, top, right, bottom in pixels of the input), scores [M] and classes [M]; duplicates are removed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Detections = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def fastestdet(outputs: Mapping[str, np.ndarray], input_size: tuple[int, int]) -> Detections:
    """[N, 5 + C, h, w]: objectness, offsets of the center, size, probabilities; one box a cell."""
    (maps,) = outputs.values()
    height, width = input_size
    rows, columns = maps.shape[2:]
    y, x = np.mgrid[:rows, :columns]
    found = []
    for cells in maps:
        objectness, dx, dy, w, h = cells[:5]
        center_x, center_y = (x + np.tanh(dx)) / columns * width, (y + np.tanh(dy)) / rows * height
        half_w, half_h = _sigmoid(w) * width / 2, _sigmoid(h) * height / 2
        boxes = np.stack((center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h), axis=-1)
        scores = objectness**0.6 * cells[5:].max(axis=0) ** 0.4
        found.append((boxes.reshape(-1, 4), scores.ravel(), cells[5:].argmax(axis=0).ravel()))
    return found


def nanodet(outputs: Mapping[str, np.ndarray], input_size: tuple[int, int]) -> Detections:
    """Probabilities of C classes and, for each side of a box, a distribution over distances of 0 to 7 strides.

    Either one output [N, B, C + 32] (strides 8 to 64 as in NanoDet-Plus, or 8 to 32), or an output [N, B, C] and one
    [N, B, 32] for each stride.
    """
    first = [array if array.ndim == 3 else array[None] for array in outputs.values()]
    if len(first) == 1:
        scores, distances = first[0][..., :-32], first[0][..., -32:]
    else:  # the finest grid, which has the most rows, first
        by_rows = sorted(first, key=lambda array: -array.shape[1])
        scores = np.concatenate([array for array in by_rows if array.shape[2] != 32], axis=1)
        distances = np.concatenate([array for array in by_rows if array.shape[2] == 32], axis=1)
    centers, strides = _cells(input_size, scores.shape[1])
    powers = np.exp(distances.reshape(*distances.shape[:2], 4, 8))
    sides = (powers / powers.sum(axis=-1, keepdims=True)) @ np.arange(8) * strides[:, None]
    boxes = np.concatenate((centers - sides[..., :2], centers + sides[..., 2:]), axis=-1)
    return [(box, score.max(axis=1), score.argmax(axis=1)) for box, score in zip(boxes, scores, strict=True)]


def yunet(outputs: Mapping[str, np.ndarray], input_size: tuple[int, int]) -> Detections:
    """For each stride [N, B, 1] probabilities cls and obj, and bbox [N, B, 4]: offsets of the center, logarithms of the
    size, in strides. Landmarks are not looked at.
    """
    boxes, scores = [], []
    for stride in (8, 16, 32):
        cls, obj, bbox = (outputs[f"{name}_{stride}"] for name in ("cls", "obj", "bbox"))
        centers = (bbox[..., :2] + _grid(input_size, stride)) * stride
        halves = np.exp(bbox[..., 2:]) * stride / 2
        boxes.append(np.concatenate((centers - halves, centers + halves), axis=-1))
        scores.append(np.sqrt(cls * obj)[..., 0])
    return _faces(boxes, scores)


def scrfd(outputs: Mapping[str, np.ndarray], input_size: tuple[int, int]) -> Detections:
    """For each stride, 8 to 32, probabilities [N, B, 1] and distances of the sides in strides [N, B, 4], two boxes a
    cell. Landmarks are not looked at.
    """
    by_rows = sorted((a if a.ndim == 3 else a[None] for a in outputs.values()), key=lambda array: -array.shape[1])
    scores, sides = ([array for array in by_rows if array.shape[2] == columns] for columns in (1, 4))
    boxes = []
    for stride, distances in zip((8, 16, 32), sides, strict=True):
        centers = np.repeat(_grid(input_size, stride), 2, axis=0)
        corners = np.concatenate((centers - distances[..., :2], centers + distances[..., 2:]), axis=-1)
        boxes.append(corners * stride)
    return _faces(boxes, [array[..., 0] for array in scores])


def _faces(boxes: list[np.ndarray], scores: list[np.ndarray]) -> Detections:
    """Boxes [N, B, 4] and scores [N, B] of all strides, of one class."""
    rows = zip(np.concatenate(boxes, axis=1), np.concatenate(scores, axis=1), strict=True)
    return [(corners, values, np.zeros(len(values), np.int64)) for corners, values in rows]


def _grid(input_size: tuple[int, int], stride: int) -> np.ndarray:
    """Column and row of each cell [B, 2]."""
    y, x = np.mgrid[: input_size[0] // stride, : input_size[1] // stride]
    return np.stack((x.ravel(), y.ravel()), axis=1)


def _cells(input_size: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference points [B, 2] and strides [B] of all cells; NanoDet-Plus, with a fourth stride, counts from corners."""
    shapes = [(stride, -(-input_size[0] // stride), -(-input_size[1] // stride)) for stride in (8, 16, 32, 64)]
    used = shapes if sum(rows * columns for _, rows, columns in shapes) == count else shapes[:3]
    points, strides = [], []
    for stride, rows, columns in used:
        y, x = np.mgrid[:rows, :columns]
        shift = 0 if len(used) == 4 else (stride - 1) / 2
        points.append(np.stack((x.ravel(), y.ravel()), axis=1) * stride + shift)
        strides.append(np.full(rows * columns, stride))
    return np.concatenate(points), np.concatenate(strides)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
