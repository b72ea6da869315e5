"""What an engine is built from: model, table or cache, checked against each other, and the graph that TensorRT gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.tensorrt.build.build_options import Precision
from quantkit.backends.tensorrt.library import Library
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.calibration.table import open_table, table_json
from quantkit.commands.quantize import HighPrecision, quantize_graph
from quantkit.errors import CalibrationError, ModelError
from quantkit.graph.model import float_precision, load_model, model_hash, serialize_model
from quantkit.graph.passes.fp16 import FP16_OPSET, to_fp16
from quantkit.graph.passes.prepare import has_qdq, prepare
from quantkit.graph.placement.propagate_ranges import propagate_to_copies
from quantkit.graph.placement.tensorrt import float_activations, match_nodes
from quantkit.graph.tensorrt_qdq_support import check_explicit
from quantkit.types import CalibrationTable, PathLike

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.backends.tensorrt.build.precision import Typing

__all__ = ["BuildInputs", "EngineGraph", "check_source", "load_build_inputs", "make_graph"]


@dataclass(frozen=True)
class BuildInputs:
    """What a user gives for an engine.

    Attributes:
        path, graph, model_hash: the model.
        precision: of the engine.
        high_precision: of what stays in float beside INT8, as given.
        exclude: what stays in float.
        table: of the calibration.
        cache: content of TensorRT's own cache, instead of a table.
        cache_name: of its file.
        has_qdq: the model says itself what runs in INT8.
        is_half: the model is in FP16 already.
    """

    path: Path
    graph: ir.Model
    model_hash: str
    precision: Precision
    high_precision: HighPrecision | None
    exclude: tuple[str, ...]
    table: CalibrationTable | None
    cache: bytes | None
    cache_name: str
    has_qdq: bool
    is_half: bool

    @property
    def name(self) -> str:
        """Of the model's file."""
        return self.path.name

    @property
    def calibration(self) -> dict[str, str | int]:
        """What a manifest says of table or cache."""
        if self.table is not None:
            return {
                "sha256": hashlib.sha256(table_json(self.table).encode()).hexdigest(),
                "dataset_fingerprint": self.table.dataset_fingerprint,
                "method": self.table.method,
                "num_samples": self.table.num_samples,
            }
        if self.cache is not None:
            return {"sha256": hashlib.sha256(self.cache).hexdigest(), "method": "TensorRT calibration cache"}
        return {}


@dataclass(frozen=True)
class EngineGraph:
    """What TensorRT gets: ONNX, and what implicit INT8 needs beside it."""

    content: bytes | Path
    node_titles: tuple[str, ...]
    ranges: Mapping[str, float] | None = None
    float_nodes: tuple[str, ...] = ()
    num_quantized: int | None = None


def load_build_inputs(
    model: PathLike,
    precision: Precision,
    *,
    table: CalibrationTable | PathLike | None,
    cache: PathLike | None,
    exclude: Sequence[str],
    high_precision: HighPrecision | None,
) -> BuildInputs:
    """Reads model, table and cache.

    Raises:
        QuantKitError: they do not fit together, or INT8 has no ranges.
    """
    if precision not in ("fp32", "fp16", "int8"):
        raise ModelError(f"there is no precision {precision!r}: choose fp32, fp16 or int8")
    needs_int8 = {"--table": table, "--calib": cache, "--exclude": exclude, "--high-precision": high_precision}
    given = [option for option, value in needs_int8.items() if value]
    if precision != "int8" and given:
        raise ModelError(f"{given[0]} is for --precision int8, not for {precision}")
    if table is not None and cache is not None:
        raise CalibrationError("--table and --calib both say the ranges: give one")
    path = Path(model)
    graph = load_model(path)
    identity, quantized = model_hash(graph), has_qdq(graph)
    if quantized and precision != "int8":
        raise ModelError(f"{path.name} holds Q/DQ: build it with --precision int8, or give the float model")
    if quantized and given:
        raise ModelError(f"{path.name} holds Q/DQ, which say it all: leave out {given[0]}, or give the float model")
    if precision == "int8" and not quantized and table is None and cache is None:
        raise CalibrationError(
            f"INT8 needs the ranges of {path.name}: run quantkit calibrate with your images, or give --table; "
            "TensorRT gets no invented scales"
        )
    opened = None if table is None else open_table(table)
    if opened is not None:
        opened.check_model(identity, path.name)
    is_half = float_precision(graph) == "fp16"
    if is_half and precision == "fp32":
        raise ModelError(f"{path.name} is in FP16 already: build it with --precision fp16")
    return BuildInputs(
        path=path,
        graph=graph,
        model_hash=identity,
        precision=precision,
        high_precision=high_precision,
        exclude=tuple(exclude),
        table=opened,
        cache=None if cache is None else _read_cache(Path(cache), path),
        cache_name="" if cache is None else Path(cache).name,
        has_qdq=quantized,
        is_half=is_half,
    )


