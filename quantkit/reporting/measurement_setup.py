"""What a report was made from and how its latencies were taken, as words for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from quantkit.reporting.formatting import MISSING, one_line
from quantkit.types import Latency, Preprocessing, Report

__all__ = ["facts_from_mapping", "facts_from_preprocessing", "how_measured"]


def facts_from_mapping(facts: Mapping[str, str | int | float | bool | None]) -> dict[str, str]:
    """Keys and values for people: ``{"num_samples": 10000, "x": None}`` → ``{"num samples": "10000", "x": "–"}``."""
    return {one_line(name.replace("_", " ")): _fact(value) for name, value in facts.items()}


def facts_from_preprocessing(preprocessing: Preprocessing | None) -> dict[str, str]:
    """Preprocessing for people; empty for arrays, which are fed as they are."""
    if preprocessing is None:
        return {}
    p = preprocessing
    resize = {
        "stretch": "stretched",
        "crop": f"shorter side to {p.shorter_side} px, centre cropped",
        "letterbox": f"letterboxed, padded with {p.pad_value}",
    }[p.resize]
    return {
        "size": f"{p.size[0]} × {p.size[1]} px (height × width)",
        "resize": f"{resize}, {p.interpolation}",
        "color": {"L": "grey"}.get(p.color, p.color),
        "values": f"(pixel × {p.scale:.6g} - mean) / std",
        "mean": ", ".join(f"{v:.6g}" for v in p.mean),
        "std": ", ".join(f"{v:.6g}" for v in p.std),
        "input": f"{p.layout}, {p.dtype}",
    }


def how_measured(report: Report) -> tuple[str, ...]:
    """How the latencies of the report came about, one paragraph for each method that was used."""
    latencies = [latency for e in report.evaluations for latency in e.latencies]
    host = [latency for latency in latencies if latency.method == "host"]
    device = [latency for latency in latencies if latency.method == "device"]
    paragraphs = []
    if host:
        threads = sorted({latency.threads for latency in host})
        words = " or ".join("chosen by the runtime" if count == 0 else str(count) for count in threads)
        paragraphs.append(
            f"One call on a batch of {_list(latency.batch_size for latency in host)}, by the host's clock, copies to "
            f"and from a device included; threads within a call: {words}. {_turns(host)}"
        )
    if device:
        graph = "; queries were replayed from a CUDA graph" if all(latency.cuda_graph for latency in device) else ""
        paragraphs.append(
            f"One query on a batch of {_list(latency.batch_size for latency in device)}, by events on the GPU, as "
            f"trtexec measures it: from page-locked memory to the GPU, the computation, and back, on one stream, two "
            f"queries in flight, copies not overlapping with computation{graph}. {_turns(device)}"
        )
    return tuple(paragraphs)


def _turns(latencies: Sequence[Latency]) -> str:
    return (
        "After a warm-up of each, the variants took turns in short blocks in one process, so that a slow moment of the "
        f"machine hits all of them; {_range(latency.iterations for latency in latencies)} calls of each were timed."
    )


def _list(values: Iterable[int]) -> str:
    found = [f"{value:,}" for value in sorted(set(values))]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _fact(value: str | int | float | bool | None) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return one_line(f"{value:.6g}" if isinstance(value, float) else str(value))
