"""What a calibration method declares, and how one is found by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantkit.errors import CalibrationError
from quantkit.registry import suggest
from quantkit.types import TensorStatistics
from quantkit.types.option import OwnOption


@dataclass(frozen=True)
class Method:
    """A calibration method: how the range of a tensor is chosen from its statistics.

    Attributes:
        function: from the statistics of one tensor, not all zero, to amax: its values are clipped to [-amax, amax].
            The method's options are its keywords.
        summary: what it does, for help and documentation.
        own_options: that it has and no other method.
        tensorrt_algorithm: TensorRT's name of it in calibration caches, None where TensorRT has no such method.
        keeps_probabilities: whether "exact" ranges of Softmax and Sigmoid outputs are taken unclipped.
    """

    function: Callable[..., float]
    summary: str
    own_options: tuple[OwnOption, ...] = ()
    tensorrt_algorithm: str | None = None
    keeps_probabilities: bool = False


METHODS: dict[str, Method] = {}
"""By the name that `--method` takes; filled by the modules of this folder."""


def bind_method(name: str, options: Mapping[str, float | None]) -> Callable[[TensorStatistics], float]:
    """The method of that name with its options filled in.

    Args:
        name: a key of `METHODS`.
        options: of the method; None takes the default.

    Raises:
        CalibrationError: an unknown name, an option of another method, or a value that the method does not take.
    """
    if name not in METHODS:
        raise CalibrationError(f"there is no calibration method {name!r}: {suggest(name, METHODS)}")
    method = METHODS[name]
    own = {option.name: option for option in method.own_options}
    keywords = {key: option.default for key, option in own.items()}
    for key, value in options.items():
        if value is None:
            continue
        flag = f"--{key.replace('_', '-')}"
        if key not in own:
            raise CalibrationError(f"{flag} has no meaning with the method {name!r}")
        if not own[key].is_valid(value):
            raise CalibrationError(f"{flag} {value} must be {own[key].expected}")
        keywords[key] = value
    return functools.partial(method.function, **keywords)


def method_settings(name: str, options: Mapping[str, float | None]) -> dict[str, str | float | None]:
    """What a table stores of a method: its name and every method's options, None where they are another method's."""
    settings: dict[str, str | float | None] = {"method": name}
    for known, method in METHODS.items():
        for option in method.own_options:
            given = options.get(option.name)
            settings[option.name] = None if known != name else option.default if given is None else given
    return settings


def cache_algorithm(name: str) -> str:
    """The calibrator in the header of a TensorRT cache; entropy's, TensorRT's default, for methods it does not have."""
    method = METHODS.get(name)
    return (method and method.tensorrt_algorithm) or "EntropyCalibration2"
