"""Tests of quantkit; `conftest.py` has what several packages of them need."""

import os
import sys
from pathlib import Path

# First of all: pytest rewrites the assertions of plugins too, hypothesis among them, and would each time.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Not beside the source then: workers, runs, and processes that tests start share what was compiled.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
