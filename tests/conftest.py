"""What several packages of tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run on machines of any speed, next to other work: time decides nothing.
settings.register_profile("quantkit", deadline=None, derandomize=True)
settings.load_profile("quantkit")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of material that is not part of the repository: trained models, data, golden caches."""
    folder = Path(os.environ.get("QUANTKIT_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip("no shared material: set QUANTKIT_SHARED to its folder")
    return folder
