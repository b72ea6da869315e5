"""What TensorRT's calibration cache lists: every float activation, and in some versions constants."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.errors import IncompleteCacheError
from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import FLOAT_TYPES, constant_of, is_standard
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.notices import Notice, Notify, join_names

if TYPE_CHECKING:
    import onnx_ir as ir

_OF_ZEROS = 1.0
"""Range of what was always zero: any scale but 0 represents it, and TensorRT 8.5 and later fail at a scale of 0."""

_TAKE_CONSTANTS = ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "MatMul", "Gemm", "PRelu", "Concat")
"""Operators whose constant inputs are tensors of TensorRT's network; others take them as weights."""

_FIRST_NAMING_CONSTANTS = 100000
"""The first version whose parser names constants after the model's; in 8.x they are "(Unnamed Layer* 8) [Constant]"."""


@dataclass(frozen=True)
class CacheCoverage:
    """How much of a model a cache covers.

    Attributes:
        num_needed: float activations of the model.
        missing: those without a usable scale.
        layers: nodes that read or write one of these: TensorRT runs them in float.
    """

    num_needed: int
    missing: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the activations that have ranges, 0 to 1."""
        return 1 - len(self.missing) / self.num_needed if self.num_needed else 1.0

    def __str__(self) -> str:
        covered = self.num_needed - len(self.missing)
        text = f"scales for {covered} of the {self.num_needed} activations ({self.share:.1%})"
        if not self.missing:
            return text
        layers = f"{len(self.layers)} layers fall back to float: {join_names(self.layers)}"
        return f"{text}; without one are {join_names(self.missing)}, and {layers}"


def ranges_for_cache(
    model: ir.Model, amax: Mapping[str, float], *, version: int, always_zero: Collection[str] = ()
) -> dict[str, float]:
    """What a cache lists, as far as it is known: inherited ranges are filled in as TensorRT does it.

    Args:
        model: prepared.
        amax: calibrated magnitude by tensor name.
        version: of the library that will read it, as in the cache's header.
        always_zero: tensors that were zero on every sample.

    Returns:
        amax by tensor name, in network order; constants last.
    """
    known = propagate_to_copies(model, amax)
    zeros = dict.fromkeys(always_zero, _OF_ZEROS)
    listed = {name: known.get(name, zeros.get(name)) for name in float_activations(model)}
    constants = constant_ranges(model) if version >= _FIRST_NAMING_CONSTANTS else {}
    return {**{name: value for name, value in listed.items() if value is not None}, **constants}


def constant_ranges(model: ir.Model) -> dict[str, float]:
    """Largest magnitude of the constants that are tensors of TensorRT's network, by the names that its parser gives.

    Seen in a cache of TensorRT 10.3: constant X is listed as X_output.
    """
    found: dict[str, float] = {}
    for node in model.graph:
        for value in node.inputs if is_standard(node, *_TAKE_CONSTANTS) else ():
            constant = constant_of(value)
            if value is not None and constant is not None and value.dtype in FLOAT_TYPES:
                array = constant.numpy()
                largest = max(float(np.max(array, initial=0.0)), -float(np.min(array, initial=0.0)))
                if np.isfinite(np.float32(largest)):
                    found[f"{name_of(value)}_output"] = largest or _OF_ZEROS
    return found


def coverage_of(model: ir.Model, amax: Mapping[str, float]) -> CacheCoverage:
    """Which float activations of a prepared model have a range among `amax`, and which layers lack one."""
    needed = float_activations(model)
    missing = {name for name in needed if not amax.get(name, 0.0) > 0}
    layers = [
        name_of(node)
        for node in model.graph
        if any(value is not None and value.name in missing for value in (*node.inputs, *node.outputs))
    ]
    return CacheCoverage(len(needed), tuple(name for name in needed if name in missing), tuple(layers))


def check_complete(model: ir.Model, amax: Mapping[str, float], why: Mapping[str, str]) -> None:
    """Refuses a cache that lacks activations.

    Args:
        model: prepared.
        amax: what the cache would list.
        why: reason by tensor, where one is known.

    Raises:
        IncompleteCacheError: naming the tensors.
    """
    missing = coverage_of(model, amax).missing
    if missing:
        named = join_names([f"{name} ({why[name]})" if name in why else name for name in missing])
        observe = "" if why.keys() >= set(missing) else "calibrate without --no-all-tensors, or "
        raise IncompleteCacheError(
            f"a TensorRT cache needs a range for every activation, and {len(missing)} have none: {named}; layers at "
            f"them would run in float: {observe}use the INT8 model with Q/DQ"
        )


def check_coverage(model: ir.Model, cache: bytes, name: str, *, least: float | None, notify: Notify) -> None:
    """Says which activations a cache lacks, and which layers fall back to float for it.

    Args:
        model: prepared.
        cache: content of the file.
        name: of the file.
        least: share of the activations that must have a scale; None: any.
        notify: hears it.

    Raises:
        IncompleteCacheError: it covers less.
    """
    coverage = coverage_of(model, parse_cache(cache.decode(), name=name).amax)
    if least is not None and coverage.share < least:
        raise IncompleteCacheError(f"{name} has {coverage}; --min-coverage is {least:.1%}: calibrate this model again")
    notify(Notice("warning" if coverage.missing else "info", "ranges", f"{name} has {coverage}"))
