from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.datasets.preprocess import preprocess
from quantkit.numerics import fit_image
from quantkit.types import Preprocessing

SIDES = st.integers(8, 120)


@st.composite
def cases(draw):
    resize = draw(st.sampled_from(["stretch", "crop", "letterbox"]))
    size = (draw(st.integers(16, 64)), draw(st.integers(16, 64)))
    shorter = draw(st.integers(max(size), 80)) if resize == "crop" else None
    return Preprocessing(size=size, color="L", resize=resize, shorter_side=shorter), (draw(SIDES), draw(SIDES))


@given(cases())
def test_boxes_go_into_the_input_and_come_back(case):
    preprocessing, (height, width) = case
    fit = fit_image((height, width), preprocessing)
    corners = np.array([[0, 0, width, height], [1, 2, width / 2, height / 3]], np.float64)
    assert fit.image_from_input(fit.input_from_image(corners)) == pytest.approx(corners)


@given(cases())
def test_the_input_shows_the_image_where_the_fit_says(case):
    """A white image on black padding: its edges in the input are those of the fitted box."""
    preprocessing, (height, width) = case
    fit = fit_image((height, width), preprocessing)
    image = Image.new("L", (width, height), 255)
    pixels = preprocess(image, preprocessing)[0]
    left, top, right, bottom = (
        fit.input_from_image(np.array([[0, 0, width, height]], np.float64))[0].round().astype(int)
    )
    rows, columns = preprocessing.size
    inside = np.zeros((rows, columns), bool)
    inside[max(top, 0) : bottom, max(left, 0) : right] = True
    assert (pixels[inside] == 255).all()
    assert (pixels[~inside] == 114).all()


def test_a_mark_is_found_where_the_fit_says():
    """A bright square in a dark image: the centre of what is bright in the input maps back to its centre."""
    image = Image.new("L", (100, 60), 0)
    image.paste(255, (70, 20, 78, 28))
    for options in (
        {"resize": "stretch"},
        {"resize": "letterbox", "pad_value": 0},
        {"resize": "crop", "shorter_side": 64},
    ):
        preprocessing = Preprocessing(size=(64, 64), color="L", **options)
        pixels = preprocess(image, preprocessing)[0].astype(float)
        y, x = (float((pixels * grid).sum() / pixels.sum()) + 0.5 for grid in np.indices(pixels.shape))
        back = fit_image((60, 100), preprocessing).image_from_input(np.array([[x, y, x, y]]))[0]
        assert back[:2] == pytest.approx([74, 24], abs=0.5)


def test_what_lies_outside_the_image_is_clipped_to_it():
    fit = fit_image((50, 100), Preprocessing(size=(64, 64), resize="letterbox"))
    assert fit.image_from_input(np.array([[-5.0, 0.0, 64.0, 64.0]])).tolist() == [[0, 0, 100, 50]]
