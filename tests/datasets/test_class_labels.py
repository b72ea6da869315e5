from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets.class_labels import remedy_for_parts
from quantkit.datasets.description import describe_choice
from quantkit.datasets.open import open_samples
from quantkit.notices import Notice
from quantkit.types import TensorSpec


@pytest.mark.parametrize("classes", [("calib", "test"), ("train2017", "val2017"), ("Train", "Val"), ("validation",)])
def test_parts_of_a_data_set_are_no_classes(classes: tuple[str, ...]) -> None:
    assert f"pass one of {', '.join(classes)} as --data" in remedy_for_parts(classes)


@pytest.mark.parametrize("classes", [(), ("cat", "dog"), ("train", "tram"), ("testudo", "validator"), ("0", "1")])
def test_classes_are_not_taken_for_parts(classes: tuple[str, ...]) -> None:
    assert remedy_for_parts(classes) == ""


def test_the_folder_above_the_parts_is_warned_of_before_anything_runs(tmp_path: Path) -> None:
    for folder in ("calib/cat", "test/cat"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / folder / "0.png")
    spec = TensorSpec("x", np.dtype(np.float32), ("n", 3, 8, 8))
    dataset = open_samples([spec], tmp_path, None, None, num_samples=None, seed=0, order="given")
    notices: list[Notice] = []
    describe_choice(dataset, tmp_path, 0, notices.append)
    (warning,) = [notice.text for notice in notices if notice.kind == "warning"]
    assert warning == "pass one of calib, test as --data: these are parts of the data, not classes"
