"""Small models and data under the names that the guides give them; each function fills a folder for one page."""

from __future__ import annotations

import json
import shutil
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
from .documented import REPOSITORY

WORDS = ("a", "red", "green", "car", "road", "stops")


def run(*words: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def make_classifier(folder: Path, *parts: str) -> None:
    """A model of images, and folders of images with two classes."""
    conv_model(folder / "model.onnx", shape=["n", 3, 8, 8])
    for part in parts or ("calib", "val"):
        for label in ("cat", "dog"):
            write_images(folder / part / label, 20, seed=sum(map(ord, part + label)))


def make_calibrated(folder: Path) -> None:
    make_classifier(folder, "imgs", "calib", "val", "test")
    run("calibrate", "model.onnx", "--data", "calib", "-q")


def make_configured(folder: Path) -> None:
    make_classifier(folder, "imgs/calib", "imgs/val")
    text = (REPOSITORY / "docs" / "how-to" / "calibrate.md").read_text(encoding="utf-8")
    (folder / "quantkit.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])


def make_trained(folder: Path) -> None:
    """A calibrated model whose answers differ, since limits on agreement refuse one class for everything."""
    shutil.copy(REPOSITORY / "examples" / "digits.onnx", folder / "model.onnx")
    shutil.copytree(REPOSITORY / "calib_data" / "digits", folder, dirs_exist_ok=True)
    run("calibrate", "model.onnx", "--data", "calib", "--method", "minmax", "--num-samples", "64", "-q")


def make_reports(folder: Path) -> None:
    make_trained(folder)
    words = ("--variants", "int8-cpu", "--num-samples", "64", "--latency-s", "1", "--batch-sizes", "1,8", "-q")
    run("evaluate", "model.onnx", "--data", "val", *words)
    written = folder / "model.report" / "report.json"
    for copy in ("digits.report/report.json", "h100/report.json", "l4/report.json", "old.json", "new.json"):
        (folder / copy).parent.mkdir(exist_ok=True)
        shutil.copy(written, folder / copy)


def make_tars(folder: Path) -> None:
    """Two shards to calibrate on and one to evaluate on, with classes; "images/calib" as files."""
    make_classifier(folder)
    (folder / "shards").mkdir()
    parts = {"train-000": "calib/cat", "train-001": "calib/dog"} | {f"val-{i:03}": "val/cat" for i in range(4)}
    for shard, part in parts.items():
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


def make_coco(folder: Path) -> None:
    """COCO's folders for a YOLO, and a model of offsets to priors."""
    detector.make_detector(folder / "yolov8n.onnx")
    images, annotations = detector.make_images(folder / "set", count=8)
    (folder / "coco" / "annotations").mkdir(parents=True)
    shutil.copy(annotations, folder / "coco" / "annotations" / "instances_val2017.json")
    shutil.copytree(images, folder / "coco" / "images" / "val2017")
    shutil.copytree(images, folder / "val")
    coco = json.loads(annotations.read_text())
    coco["categories"] = [{"id": 3, "name": "red"}]
    coco["annotations"] = [found for found in coco["annotations"] if found["category_id"] == 3]
    (folder / "instances.json").write_text(json.dumps(coco))
    save(
        folder / "ssd.onnx",
        [
            helper.make_node("Conv", ["image", "w"], ["c"], strides=[16, 16], name="conv"),
            helper.make_node("Reshape", ["c", "flat"], ["rows"], name="rows"),
            helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1], name="columns"),
            helper.make_node("Split", ["columns", "sizes"], ["boxes", "logits"], axis=2, name="split"),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=2, name="softmax"),
        ],
        {"image": ["n", 3, 64, 64]},
        {"boxes": ["n", 16, 4], "scores": ["n", 16, 2]},
        {"w": (6, 3, 16, 16), "flat": np.array([0, 6, -1]), "sizes": np.array([4, 2])},
    )
    np.save(folder / "priors.npy", np.random.default_rng(0).uniform(0.2, 0.8, (16, 4)).astype(np.float32))


def make_squares(folder: Path) -> None:
    """What squares.py of the page makes, with fewer images."""
    detector.make_detector(folder / "squares.onnx")
    detector.make_images(folder / "calib", count=12, seed=1)
    detector.make_images(folder / "squares", count=12)


