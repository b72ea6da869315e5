"""A small segmentation model that works, scenes for it to segment, and a metric as a user would write one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

CLASSES = ("background", "red", "green")
_COLORS = np.array([[30, 30, 150], [180, 30, 20], [20, 170, 40]], np.uint8)

METRIC_FILE = '''\
"""Share of the pixels of each image that are red; and how far it is from the masks' own."""

from pathlib import Path

import numpy as np
from PIL import Image

MASKS = Path({masks!r})


def red_share(outputs, ids):
    (scores,) = outputs.values()
    return (scores.argmax(axis=1) == 1).mean(axis=(1, 2))


class RedError:
    """Mean distance of the share of red pixels from the truth."""

    name = "red_error"
    label = "Red error"
    higher_is_better = False
    definition = "Mean absolute difference of the share of red pixels."

    def __init__(self):
        self.errors = []

    def update(self, predictions, ids, targets):
        errors = []
        for share, sample in zip(predictions, ids):
            mask = np.asarray(Image.open((MASKS / sample).with_suffix(".png")))
            errors.append(abs(share - (mask == 1).mean()))
        self.errors += errors
        return errors

    def compute(self):
        return float(np.mean(self.errors))
'''


def write_segmenter(path: Path, *, side: int = 32, layout: str = "NCHW", head: str = "scores") -> Path:
    """Two convolutions that tell red, green and blue-gray pixels apart, for inputs from 0 to 1 (preset "unit").

    Args:
        path: of the ONNX file.
        side: height and width of the input.
        layout: "NCHW" or "NHWC", of input and output.
        head: "scores" [N, 3, h, w], "indices" [N, h, w], "logits" or "probabilities" of red, [N, 1, h, w].
    """
    blur = np.full((3, 3), 1 / 9, np.float32)
    # 8 channels: each colour, and by how much red and green exceed the other two, smoothed against noise.
    mix = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -1, -0.5], [-1, 1, -0.5], [-0.5, -0.5, 1], [1, 1, 0], [0, 1, 1]]
    )
    first = (mix[:, :, None, None] * blur).astype(np.float32)
    second = np.zeros((3, 8, 1, 1), np.float32)
    second[0, 5], second[1, 3], second[2, 4] = 6, 6, 6
    if head in ("logits", "probabilities"):
        second = (second[1] - second[0] - second[2])[None]
    nodes = [
        helper.make_node("Conv", ["planes", "w1"], ["c1"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2"),
    ]
    last = "c2"
    if head == "indices":
        nodes.append(helper.make_node("ArgMax", [last], ["found"], axis=1, keepdims=0, name="argmax"))
    else:
        if head == "probabilities":
            nodes.append(helper.make_node("Sigmoid", [last], ["p"], name="sigmoid"))
            last = "p"
        turn = {"perm": [0, 2, 3, 1]} if layout == "NHWC" else {"perm": [0, 1, 2, 3]}
        nodes.append(helper.make_node("Transpose", [last], ["found"], name="out", **turn))
    enter = {"perm": [0, 3, 1, 2]} if layout == "NHWC" else {"perm": [0, 1, 2, 3]}
    nodes.insert(0, helper.make_node("Transpose", ["image"], ["planes"], name="in", **enter))
    shape = ["n", 3, side, side] if layout == "NCHW" else ["n", side, side, 3]
    channels = len(second)
    found = ["n", channels, side, side] if layout == "NCHW" else ["n", side, side, channels]
    kind = TensorProto.INT64 if head == "indices" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("found", kind, ["n", side, side] if head == "indices" else found)],
        [numpy_helper.from_array(first, "w1"), numpy_helper.from_array(second, "w2")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_scenes(
    folder: Path, count: int = 8, *, size: tuple[int, int] = (48, 64), binary: bool = False, seed: int = 0
) -> tuple[Path, Path]:
    """Images of red and green shapes with noise, and their masks; an ignored (255) line at the edge of each shape.

    Args:
        folder: gets ``images`` and ``masks``.
        count: how many.
        size: (height, width) of the images.
        binary: masks of red alone, black and white (0 and 255), with nothing ignored.
        seed: of shapes and noise.
    """
    rng = np.random.default_rng(seed)
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    height, width = size
    for i in range(count):
        canvas = Image.new("L", (width, height), 0)
        draw = ImageDraw.Draw(canvas)
        for shape, value in ((draw.ellipse, 1), (draw.rectangle, 2)):
            left, top = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
            box = (left, top, left + int(rng.integers(12, width // 2)), top + int(rng.integers(12, height // 2)))
            shape(box, fill=value, outline=value + 100)
        drawn = np.asarray(canvas)
        truth = drawn % 100
        noise = rng.normal(0, 25, (height, width, 3))
        pixels = np.clip(_COLORS[truth] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{i:03}.png")
        mask = np.where(truth == 1, 255, 0) if binary else np.where(drawn >= 100, 255, truth)
        Image.fromarray(mask.astype(np.uint8)).save(masks / f"{i:03}.png")
    return images, masks


def write_metric(path: Path, masks: Path) -> Path:
    """A file with ``red_share`` for --postprocess and ``RedError`` for --metric, for models of head "scores"."""
    path.write_text(METRIC_FILE.format(masks=str(masks)))
    return path
