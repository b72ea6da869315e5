from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from quantkit.errors import CalibrationError, OptionError
from quantkit.types.option import TextForm, check_choices, make_options, nested, option, option_fields


@dataclass(frozen=True)
class Filling:
    kind: Literal["jam", "nuts"] | None = option(None, "What is inside.")


@dataclass(frozen=True)
class Cake:
    layers: int = option(3, "Number of layers.", flag="--layers,-l")
    shares: tuple[int, ...] = option(
        (1,), "Sizes.", form=TextForm(lambda text: tuple(map(int, text.split("+"))), lambda v: "+".join(map(str, v)))
    )
    toppings: tuple[str, ...] = option((), "What is on it.")
    preprocess: str | None = None
    filling: Filling | None = nested(Filling)


def test_fields_of_nested_dataclasses_are_options_too():
    found = {field.name: field for field in option_fields(Cake)}
    assert list(found) == ["layers", "shares", "toppings", "kind"]
    assert found["kind"].path == ("filling", "kind")
    assert found["layers"].flags == ("--layers", "-l")
    assert [field.is_list for field in found.values()] == [False, False, True, False]


def test_what_is_written_is_read_back():
    shares = next(field for field in option_fields(Cake) if field.name == "shares")
    assert shares.write((1, 8)) == "1+8"
    assert shares.read("1+8") == (1, 8)
    with pytest.raises(OptionError, match="--shares: invalid literal"):
        shares.read("1+x")


def test_keywords_win_over_an_object_and_unknown_ones_are_named():
    assert make_options(Cake, None, {"layers": 4}) == Cake(layers=4)
    assert make_options(Cake, Cake(layers=4, toppings=("x",)), {"layers": 5}) == Cake(layers=5, toppings=("x",))
    with pytest.raises(OptionError, match="there is no option 'layer': did you mean 'layers'"):
        make_options(Cake, None, {"layer": 4})


def test_the_old_name_of_preprocess_works_and_warns():
    with pytest.warns(DeprecationWarning, match="now called preprocess"):
        assert make_options(Cake, None, {"preprocessing": "yolo"}).preprocess == "yolo"


def test_words_that_a_type_does_not_allow_are_refused_by_name():
    check_choices(Filling(), CalibrationError)
    with pytest.raises(CalibrationError, match="--kind: there is no 'tar': choose one of jam, nuts"):
        check_choices(Filling("tar"), CalibrationError)  # type: ignore[arg-type]
