from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.datasets.preprocess import preprocess
from quantkit.numerics import fit_image
from quantkit.types import Preprocessing
from tests.geometry import input_from_image

SIDES = st.integers(8, 120)


@st.composite
def cases(draw):
    resize = draw(st.sampled_from(["stretch", "crop", "letterbox", "height", "limit"]))
    size = (draw(st.integers(16, 64)), draw(st.integers(16, 64)))
    shorter = draw(st.integers(max(size), 80)) if resize == "crop" else None
    return Preprocessing(size=size, color="L", resize=resize, shorter_side=shorter), (draw(SIDES), draw(SIDES))


@given(cases())
def test_boxes_go_into_the_input_and_come_back(case):
    preprocessing, (height, width) = case
    fit = fit_image((height, width), preprocessing)
    corners = np.array([[0, 0, width, height], [1, 2, width / 2, height / 3]], np.float64)
    assert fit.image_from_input(input_from_image(fit, corners)) == pytest.approx(corners)


@given(cases())
def test_the_input_shows_the_image_where_the_fit_says(case):
    """A white image on black padding: its edges in the input are those of the fitted box."""
    preprocessing, (height, width) = case
    fit = fit_image((height, width), preprocessing)
    image = Image.new("L", (width, height), 255)
    pixels = preprocess(image, preprocessing)[0]
    left, top, right, bottom = (
        input_from_image(fit, np.array([[0, 0, width, height]], np.float64))[0].round().astype(int)
    )
    rows, columns = fit.input_size
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


@pytest.mark.parametrize(
    ("image_size", "options", "resized", "offset", "input_size"),
    [
        # Ultralytics' letterbox: 640 / 1280, an odd pixel of padding below; and at the top left, as YOLOX has it.
        ((721, 1280), {"resize": "letterbox"}, (360, 640), (140, 0), (640, 640)),
        ((721, 1280), {"resize": "letterbox", "pad_position": "top-left"}, (360, 640), (0, 0), (640, 640)),
        # Ultralytics' LetterBox(auto=True, stride=32): padded to the next multiple alone.
        ((721, 1280), {"resize": "letterbox", "multiple_of": 32}, (360, 640), (12, 0), (384, 640)),
        # PaddleOCR's RecResizeImg: ceil(640 * 100 / 333); a wider line is squeezed.
        ((333, 100), {"resize": "height", "pad_position": "top-left"}, (640, 193), (0, 0), (640, 640)),
        ((100, 333), {"resize": "height", "pad_position": "top-left"}, (640, 640), (0, 0), (640, 640)),
        ((333, 100), {"resize": "height", "multiple_of": 32}, (640, 193), (0, 15), (640, 224)),
        # PaddleOCR's DetResizeForTest, limit_side_len 640: 500 * 640 / 1280 = 250 -> 256; none is enlarged.
        ((500, 1280), {"resize": "limit", "multiple_of": 32}, (256, 640), (0, 0), (256, 640)),
        ((100, 30), {"resize": "limit", "multiple_of": 32}, (96, 32), (0, 0), (96, 32)),
        ((100, 30), {"resize": "limit"}, (100, 30), (0, 0), (100, 30)),
    ],
)
def test_fits_with_padding_and_multiples(image_size, options, resized, offset, input_size):
    preprocessing = Preprocessing(size=(640, 640), **options)
    fit = fit_image(image_size, preprocessing)
    assert (fit.resized, fit.offset, fit.input_size) == (resized, offset, input_size)
    height, width = image_size
    assert preprocess(Image.new("RGB", (width, height)), preprocessing).shape == (3, *input_size)


def test_padding_is_right_and_below_an_image_at_the_top_left():
    preprocessing = Preprocessing(size=(8, 8), color="L", resize="letterbox", pad_value=9, pad_position="top-left")
    pixels = preprocess(Image.new("L", (16, 8), 200), preprocessing)[0]
    assert (pixels[:4] == 200).all()
    assert (pixels[4:] == 9).all()
