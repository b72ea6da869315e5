"""Where a model is run: how `--device` says it."""

from __future__ import annotations

import re
from typing import Literal


def parse_device(text: str) -> Literal["auto"] | tuple[int, ...]:
    """Reads "auto", "cpu", "cuda", "cuda:1" or "cuda:0,1".

    Returns:
        Indices of the GPUs, none for the CPU; "auto" as it is.

    Raises:
        ValueError: it is none of these.

    Example:
        >>> parse_device("cuda:0,1"), parse_device("cuda"), parse_device("cpu")
        ((0, 1), (0,), ())
    """
    lowered = text.strip().lower()
    if lowered == "auto":
        return "auto"
    if lowered in ("cpu", "cuda"):
        return (0,) if lowered == "cuda" else ()
    match = re.fullmatch(r"cuda:(\d+(?:,\d+)*)", lowered)
    if match is None:
        raise ValueError(f"--device takes auto, cpu, cuda, cuda:N or cuda:N,M, not {text!r}")
    return tuple(dict.fromkeys(int(part) for part in match[1].split(",")))


def first_gpu(text: str) -> int | None:
    """The first GPU that is named; None for "auto" and "cpu".

    Raises:
        ValueError: see `parse_device`.
    """
    found = parse_device(text)
    return found[0] if found != "auto" and found else None
