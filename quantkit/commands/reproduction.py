"""The command lines that make an artifact again, from what it says of itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from quantkit.calibration.methods import METHODS
from quantkit.datasets.placement import PLACEMENT
from quantkit.types import CalibrationTable, HistogramRule, Preprocessing
from quantkit.types.calibration import Setting
from quantkit.types.options import CalibrationOptions


def calibrate_command(table: CalibrationTable, model: str) -> str | None:
    """The `quantkit calibrate` that gives the ranges of `table` again, DATA standing for the images.

    None for a table that no calibration of quantkit's own made (a converted cache).

    Args:
        table: what it says of its settings is what it was made with.
        model: path of the model, as it is to be typed.
    """
    settings = table.settings
    if settings.get("method") not in METHODS or not table.dataset_fingerprint:
        return None
    if settings.get("calibrator", "quantkit") != "quantkit":
        return None
    words = ["quantkit", "calibrate", "--data", "DATA", model, "--method", str(settings["method"])]
    own = (option.name for option in METHODS[table.method].own_options)
    for name in (*own, "histogram", "order", "seed", "num_samples", "batch_size"):
        value = settings.get(name)
        if value is not None and value != _DEFAULTS.get(name):
            words += [f"--{name.replace('_', '-')}", f"{value}"]
    if (
        "num_samples" in settings
        and settings["num_samples"] is None
        and 2 * table.num_samples > CalibrationOptions.num_samples
    ):
        # All there are. More of them may have been given than the table counts: some could not be read.
        words += ["--num-samples", f"{10 ** (len(str(table.num_samples)) + 1)}"]
    if (effort := settings.get("accuracy", "fast")) != _usual_effort(settings):
        words += ["--accuracy", str(effort)]
    if settings.get("rounding", "feedback") != "feedback":
        words += ["--rounding", str(settings["rounding"])]
    if settings.get("observed") == "quantized":
        words.append("--no-all-tensors")
    for name in PLACEMENT:
        for value in filter(None, str(settings.get(name, "")).split(",")):
            words += [f"--{name.replace('_', '-')}", value]
    if (loader := settings.get("loader")) is not None:
        words += ["--loader", str(loader).partition(" ")[0]]
    if table.preprocessing is not None:
        words += _image_words(table.preprocessing)
    return shlex.join(words)


def _usual_effort(settings: Mapping[str, Setting]) -> str:
    """What a calibration with these settings does where --accuracy is not given."""
    histogram: HistogramRule = "tensorrt" if settings.get("histogram") == "tensorrt" else "exact"
    return CalibrationOptions(method=str(settings["method"]), histogram=histogram).effort


_DEFAULTS = {"histogram": "exact", "order": "shuffled", "seed": 0}


def _image_words(p: Preprocessing) -> list[str]:
    if p.function is not None:
        return ["--preprocess", p.function]
    words = ["--preprocess", "none", "--size", f"{p.size[0]}x{p.size[1]}", "--color", p.color, "--resize", p.resize]
    if p.shorter_side is not None:
        words += ["--shorter-side", f"{p.shorter_side}"]
    words += ["--interpolation", p.interpolation]
    if p.resize in ("letterbox", "height"):
        words += ["--pad-value", f"{p.pad_value}"]
    if "pad_position" in p.declared() or p.resize == "height":
        words += ["--pad-position", p.pad_position]
    if p.pixel_max is not None:
        words += ["--pixel-max", repr(p.pixel_max)]
    if p.multiple_of is not None:
        words += ["--multiple-of", f"{p.multiple_of}"]
    numbers = {"--scale": (p.scale,), "--mean": p.mean, "--std": p.std}
    for option, values in numbers.items():
        words += [option, ",".join(repr(value) for value in values)]
    return [*words, "--layout", p.layout]
