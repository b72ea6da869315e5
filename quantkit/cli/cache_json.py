"""What `quantkit cache show|diff|verify --json` print; docs/how-to/caches.md lists the keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.caches.range_cache import version_from_number
from quantkit.cli.as_json import members
from quantkit.cli.inspect_json import json_from_origin

if TYPE_CHECKING:
    from quantkit.caches.contents import Shown
    from quantkit.caches.inspection import RangeRow
    from quantkit.caches.range_cache import CacheDifference, RangeCache
    from quantkit.caches.verify import Verification


def json_from_head(found: RangeCache, path: Path) -> dict[str, Any]:
    """What a file of ranges is."""
    version = None if found.version is None else version_from_number(found.version)
    return {
        "path": str(path),
        "form": found.form,
        "made_by": found.title,
        "method": found.method,
        "tensorrt_version": version,
        "algorithm": found.algorithm,
        "made_of": found.made_of or None,
    }


def json_from_shown(shown: Shown, path: Path, rows: Sequence[RangeRow]) -> dict[str, Any]:
    """One file: `show`."""
    tensors = []
    table = shown.cache.table
    in_float = {} if table is None else table.float_tensors
    for row in rows:
        known, histogram = shown.cache.tensors[row.name], shown.histograms.get(row.name)
        calibrated = None if table is None else table.tensors.get(row.name)
        choice = {
            "minimum": known.minimum,
            "maximum": known.maximum,
            "method": calibrated.method or None if calibrated is not None else None,
            "float_reason": in_float.get(row.name),
        }
        tensors.append({**members(row), **choice, "histogram": histogram})
    return {
        **json_from_head(shown.cache, path),
        "origin": None if table is None else json_from_origin(table),
        "quality": dict(table.quality) if table is not None and table.quality else None,
        "statistics": None if shown.statistics is None else str(shown.statistics),
        "notes": shown.notes,
        "num_tensors": len(shown.cache.tensors),
        "tensors": tensors,
    }


def json_from_difference(found: CacheDifference) -> dict[str, Any]:
    """Two files: `diff`."""
    return {
        "is_same": found.is_same,
        "num_identical": found.num_identical,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "tensors": [
            {
                "name": t.name,
                "first": t.first.amax,
                "second": t.second.amax,
                "first_hex": f"{t.first.scale_bits:x}",
                "second_hex": f"{t.second.scale_bits:x}",
                "ratio": t.ratio,
                "bins": t.bins,
            }
            for t in found.tensors
        ],
    }


def json_from_verification(found: Verification, path: Path) -> dict[str, Any]:
    """A file against a model, a TensorRT and data: `verify`."""
    fit = found.fit
    return {
        **json_from_head(found.cache, path),
        "model": str(found.model),
        "is_stale": found.is_stale,
        "problems": found.problems,
        "notes": found.notes,
        "tensorrt": {"verdict": found.acceptance, "reason": found.acceptance_reason},
        "needed": fit.needed,
        "matched": fit.matched,
        "inherited": fit.inherited,
        "missing": list(fit.missing),
        "unlisted": fit.unlisted,
        "foreign": fit.foreign,
        "float_operators": dict(fit.float_operators),
        "proposal": {"ground": found.proposal_ground, "names": dict(found.proposal)},
        "num_samples": found.num_samples,
        "preprocessing": None if found.preprocessing is None else found.preprocessing.declared(),
        "ranges": found.checks,
    }
