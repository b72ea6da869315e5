"""What a parser may do with any file: return a value, or refuse it in one line that names it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from quantkit.errors import QuantKitError

from .mutations import Mutation, mutate

__all__ = ["Broken", "Target", "check", "make_input"]


@dataclass(frozen=True)
class Target:
    """A parser and files for it.

    Attributes:
        suffix: of the files, with the dot.
        seeds: files to start from, given the folder of shared material or None.
        parse: reads the file at a path; a `QuantKitError` refuses it.
        use: does with what was read what the program would do, and checks that it can be written and read again.
        structured: a mutation that knows the format.
        seal: makes checksums fit.
        setup: puts beside the file what it refers to.
        share: how many inputs it gets in a recorded run, against the others.
    """

    suffix: str
    seeds: Callable[[Path | None], Sequence[bytes]]
    parse: Callable[[Path], Any]
    use: Callable[[Any, Path], None] | None = None
    structured: Mutation | None = None
    seal: Callable[[bytes], bytes] | None = None
    setup: Callable[[Path], None] | None = None
    share: float = 1.0


Targets = Mapping[str, Target]


class Broken(Exception):  # noqa: N818
    """A parser did something else than to return or to refuse; the message says what."""


def make_input(name: str, target: Target, seeds: Sequence[bytes], *, seed: int, index: int) -> bytes:
    """Input number `index` of a run; independent of all other inputs."""
    rng = np.random.Generator(np.random.PCG64([seed, crc32(name.encode()), index]))
    return mutate(rng, seeds, structured=target.structured, seal=target.seal)


def check(target: Target, content: bytes, folder: Path) -> bool:
    """Whether the parser accepts a file.

    Raises:
        Broken: an exception that is no refusal, a refusal of several lines or without the file's name, a Python
            warning, or a value that cannot be used.
    """
    path = folder / f"input{target.suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accepted = _parse(target, path)
    if caught:
        first = caught[0]
        raise Broken(f"a warning: {first.category.__name__}: {first.message} ({first.filename}:{first.lineno})")
    return accepted


def _parse(target: Target, path: Path) -> bool:
    try:
        value = target.parse(path)
    except QuantKitError as error:
        message = str(error)
        if len(message.splitlines()) != 1:
            raise Broken(f"a message of {len(message.splitlines())} lines: {message!r}") from None
        if path.name not in message:
            raise Broken(f"a message that does not name the file: {message!r}") from None
        return False
    except BaseException as error:
        raise Broken(f"reading raises {_described(error)}") from None
    if target.use is not None:
        try:
            target.use(value, path)
        except BaseException as error:
            raise Broken(f"using what was read raises {_described(error)}") from None
    return True


def _described(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-6:]))
    return f"{type(error).__name__}: {str(error)[:300]!r} at {where}"
