"""Names of the files that one calibration writes together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from quantkit.backends.tensorrt.build.manifest import manifest_path
from quantkit.calibration.refinement_file import refinement_path
from quantkit.types import SCHEMES

_MODELS = {"tensorrt": "int8", "cpu": "int8-cpu"}
"""Middle of an INT8 model's name by its target."""

_SUFFIXES = (
    *(f".calib{suffix}" for suffix in (".json", ".stats", ".partial", "")),
    *(refinement_path(".calib.json", name).name for name in SCHEMES),
    *(f".{name}.onnx" for name in (*SCHEMES, "int8-cpu")),
)


@dataclass(frozen=True)
class CalibrationFiles:
    """Where `quantkit calibrate` puts what belongs together, by the path of the table; not all of it need be there."""

    table: Path

    @staticmethod
    def of_model(model: str | os.PathLike[str], folder: Path | None = None) -> CalibrationFiles:
        """The files of a model: next to it, or in `folder`."""
        path = Path(model)
        return CalibrationFiles((folder or path.parent) / f"{path.stem}.calib.json")

    @staticmethod
    def of_member(path: Path) -> CalibrationFiles | None:
        """The files that one of them belongs to by its name; None for any other name."""
        for suffix in _SUFFIXES:
            if path.name.endswith(suffix) and len(path.name) > len(suffix):
                return CalibrationFiles(path.with_name(f"{path.name.removesuffix(suffix)}.calib.json"))
        return None

    @property
    def tensorrt_cache(self) -> Path:
        """TensorRT's calibration cache: MODEL.calib."""
        return self._named(".calib")

    @property
    def statistics(self) -> Path:
        """Kept statistics: MODEL.calib.stats."""
        return self.table.with_suffix(".stats")

    @property
    def refinement(self) -> Path:
        """Rounded weights, biases and channel scales: MODEL.calib.weights."""
        return refinement_path(self.table)

    def rounding(self, form: str) -> Path:
        """Rounded weights and biases of another format than INT8: MODEL.calib.fp8.weights."""
        return refinement_path(self.table, form)

    @property
    def checkpoint(self) -> Path:
        """Statistics of an unfinished run: MODEL.calib.partial."""
        return self.table.with_suffix(".partial")

    @property
    def lock(self) -> Path:
        """Held while the others are written: .MODEL.calib.lock."""
        return self._named(".calib.lock", hidden=True)

    @property
    def models(self) -> tuple[Path, ...]:
        """INT8 models of every target."""
        return tuple(self.quantized_model(target) for target in _MODELS)

    def quantized_model(self, target: str, form: str = "int8") -> Path:
        """The quantized model for a target: MODEL.int8.onnx, MODEL.int8-cpu.onnx; of another format MODEL.fp8.onnx."""
        return self._named(f".{_MODELS[target] if form == 'int8' else form}.onnx")

    @property
    def engine(self) -> Path:
        """The INT8 engine: MODEL.int8.engine."""
        return self._named(".int8.engine")

    @property
    def engine_manifest(self) -> Path:
        """What that engine was made of."""
        return manifest_path(self.engine)

    def _named(self, suffix: str, *, hidden: bool = False) -> Path:
        stem = self.table.name.removesuffix(".json").removesuffix(".calib")
        return self.table.with_name(f"{'.' if hidden else ''}{stem}{suffix}")
