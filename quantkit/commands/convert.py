"""The command `cache convert`: a calibration file written in another format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from quantkit.caches.convert import CacheTarget, Conversion, table_for_model, write_as_tensorrt_cache, write_ort_table
from quantkit.caches.formats.detect import ranges_json
from quantkit.caches.open import check_no_input, open_cache
from quantkit.caches.range_cache import RangeCache, rename
from quantkit.calibration.table import save_table
from quantkit.commands.quantize import quantize
from quantkit.errors import CalibrationError
from quantkit.graph.float_model import FloatModel
from quantkit.notices import join_names
from quantkit.storage import write_text
from quantkit.types import PathLike


def convert_cache(
    path: PathLike,
    output: PathLike,
    *,
    target: CacheTarget,
    model: PathLike | FloatModel | None = None,
    tensorrt_version: str | None = None,
    names: Mapping[str, str] | None = None,
    high_precision: Literal["fp32", "fp16"] = "fp32",
) -> Conversion:
    """Writes the ranges of one file in another form, scales bit for bit where the form can hold them.

    Args:
        path: any file that `open_cache` reads.
        output: what is written.
        target: "tensorrt", "table" (quantkit's), "qdq" (the INT8 model), "ort" (flatbuffers), "ort-json", "ort-text"
            or "json" (everything that is known).
        model: the float ONNX model that the ranges are for; "table" and "qdq" need it, and with it "tensorrt" gets the
            tensors that inherit a range.
        tensorrt_version: of the library that will read a TensorRT cache; None keeps the source's.
        names: old name → new name, applied first.
        high_precision: of what stays in float, for "qdq".

    Raises:
        StaleTableError: no name of the file is in the model, or a table belongs to another one.
        OutputError: `output` is one of the files that it would be made from.
        QuantKitError: one line that names the file, tensor or option.
    """
    model = None if model is None else FloatModel.open(model)
    check_no_input(output, path, models=(model,))
    cache = open_cache(path)
    remarks = list(cache.notes)
    asymmetric = [name for name, r in cache.tensors.items() if r.is_asymmetric]
    if asymmetric and target != "json":
        remarks.append(f"{len(asymmetric)} ranges are asymmetric; the larger side is kept: {join_names(asymmetric)}")
    if names:
        if cache.table is not None:
            remarks.append("renamed tensors belong to another model: data, preprocessing and settings are not carried")
        cache = rename(cache, names)
    if target == "table" or target == "qdq":
        if model is None:
            raise CalibrationError(f"--to {target} needs the float model that the ranges are for: --model MODEL.onnx")
        return _to_model(cache, Path(output), target, model, high_precision, remarks)
    if target == "tensorrt":
        return write_as_tensorrt_cache(cache, Path(output), model, tensorrt_version, remarks)
    if target == "json":
        write_text(output, ranges_json(cache))
        return Conversion(Path(output), target, len(cache.tensors), tuple(remarks))
    return write_ort_table(cache, Path(output), target, remarks)


def _to_model(
    cache: RangeCache,
    output: Path,
    target: Literal["table", "qdq"],
    model: FloatModel,
    high_precision: Literal["fp32", "fp16"],
    remarks: list[str],
) -> Conversion:
    table = cache.table or table_for_model(cache, model, remarks)
    if target == "table":
        save_table(table, output)
        return Conversion(output, target, len(table.tensors), tuple(remarks))
    quantized = quantize(model, table, output, high_precision=high_precision)
    if high_precision == "fp16":
        remarks.append("scales are rounded up to what FP16 holds")
    remarks.append(f"{quantized.num_quantized} of {quantized.num_weighted} weighted operators are INT8")
    return Conversion(output, target, len(table.tensors), tuple(remarks))
