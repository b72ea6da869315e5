from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from quantkit.cli.cache import verify
from quantkit.cli.calibrate import calibrate
from quantkit.cli.data import check
from quantkit.cli.evaluate import evaluate
from quantkit.cli.generate import with_options
from quantkit.types.options import ImageOptions


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
