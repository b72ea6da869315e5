"""Fuzzes every parser with damaged files, and counts accepted inputs, refused inputs and failures.

python benchmarks/fuzz_parsers.py [--inputs 200000] [--seed 1] [--target NAME ...]

Writes docs/measurements/fuzz.md and fuzz.json. tests/fuzz contains the targets, the mutations and the definition of a
failure. Each parser runs in a separate process with 4 GiB of address space and 5 seconds per input. `--input INDEX`
with one `--target` writes that input to a file instead. Linux and macOS.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.fuzz.campaign import MEMORY_BYTES, TIMEOUT_S, Outcome, run_target  # noqa: E402
from tests.fuzz.oracle import make_input  # noqa: E402
from tests.fuzz.targets import TARGETS, load_targets  # noqa: E402

PACKAGES = ("quantkit", "numpy", "msgspec", "onnx", "onnx-ir", "onnxscript", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=200_000, help="number of inputs over all parsers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="this parser only; repeatable")
    parser.add_argument("--input", type=int, help="write this input of the target to a file, run nothing")
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "measurements" / "fuzz.md")
    arguments = parser.parse_args()
    shared = Path(os.environ.get("QUANTKIT_SHARED") or REPOSITORY.parent / "shared")
    material = shared if shared.is_dir() else None
    names = arguments.target or list(TARGETS)
    if arguments.input is not None:
        target = TARGETS[names[0]]
        path = Path(f"input{target.suffix}")
        path.write_bytes(
            make_input(names[0], target, target.seeds(material), seed=arguments.seed, index=arguments.input)
        )
        print(f"wrote {path}")
        return
    whole = sum(TARGETS[name].share for name in names)
    outcomes = {}
    for name in names:
        inputs = -(-round(arguments.inputs * TARGETS[name].share) // max(round(whole), 1))
        outcomes[name] = run_target(load_targets, name, inputs=inputs, seed=arguments.seed, shared=material)
        show(name, outcomes[name])
    facts = {
        "command": f"python benchmarks/fuzz_parsers.py --inputs {arguments.inputs} --seed {arguments.seed}",
        "date": datetime.date.today().isoformat(),
        "real_files_among_the_seeds": material is not None,
        "timeout_s": TIMEOUT_S,
        "memory_bytes": MEMORY_BYTES,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {package: version(package) for package in PACKAGES},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(report(outcomes, facts), encoding="utf-8")
    content = {**facts, "targets": {name: asdict(outcome) for name, outcome in outcomes.items()}}
    arguments.output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if any(outcome.failures for outcome in outcomes.values()):
        raise SystemExit(1)


def show(name: str, outcome: Outcome) -> None:
    print(
        f"{name:28}{outcome.inputs:8} inputs {outcome.accepted:7} accepted {len(outcome.failures):4} failures "
        f"{outcome.slowest_s:7.3f} s slowest {outcome.seconds:6.1f} s",
        flush=True,
    )
    kinds: dict[str, list[int]] = {}
    for failure in outcome.failures:
        kinds.setdefault(failure.what[-120:], []).append(failure.index)
    for what, indices in list(kinds.items())[:10]:
        print(f"    {len(indices)} x input {indices[0]}: {what}", flush=True)


def report(outcomes: dict[str, Outcome], facts: dict[str, object]) -> str:
    """The measurement as Markdown."""
    total = sum(outcome.inputs for outcome in outcomes.values())
    failures = sum(len(outcome.failures) for outcome in outcomes.values())
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    seeds = "Real files were" if facts["real_files_among_the_seeds"] else "No real file was"
    lines = [
        "# Damaged files",
        "",
        f"**{total:,} inputs, {failures} failures**, {seconds:.0f} s. Each input was read like a user's file. "
        "Accepted inputs were used: shown, compared, written and read again.",
        "",
        f"    {facts['command']}",
        "",
        f"{facts['date']}, Python {facts['python']}, {facts['system']}; {versions}. {seeds} among the seeds.",
        "",
        "A failure is: any exception other than `QuantKitError`; a message of more than one line, or without the "
        "file's name; a Python warning; a value that changes when it is written and read again; more than "
        f"{TIMEOUT_S:g} seconds or {MEMORY_BYTES >> 30} GiB of address space; the end of the process.",
        "",
        "Bits, bytes, blocks, numbers, lengths and text are changed at random, files are spliced, members and fields "
        "are removed, repeated and retyped; in three of four inputs the checksums are corrected afterwards, so that "
        "the code behind them is reached (`tests/fuzz`).",
        "",
        "| parser | inputs | accepted | refused | failures | slowest, s | peak, MiB | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, o in outcomes.items():
        lines.append(
            f"| {name} | {o.inputs:,} | {o.accepted:,} | {o.refused:,} | {len(o.failures)} | {o.slowest_s:.3f} | "
            f"{o.peak_bytes >> 20} | {o.seconds:.1f} |"
        )
    lines += ["", '"peak" is the peak memory of the process, including imports.', ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
