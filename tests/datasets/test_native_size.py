from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets.description import describe_choice
from quantkit.datasets.open import open_samples
from quantkit.types import Dataset, Preprocessing, TensorSpec
from quantkit.types.options import ImageOptions

SPEC = TensorSpec("x", np.dtype(np.float32), ("n", 3, 32, 32))


def save(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def open_folder(folder: Path, given: Preprocessing | ImageOptions | str | None) -> tuple[Dataset, list[str]]:
    notices: list[str] = []
    dataset = open_samples([SPEC], folder, given, None, num_samples=None, seed=0, order="given")
    describe_choice(dataset, folder, 0, lambda notice: notices.append(f"{notice.kind}: {notice.text}"))
    return dataset, notices


@pytest.mark.parametrize("given", [None, "imagenet", ImageOptions(scale=1.0)])
def test_images_of_the_models_size_go_in_as_they_are(tmp_path: Path, given: ImageOptions | str | None) -> None:
    folder = save(tmp_path / "images", [(32, 32)] * 3)
    dataset, notices = open_folder(folder, given)
    pixels = np.asarray(Image.open(folder / "0.png"), np.float64).transpose(2, 0, 1)
    p = dataset.preprocessing
    assert p is not None
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (p.mean, p.std))
    np.testing.assert_allclose(dataset[0].inputs["x"], (pixels * p.scale - mean) / std, rtol=1e-5)
    assert any("already have the model's size 32x32: not enlarged to 37 pixels" in notice for notice in notices)


@pytest.mark.parametrize("given", [ImageOptions(resize="crop"), ImageOptions(shorter_side=40)])
def test_what_was_said_stays_and_is_doubted(tmp_path: Path, given: ImageOptions) -> None:
    dataset, notices = open_folder(save(tmp_path / "images", [(32, 32)] * 3), given)
    assert dataset.preprocessing is not None
    assert dataset.preprocessing.resize == "crop"
    (doubt,) = [notice for notice in notices if notice.startswith("warning")]
    assert "already have the model's size 32x32, and are enlarged to" in doubt
    _, again = open_folder(tmp_path / "images", dataset.preprocessing)  # as a table has it
    assert doubt in again


def test_some_images_of_the_models_size_are_not_enlarged_either(tmp_path: Path) -> None:
    dataset, notices = open_folder(save(tmp_path / "images", [(32, 32), (64, 48)]), None)
    assert dataset.preprocessing is not None
    assert (dataset.preprocessing.resize, dataset.preprocessing.shorter_side) == ("crop", 32)
    assert any("50% of the images already have" in notice for notice in notices)


def test_other_images_are_resized_and_cropped_by_the_preset(tmp_path: Path) -> None:
    dataset, notices = open_folder(save(tmp_path / "images", [(64, 48), (40, 40)]), None)
    assert dataset.preprocessing is not None
    assert dataset.preprocessing.shorter_side == 37
    assert not any("already" in notice for notice in notices)


def test_a_factor_that_multiplies_is_questioned(tmp_path: Path) -> None:
    folder = save(tmp_path / "images", [(32, 32)])
    _, notices = open_folder(folder, ImageOptions("none", scale=255.0))
    assert any("inputs reach 65,025" in n and "is --scale 255 meant to be 1/255?" in n for n in notices)
    _, notices = open_folder(folder, "none")
    assert not any("inputs reach" in notice for notice in notices)
