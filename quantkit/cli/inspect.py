"""The command `inspect`: layers and precisions of an engine or a model, ranges of a calibration file."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quantkit.caches.inspection import CacheInspection, select_tensors
from quantkit.cli.as_json import JsonOption, echo_json
from quantkit.cli.inspect_json import json_from_inspection
from quantkit.cli.text import bytes_text, make_console, print_line, print_table
from quantkit.commands.inspect import EngineInspection
from quantkit.commands.inspect import inspect as inspect_file
from quantkit.graph.inspection import ModelInspection
from quantkit.notices import plural
from quantkit.types import title_of
from quantkit.types.options import PATHS

if TYPE_CHECKING:
    from rich.console import Console

    from quantkit.backends.tensorrt.inspection.engine_layers import EngineLayer, EngineLayers, QuantizedShare
    from quantkit.caches.inspection import RangeRow, TableInspection
    from quantkit.graph.qdq_lint import QdqFinding

_SHOWN = 10
_SHOWN_ALIKE = 3
_WIDE = 160
"""Columns from which on a kernel's name has room next to its layer."""

_SEVERITIES = ("refused", "wrong", "float", "note")
"""Severities of findings, the worst first."""


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Engine, engine inspector JSON, ONNX model, calibration cache or calibration table.",
            show_default=False,
        ),
    ],
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile", help="Layer times of the engine, from `trtexec --exportProfile`.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the layer times of an engine in a separate pass (needs its GPU).")
    ] = False,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugins", metavar="FILE", help="TensorRT plugin library of the engine. Repeatable or comma separated."
        ),
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="List all layers, operators and findings.")] = False,
    sort: Annotated[
        Literal["network", "amax", "name"], typer.Option("--sort", help="Order of the tensors of a cache or table.")
    ] = "network",
    pattern: Annotated[
        str | None,
        typer.Option("--filter", help="Show only tensors, layers or operators whose name matches, e.g. 'layer1*'."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which layers run in INT8, which do not, and why.

    Engine: layers with their ONNX nodes, precisions, reformats, kernels and memory. ONNX model: operators, and Q/DQ
    nodes that violate TensorRT's rules. Calibration cache or table: ranges.
    """
    result = inspect_file(path, profile=profile, measure=measure, plugins=PATHS.parse(tuple(plugins or ())))
    if as_json:
        echo_json(json_from_inspection(result, sort=sort, pattern=pattern))
        return
    console = make_console()
    if isinstance(result, EngineInspection):
        _print_engine(console, result, pattern, all_rows)
    elif isinstance(result, ModelInspection):
        _print_model(console, result, pattern, all_rows)
    elif isinstance(result, CacheInspection):
        _print_cache(console, result, select_tensors(result.tensors, sort=sort, pattern=pattern))
    else:
        _print_calibration_table(console, result, select_tensors(result.tensors, sort=sort, pattern=pattern))


def _print_engine(console: Console, result: EngineInspection, pattern: str | None, all_rows: bool) -> None:
    engine_layers = result.engine_layers
    targets = f", for {' '.join(engine_layers.targets)}" if engine_layers.targets else ""
    print_line(console, f"{result.path}: engine, {len(engine_layers.layers)} layers", style="bold")
    rows = [("read from", f"{engine_layers.source}{targets}"), *result.made_of.items()]
    if engine_layers.memory_bytes:
        rows.append(
            ("memory", ", ".join(f"{key} {bytes_text(size)}" for key, size in engine_layers.memory_bytes.items()))
        )
    if engine_layers.has_details:
        name = title_of([layer.precision for layer in engine_layers.layers if layer.is_quantized] or ["int8"])
        rows.append((f"{name}, weighted layers", _share(engine_layers.weighted_coverage)))
        if blocks := {name for layer in engine_layers.layers for name in layer.int4_weights}:
            rows.append(("INT4 weights", str(len(blocks))))
        rows.append((f"{name}, all layers", _share(engine_layers.layer_coverage)))
        time = engine_layers.time_coverage
        rows.append(
            (f"{name}, time", "not measured (use --profile or --measure)" if time is None else _share(time, " ms"))
        )
        cost = "" if engine_layers.reformat_ms is None else f", {engine_layers.reformat_ms:.3f} ms"
        rows.append(("reformats", f"{len(engine_layers.reformats)}{cost}"))
    print_table(console, ("", ""), rows)
    layers = [layer for layer in engine_layers.layers if _matches(layer.name, pattern, layer.onnx_nodes)]
    if all_rows or pattern is not None or not engine_layers.has_details:
        is_wide = console.width > _WIDE
        _print_layers(console, layers, engine_layers.total_ms, kernels=is_wide)
        if not is_wide:
            _print_kernels(console, layers)
    else:
        _print_precisions(console, engine_layers)
        _print_reformats(console, engine_layers)
        _print_float_layers(console, engine_layers)
        if engine_layers.total_ms is not None:
            slowest = sorted(engine_layers.layers, key=lambda layer: -(layer.time_ms or 0.0))[:_SHOWN]
            print_line(console, f"{len(slowest)} slowest layers", style="bold")
            _print_layers(console, slowest, engine_layers.total_ms, kernels=False)
    for note in engine_layers.notes:
        print_line(console, f"note: {note}")
    if engine_layers.has_details and not all_rows and pattern is None:
        print_line(console, "--all lists every layer with its ONNX nodes and kernel")


def _print_precisions(console: Console, engine_layers: EngineLayers) -> None:
    groups: dict[tuple[str, str], list[EngineLayer]] = {}
    for layer in engine_layers.layers:
        if not layer.is_idle:
            precision = layer.conversion if layer.is_reformat else layer.precision
            groups.setdefault((layer.kind, precision), []).append(layer)
    timed = engine_layers.total_ms is not None
    rows = [
        (kind, precision, str(len(layers)), *([_sum_ms(layers)] if timed else []))
        for (kind, precision), layers in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    print_table(console, ("kind", "precision", "layers", *(["ms"] if timed else [])), rows, right=(2, 3))


def _print_reformats(console: Console, engine_layers: EngineLayers) -> None:
    if not engine_layers.reformats:
        return
    print_line(console, "reformats: Q/DQ nodes that were not fused, or changes of layout", style="bold")
    timed = engine_layers.total_ms is not None
    rows = [[x.name, x.conversion, *([_ms(x)] if timed else [])] for x in engine_layers.reformats]
    print_table(console, ("layer", "from → to", *(["ms"] if timed else [])), rows, right=(1, 2))


def _print_float_layers(console: Console, engine_layers: EngineLayers) -> None:
    reasons: dict[str, list[EngineLayer]] = {}
    for item in engine_layers.left_in_float:
        reasons.setdefault(item.reason, []).append(item.layer)
    if reasons:
        print_line(console, "left in float", style="bold")
    # What INT8 is about comes first.
    for reason, layers in sorted(reasons.items(), key=lambda item: (not item[1][0].is_weighted, -len(item[1]))):
        cost = f", {_sum_ms(layers)} ms" if engine_layers.total_ms is not None else ""
        print_line(console, f"{plural(len(layers), 'layer')}{cost}: {reason}", indent=2)
        for layer in layers[:_SHOWN_ALIKE]:
            print_line(console, f"{_nodes(layer)} ({layer.kind}, {layer.precision})", indent=4)
        if len(layers) > _SHOWN_ALIKE:
            print_line(console, f"and {len(layers) - _SHOWN_ALIKE} more", indent=4)


def _print_layers(console: Console, layers: Sequence[EngineLayer], total_ms: float | None, *, kernels: bool) -> None:
    rows = []
    for layer in layers:
        precision = layer.conversion if layer.is_reformat else layer.precision
        share = "" if layer.time_ms is None or not total_ms else f"{100 * layer.time_ms / total_ms:.1f}"
        rows.append((_nodes(layer), layer.kind, precision, _ms(layer), share, layer.tactic if kernels else ""))
    keep = [i for i in range(6) if i < 1 or any(row[i] for row in rows)]
    headings = ("ONNX nodes or name", "kind", "precision", "ms", "%", "kernel")
    right = [n for n, i in enumerate(keep) if i in (3, 4)]
    print_table(console, [headings[i] for i in keep], [[row[i] for i in keep] for row in rows], right=right)


def _print_kernels(console: Console, layers: Sequence[EngineLayer]) -> None:
    groups: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        if layer.tactic and not layer.tactic.startswith("0x"):
            groups.setdefault(layer.tactic, []).append(layer)
    if groups:
        rows = [(name, str(len(found)), _sum_ms(found)) for name, found in groups.items()]
        rows.sort(key=lambda row: -int(row[1]))
        print_table(console, ("kernel", "layers", "ms" if any(row[2] for row in rows) else ""), rows, right=(1, 2))


def _print_model(console: Console, result: ModelInspection, pattern: str | None, all_rows: bool) -> None:
    form = "with Q/DQ" if result.form == "qdq" else f"{result.precision.upper()}, without Q/DQ"
    print_line(console, f"{result.path}: ONNX model {form}", style="bold")
    types = ", ".join(f"{name} {bytes_text(size)}" for name, size in result.weight_types.items())
    made = f"opset {result.opset}, IR {result.ir_version}" + (f", by {result.producer}" if result.producer else "")
    rows = [("file", f"{bytes_text(result.size_bytes)}; {made}"), ("weights", types)]
    for label, ports in (("input", result.inputs), ("output", result.outputs)):
        for port in ports:
            shape = (
                "unknown shape" if port.shape is None else "x".join("?" if d is None else str(d) for d in port.shape)
            )
            rows.append((label, f"{port.name}  {port.dtype}  {shape or 'scalar'}"))
    name = "+".join(result.formats).upper() or "INT8"
    label = name if result.form == "qdq" else "quantizable"
    rows.append((label, f"{result.num_quantized} of {result.num_weighted} convolutions and matrix products"))
    print_table(console, ("", ""), rows)
    operators = [o for o in result.operators if _matches(o.name, pattern)]
    if all_rows or pattern is not None:
        listed = [(o.name, o.op_type, name if o.is_quantized else "float", o.reason) for o in operators]
        print_table(console, ("operator", "type", "", "reason"), listed)
    else:
        counts = Counter(o.op_type for o in operators)
        quantized = Counter(o.op_type for o in operators if o.is_quantized)
        counted = [(kind, str(count), str(quantized[kind])) for kind, count in counts.most_common()]
        print_table(console, ("operators", "number", name), counted, right=(1, 2))
        _print_reasons(console, result)
    _print_findings(console, result, all_rows)
    for note in result.notes:
        print_line(console, f"note: {note}")


def _print_reasons(console: Console, result: ModelInspection) -> None:
    reasons: dict[str, list[str]] = {}
    for operator in result.left_in_float:
        reasons.setdefault(operator.reason, []).append(f"{operator.name} ({operator.op_type})")
    if reasons:
        print_line(console, "left in float", style="bold")
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - _SHOWN_ALIKE} more" if len(names) > _SHOWN_ALIKE else ""
        print_line(console, f"{len(names)}: {reason}: {', '.join(names[:_SHOWN_ALIKE])}{more}", indent=2)


def _print_findings(console: Console, result: ModelInspection, all_rows: bool) -> None:
    if result.form != "qdq":
        return
    kinds: dict[tuple[str, str], list[QdqFinding]] = {}
    for finding in result.findings:
        kinds.setdefault((finding.severity, finding.rule), []).append(finding)
    broken = sum(f.severity != "note" for f in result.findings)
    found = plural(broken, "violation") if broken else "no violations"
    print_line(console, f"TensorRT's Q/DQ rules: {found}", style="bold")
    for (severity, _), findings in sorted(kinds.items(), key=lambda item: _SEVERITIES.index(item[0][0])):
        for finding in findings if all_rows else findings[:_SHOWN_ALIKE]:
            where = f"{finding.node}: " if finding.node else ""
            print_line(console, f"{severity}: {where}{finding.text}", indent=2)
        if not all_rows and len(findings) > _SHOWN_ALIKE:
            print_line(console, f"and {len(findings) - _SHOWN_ALIKE} more of this kind (--all)", indent=4)


def _print_cache(console: Console, result: CacheInspection, tensors: Sequence[RangeRow]) -> None:
    count = f"{len(tensors)} of {len(result.tensors)}" if len(tensors) < len(result.tensors) else str(len(tensors))
    print_line(console, f"{result.path}: TensorRT calibration cache, {count} tensors", style="bold")
    rows = [("header", result.header), ("algorithm", result.algorithm), ("TensorRT", result.tensorrt_version)]
    print_table(console, ("", ""), rows)
    for sentence in result.meaning:
        print_line(console, f"- {sentence}")
    print_tensors(console, tensors)


def _print_calibration_table(console: Console, result: TableInspection, tensors: Sequence[RangeRow]) -> None:
    table = result.table
    count = f"{len(tensors)} of {len(result.tensors)}" if len(tensors) < len(result.tensors) else str(len(tensors))
    print_line(console, f"{result.path}: quantkit calibration table, {count} tensors", style="bold")
    rows = [
        ("model", f"{table.model_name} (hash {table.model_hash[:12]})"),
        ("data", f"{table.num_samples} samples (fingerprint {table.dataset_fingerprint[:12]})"),
        ("settings", ", ".join(f"{k} {v}" for k, v in table.settings.items() if v is not None)),
        ("versions", ", ".join(f"{k} {v}" for k, v in table.versions.items())),
    ]
    if (p := table.preprocessing) is not None and p.function is not None:
        rows.append(("images", f"{p.function} (source {str(p.function_hash)[:12]})"))
    elif p is not None:
        mean, std = (" ".join(f"{v:.6g}" for v in values) for values in (p.mean, p.std))
        rows.append(("images", f"{p.color} {p.layout} {p.size[0]}x{p.size[1]}, {p.resize}, {p.interpolation}"))
        rows.append(("pixels", f"* {p.scale:.6g} - ({mean}) / ({std})"))
    print_table(console, ("", ""), rows)
    print_tensors(console, tensors)


def print_tensors(
    console: Console, tensors: Sequence[RangeRow], *, histograms: Mapping[str, str] | None = None
) -> bool:
    """Prints ranges and scales, one tensor a row. Whether histograms were given and fit into the width."""
    rows = [[t.name, f"{t.amax:.6g}", f"{t.scale:.6g}", t.hex, t.flag] for t in tensors]
    headings, right, optional = ["tensor", "amax", "scale", "hex", ""], [1, 2, 3], [4]
    if histograms:
        headings.insert(4, "histogram")
        right.append(4)
        optional = [5, 4]
        for row in rows:
            row.insert(4, histograms.get(row[0], ""))
    columns = print_table(console, headings, rows, right=right, optional=optional)
    return bool(histograms) and 4 in columns


def _share(coverage: QuantizedShare, unit: str = "") -> str:
    def number(value: float) -> str:
        return f"{value:.3f}" if unit else str(int(value))

    fraction = "" if coverage.fraction is None else f" ({100 * coverage.fraction:.1f}%)"
    return f"{number(coverage.quantized)} of {number(coverage.total)}{unit}{fraction}"


def _nodes(layer: EngineLayer) -> str:
    """ONNX nodes of a layer; its Q and DQ only where there is nothing else."""
    nodes = [n for n in layer.onnx_nodes if "quantizelinear" not in n.lower()] or layer.onnx_nodes
    return ", ".join(nodes) or layer.name


def _sum_ms(layers: Sequence[EngineLayer]) -> str:
    times = [layer.time_ms for layer in layers if layer.time_ms is not None]
    return f"{sum(times):.3f}" if times else ""


def _ms(layer: EngineLayer) -> str:
    return "" if layer.time_ms is None else f"{layer.time_ms:.3f}"


def _matches(name: str, pattern: str | None, others: Sequence[str] = ()) -> bool:
    return pattern is None or any(fnmatch.fnmatchcase(text, pattern) for text in (name, *others))
