"""The commands of the guides run as they are written, in order, on small generated models and data."""

from __future__ import annotations

import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from quantkit.cli import main

from . import detector, segmenter
from .cli.conftest import conv_model, write_images

_QUICK = {
    "CALIBRATE_ACCURACY": "fast",
    "EVALUATE_LATENCY_S": "0",
    "EVALUATE_LAYER_SAMPLES": "0",
    "BENCH_DURATION": "0",
    "BENCH_WARM_UP_MS": "0",
}

GUIDES = Path(__file__).parents[1] / "docs" / "how-to"


def commands(page: str) -> list[list[str]]:
    """Of a page, or of one section of it: "page.md#heading"."""
    page, _, heading = page.partition("#")
    text = (GUIDES / page).read_text(encoding="utf-8")
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    return [shlex.split(line.removeprefix("$ ")) for block in blocks for line in block.splitlines()]


def make_classifier(folder: Path) -> None:
    conv_model(folder / "model.onnx", shape=["n", 3, 8, 8])
    for part, seed in (("calib", 1), ("val", 2)):
        for label in ("cat", "dog"):
            write_images(folder / part / label, 20, seed=10 * seed + len(part) + (label == "dog"))


def make_tars(folder: Path) -> None:
    """Two shards to calibrate on and one to evaluate on, with classes."""
    make_classifier(folder)
    (folder / "shards").mkdir()
    for shard, part in (("train-000", "calib/cat"), ("train-001", "calib/dog"), ("val-000", "val/cat")):
        with tarfile.open(folder / "shards" / f"{shard}.tar", "w") as tar:
            for file in sorted((folder / part).iterdir()):
                tar.add(file, file.name)
                (folder / "label").write_text("1")
                tar.add(folder / "label", f"{file.stem}.cls")


def make_yolo(folder: Path) -> None:
    detector.make_detector(folder / "yolov8n.onnx")
    model = onnx.load(folder / "yolov8n.onnx")
    for node in model.graph.node:
        node.name = node.name.replace("conv2", "/model.22/cv2/Conv")
    onnx.save(model, folder / "yolov8n.onnx")
    detector.make_images(folder / "set", count=12)
    names = list(detector.CLASSES)
    content = {"path": str(folder / "set"), "train": "images/val", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def make_encoder(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"table": (50, 16), "w": (16, 32), "v": (32, 16)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"], name="embedding"),
        helper.make_node("MatMul", ["e", "w"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["last_hidden_state"], name="down"),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", 12])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", 12, 16])],
        [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), name) for name, s in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "encoder.onnx"
    )
    for part in ("calib", "val"):
        np.savez(folder / f"{part}.npz", input_ids=rng.integers(0, 50, (40, 12)))


def make_scenes(folder: Path) -> None:
    segmenter.write_segmenter(folder / "segmenter.onnx")
    images, masks = segmenter.write_scenes(folder / "made", count=8)[:2]
    images.rename(folder / "images")
    masks.rename(folder / "masks")


def make_both(folder: Path) -> None:
    """A model for the CPU beside the float one, as `--target cpu` writes it."""
    make_classifier(folder)
    main_of("calibrate", "model.onnx", "--data", "calib", "--target", "cpu")


def main_of(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("page", "make", "codes"),
    [
        ("yolo.md", make_yolo, {0}),
        ("data.md#Tars", make_tars, {0}),
        ("transformers.md", make_encoder, {0}),
        ("segmentation.md", make_scenes, {0}),
        ("no_gpu.md", make_both, {0}),
        ("ci.md", make_classifier, {0, 3}),  # random images have a score that no limit settles
        ("accuracy_fell.md", make_classifier, {0}),
        ("moving.md", make_classifier, {0}),
        ("deepstream.md", make_classifier, {0}),
        ("triton.md", make_classifier, {0}),
    ],
)
def test_the_commands_of_a_guide_run(page, make, codes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in _QUICK.items():
        monkeypatch.setenv(f"QUANTKIT_{name}", value)
    make(tmp_path)
    found = commands(page)
    assert len(found) >= 2
    for program, *words in found:
        assert program == "quantkit"
        code = main_of(*words)
        assert code in codes, (words, capsys.readouterr().err)
