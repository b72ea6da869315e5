"""Class indices from labels: numbers as they are, names by their sorted order or by a given list of names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from quantkit.errors import DatasetError
from quantkit.notices import unicode_text

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_LARGEST = 2**31 - 1
_PART = re.compile(r"(calib(ration)?|test|train(ing)?|val(id(ation)?)?)\d*", re.IGNORECASE)


def index_labels(labels: Mapping[str, str], classes: Sequence[str] | None) -> tuple[dict[str, int], tuple[str, ...]]:
    """Class index of each label.

    If every label is a non-negative integer, it is the index; otherwise labels are names. Names are looked up in
    `classes`, or, without them, indexed in sorted order.

    Args:
        labels: distinct labels, each with the place where it was first met, for messages.
        classes: names by index; None where they are not known.

    Returns:
        Index by label, and the class names by index (empty where labels are numbers and no names are known).

    Raises:
        DatasetError: a label that is not in `classes`, a negative or fractional number, a class named twice.
    """
    names = tuple(classes or ())
    for name, count in Counter(names).items():
        if count > 1:
            raise DatasetError(f"class {name!r} is in the list of classes {count} times")
    numbers = all(label.isascii() and label.isdigit() for label in labels)
    if names and labels.keys() <= set(names):
        return {label: names.index(label) for label in labels}, names
    if numbers:
        limit = len(names) - 1 if names else _LARGEST
        for label, where in labels.items():
            if len(label) > 10 or int(label) > limit:
                listed = "is only 1 class" if len(names) == 1 else f"are only {len(names)} classes"
                reason = f"there {listed} (--classes)" if names else "it is too large for a class index"
                raise DatasetError(f"{where}: label {label}, but {reason}")
        return {label: int(label) for label in labels}, names
    for label, where in labels.items():
        if names and label not in names:
            close = difflib.get_close_matches(label, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DatasetError(f"{where}: {label!r} is not among the {len(names)} given classes{hint}")
        if _NUMBER.fullmatch(label) and not label.isdigit():
            raise DatasetError(f"{where}: label {label!r} must be a class name or an integer from 0")
    known = tuple(sorted(labels))
    return {label: index for index, label in enumerate(known)}, tuple(map(unicode_text, known))


def remedy_for_parts(classes: Sequence[str]) -> str:
    """What to do where the "classes" are parts of a data set (`train`, `val2017`); "" where they are not."""
    if not classes or not all(map(_PART.fullmatch, classes)):
        return ""
    return f"pass one of {', '.join(classes)} as --data: these are parts of the data, not classes"
