"""Batch axes and constants of inputs as the settings of a calibration table, and taken from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from quantkit.errors import DatasetError
from quantkit.types.calibration import Setting
from quantkit.types.options import ImageOptions

_NAMED = re.compile(r"(.+?)=([^=,]+)(?:,|$)")


def placement_settings(said: ImageOptions) -> dict[str, Setting]:
    """What is said of batch axes and constants, as a table stores it; nothing for what is not said.

    >>> placement_settings(ImageOptions(batch_axis={"state": 1}, constant={"sr": 16000.0}))
    {'batch_axis': 'state=1', 'constant': 'sr=16000'}
    """
    return {
        name: ",".join(f"{key}={_shortest(value)}" for key, value in sorted(values.items()))
        for name, values in (("batch_axis", said.batch_axis), ("constant", said.constant))
        if values
    }


def placed_as(settings: Mapping[str, Setting], given: ImageOptions) -> ImageOptions:
    """What is given, with the batch axes and constants of a table's settings for the inputs that it says nothing of.

    Raises:
        DatasetError: an input has another axis or constant in the table.
    """
    axes = {name: int(axis) for name, axis in _stored(settings, "batch_axis").items()}
    constants = stored_constants(settings)
    _check("--batch-axis", axes, given.batch_axis or {})
    _check("--constant", constants, given.constant or {})
    axes |= given.batch_axis or {}
    constants |= given.constant or {}
    return replace(given, batch_axis=axes or None, constant=constants or None)


def stored_constants(settings: Mapping[str, Setting]) -> dict[str, float]:
    """Inputs that had one value for every sample, as a table stores them."""
    return _stored(settings, "constant")


def _stored(settings: Mapping[str, Setting], name: str) -> dict[str, float]:
    return {key: float(value) for key, value in _NAMED.findall(str(settings.get(name) or ""))}


def _check(option: str, stored: Mapping[str, float], given: Mapping[str, float]) -> None:
    for name, value in given.items():
        if stored.get(name, value) != value:
            raise DatasetError(
                f"{option} {name}={_shortest(value)}: the table was calibrated with {name}={_shortest(stored[name])}; "
                "omit the option, or calibrate again"
            )


def _shortest(value: float) -> str:
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
