"""Whether a file of ranges still belongs to a model and data. TensorRT's part is in `cache_acceptance`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.caches.acceptance import Acceptance, acceptance_of_cache, acceptance_of_model, major_version
from quantkit.caches.match import TableMatch, match_to_model
from quantkit.caches.open import open_cache
from quantkit.caches.range_cache import RangeCache
from quantkit.caches.reuse import statistics_beside, why_not_of_model
from quantkit.caches.siblings import find_stale_siblings
from quantkit.calibration.collect import collect, fitting_batch_size
from quantkit.datasets.batching import make_batches
from quantkit.datasets.open import on_split, open_samples, prepared_as
from quantkit.datasets.rolled_states import RunnableModel
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs, share_weights
from quantkit.graph.name_mapping import match_by_order, match_by_structure
from quantkit.graph.passes.expose import expose
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.notices import join_names
from quantkit.progress import show_progress, with_progress
from quantkit.provenance import differences
from quantkit.types import Dataset, PathLike, Preprocessing, TensorStatistics
from quantkit.types.option import make_options
from quantkit.types.options import VerifyOptions

if TYPE_CHECKING:
    import onnx_ir as ir

_WIDE = 8
"""Times what was seen: three of eight bits are lost."""

_MORE, _WORTH_TELLING = 4, 0.001
"""Times the share that was clipped in calibration, and the share from which on a reader should know."""


@dataclass(frozen=True)
class RangeCheck:
    """A range against a sample of data.

    Attributes:
        name: of the tensor.
        amax: its range.
        reached: largest magnitude on the sample.
        clipped: share of the sample's values, 0 to 1, that lie further beyond the range than rounding errs.
        seen: largest magnitude when it was calibrated, where the file says so.
        clipped_then: the share when it was calibrated, where a table's statistics are kept beside it.
        is_read: whether INT8 reads the tensor.
    """

    name: str
    amax: float
    reached: float
    clipped: float
    seen: float | None
    clipped_then: float | None
    is_read: bool


@dataclass(frozen=True)
class Verification:
    """What holds of a cache, and what does not.

    Attributes:
        cache: as it was read.
        model: file of the float model.
        fit: names against the model.
        acceptance: what TensorRT does with the file.
        acceptance_reason: one sentence.
        checks: ranges against data; None where no data was given.
        num_samples: of that data.
        preprocessing: of that data; None for arrays, and without data.
        proposal: foreign name → name in the model; nothing applies it.
        proposal_ground: what the proposal rests on, "structure" or "order".
        problems: why the cache is stale, one sentence each; empty if it is not.
        notes: what is worth knowing, one sentence each.
    """

    cache: RangeCache
    model: Path
    fit: TableMatch
    acceptance: Acceptance
    acceptance_reason: str
    checks: tuple[RangeCheck, ...] | None
    num_samples: int
    preprocessing: Preprocessing | None
    proposal: Mapping[str, str]
    proposal_ground: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_stale(self) -> bool:
        """Whether it should not be used as it is."""
        return bool(self.problems)


def verify_cache(
    path: PathLike, model: PathLike, options: VerifyOptions | None = None, **keywords: Any
) -> Verification:
    """Lays a file of ranges over a model and, if given, over data.

    Args:
        path: any file that `open_cache` reads.
        model: the float ONNX model that it is to be used with.
        options: settings; None takes the defaults of `VerifyOptions`.
        keywords: fields of `VerifyOptions`, instead of those in `options`.

    Raises:
        QuantKitError: a file cannot be read; what does not fit is in the result.
    """
    options = make_options(VerifyOptions, options, keywords)
    if options.tensorrt_version is not None:
        major_version(options.tensorrt_version)
    cache = open_cache(path)
    opened = FloatModel(model)
    opened.check_float()
    graph = opened.prepared()
    fit = match_to_model(cache, graph)
    problems = _model_problems(cache, fit, opened)
    if cache.form == "qdq":
        acceptance, reason = acceptance_of_model(path, options.tensorrt_version)
    else:
        acceptance, reason = acceptance_of_cache(cache, options.tensorrt_version)
    if acceptance in ("recalibrates", "ignores") and cache.form == "tensorrt":
        problems.append(reason)
    if acceptance in ("refuses", "misreads") and options.tensorrt_version is not None:  # it may be for another runtime
        problems.append(reason)
    mixed, beside = find_stale_siblings(Path(path), cache, opened)
    problems += mixed
    proposal, ground = _proposal(cache, fit, graph, options.old_model)
    checks, count, used = None, 0, None
    if options.data is not None:
        own = None if cache.table is None else cache.table.preprocessing
        dataset = open_samples(
            RunnableModel(input_specs(graph), lambda: OnnxRuntimeRunner(share_weights(graph), name=opened.name)),
            options.data,
            on_split(prepared_as(cache.table, options.preprocess, options.data), "train", options.data),
            None,
            num_samples=options.num_samples,
            seed=options.seed,
            order="shuffled",
        )
        used = dataset.preprocessing
        checks, count = _check_data(opened, fit, dataset, progress=options.progress)
        checks = _with_origin(checks, cache, path)
        if own is not None and used is not None and (found := differences({"table": own}, {"table": used})):
            beside.insert(0, f"the table was calibrated with different preprocessing: {'; '.join(found)}")
        problems += [
            f"{c.name!r}: {100 * c.clipped:.3g}% of its values exceed {c.amax:.6g} (maximum {c.reached:.6g})"
            for c in checks
            if c.is_read and c.clipped > options.max_clipped
        ]
    return Verification(
        cache=cache,
        model=Path(model),
        fit=fit,
        acceptance=acceptance,
        acceptance_reason=reason,
        checks=checks,
        num_samples=count,
        preprocessing=used,
        proposal=proposal,
        proposal_ground=ground,
        problems=tuple(problems),
        notes=(*_notes(cache, fit, checks), *beside),
    )


def _model_problems(cache: RangeCache, fit: TableMatch, model: FloatModel) -> list[str]:
    reason = "" if cache.table is None else why_not_of_model(cache.table, model)
    problems = [reason] if reason else []
    if fit.missing:
        count = f"{len(fit.missing)} of {len(fit.needed)}"
        problems.append(f"{count} tensors to quantize are not in it: {join_names(list(fit.missing))}")
    return problems


def _notes(cache: RangeCache, fit: TableMatch, checks: tuple[RangeCheck, ...] | None) -> list[str]:
    notes = list(cache.notes)
    if cache.form in ("ort-flatbuffers", "ort-text"):
        notes.append(
            "ONNX Runtime stores max(minimum, maximum) here, which is too small if negative values have larger "
            "magnitudes"
        )
    unusable = [n for n in fit.needed if n in fit.ranges and not fit.ranges[n].is_valid]
    if unusable:
        notes.append(f"no usable range for {join_names(unusable)}: {fit.ranges[unusable[0]].note or 'not a number'}")
    wide = [c.name for c in checks or () if c.is_read and c.reached * _WIDE < c.amax]
    if wide:
        ranges = "1 range is" if len(wide) == 1 else f"{len(wide)} ranges are"
        notes.append(f"{ranges} more than {_WIDE} times the maximum on the samples: {join_names(wide)}")
    beyond = [c.name for c in checks or () if c.is_read and c.seen is not None and c.reached > 1.1 * c.seen]
    if beyond:
        said = "1 tensor reaches {} it was" if len(beyond) == 1 else f"{len(beyond)} tensors reach {{}} they were"
        notes.append(f"{said.format('more than when')} calibrated: {join_names(beyond)}")
    more = [
        c.name
        for c in checks or ()
        if c.is_read and c.clipped_then is not None and c.clipped > max(_MORE * c.clipped_then, _WORTH_TELLING)
    ]
    if more:
        said = "1 tensor clips {} it" if len(more) == 1 else f"{len(more)} tensors clip {{}} they"
        notes.append(f"{said.format(f'more than {_MORE} times what')} did when calibrated: {join_names(more)}")
    return notes


def _proposal(
    cache: RangeCache, fit: TableMatch, graph: ir.Model, old_model: PathLike | None
) -> tuple[dict[str, str], Literal["structure", "order", ""]]:
    free = {*fit.missing, *fit.unlisted, *fit.inherited}
    foreign = set(fit.foreign)
    if old_model is not None:
        old = FloatModel(old_model)
        old.check_float()
        found = match_by_structure(old.prepared(), graph)
        return {a: b for a, b in found.items() if a in foreign and b in free}, "structure"
    # TensorRT's names of its own layers are of no ONNX tensor.
    listed = [n for n in cache.tensors if not n.startswith("(Unnamed ")]
    found = match_by_order(listed, float_activations(graph)) if cache.form in ("tensorrt", "table") else {}
    found = {a: b for a, b in found.items() if a in foreign and b in free}
    return found, "order" if found else ""


def _check_data(
    model: FloatModel, fit: TableMatch, dataset: Dataset, *, progress: bool
) -> tuple[tuple[RangeCheck, ...], int]:
    tensors = [name for name, r in fit.ranges.items() if r.is_valid]
    if not tensors:
        return (), 0
    skipped: dict[str, str] = {}
    exposed = expose(model.prepared(), tensors)
    with (
        OnnxRuntimeRunner(share_weights(exposed), name=model.name, spinning=False) as runner,
        show_progress(None, "checking", len(dataset), progress) as bar,
    ):
        first = next(iter(make_batches(dataset, 1, strict=False, workers=1, skipped={})))
        batches = make_batches(dataset, fitting_batch_size(runner, first), strict=False, workers=None, skipped=skipped)
        collector = collect(runner, with_progress(batches, bar), tensors)
    checks = [
        RangeCheck(
            name=name,
            amax=fit.ranges[name].amax,
            reached=statistics.amax,
            clipped=_clipped(statistics, fit.ranges[name].amax),
            seen=fit.ranges[name].seen,
            clipped_then=None,
            is_read=name in fit.needed,
        )
        for name, statistics in collector.statistics.items()
    ]
    checks.sort(key=lambda c: -c.clipped)
    return tuple(checks), collector.num_samples


def _with_origin(checks: tuple[RangeCheck, ...], cache: RangeCache, path: PathLike) -> tuple[RangeCheck, ...]:
    """With the shares that were clipped in calibration; without what nobody saw: a converted cache saw no data."""
    if cache.table is not None and cache.table.num_samples == 0:
        return tuple(replace(c, seen=None) for c in checks)
    kept = None if cache.table is None else statistics_beside(path, cache.table)[0]
    if kept is None:
        return checks
    return tuple(
        replace(c, clipped_then=_clipped(kept.tensors[c.name], c.amax)) if c.name in kept.tensors else c for c in checks
    )


def _clipped(statistics: TensorStatistics, amax: float) -> float:
    """Share of the values that clipping moves by more than rounding does: half a step of amax / 127.

    Known to within one bin of 8,192: only bins that lie beyond as a whole are counted.
    """
    if statistics.count == 0 or statistics.bin_width == 0:
        return 0.0
    first = min(math.ceil(amax * (1 + 0.5 / 127) / statistics.bin_width), statistics.histogram.size)
    return float(np.sum(statistics.histogram[first:]) / statistics.count)
