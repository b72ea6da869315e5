"""Which output plays which role of a layout, by shape. What the roles mean is left to `layouts`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from quantkit.types import Array

RoleShapes = Mapping[str, str]
"""Shape by role, such as "[N, B, 5+C]": numbers are exact, letters stand for any number, the same letter for the same
one: N samples, C classes."""

_TOKEN = re.compile(r"(?:(\d+)\+)?([A-Z])|(\d+)")
_INTEGER_ROLES = ("labels", "count", "indices")


def bind_roles(
    form: RoleShapes, outputs: Mapping[str, Array], *, letters: Mapping[str, int], is_dense: bool
) -> list[tuple[dict[str, str], dict[str, int]]]:
    """All ways to give each role of a form an output of its own whose shape fits.

    Scores and boxes are floating. Of ways that differ only in which output holds the whole numbers, those count where
    it is of an integer type.

    Args:
        form: shape by role.
        outputs: by name.
        letters: what is known: the number of samples, perhaps of classes.
        is_dense: whether there must be more boxes than classes, as in models that judge every place of an image.

    Returns:
        Output by role, and what the letters stand for; empty where nothing fits.
    """
    found = [
        (names, values)
        for names, values in _bind(list(form.items()), outputs, dict(letters))
        if not is_dense or values.get("B", 1) > values.get("C", 0)
    ]
    exact = [
        (names, values)
        for names, values in found
        if all(outputs[names[r]].dtype.kind in "iu" for r in _INTEGER_ROLES if r in names)
    ]
    return exact or found


def describe_shape(array: Array) -> str:
    """``[1, 84, 8400]``."""
    return f"[{', '.join(map(str, array.shape))}]"


def _bind(
    roles: list[tuple[str, str]], outputs: Mapping[str, Array], letters: dict[str, int]
) -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    if not roles:
        yield {}, letters
        return
    (role, pattern), *rest = roles
    for name, array in outputs.items():
        if role not in _INTEGER_ROLES and not np.issubdtype(array.dtype, np.floating):
            continue
        values = _fit(pattern, array.shape, letters)
        if values is None:
            continue
        others = {other: value for other, value in outputs.items() if other != name}
        for names, known in _bind(rest, others, values):
            yield {role: name, **names}, known


def _fit(pattern: str, shape: tuple[int, ...], letters: Mapping[str, int]) -> dict[str, int] | None:
    """The letters with what this shape adds to them; None where it does not fit."""
    tokens = _TOKEN.findall(pattern)
    if len(tokens) != len(shape):
        return None
    values = dict(letters)
    for (extra, letter, exact), size in zip(tokens, shape, strict=True):
        value = size - int(extra or 0)
        if exact:
            if size != int(exact):
                return None
        elif values.setdefault(letter, value) != value or (letter == "C" and value < 1):
            return None
    return values