def check_source(source: BuildInputs, library: Library, typing: Typing) -> None:
    """Refuses what `library` would ignore or get wrong.

    Raises:
        ModelError: Q/DQ that it cannot take, or Q/DQ and cache where they have no say.
    """
    if source.cache is not None and typing.mode == "explicit":
        raise ModelError("--calib is for implicit INT8: leave out --mode explicit, or give --table")
    if not source.has_qdq:
        return
    if typing.mode == "implicit":
        raise ModelError(f"{source.name} holds Q/DQ, which implicit INT8 ignores: leave out --mode and --dla-core")
    check_explicit(source.graph, name=source.name, tensorrt_major=None if library.is_rtx else library.version[0])


def make_graph(source: BuildInputs, typing: Typing, folder: Path) -> EngineGraph:
    """The graph that TensorRT gets: as given, in FP16, with Q/DQ, or with ranges beside it.

    Args:
        source: checked.
        typing: how precisions are decided.
        folder: for the weights of a large model, until the engine is built.
    """
    if source.precision == "int8" and not source.has_qdq:
        if source.table is None or typing.mode == "implicit":
            return _with_ranges(source, folder)
        # Where flags decide (TensorRT 8.6), Q/DQ have FP32 scales and the FP16 flag does the rest.
        around: HighPrecision = (source.high_precision or "fp16") if typing.strong else "fp32"
        graph, plan = quantize_graph(
            source.path, source.table, target="tensorrt", high_precision=around, exclude=source.exclude
        )
        quantized = len({edge.node for edge in plan.weights})
        return EngineGraph(serialize_model(graph, folder), _titles(graph), num_quantized=quantized)
    if source.precision == "fp16" and typing.strong and not source.is_half:
        graph = to_fp16(prepare(load_model(source.path), name=source.name, opset=FP16_OPSET))
        return EngineGraph(serialize_model(graph, folder), _titles(graph))
    return EngineGraph(source.path, _titles(source.graph))


def _with_ranges(source: BuildInputs, folder: Path) -> EngineGraph:
    graph = prepare(load_model(source.path), name=source.name)
    ranges = None
    if source.table is not None:
        ranges = propagate_to_copies(graph, {name: r.amax for name, r in source.table.tensors.items()})
    return EngineGraph(
        serialize_model(graph, folder), _titles(graph), ranges, tuple(match_nodes(graph, source.exclude))
    )


def _read_cache(path: Path, model: Path) -> bytes:
    """The cache, if most of its tensors are the model's: it says nothing else of what it belongs to."""
    try:
        content = path.read_bytes()
        named = parse_cache(content.decode(), name=path.name).scale_bits
    except OSError as error:
        raise CalibrationError(f"cannot read --calib {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is no TensorRT calibration cache: {error}") from error
    known = named.keys() & set(float_activations(prepare(load_model(model), name=model.name)))
    # TensorRT names some tensors itself; another model shares a name or two ("input", "output").
    if 2 * len(known) < len(named) or not known:
        count = f"{len(known)} of its {len(named)} tensors are"
        raise CalibrationError(f"{path.name} belongs to another model than {model.name}: only {count} of this one")
    return content


def _titles(graph: ir.Model) -> tuple[str, ...]:
    return tuple(f"{node.name!r} ({node.op_type})" for node in graph.graph)
