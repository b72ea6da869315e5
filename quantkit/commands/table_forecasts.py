"""What commands that make files of a table would do: `quantize` and `build` with `--dry-run`.

They check as the commands do, so that what these refuse is refused beforehand.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from quantkit.backends.cuda.context import using_device
from quantkit.backends.tensorrt.build.build_options import BuildOptions
from quantkit.backends.tensorrt.build.manifest import manifest_path
from quantkit.caches.reuse import check_table
from quantkit.calibration.plan_file import apply_plan
from quantkit.calibration.refinement_file import refinement_path
from quantkit.calibration.table import open_table
from quantkit.commands.build_best import plan_best
from quantkit.commands.extensions import with_extensions
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.commands.format_rounding import rounding_samples, tell_lost
from quantkit.commands.planned_build import default_engine_path, plan_build
from quantkit.commands.quantize import check_quantizable
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, announcing
from quantkit.pass_cost import Forecast, PassCost, data_line, forecast, model_line
from quantkit.storage import check_no_source
from quantkit.types import INT8, SCHEMES, PathLike
from quantkit.types.options import EngineOptions, QuantizeOptions
from quantkit.types.quantization import Format

_BUILD_TELLS = (
    "time and memory are not estimated: TensorRT times kernels on the GPU while it builds, seconds to many minutes"
)


def forecast_quantization(
    model: PathLike | FloatModel,
    table: PathLike,
    output: Path,
    options: QuantizeOptions,
    data: PathLike | None = None,
    notify: Notify | None = None,
) -> Forecast:
    """Forecasts `quantize`, which warns of kept weights that are lost.

    Raises:
        QuantKitError: one line: what `quantize` would refuse.
    """
    found = open_table(table)
    with with_extensions(options):
        opened = fix_as_calibrated(FloatModel.open(model), found)
        check_table(found, opened)
        planned = apply_plan(found, options.plan)
        check_quantizable(opened, options)
    check_no_source(output, (*opened.source_files, table))
    if options.target != "cpu" and options.scheme.activations == INT8:
        tell_lost(planned, announcing(notify))
    if data is None and (lost := found.unusable.get(options.format)) and not options.scheme.is_plain:
        announcing(notify)(Notice("warning", "weights", f"{lost}: weights will be rounded to nearest; add --data"))
    refined = {name: refinement_path(table, name) for name in ("int8", options.format, *planned.formats)}
    reads = [model_line(opened), f"{table}: {len(found.tensors)} tensors with a range", *_named(options.plan)]
    runs, writes = "no model: weights are quantized by the table", [output]
    memory: int | None = PassCost(0.0, 0.0, 0, 0, opened.size_bytes).memory(0)
    grounds = "time goes with the size of the model: seconds for each 100 MB"
    if data is not None:
        dataset, rounded = rounding_samples(opened, found, data), refined.pop(options.format)
        reads.append(data_line(dataset, data))
        runs = f"{len(dataset)} samples, on which weights in {options.format} are rounded with error feedback"
        writes.append(rounded)
        memory, grounds = None, f"{grounds}; rounding comes on top, which nothing here tells"
    return forecast(
        [*reads, *(str(path) for name, path in refined.items() if path.is_file() and name not in found.unusable)],
        [runs],
        writes,
        memory_bytes=memory,
        grounds=grounds,
    )


def forecast_build(
    model: PathLike, options: BuildOptions, engine: EngineOptions, output: PathLike | None = None
) -> Forecast:
    """Forecasts `build`.

    Raises:
        QuantKitError: one line: what `build` would refuse.
    """
    silent = announcing(None)
    with using_device(engine.gpu):
        if engine.precision == "best":
            path = Path(output) if output is not None else default_engine_path(Path(model), "best")
            planned, _ = plan_best(FloatModel.open(model), options, engine, path, silent)
        else:
            planned = plan_build(model, options, engine, output=output, notify=silent)
    source = planned.source
    if source.table is not None and source.precision in SCHEMES:
        form = cast(Format, source.precision)
        check_quantizable(
            source.model,
            QuantizeOptions(
                format=form,
                exclude=source.exclude,
                quantize_all=source.quantize_all,
                block_size=source.block_size,
            ),
        )
    given = (engine.table, engine.plan, engine.calibration_cache, engine.data, options.timing_cache)
    return forecast(
        [model_line(source.model), *_named(*given)],
        [f"the builder of {planned.library.title}, {engine.precision}"],
        (planned.path, manifest_path(planned.path)),
        grounds=f"{_BUILD_TELLS}; an engine that is there and up to date is kept",
    )


def _named(*given: object) -> list[str]:
    """Those that are paths."""
    return [str(path) for path in given if isinstance(path, str | Path)]
