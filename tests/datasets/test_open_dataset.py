from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import quantkit.datasets
from quantkit.datasets import (
    describe,
    holds_arrays,
    iterate_batches,
    open_dataset,
    resolve_preprocessing,
    select,
)
from quantkit.errors import DatasetError
from quantkit.types import Dataset, Preprocessing, TensorSpec

Save = Callable[..., Path]


def test_public_names_exist() -> None:
    assert all(hasattr(quantkit.datasets, name) for name in quantkit.datasets.__all__)
    assert quantkit.datasets.__all__ == sorted(quantkit.datasets.__all__, key=lambda n: (not n.isupper(), n))


def test_folder_is_opened_end_to_end(save_image: Save, tmp_path: Path, spec: TensorSpec) -> None:
    for name in ("cat/1.png", "cat/2.png", "cat/3.png", "dog/1.png", "dog/2.png"):
        save_image(f"images/{name}", 255)
    save_image("images/dog/3.png").write_bytes(b"")
    dataset = open_dataset(str(tmp_path / "images"), [spec])
    assert isinstance(dataset, Dataset)
    assert dataset.preprocessing == resolve_preprocessing(spec, resize="stretch")  # they have the model's size
    skipped: list[str] = []
    view = select(dataset, num_samples=5, seed=1)
    batches = list(iterate_batches(view, 2, on_skip=lambda name, reason: skipped.append(f"{name}: {reason}")))
    assert describe(dataset) == {
        "kind": "image folder",
        "num_samples": 6,
        "num_classes": 2,
        "min_per_class": 3,
        "max_per_class": 3,
    }
    read = [name for batch in batches for name in batch.ids]
    assert sorted([*read, *(s.split(":")[0] for s in skipped)]) == sorted(view.ids)
    assert all(s == "dog/3.png: the file is empty" for s in skipped)
    assert batches[0].inputs["image"].shape == (2, 3, 8, 8)
    assert batches[0].inputs["image"][0, 0, 0, 0] == np.float32((1 - 0.485) / 0.229)


def test_lists_and_arrays_are_opened(save_image: Save, tmp_path: Path, spec: TensorSpec, plain: Preprocessing) -> None:
    save_image("a.png")
    (tmp_path / "x.csv").write_text("path,label\na.png,3\n")
    listed = open_dataset(tmp_path / "x.csv", [spec], preprocessing=plain)
    assert describe(listed)["kind"] == "image list"
    assert listed[0].target == 3
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8)))
    arrays = open_dataset(tmp_path / "x.npy", [spec])
    assert arrays.preprocessing is None
    assert arrays[1].inputs["image"].dtype == np.float32
    assert holds_arrays(tmp_path / "x.npy")
    assert not holds_arrays(tmp_path / "x.csv")
    assert not holds_arrays(tmp_path)


def test_unusable_data_is_refused(save_image: Save, tmp_path: Path, spec: TensorSpec, plain: Preprocessing) -> None:
    image = save_image("images/a.png")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8)))
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "0.npy", np.zeros((1, 3, 8, 8)))
    (tmp_path / "link").symlink_to("nowhere")
    other = replace(spec, name="mask")
    for path, inputs, preprocessing, words in (
        (tmp_path / "none", [spec], plain, r"none does not exist: --data takes"),
        (tmp_path / "link", [spec], plain, r"link is a link to nothing, or in a circle: --data takes"),
        ("", [spec], plain, r"the path of the data is empty: name it, or \. for the working folder"),
        (image, [spec], plain, r"a\.png is not a data set"),
        (tmp_path / "rows", [spec], plain, r"rows: a folder of \.npy files is not read: save one \.npy \[N, \.\.\.\]"),
        (tmp_path / "x.npy", [spec], plain, "omit the image options"),
        (image.parent, [spec, other], plain, r"the model has 'image', 'mask': .*\.npz"),
        (image.parent, [replace(spec, shape=("N", 128))], None, "images do not match input 'image'"),
        (image.parent, [spec], replace(plain, size=(9, 9)), r"makes float32 \[3, 9, 9\], but input 'image' takes"),
        (image.parent, [spec], replace(plain, layout="NHWC"), r"makes float32 \[8, 8, 3\]"),
        (image.parent, [spec], replace(plain, dtype="float16"), "makes float16"),
        (image.parent, [replace(spec, dtype=np.dtype("int8"))], replace(plain, dtype="int8"), "outside the model's"),
    ):
        with pytest.raises(DatasetError, match=words) as raised:
            open_dataset(path, inputs, preprocessing=preprocessing)
        assert "\n" not in str(raised.value)
