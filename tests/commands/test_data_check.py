"""The probe on a trained model: a wrong preprocessing is named with the options that mend it, a right one is not."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from quantkit.commands.data_check import check_data
from quantkit.datasets.array_alternatives import other_array_values
from quantkit.errors import EvaluationError
from quantkit.types.options import ImageOptions
from tests.cli.conftest import CALIB, DIGITS, VAL, conv_model, write_images

MODELS = ("resnet20", "mobilenetv2", "efficientnet_b0", "vit_tiny")


def blamed(result):
    """The finding about the preprocessing, None without one."""
    found = [f for f in result.findings if f.check == "preprocessing"]
    assert len(found) <= 1
    return found[0] if found else None


def unlabeled(tmp_path, source):
    """The same images as a list without labels."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{p}\n" for p in sorted(source.rglob("*.*")) if p.suffix in (".png", ".jpg")))
    return path


def test_right_data_are_not_accused(tmp_path):
    for data in (CALIB, VAL, unlabeled(tmp_path, VAL)):
        result = check_data(DIGITS, data, probe_samples=64, progress=False)
        assert result.findings == ()
        assert not result.has_errors
        assert not any(trial.is_better for trial in result.probe.others)
        assert data not in (CALIB, VAL) or result.probe.declared.top1 > 0.95


@pytest.mark.parametrize("preset", ["none", "tf", "imagenet"])
def test_wrong_values_are_named_with_the_options_that_mend_them(preset, tmp_path):
    result = check_data(DIGITS, CALIB, preprocess=preset, probe_samples=64, progress=False)
    found = blamed(result)
    assert found.severity == "error"
    assert "top-1" in found.what
    assert preset != "none" or "pixels times 1/255 instead of 1" in found.what
    assert result.has_errors
    numbers = {
        "none": "--scale 1/255",
        "tf": "--scale 1/255 --mean 0",
        "imagenet": "--mean 0 --std 1",
    }
    assert numbers[preset] in found.fix
    guess = blamed(check_data(DIGITS, unlabeled(tmp_path, CALIB), preprocess=preset, probe_samples=64, progress=False))
    assert numbers[preset] in guess.fix
    assert guess.severity == "warning"


def test_overlap_with_validation():
    assert check_data(DIGITS, CALIB, against=VAL, probe_samples=0, progress=False).findings == ()
    result = check_data(DIGITS, CALIB, against=CALIB, probe_samples=0, progress=False)
    assert [f.check for f in result.findings] == ["overlap"]
    assert result.has_errors


def test_labels_in_another_order_are_not_blamed_on_the_pixels():
    names = [str((i + 1) % 10) for i in range(10)]
    result = check_data(DIGITS, VAL, classes=names, probe_samples=64, progress=False)
    assert blamed(result) is None
    assert [f.check for f in result.findings] == ["labels"]
    assert "--classes" in result.findings[0].fix


def test_an_untrained_model_accuses_nothing(tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    data = write_images(tmp_path / "data", 40)
    assert blamed(check_data(model, data, progress=False)) is None


def test_unreadable_images_are_found_and_not_run(tmp_path):
    model, data = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "data", 6)
    (data / "000.png").write_bytes(b"")
    result = check_data(model, data, progress=False)
    assert result.facts.unreadable == ("000.png",)
    assert result.probe.num_samples == 5
    assert result.has_errors


def test_arrays_are_looked_at_and_not_changed(tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 3, 8, 8), np.float32))
    result = check_data(model, tmp_path / "x.npy", progress=False)
    assert not any(trial.is_better for trial in result.probe.others)
    assert blamed(result) is None
    json.dumps(asdict(result))


def test_a_negative_number_of_samples():
    with pytest.raises(EvaluationError, match="--probe-samples"):
        check_data(DIGITS, VAL, probe_samples=-1)


@pytest.fixture(scope="module")
def cifar(shared, tmp_path_factory):
    """300 of the test images: the check reads all that it gets."""
    folder = tmp_path_factory.mktemp("cifar")
    for source in sorted((shared / "data" / "cifar10" / "test").iterdir()):
        (folder / source.name).mkdir()
        for image in sorted(source.iterdir())[:30]:
            (folder / source.name / image.name).symlink_to(image)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_trained_models_tell_wrong_from_right(shared, cifar, name):
    model = shared / "models" / f"{name}_cifar10.onnx"

    def check(*, samples=64, **options):
        images = ImageOptions(resize="stretch", **options)
        return blamed(check_data(model, cifar, preprocess=images, probe_samples=samples, progress=False))

    # What swapped channels cost differs: the CNNs need more samples to show it.
    enough = 128 if name == "vit_tiny" else 256
    assert check(preset="imagenet", samples=enough) is None
    swapped = check(preset="imagenet", color="BGR", samples=enough)
    assert "RGB instead of BGR" in swapped.what
    assert "--color RGB" in swapped.fix
    raw = check(preset="none")
    assert "pixels times 1/255 instead of 1 and the mean and std of ImageNet" in raw.what
    assert "--scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in raw.fix
    if name == MODELS[0]:  # the quickest
        undivided = check(preset="imagenet", scale=1.0)
        assert "pixels times 1/255 instead of 1" in undivided.what
        assert undivided.fix == "use --scale 1/255"
        assert "the mean and std of ImageNet" in check(preset="unit").what


@pytest.mark.parametrize(
    ("factor", "offset", "words"),
    [(255.0, 0.0, "values divided by 255"), (2.0, -1.0, "values from 0 to 1 instead of -1 to 1")],
)
def test_arrays_of_images_are_probed_too(tmp_path, factor, offset, words):
    right = [np.asarray(Image.open(path).convert("L"), np.float32) / 255 for path in sorted(CALIB.rglob("*.png"))]
    labels = [int(path.parent.name) for path in sorted(CALIB.rglob("*.png"))]
    pixels = np.stack(right)[:, None]
    np.savez(tmp_path / "right.npz", image=pixels, labels=labels)
    np.savez(tmp_path / "wrong.npz", image=pixels * factor + offset, labels=labels)
    fine = check_data(DIGITS, tmp_path / "right.npz", probe_samples=64, progress=False)
    assert blamed(fine) is None
    assert fine.probe.best is not None  # said with its figure, though it is not better
    found = blamed(check_data(DIGITS, tmp_path / "wrong.npz", probe_samples=64, progress=False))
    assert words in found.what
    assert found.fix == f"save the arrays with {words}"


def test_channels_of_arrays_are_turned_and_other_arrays_left_alone():
    image = np.arange(2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
    found = other_array_values({"x": image})
    turned = next(a for a in found if a.changes == ("channels in the reverse order",))
    assert np.array_equal(turned.apply({"x": image})["x"], image[:, ::-1])
    last = np.moveaxis(image, 1, 3)
    (same,) = (a for a in other_array_values({"x": last}) if a.changes == turned.changes)
    assert np.array_equal(same.apply({"x": last})["x"], last[..., ::-1])
    normalized = next(a for a in found if a.changes == ("values divided by 255, then the mean and std of ImageNet",))
    expected = (image / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
        [0.229, 0.224, 0.225], (3, 1, 1)
    )
    assert np.allclose(normalized.apply({"x": image})["x"], expected, atol=1e-5)
    assert other_array_values({"x": image[:, 0]}) == other_array_values({"x": image.astype(np.int64)}) == []
    assert other_array_values({"x": image, "y": image}) == []
