from __future__ import annotations

from contextlib import nullcontext

import pytest

from quantkit.commands import cluster

from ..ray_nodes import Inline


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray cluster a command asks for is this process."""
    monkeypatch.setattr(cluster, "connect", lambda address, use_gpus: nullcontext(Inline()))
    for command in ("calibrate", "evaluate", "sensitivity"):
        monkeypatch.setattr(f"quantkit.commands.{command}.check_cluster", lambda address: None)
