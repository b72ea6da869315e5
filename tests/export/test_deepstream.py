"""nvinfer's preprocessing is the table's: the same numbers come out of both formulas."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.errors import DatasetError
from quantkit.export.deepstream import preprocessing_properties, properties_text
from quantkit.types import Preprocessing


@pytest.mark.parametrize(
    "how",
    [
        Preprocessing((8, 8), scale=1 / 255),
        Preprocessing((8, 8), color="BGR", mean=(103.94, 116.78, 123.68)),
        Preprocessing((8, 8), scale=1 / 127.5, mean=(1.0,)),
        Preprocessing((8, 8), scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.25,)),
        Preprocessing((8, 8), color="L", scale=1 / 255, mean=(0.1307,), std=(0.3081,)),
    ],
)
def test_both_formulas_give_the_same_numbers(how):
    found = preprocessing_properties(how)
    assert found.differences == ()
    pixels = np.arange(256.0)[:, None]
    offsets = np.array([float(word) for word in found.values["offsets"].split(";")])
    theirs = float(found.values["net-scale-factor"]) * (pixels - offsets)
    ours = (pixels * how.scale - np.array(how.mean)) / np.array(how.std)
    np.testing.assert_allclose(theirs, np.broadcast_to(ours, theirs.shape), rtol=1e-6, atol=1e-6)
    assert found.values["model-color-format"] == {"RGB": "0", "BGR": "1", "L": "2"}[how.color]


@pytest.mark.parametrize(
    ("how", "aspect", "symmetric"),
    [
        (Preprocessing((480, 640)), "0", "0"),
        (Preprocessing((480, 640), resize="letterbox", pad_value=0), "1", "1"),
        (Preprocessing((480, 640), resize="letterbox", pad_value=0, pad_position="top-left"), "1", "0"),
    ],
)
def test_resizing_in_nvinfers_terms(how, aspect, symmetric):
    values = preprocessing_properties(how).values
    assert (values["maintain-aspect-ratio"], values["symmetric-padding"]) == (aspect, symmetric)
    assert values["infer-dims"] == "3;480;640"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Preprocessing((8, 8), std=(0.2, 0.3, 0.4)), "0.3 stands for std 0.2, 0.3, 0.4, up to 33.3% off"),
        (Preprocessing((8, 8), resize="letterbox"), "pads with black, the model was calibrated with 114"),
        (Preprocessing((8, 8), resize="crop", shorter_side=9), "no resize like 'crop': images are stretched"),
        (Preprocessing((8, 8), interpolation="bicubic"), "no bicubic filter: bilinear is taken"),
    ],
)
def test_what_nvinfer_cannot_do_is_said(how, said):
    found = preprocessing_properties(how)
    assert said in found.differences[0]
    assert properties_text(found.values, found.differences).startswith(f"# {found.differences[0]}\n[property]\n")


def test_a_function_of_the_user_is_refused():
    with pytest.raises(DatasetError, match="needs a preprocessing library"):
        preprocessing_properties(Preprocessing((0, 0), function="prepare.py:run"))
