"""Weights of formats that calibration for INT8 does not round: rounded on samples, and kept beside the table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

from quantkit.backends.onnxruntime import using_gpu
from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.refinement_file import refinement_path, save_refinement
from quantkit.calibration.table import open_table, table_checksum
from quantkit.commands.format_plan import FormatPlan, plan_format
from quantkit.commands.on_device import runnable
from quantkit.datasets.fingerprint import contents_of
from quantkit.datasets.open import open_samples, prepared_as
from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import Notice, Notify, announcing
from quantkit.refinement.refine_float8 import refine_float8
from quantkit.refinement.rounding import round_weights, round_weights_alone
from quantkit.refinement.samples import SampleBatches, affordable_samples, choose_samples
from quantkit.types import FP8, CalibrationTable, Dataset, PathLike, QdqEdge, Refinement
from quantkit.types.options import CalibrationOptions, ImageOptions, QuantizeOptions

_PROBED = 16
_MOST_SAMPLES = 256


def check_rounds(options: QuantizeOptions) -> None:
    """Refuses samples with which nothing would be rounded."""
    if options.scheme.is_plain:
        raise ModelError("--data rounds weights for --format fp8, int4 and int4+int8; for int8, calibrate has done it")
    if options.rounding == "nearest":
        raise ModelError("--rounding nearest rounds no weight on samples: leave out --data, or --rounding nearest")


def samples_of(
    model: FloatModel, table: CalibrationTable, data: PathLike, preprocess: ImageOptions | None = None
) -> SampleBatches:
    """The samples of `rounding_samples`, in batches."""
    dataset = rounding_samples(model, table, data, preprocess)
    return choose_samples(model.inputs, dataset, contents_of(dataset), most=len(dataset))


def rounding_samples(
    model: FloatModel, table: CalibrationTable, data: PathLike, preprocess: ImageOptions | None = None
) -> Dataset:
    """Samples that weights are rounded on, prepared as for the table where nothing else is said: some of `data`."""
    prepared = prepared_as(table, preprocess, data)

    def choose(count: int) -> Dataset:
        return open_samples(runnable(model), data, prepared, None, num_samples=count, seed=0, order="shuffled")

    return choose(min(affordable_samples(model, choose(_PROBED), effort="balanced"), _MOST_SAMPLES))


def round_for_format(
    model: FloatModel,
    table: CalibrationTable,
    options: QuantizeOptions,
    samples: SampleBatches,
    notify: Notify,
) -> CalibrationTable:
    """The table with the weights of a format that is not INT8 alone rounded with error feedback.

    Args:
        model: the float model.
        table: of that model.
        options: with the format.
        samples: to round on.
        notify: hears what the rounding saved.
    """
    chosen = Refinement()  # of FP8 alone
    if options.scheme.activations == FP8:
        chosen = _choose_for_fp8(model, table, options, samples, notify)
        table = replace(table, roundings={**table.roundings, options.format: chosen})
    planned = plan_format(model, table, options, notify)
    if options.scheme.blocks:
        found, layers = round_weights_alone(planned.graph, planned.blocks, samples)
    else:
        assert planned.pairs is not None  # a format without blocks quantizes activations
        found, layers = round_weights(planned.graph, planned.pairs.qdq, planned.pairs.ranges, samples)
    saved = sum(layer.error for layer in layers) / max(sum(layer.nearest_error for layer in layers), 1e-30)
    text = f"{len(layers)} weights rounded with error feedback: {saved:.0%} of the squared error of nearest"
    if saved >= 1:
        text = f"{len(layers)} weights rounded to nearest: error feedback did not help on these samples"
    notify(Notice("info", "weights", text))
    found = replace(chosen, weights=found.weights, biases=found.biases)
    return replace(table, roundings={**table.roundings, options.format: found})


def _choose_for_fp8(
    model: FloatModel,
    table: CalibrationTable,
    options: QuantizeOptions,
    samples: SampleBatches,
    notify: Notify,
) -> Refinement:
    """What FP8 shifts, and what it leaves in float: found before the weights are rounded."""
    ranges = {n: r for n, r in table.for_scheme(options.scheme).tensors.items() if n not in table.skipped}
    how = CalibrationOptions(progress=False)
    with using_gpu(None):  # a session for each piece of the graph
        return refine_float8(model, samples, ranges, how, options, notify=notify)


def keep_rounding(
    model: FloatModel,
    table: CalibrationTable | PathLike,
    options: QuantizeOptions,
    data: PathLike,
    preprocess: ImageOptions | None,
    notify: Notify,
) -> CalibrationTable:
    """The same on samples of `data`; where the table is a path, they are kept beside it."""
    opened = open_table(table)
    found = round_for_format(model, opened, options, samples_of(model, opened, data, preprocess), announcing(notify))
    if not isinstance(table, CalibrationTable):
        path = refinement_path(table, options.format)
        save_refinement(found.roundings[options.format], path, table=table_checksum(opened))
        if opened.roundings.get(options.format) and not is_rounded(model, opened, options):
            text = f"{path}: replaced, as it was rounded for other options, such as another --block-size."
            notify(Notice("info", "weights", text))
    return found


def is_rounded(model: FloatModel, table: CalibrationTable, options: QuantizeOptions) -> bool:
    """Whether the table has every weight that would be rounded for the format."""
    planned = plan_format(model, table, options, announcing(None))
    return not _to_nearest(planned.rounded_apart(options.scheme), kept_rounding(table, options))


def kept_rounding(table: CalibrationTable, options: QuantizeOptions) -> Refinement:
    """What was rounded for the format."""
    found = table.roundings.get(options.format) if options.rounding == "feedback" else None
    return found or Refinement()


def _to_nearest(edges: Sequence[QdqEdge], rounded: Refinement) -> list[QdqEdge]:
    """The edges of weights for which nothing was kept in their format."""
    found = rounded.weights
    return [e for e in edges if e.tensor not in found or not found[e.tensor].fits(e.axis, e.format)]


def tell_lost(table: CalibrationTable, notify: Notify) -> None:
    """Warns where INT8 lacks what calibrate found beyond ranges."""
    if "rounding" not in table.settings or table.refinement is not None:
        return
    name = "MODEL.calib.weights" if table.path is None else refinement_path(table.path).name
    text = f"What calibrate found beyond ranges ({name}) is not beside the table"
    text = f"{table.unusable.get('int8', text)}: weights are rounded to nearest, and the output is less accurate "
    notify(Notice("warning", "weights", text + "than the table says."))


def tell_nearest(
    model: FloatModel, planned: FormatPlan, table: CalibrationTable, options: QuantizeOptions, notify: Notify
) -> None:
    """Says which weights are rounded to nearest for want of better ones, and what to do about it."""
    edges = planned.rounded_apart(options.scheme)
    left = _to_nearest(edges, kept_rounding(table, options))
    if not left or options.rounding == "nearest":
        return
    words = ["quantkit", "quantize", str(model.path)]
    if table.path not in (None, CalibrationFiles.of_model(model.path).table):
        words += ["--table", str(table.path)]
    words += ["--format", options.format, *(["--block-size", str(options.block)] if options.scheme.blocks else [])]
    text = f"{len(left)} of {len(edges)} weights are rounded to nearest: "
    text += f"{table.unusable.get(options.format, 'nothing better is kept beside the table')}; "
    text += f"`{shlex.join(words)} --data DATA` rounds them with error feedback"
    notify(Notice("info", "weights", f"{text}, and keeps them there"))
