from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantkit.cli.cache import verify
from quantkit.cli.calibrate import calibrate
from quantkit.cli.data import check
from quantkit.cli.evaluate import evaluate
from quantkit.cli.generate import with_options
from quantkit.types.option import option
from quantkit.types.options import ImageOptions


@dataclass(frozen=True)
class Shared:
    library: str = option("none", "What both load.")


@dataclass(frozen=True)
class Made(Shared):
    count: int = option(1, "How many are made.")


@dataclass(frozen=True)
class Another:
    library: str = option("none", "What one alone loads.")


@pytest.mark.parametrize("command", [calibrate, evaluate, check, verify])
def test_image_options_are_equal_in_all_commands(command):
    names = list(inspect.signature(command).parameters)
    assert "images" not in names
    start = names.index("preprocess")
    assert names[start : start + 11] == [
        "preprocess",
        "size",
        "color",
        "resize",
        "shorter_side",
        "interpolation",
        "pad_value",
        "scale",
        "mean",
        "std",
        "layout",
    ]


def test_image_options_reach_the_command():
    seen = []

    @with_options
    def command(model: Path, images: ImageOptions | None = None, quiet: bool = False) -> None:
        """What it does."""
        seen.append((model, images, quiet))

    nothing = dict.fromkeys(list(inspect.signature(command).parameters)[2:])
    command(model=Path("m"), quiet=True, **nothing)
    command(model=Path("m"), quiet=False, **{**nothing, "size": "4x6", "scale": "1/255", "mean": "1,2,3"})
    assert seen == [
        (Path("m"), None, True),
        (Path("m"), ImageOptions(size=(4, 6), scale=1 / 255, mean=(1.0, 2.0, 3.0)), False),
    ]
    assert command.__doc__ == "What it does."


def test_what_groups_of_options_share_is_one_option_that_reaches_them_all():
    seen = []

    @with_options
    def command(first: Shared, second: Made) -> None:
        seen.append((first, second))

    assert list(inspect.signature(command).parameters)[:2] == ["library", "count"]
    command(library="a", count=2)
    assert seen == [(Shared("a"), Made("a", 2))]


def test_different_options_of_one_name_are_refused():
    def command(first: Shared, second: Another) -> None: ...

    with pytest.raises(AssertionError, match="two options are called --library"):
        with_options(command)
