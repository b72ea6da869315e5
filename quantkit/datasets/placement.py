"""Batch axes and constants of inputs as the settings of a calibration table, and taken from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from quantkit.errors import DatasetError
from quantkit.types.calibration import Setting
from quantkit.types.options import ImageOptions

PLACEMENT = ("batch_axis", "constant", "state")
"""Settings, and options of the same names, that say how samples become the inputs of the model."""

_NAMED = re.compile(r"(.+?)=([^=,]+)(?:,|$)")


def placement_settings(said: ImageOptions) -> dict[str, Setting]:
    """What is said of batch axes, constants and states, as a table stores it; nothing for what is not said.

    >>> placement_settings(ImageOptions(batch_axis={"state": 1}, constant={"sr": 16000.0}))
    {'batch_axis': 'state=1', 'constant': 'sr=16000'}
    """
    return {
        name: ",".join(f"{key}={_shortest(value)}" for key, value in sorted(values.items()))
        for name in PLACEMENT
        if (values := getattr(said, name))
    }


def placed_as(settings: Mapping[str, Setting], given: ImageOptions) -> ImageOptions:
    """What is given, with what a table's settings hold for the inputs that it says nothing of.

    Raises:
        DatasetError: an input has another axis, constant or state in the table.
    """
    axes = {name: int(axis) for name, axis in _stored(settings, "batch_axis").items()}
    constants, states = stored_constants(settings), _stored(settings, "state")
    _check("--batch-axis", axes, given.batch_axis or {})
    _check("--constant", constants, given.constant or {})
    _check("--state", states, given.state or {})
    axes |= given.batch_axis or {}
    constants |= given.constant or {}
    states |= given.state or {}
    return replace(given, batch_axis=axes or None, constant=constants or None, state=states or None)


def stored_constants(settings: Mapping[str, Setting]) -> dict[str, float]:
    """Inputs that had one value for every sample, as a table stores them."""
    return {name: float(value) for name, value in _stored(settings, "constant").items()}


def _stored(settings: Mapping[str, Setting], name: str) -> dict[str, str]:
    return dict(_NAMED.findall(str(settings.get(name) or "")))


def _check(option: str, stored: Mapping[str, float | str], given: Mapping[str, float | str]) -> None:
    for name, value in given.items():
        if stored.get(name, value) != value:
            raise DatasetError(
                f"{option} {name}={_shortest(value)}: the table was calibrated with {name}={_shortest(stored[name])}; "
                "omit the option, or calibrate again"
            )


def _shortest(value: float | str) -> str:
    if isinstance(value, str):
        return value
    text = f"{value:g}"
    return text if float(text) == value else repr(value)
