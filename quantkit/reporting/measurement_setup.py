"""How a report was made: its data, settings and machine, and how the latencies were taken, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from quantkit.reporting.formatting import MISSING, single_line
from quantkit.types import Latency, Preprocessing, Report


def reproduction_facts(report: Report) -> dict[str, dict[str, str]]:
    """Title of a part → name → value; parts without any are left out."""
    identity = {"model_hash": report.model_hash, **({"created": report.created} if report.created else {})}
    parts = {
        "Data": facts_from_mapping(report.dataset),
        "Preprocessing": facts_from_preprocessing(report.preprocessing),
        "Calibration": facts_from_mapping(report.calibration),
        "Environment": facts_from_mapping({**report.environment, **identity}),
    }
    return {title: facts for title, facts in parts.items() if facts}


def facts_from_mapping(facts: Mapping[str, str | int | float | bool | None]) -> dict[str, str]:
    """Keys and values for people: ``{"num_samples": 10000, "x": None}`` → ``{"num samples": "10000", "x": "–"}``."""
    return {single_line(name.replace("_", " ")): _fact(value) for name, value in facts.items()}


def facts_from_preprocessing(preprocessing: Preprocessing | None) -> dict[str, str]:
    """Preprocessing for people; empty for arrays, which are used as they are."""
    if preprocessing is None:
        return {}
    p = preprocessing
    if p.function is not None:
        return {"function": f"{p.function} (source {str(p.function_hash)[:12]})", "input": p.dtype}
    place = "" if p.pad_position == "center" else f", image {p.pad_position}"
    step = "" if p.multiple_of is None else f", sides multiples of {p.multiple_of}"
    resize = {
        "stretch": "stretch",
        "crop": f"shorter side to {p.shorter_side} px, center crop",
        "letterbox": f"letterbox, padded with {p.pad_value}{place}{step}",
        "height": f"to the height, width by aspect, padded with {p.pad_value}{place}{step}",
        "limit": f"shrunk into the size, not padded{step}",
    }[p.resize]
    white = "" if p.pixel_max is None else f", white at {p.pixel_max:g}"
    return {
        "size": f"{p.size[0]} × {p.size[1]} px (height × width)",
        "resize": f"{resize}, {p.interpolation}",
        "color": {"L": "grayscale"}.get(p.color, p.color) + white,
        "values": f"(pixel × {p.scale:.6g} - mean) / std",
        "mean": ", ".join(f"{v:.6g}" for v in p.mean),
        "std": ", ".join(f"{v:.6g}" for v in p.std),
        "input": f"{p.layout}, {p.dtype}",
    }


def how_measured(report: Report) -> tuple[str, ...]:
    """How the latencies of the report were measured, one paragraph for each method that was used."""
    latencies = [latency for e in report.evaluations for latency in e.latencies]
    host = [latency for latency in latencies if latency.method == "host"]
    device = [latency for latency in latencies if latency.method == "device"]
    paragraphs = []
    if host:
        threads = " or ".join("automatic" if n == 0 else str(n) for n in sorted({x.threads for x in host}))
        paragraphs.append(
            f"Host clock: wall time of one call at batch size {_sizes(host)}, including copies to and from a device; "
            f"intra-op threads: {threads}. {_rounds(host)}"
        )
    if device:
        graph = "; queries replayed from a CUDA graph" if all(latency.cuda_graph for latency in device) else ""
        paragraphs.append(
            f"GPU events, as in trtexec: one query at batch size {_sizes(device)} from pinned host memory to the GPU, "
            f"computation, and back, on one stream with two queries in flight; copies do not overlap with computation"
            f"{graph}. {_rounds(device)}"
        )
    return tuple(paragraphs)


def _rounds(latencies: Sequence[Latency]) -> str:
    counts = sorted({latency.iterations for latency in latencies})
    calls = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return (
        "After warm-up, the variants were interleaved in short rounds within one process, so that a slow moment of the "
        f"machine affects all of them; {calls} calls of each were timed."
    )


def _sizes(latencies: Iterable[Latency]) -> str:
    found = [f"{size:,}" for size in sorted({latency.batch_size for latency in latencies})]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def _fact(value: str | int | float | bool | None) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return single_line(f"{value:.6g}" if isinstance(value, float) else str(value))
