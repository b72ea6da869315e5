"""FP8 and INT4 beside INT8: accuracy and size of models in every format, from one calibration.

python benchmarks/formats.py MODEL.onnx ... --calib DATA --data DATA --out RESULTS.json [--folder FOLDER]
    [--variants int8,fp8-nearest,fp8,int4-nearest,int4] [--also MODEL:NAME=FILE ...] [--num-samples 10000]
    [--calib-samples 256] [--task classify] [--accuracy fast] [--jobs 8] [--threads 1]

Each model is calibrated into FOLDER, unless its table is there, and made in each variant: with weights rounded to
nearest, or with error feedback on the calibration data. `--also` scores what other tools made of a model. Models and
variants are processes of their own, so that many cores are used; RESULTS.json is written after each that is finished,
and what it holds is not measured again. Nothing is fetched. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIANTS = ("int8", "fp8-nearest", "fp8", "int4-nearest", "int4")
"""Format, and "-nearest" where weights are not rounded with error feedback."""


@dataclass(frozen=True)
class Job:
    """One variant of one model.

    Attributes:
        model: path of the float model.
        variant: a name in `VARIANTS`, or what `given` is called.
        given: path of a finished model; "" where it is to be made.
    """

    model: str
    variant: str
    given: str = ""

    @property
    def key(self) -> str:
        """In the results."""
        return f"{Path(self.model).stem} {self.variant}"


@dataclass(frozen=True)
class Setup:
    """The same for all jobs: the arguments of the command."""

    folder: str
    calib: str
    data: str
    task: str
    accuracy: str
    num_samples: int | None
    calib_samples: int
    threads: int

    def table(self, model: str) -> Path:
        """Of a model's calibration."""
        return Path(self.folder) / f"{Path(model).stem}.calib.json"


def calibrate_model(model: str, setup: Setup) -> float:
    """Makes the table; CPU seconds that it took."""
    from quantkit.commands.calibrate import calibrate

    if setup.table(model).is_file():
        return 0.0
    start = time.process_time()
    options = {"accuracy": setup.accuracy, "num_samples": setup.calib_samples, "progress": False}
    calibrate(model, setup.calib, table_path=setup.table(model), **options)
    return time.process_time() - start


def measure(job: Job, setup: Setup) -> dict[str, Any]:
    """Makes a variant and scores it beside FP32."""
    from quantkit.commands.evaluate import evaluate
    from quantkit.commands.quantize import quantize

    start = time.process_time()
    path, float_tensors = Path(job.given), 0
    if not job.given:
        form, _, nearest = job.variant.partition("-")
        path = Path(setup.folder) / f"{Path(job.model).stem}.{job.variant}.onnx"
        data = None if nearest or form == "int8" else setup.calib
        rounding = "nearest" if nearest else "feedback"
        made = quantize(job.model, setup.table(job.model), path, format=form, data=data, rounding=rounding)
        float_tensors = made.num_weighted - made.num_quantized
    made_s = time.process_time() - start
    report = evaluate(
        job.model,
        setup.data,
        task=setup.task,
        table=setup.table(job.model),
        models={job.variant: path},
        variants=["fp32"],
        num_samples=setup.num_samples,
        threads=setup.threads,
        latency_s=0,
        layer_samples=0,
        progress=False,
    )
    baseline, found = report.evaluations[0], report.evaluations[-1]
    return {
        **asdict(job),
        "model": Path(job.model).stem,
        "baseline": dict(baseline.metrics),
        "metrics": dict(found.metrics),
        "num_samples": found.num_samples,
        "size": found.size_bytes / baseline.size_bytes,
        "operators_in_float": float_tensors,
        "seconds_to_make": made_s,
        "cpu_seconds": time.process_time() - start,
    }


def finished(jobs: list[Job], setup: Setup, workers: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Results as they come; a job that fails gives its error."""
    with ProcessPoolExecutor(workers) as pool:
        tables = {pool.submit(calibrate_model, model, setup): model for model in {job.model: None for job in jobs}}
        running = {}
        for future in as_completed(tables):
            future.result()
            running |= {pool.submit(measure, job, setup): job for job in jobs if job.model == tables[future]}
        for future in as_completed(running):
            error = future.exception()
            yield running[future], {"error": repr(error)} if error else future.result()


def table_of(results: dict[str, dict[str, Any]]) -> str:
    """Rows in Markdown: points of top-1 and of its difference to FP32, agreement, SQNR, size."""
    rows = [
        "| model | variant | top-1 | to FP32 | same class | SQNR dB | size of FP32 | images |",
        "|---|" + "---|" * 7,
    ]
    for key, found in sorted(results.items()):
        if "error" in found:
            rows.append(f"| {key} | {found['error']} |")
            continue
        metrics, top1 = found["metrics"], found["metrics"].get("top1")
        change = "" if top1 is None else f"{100 * (top1 - found['baseline']['top1']):+.2f}"
        cells = ["" if top1 is None else f"{100 * top1:.2f}", change]
        cells.append(f"{100 * metrics['agreement']:.2f}" if "agreement" in metrics else "")
        cells += [f"{metrics['sqnr_db']:.1f}", f"{found['size']:.3f}", str(found["num_samples"])]
        rows.append(f"| {found['model']} | {found['variant']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--calib", required=True, help="calibration data")
    parser.add_argument("--data", required=True, help="data to score on")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON")
    parser.add_argument("--folder", type=Path, help="for tables and models; default: beside the results")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--also", action="append", default=[], metavar="MODEL:NAME=FILE", help="a finished model")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--calib-samples", type=int, default=1000)
    parser.add_argument("--task", default="classify")
    parser.add_argument("--accuracy", default="fast", help="of the calibration, which decides int8")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime in each")
    args = parser.parse_args()
    folder = args.folder or args.out.parent
    folder.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        str(folder), args.calib, args.data, args.task, args.accuracy, args.num_samples, args.calib_samples, args.threads
    )
    jobs = [Job(str(model), variant) for model in args.models for variant in args.variants.split(",") if variant]
    stems = {model.stem: str(model) for model in args.models}
    for text in args.also:
        (stem, _, rest) = text.partition(":")
        name, _, file = rest.partition("=")
        jobs.append(Job(stems[stem], name, file))
    results = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for job, found in finished([job for job in jobs if job.key not in results], setup, args.jobs):
        results[job.key] = found
        args.out.write_text(json.dumps({k: v for k, v in results.items() if "error" not in v}, indent=1) + "\n")
        print(f"{job.key}: {found.get('cpu_seconds', found.get('error'))}", flush=True)
    print(table_of(results))


if __name__ == "__main__":
    main()
