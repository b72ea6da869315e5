"""What an engine is built from: model, table or cache, checked against each other, and the graph that TensorRT gets."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends.tensorrt.library import Library
from quantkit.caches.open import read_cache_of_model
from quantkit.caches.reuse import check_table
from quantkit.calibration.plan_file import open_planned_table
from quantkit.calibration.table import table_sha256
from quantkit.commands.fixed_inputs import fix_as_calibrated
from quantkit.commands.fp16_check import known_magnitudes
from quantkit.errors import CalibrationError, ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import float_precision
from quantkit.graph.passes.prepare import scheme_of
from quantkit.graph.qdq_lint import check_explicit
from quantkit.types import SCHEMES, CalibrationTable, PathLike
from quantkit.types.options import EngineOptions, HighPrecision
from quantkit.types.quantization import Precision

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.precision import Typing


@dataclass(frozen=True)
class BuildInputs:
    """What a user gives for an engine.

    Attributes:
        model: in float, or with Q/DQ that say themselves what runs in INT8.
        precision: of the engine.
        high_precision: of what stays in float beside INT8, as given.
        exclude: what stays in float.
        quantize_all: also what INT8 does not speed up.
        block_size: of INT4.
        table: of the calibration.
        cache: content of TensorRT's own cache, instead of a table.
        cache_name: of its file.
        magnitudes: largest one of each activation, as far as it is known: where FP16 overflows.
    """

    model: FloatModel
    precision: Precision
    high_precision: HighPrecision | None
    exclude: tuple[str, ...]
    table: CalibrationTable | None
    cache: bytes | None
    cache_name: str
    magnitudes: Mapping[str, float] = field(default_factory=dict)
    quantize_all: bool = False
    block_size: int | None = None

    @property
    def name(self) -> str:
        """Name of the model's file."""
        return self.model.name

    @property
    def is_half(self) -> bool:
        """Whether the model is in FP16 already."""
        return float_precision(self.model.graph) == "fp16"

    @property
    def calibration(self) -> dict[str, str | int]:
        """What a manifest says of table or cache."""
        if self.table is not None and self.precision in SCHEMES:
            return {
                "sha256": table_sha256(self.table),
                "dataset_fingerprint": self.table.dataset_fingerprint,
                "method": self.table.method,
                "num_samples": self.table.num_samples,
            }
        if self.cache is not None:
            return {"sha256": hashlib.sha256(self.cache).hexdigest(), "method": "TensorRT calibration cache"}
        return {}


def load_build_inputs(model: PathLike | FloatModel, engine: EngineOptions) -> BuildInputs:
    """Reads model, table and cache, and for FP16 a few samples.

    Raises:
        QuantKitError: they do not fit together, or INT8 has no ranges.
    """
    precision, cache, data = engine.single_precision, engine.calibration_cache, engine.data
    if cache is not None and precision in SCHEMES and precision != "int8":
        raise ModelError(f"--calib is for implicit INT8: {precision} is explicit (Q/DQ): pass --table")
    needs_int8 = {
        "--table": None if precision == "fp16" else engine.table,  # there it says where FP16 overflows
        "--calib": cache,
        "--exclude": engine.exclude,
        "--quantize-all": engine.quantize_all,
        "--high-precision": engine.high_precision,
        "--block-size": engine.block_size,
    }
    given = [option for option, value in needs_int8.items() if value]
    if precision not in SCHEMES and given:
        raise ModelError(f"{given[0]} is for quantized engines, such as --precision int8, not for {precision}")
    if data is not None and (precision != "fp16" or engine.table is not None):
        raise ModelError("--data is for --precision fp16 without --table: it shows where FP16 overflows")
    if engine.table is not None and cache is not None:
        raise CalibrationError("--table and --calib exclude each other")
    model = FloatModel.open(model)
    if model.is_quantized and precision != (stored := scheme_of(model.graph)):
        raise ModelError(f"{model.name} contains Q/DQ: use --precision {stored}, or pass the float model")
    if model.is_quantized and given:
        raise ModelError(
            f"{model.name} contains Q/DQ, which define everything: omit {given[0]}, or pass the float model"
        )
    if precision in SCHEMES and not model.is_quantized and engine.table is None and cache is None:
        fix = f"run `quantkit calibrate {shlex.quote(str(model.path))} --data DATA`, or pass --table"
        raise CalibrationError(f"{precision.upper()} needs the ranges of {model.name}: {fix}")
    table = open_planned_table(engine.table, engine.plan)
    if table is not None:
        check_table(table, model)
        model = fix_as_calibrated(model, table)
    content = None if cache is None else read_cache_of_model(Path(cache), model.prepared(), model.name)
    source = BuildInputs(
        model=model,
        precision=precision,
        high_precision=engine.high_precision,
        exclude=tuple(engine.exclude),
        table=table,
        cache=content,
        cache_name="" if cache is None else Path(cache).name,
        magnitudes=known_magnitudes(model, table, data, engine.placed),
        quantize_all=engine.quantize_all,
        block_size=engine.block_size,
    )
    if source.is_half and precision == "fp32":
        raise ModelError(f"{model.name} is in FP16 already: build it with --precision fp16")
    return source


def check_source(source: BuildInputs, library: Library, typing: Typing) -> None:
    """Refuses what `library` would ignore or get wrong.

    Raises:
        ModelError: Q/DQ that it cannot take, or Q/DQ and cache where they have no say.
    """
    if source.cache is not None and typing.mode == "explicit":
        raise ModelError("--calib is for implicit INT8: omit --mode explicit, or pass --table")
    if not source.model.is_quantized:
        return
    if typing.mode == "implicit":
        raise ModelError(f"{source.name} contains Q/DQ, which implicit INT8 ignores: omit --mode and --dla-core")
    check_explicit(source.model.graph, name=source.name, tensorrt_major=None if library.is_rtx else library.version[0])
