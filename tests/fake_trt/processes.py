"""A process for each release of TensorRT that a module of tests asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from .releases import RELEASES, Bindings, UnobtainableError


@contextlib.contextmanager
def running_bindings() -> Iterator[Callable[[str], Bindings]]:
    """By the name of the release, started when it is first asked for; skips where the bindings cannot be had."""
    running: dict[str, Bindings] = {}

    def of(release: str) -> Bindings:
        if release not in RELEASES:
            pytest.skip(f"QUANTKIT_TENSORRT_VERSIONS leaves out {release}")
        if release not in running:
            try:
                running[release] = Bindings(RELEASES[release])
            except UnobtainableError as error:
                pytest.skip(str(error))
        return running[release]

    yield of
    for bindings in running.values():
        bindings.close()
