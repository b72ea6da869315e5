"""The sample images and the demo model are what their README files say."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "calib_data" / "digits"
EXAMPLES = ROOT / "examples"
MODEL = EXAMPLES / "digits.onnx"


def image_files(split):
    return sorted((DIGITS / split).glob("*/*.png"))


def relative_bytes(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("split", "counts"),
    [("calib", [30] * 10), ("val", [59, 60, 59, 61, 60, 60, 60, 60, 58, 60])],
)
def test_every_class_has_its_images(split, counts):
    folders = sorted(path.name for path in (DIGITS / split).iterdir())
    assert folders == [str(digit) for digit in range(10)]
    assert [len(list((DIGITS / split / name).iterdir())) for name in folders] == counts


def test_images_are_8x8_grey_and_use_the_whole_range():
    extremes = []
    for path in image_files("calib") + image_files("val"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8)), path
            extremes.append(image.getextrema())
    assert min(low for low, _ in extremes) == 0
    assert max(high for _, high in extremes) == 255


def test_calib_and_val_share_no_image():
    numbers = {split: {path.name for path in image_files(split)} for split in ("calib", "val")}
    hashes = {
        split: {hashlib.sha256(path.read_bytes()).digest() for path in image_files(split)} for split in ("calib", "val")
    }
    assert not numbers["calib"] & numbers["val"]
    assert not hashes["calib"] & hashes["val"]


def test_val_was_not_trained_on(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import digits

    data = digits.load()
    train = {data.pixels[index].tobytes() for index in data.train}
    assert len(data.train) == 1200
    assert set(data.calib) <= set(data.train)
    assert {int(path.stem) for path in image_files("calib")} == set(data.calib)
    assert {int(path.stem) for path in image_files("val")} == set(data.val)
    for path in image_files("val"):
        assert Image.open(path).tobytes() not in train, path


def test_the_script_writes_the_same_bytes(tmp_path):
    pytest.importorskip("sklearn")
    script = EXAMPLES / "1_make_digits.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, capture_output=True)
    assert relative_bytes(tmp_path) == relative_bytes(DIGITS)


@pytest.fixture(scope="module")
def session():
    import onnxruntime

    return onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


def test_model_takes_any_batch_of_grey_8x8_images(session):
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 8, 8])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])
    images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    together = session.run(None, {"image": images})[0]
    alone = np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_model_is_one_valid_file_without_traces_of_a_machine():
    import onnx

    proto = onnx.load(MODEL, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert not [tensor.name for tensor in proto.graph.initializer if tensor.external_data]
    assert not [node.name for node in proto.graph.node if node.metadata_props or node.doc_string]
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_model_reads_the_digits(session):
    files = image_files("val")
    pixels = np.stack([np.asarray(Image.open(path)) for path in files])[:, None].astype(np.float32)
    classes = np.array([int(path.parent.name) for path in files])
    predicted = session.run(None, {"image": pixels / 255})[0].argmax(1)
    assert (predicted == classes).mean() >= 0.97


def test_demo_material_is_small():
    files = [path for folder in (ROOT / "calib_data", EXAMPLES) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
