"""Does a file belong to these inputs? What it was made from, as facts by name, and which of them differ.

One question for every file that outlives a command, answered by `differences` of two dictionaries of facts:

- calibration tables, statistics and checkpoints: `calibration_facts`, asked in `quantkit.caches.reuse` and `merge`;
- what is made from a table (INT8 models, rounded weights, plans, engines): its `TABLE_CHECKSUM`;
- engines: `Manifest.facts`, asked in `find_reusable` of `quantkit.backends.tensorrt.build.manifest`.

A fact that does not decide the content (a date, a file's name) is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from quantkit.notices import join_names

MODEL_HASH, TABLE_CHECKSUM = "model hash", "table checksum"
"""Names of the facts that most files are checked by."""

_HASH_DIGITS = 64
_SHOWN_DIGITS = 12


def differences(stored: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """What differs between the facts of a stored file and those of one that would be made now.

    Args:
        stored: facts by name. A fact is a text, a number, a dataclass (compared field by field) or a dictionary (whose
            differing keys are named).
        wanted: likewise. A name that is in one of the two alone counts as None in the other.

    Returns:
        One phrase each, in the order of the facts; [] where the file is what would be made.

    Example:
        >>> differences({"method": "entropy", "seed": 0}, {"method": "mse", "seed": 0})
        ['method: entropy → mse']
    """
    found = []
    for name in dict.fromkeys([*wanted, *stored]):
        old, new = stored.get(name), wanted.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(f"{name}: {join_names(sorted({key for key, _ in old.items() ^ new.items()}))}")
        elif is_dataclass(old) and type(old) is type(new):
            found += [
                f"{name} {f.name}: {_short(getattr(old, f.name))} → {_short(getattr(new, f.name))}"
                for f in fields(old)
                if getattr(old, f.name) != getattr(new, f.name)
            ]
        else:
            found.append(f"{name}: {_short(old)} → {_short(new)}")
    return found


def why_stale(name: str, stored: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """One sentence on a file that was made from other inputs, with each difference; "" where there is none.

    Example:
        >>> why_stale("net.calib.json", {"method": "entropy"}, {"method": "mse"})
        'net.calib.json was made from different inputs: method: entropy → mse'
    """
    found = differences(stored, wanted)
    return f"{name} was made from different inputs: {'; '.join(found)}" if found else ""


def _short(value: object) -> str:
    if is_dataclass(value):
        return "another kind"  # of data: images have a preprocessing, arrays have none
    if isinstance(value, tuple) and value:
        return ", ".join(map(_short, value))
    text = "none" if value in (None, [], ()) else str(value)
    return text[:_SHOWN_DIGITS] if len(text) == _HASH_DIGITS else text