def make_encoder(folder: Path) -> None:
    """A model of token ids and arrays of them."""
    save(
        folder / "encoder.onnx",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["e"], name="embedding"),
            helper.make_node("MatMul", ["e", "w"], ["h"], name="up"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "v"], ["last_hidden_state"], name="down"),
        ],
        {"input_ids": ["n", 12]},
        {"last_hidden_state": ["n", 12, 16]},
        {"table": (50, 16), "w": (16, 32), "v": (32, 16)},
        TensorProto.INT64,
    )
    rng = np.random.default_rng(0)
    for part in ("calib", "val"):
        np.savez(folder / f"{part}.npz", input_ids=rng.integers(0, 50, (40, 12)))


def make_sentences(folder: Path) -> None:
    """A model of the three inputs of a tokenizer, of any length; texts, the tokenizer and the example's loader."""
    tokenizers = pytest.importorskip("tokenizers")
    ids = {word: number for number, word in enumerate(("[UNK]", *WORDS))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    for name in ("sentences.txt", "val.txt"):
        lines = [" ".join(rng.choice(WORDS, rng.integers(3, 7))) for _ in range(24)]
        (folder / name).write_text("\n".join(lines) + "\n")
    shutil.copy(REPOSITORY / "examples" / "loaders.py", folder)
    names = ("input_ids", "attention_mask", "token_type_ids")
    save(
        folder / "minilm.onnx",
        [
            helper.make_node("Add", ["input_ids", "token_type_ids"], ["ids"], name="ids"),
            helper.make_node("Mul", ["ids", "attention_mask"], ["kept"], name="mask"),
            helper.make_node("Gather", ["table", "kept"], ["e"], name="embedding"),
            helper.make_node("MatMul", ["e", "w"], ["last_hidden_state"], name="out"),
        ],
        {name: ["n", "t"] for name in names},
        {"last_hidden_state": ["n", "t", 16]},
        {"table": (len(ids), 16), "w": (16, 16)},
        TensorProto.INT64,
    )


def make_code(folder: Path) -> None:
    make_sentences(folder)
    conv_model(folder / "faces.onnx", shape=["n", 3, 112, 112])
    write_images(folder / "photos", 12, size=(120, 130))


def make_recordings(folder: Path) -> None:
    """A recurrent model of sound, [N, 8] and a state [2, N, 4], with a sample rate; sequences without the state."""
    save(
        folder / "vad.onnx",
        [
            helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT, name="rate"),
            helper.make_node("Div", ["input", "rate"], ["x"], name="div"),
            helper.make_node("MatMul", ["x", "w"], ["h"], name="in"),
            helper.make_node("Unsqueeze", ["h", "first"], ["h1"], name="unsqueeze"),
            helper.make_node("Add", ["h1", "state"], ["s"], name="add"),
            helper.make_node("Tanh", ["s"], ["stateN"], name="tanh"),
            helper.make_node("ReduceMean", ["stateN", "first"], ["m"], keepdims=0, name="mean"),
            helper.make_node("MatMul", ["m", "v"], ["output"], name="out"),
        ],
        {"input": ["n", 8], "state": [2, "n", 4], "sr": []},
        {"output": ["n", 1], "stateN": [2, "n", 4]},
        {"w": (8, 4), "v": (4, 1), "first": np.array([0])},
        {"sr": TensorProto.INT64},
    )
    rng = np.random.default_rng(0)
    (folder / "recordings").mkdir()
    for number in range(4):
        sound = rng.normal(0, 16_000, (10, 8)).astype(np.float32)
        np.savez(folder / "recordings" / f"{number}.npz", input=sound)


def make_scenes(folder: Path) -> None:
    segmenter.write_segmenter(folder / "segmenter.onnx")
    images, masks = segmenter.write_scenes(folder / "made", count=8)[:2]
    images.rename(folder / "images")
    masks.rename(folder / "masks")


def make_segmenters(folder: Path) -> None:
    """One of three classes and one of red alone, which is the first class of the masks that both take."""
    segmenter.write_segmenter(folder / "unet.onnx")
    segmenter.write_segmenter(folder / "scan.onnx", head="logits")
    segmenter.write_scenes(folder / "val", count=8, binary=True)
    (folder / "names.txt").write_text("background\nred\ngreen\n")
    for model in ("unet.onnx", "scan.onnx"):
        run("calibrate", model, "--data", "val/images", "--preprocess", "unit", "-q")
    for mask in (folder / "val" / "masks").iterdir():
        make_indices(mask)


def make_indices(mask: Path) -> None:
    """A black-and-white mask as 0 and 1."""
    from PIL import Image

    Image.fromarray((np.asarray(Image.open(mask)) > 0).astype(np.uint8)).save(mask)


