"""Memory of `quantkit evaluate` on a large data set, and the partial report after Ctrl-C.

    python benchmarks/evaluation_memory.py model.onnx images/ --table model.calib.json --output docs/measurements

Runs the command twice: once to the end, with its resident memory sampled five times a second, and once with SIGINT
after half of that time. Writes evaluation_memory.md. The slope excludes the first fifth of the run, in which runtimes
allocate their arenas.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from quantkit import __version__


@dataclass(frozen=True)
class Run:
    """Seconds, exit code, and resident megabytes at each sampled second."""

    seconds: float
    code: int
    samples: list[tuple[float, float]]
    report: dict[str, object]


def run(words: list[str], folder: Path, *, interrupt_after: float | None = None) -> Run:
    """Runs the command, samples its memory, and interrupts it if asked to."""
    command = [sys.executable, "-m", "quantkit", "evaluate", *words, "-o", str(folder), "--quiet"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=_take_interrupts)
    samples = []
    while process.poll() is None:
        now = time.monotonic() - start
        if (resident := _resident_mb(process.pid)) is not None:
            samples.append((now, resident))
        if interrupt_after is not None and now > interrupt_after:
            process.send_signal(signal.SIGINT)
            interrupt_after = None
        time.sleep(0.2)
    seconds = time.monotonic() - start
    return Run(seconds, process.returncode, samples, json.loads((folder / "report.json").read_text()))


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _resident_mb(pid: int) -> float | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path())
    arguments = parser.parse_args()
    words = [str(arguments.model), "--data", str(arguments.data), "--table", str(arguments.table)]
    words += ["--latency-s", "0", "--layer-samples", "0"]
    with tempfile.TemporaryDirectory() as name:
        whole = run(words, Path(name) / "whole")
        half = run(words, Path(name) / "half", interrupt_after=whole.seconds / 2)
    late = [(t, mb) for t, mb in whole.samples if t > whole.seconds / 5]
    slope = statistics.linear_regression(*zip(*late, strict=True)).slope
    evaluated = whole.report["evaluations"][0]["num_samples"]  # type: ignore[index]
    lines = [
        "# Memory of an evaluation, and an interrupted one",
        "",
        f"{arguments.model.name}, {evaluated:,} images, {len(whole.report['evaluations'])} variants"  # type: ignore[arg-type]
        f", quantkit {__version__}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}.",
        "",
        "| share of the run | resident, MB |",
        "|--:|--:|",
    ]
    for percent in (5, 20, 40, 60, 80, 95):
        nearest = min(whole.samples, key=lambda s: abs(s[0] - whole.seconds * percent / 100))
        lines.append(f"| {percent}% | {nearest[1]:.0f} |")
    lines += [
        "",
        f"Peak {max(mb for _, mb in whole.samples):.0f} MB in {whole.seconds:.0f} s; after the first fifth of the run, "
        f"memory changes by {slope * whole.seconds:+.1f} MB over the length of a run (least squares).",
        "",
        f"SIGINT after {whole.seconds / 2:.0f} s: exit code {half.code}, a report of "
        f"{half.report['evaluations'][0]['num_samples']:,} of {half.report['planned_samples']:,} images, "  # type: ignore[index]
        "marked as partial.",
        "",
        "    python benchmarks/evaluation_memory.py model.onnx images/ --table model.calib.json",
    ]
    (arguments.output / "evaluation_memory.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
