from __future__ import annotations

import pytest

from quantkit.errors import DatasetError, OptionError
from quantkit.types.option import option_fields
from quantkit.types.options import ImageOptions

IMAGES = {field.name: field for field in option_fields(ImageOptions)}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "224", (224, 224)),
        ("size", "480x640", (480, 640)),
        ("scale", "1/255", 1 / 255),
        ("scale", "0.5", 0.5),
        ("mean", "0.5", (0.5,)),
        ("std", "0.1,0.2 0.3", (0.1, 0.2, 0.3)),
    ],
)
def test_text_of_image_options_is_read_and_written(name, text, value):
    assert IMAGES[name].read(text) == value
    assert IMAGES[name].read(IMAGES[name].write(value)) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("size", "4x5x6", "--size: invalid size '4x5x6', expected e.g. 224 or 480x640"),
        ("scale", "1/0", "--scale: invalid number '1/0', expected e.g. 0.0039 or 1/255"),
        ("std", "1,a", "--std: invalid numbers '1,a', expected e.g. 0.5 or 0.5,0.5,0.5"),
    ],
)
def test_text_that_is_no_value_is_refused_by_the_option(name, text, message):
    with pytest.raises(OptionError) as refused:
        IMAGES[name].read(text)
    assert str(refused.value) == message
    assert refused.value.exit_code == 2


def test_image_options_are_checked_when_made():
    with pytest.raises(DatasetError, match="--color: there is no 'CMYK': choose one of RGB, BGR, L"):
        ImageOptions(color="CMYK")  # type: ignore[arg-type]


def test_a_preset_that_is_not_given_is_not_the_one_named_none():
    assert IMAGES["preprocess"].read(None) is None
    assert IMAGES["preprocess"].read("NONE") == "none"