def make_enhancers(folder: Path) -> None:
    """Twice the size from 0 to 1, and the same size from 0 to 255."""
    image = ["n", 3, 16, 16]
    up = helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, name="up")
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv")
    clip = helper.make_node("Clip", ["y", "low", "high"], ["out"], name="clip")
    low, high = np.float32(0), np.float32(1)
    constants = {"w": np.full((12, 3, 3, 3), 1 / 27, np.float32), "low": low, "high": high}
    save(folder / "espcn.onnx", [conv, up, clip], {"x": image}, {"out": ["n", 3, 32, 32]}, constants)
    constants = {"w": np.full((3, 3, 3, 3), 1 / 27, np.float32), "low": low, "high": np.float32(255)}
    clip = helper.make_node("Clip", ["c", "low", "high"], ["out"], name="clip")
    save(folder / "denoise.onnx", [conv, clip], {"x": image}, {"out": image}, constants)
    write_images(folder / "low", 12, size=(16, 16))
    write_images(folder / "high", 12, size=(32, 32))
    write_images(folder / "noisy", 12, size=(16, 16))
    for model, data, preset in (("espcn.onnx", "low", "unit"), ("denoise.onnx", "noisy", "none")):
        run("calibrate", model, "--data", data, "--preprocess", preset, "-q")


def make_ages(folder: Path) -> None:
    save(
        folder / "age.onnx",
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("GlobalAveragePool", ["c"], ["g"], name="pool"),
            helper.make_node("Flatten", ["g"], ["f"], name="flat"),
            helper.make_node("Sigmoid", ["f"], ["age"], name="sigmoid"),
        ],
        {"x": ["n", 3, 8, 8]},
        {"age": ["n", 1]},
        {"w": (1, 3, 3, 3)},
    )
    write_images(folder / "faces", 12)
    (folder / "ages.csv").write_text("file,age\n" + "".join(f"{i:03}.png,{20 + i}\n" for i in range(12)))
    run("calibrate", "age.onnx", "--data", "faces", "-q")


def make_features(folder: Path) -> None:
    conv_model(folder / "features.onnx", shape=["n", 3, 8, 8])
    write_images(folder / "images", 12)


def make_cache_files(folder: Path) -> None:
    """One model and its calibration under all names of the page; "new.onnx" has other names of tensors."""
    for name in ("lenet", "m", "old", "digits"):
        shutil.copy(REPOSITORY / "examples" / "digits.onnx", folder / f"{name}.onnx")
    data = REPOSITORY / "calib_data" / "digits" / "calib"
    shutil.copytree(data, folder / "images")
    words = ("--method", "minmax", "--num-samples", "64", "--keep-statistics", "-q")
    run("calibrate", "digits.onnx", "--data", str(data), *words)
    run("calibrate", "m.onnx", "--data", str(data), *words)
    cache = (folder / "digits.calib").read_text()
    for name in ("lenet", "old"):
        (folder / f"{name}.cache").write_text("TRT-7202-EntropyCalibration2\n" + cache.partition("\n")[2])
    shutil.copy(folder / "digits.calib", folder / "a.calib")
    shutil.copy(folder / "digits.calib.json", folder / "b.calib.json")
    shutil.copy(folder / "digits.int8.onnx", folder / "nncf.onnx")
    (folder / "digits.int8.onnx").unlink()
    model = onnx.load(folder / "old.onnx")
    inner = {name for node in model.graph.node for name in node.output} - {o.name for o in model.graph.output}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"net/{name}" if name in inner else name for name in names]
    del model.graph.value_info[:]
    onnx.save(model, folder / "new.onnx")


def make_digits(folder: Path) -> None:
    shutil.copy(REPOSITORY / "examples" / "digits.onnx", folder)
    shutil.copytree(REPOSITORY / "calib_data", folder / "calib_data")


def make_planned(folder: Path) -> None:
    make_calibrated(folder)
    run("tune", "model.onnx", "--data", "calib", "--val", "val", "--max-drop", "100", "-q")


def save(path: Path, nodes, inputs, outputs, constants, types=TensorProto.FLOAT) -> None:
    """A model; constants are arrays, or shapes of random ones; `types` of the inputs, one for all or by name."""
    rng = np.random.default_rng(0)
    arrays = {
        name: np.asarray(value) if not isinstance(value, tuple) else rng.normal(size=value).astype(np.float32)
        for name, value in constants.items()
    }
    kinds = types if isinstance(types, dict) else dict.fromkeys(inputs, types)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
