"""The manifest that an engine built now would have: one that is there is up to date if its manifest is equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantkit._version import __version__
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.manifest import Manifest
from quantkit.backends.tensorrt.library import Library
from quantkit.calibration.refinement_file import roundings_digests
from quantkit.commands.build_inputs import BuildInputs
from quantkit.graph.model_hash import outputs_hash
from quantkit.graph.passes.fp16_overflow import overflowing_nodes
from quantkit.graph.placement.tensorrt import match_nodes
from quantkit.types import SCHEMES
from quantkit.types.options import HighPrecision

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.precision import Typing
    from quantkit.backends.tensorrt.gpu import Gpu


def expected_manifest(
    source: BuildInputs, library: Library, typing: Typing, options: BuildOptions, gpu: Gpu | None
) -> Manifest:
    """What decides the engine that would be built now: everything of its manifest but the engine itself."""
    facts = options.facts()
    if source.precision == "fp16" and (kept := overflowing_nodes(source.model.prepared(), source.magnitudes)):
        facts["fp32_nodes"] = list(kept)
    if source.exclude:
        # Patterns match names of nodes, which the model's hash leaves out: what they hit has to be the same too.
        facts["excluded"] = outputs_hash(graph := source.model.prepared(), match_nodes(graph, source.exclude))
    said: dict[str, Any] = {"quantize_all": source.quantize_all, "block_size": source.block_size}
    if (table := source.table) is not None:
        said |= {"formats": table.formats, "roundings": roundings_digests(table, source.precision)}
    facts |= {name: value for name, value in said.items() if value}
    if typing.mode == "implicit" and source.exclude:
        facts["precision_constraints"] = options.precision_constraints
    return Manifest(
        model_name=source.name,
        model_hash=source.model.hash,
        precision=source.precision,
        mode=typing.mode,
        high_precision=_beside(source, typing),
        exclude=source.exclude,
        library=library.name,
        library_version=".".join(map(str, library.version)),
        gpu=None if library.is_rtx or gpu is None else str(gpu),
        table=source.calibration,
        options=facts,
        quantkit_version=__version__,
    )


def _beside(source: BuildInputs, typing: Typing) -> HighPrecision | None:
    """Precision of what stays in float beside INT8, where it is our choice and not the model's."""
    if source.precision not in SCHEMES or (source.model.is_quantized and typing.strong):
        return None
    return source.high_precision or "fp16"
