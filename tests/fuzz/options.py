"""Options of the command line that are small languages of their own: a file's bytes, as a shell would give them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantkit.errors import EvaluationError
from quantkit.evaluation.detection.declared import Declared, parse_layout
from quantkit.evaluation.detection.layouts import OPTIONS as LAYOUT_OPTIONS
from quantkit.evaluation.limits import GATES, Drop, Limits, parse_drop
from quantkit.types.options import parse_batch_sizes

from . import seeds
from .labels import check_message
from .mutations import mutate_text
from .oracle import Target

__all__ = ["OPTIONS"]


def read_word(path: Path) -> str:
    """What a program finds in its arguments, which hold no zero and may be no UTF-8."""
    return os.fsdecode(path.read_bytes().replace(b"\x00", b""))


def parsed(option: str, parse: Callable[[str], Any]) -> Callable[[Path], Any]:
    """A parser of a file; a refusal must name the option."""

    def read(path: Path) -> Any:
        try:
            return parse(read_word(path))
        except EvaluationError as error:
            check_message(error, option)
            raise EvaluationError(f"{path.name}: {error}") from None

    return read


def use_layout(declared: Declared, path: Path) -> None:
    """Its words, written again, mean the same."""
    assert declared.names.keys() <= set(declared.layout.roles)
    assert all(value in LAYOUT_OPTIONS[key] for key, value in declared.options.items())
    chosen = {key: declared.options[key] for key in declared.layout.choices}
    words = ",".join(f"{key}={value}" for key, value in {**declared.names, **chosen}.items())
    again = parse_layout(f"{declared.name}:{words}")
    assert (again.names, again.options) == (declared.names, declared.options), "another declaration is read back"


def use_drop(drop: Drop, path: Path) -> None:
    assert Limits(max_drop=drop)
    assert 0 <= drop.number < float("inf")


def parse_gate(text: str) -> Limits:
    return Limits(gates=(text,))


def use_gate(limits: Limits, path: Path) -> None:
    assert limits.gates[0] in GATES


def use_sizes(sizes: tuple[int, ...], path: Path) -> None:
    assert parse_batch_sizes(",".join(map(str, sizes))) == sizes
    assert min(sizes) >= 1


OPTIONS: dict[str, Target] = {
    "--detections": Target(
        ".txt", seeds.detections, parsed("--detections", parse_layout), use_layout, mutate_text, share=0.5
    ),
    "--max-drop": Target(".txt", seeds.drops, parsed("--max-drop", parse_drop), use_drop, mutate_text, share=0.5),
    "--gate": Target(".txt", seeds.gates, parsed("--gate", parse_gate), use_gate, mutate_text, share=0.25),
    "--batch-sizes": Target(
        ".txt", seeds.sizes, parsed("--batch-sizes", parse_batch_sizes), use_sizes, mutate_text, share=0.5
    ),
}
