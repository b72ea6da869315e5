"""Parsers that misbehave, in a module of their own: the process that a run starts for them imports little."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from .oracle import Target

__all__ = ["hostile_targets"]


def hostile_targets() -> dict[str, Target]:
    """Parsers that hang, end the process, ask for all memory, or are good."""

    def hang(path):
        while path.stat().st_size > 3:
            pass

    def end(path):
        if path.stat().st_size > 3:
            os.abort()

    def ask(path):
        return bytes(1 << 40)

    def wait(path):
        time.sleep(0.001)

    made = {name: Target(".x", lambda shared: [b"abcd"], parse) for name, parse in locals().items()}
    return made | {"good": replace(made["wait"], parse=lambda path: path.read_bytes())}
