"""What a version of TensorRT does with a file of ranges: its cache, or a model with Q/DQ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from quantkit.backends.tensorrt.library import installed_tensorrt
from quantkit.caches.formats.tensorrt_cache import ALGORITHMS, library_version
from quantkit.caches.range_cache import RangeCache, version_from_number
from quantkit.errors import CalibrationError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.qdq_lint import lint_qdq
from quantkit.types import PathLike

if TYPE_CHECKING:
    import onnx_ir as ir

Acceptance = Literal["accepts", "recalibrates", "ignores", "refuses", "misreads", "unknown"]

_FIRST_EXPLICIT, _FIRST_LENIENT = 8, 10
"""TensorRT's major versions: the first that reads Q/DQ; the first without the older parser's demands on them."""


def acceptance_of_cache(cache: RangeCache, version: str | None) -> tuple[Acceptance, str]:
    """What TensorRT does with any file but a model, and why: one sentence.

    Args:
        cache: what the file says.
        version: of TensorRT; None takes the installed one.

    Raises:
        CalibrationError: that is no version.
    """
    if cache.version is None:
        return "ignores", "TensorRT does not read this format: convert it with --to tensorrt (up to 10) or --to qdq"
    version = version or installed_tensorrt()
    if version is None:
        return "unknown", f"TensorRT {version_from_number(cache.version)} loads it; pass yours with --tensorrt-version"
    if major_version(version) >= 11:
        return "ignores", f"TensorRT {version} has no calibrators and ignores caches: convert it with --to qdq"
    if cache.algorithm not in ALGORITHMS:
        return "recalibrates", f"{cache.algorithm} is not an algorithm of a TensorRT calibrator"
    wanted = library_version(version)
    if wanted == cache.version:
        return "accepts", f"TensorRT {version} loads it with the calibrator for {cache.algorithm}"
    return "recalibrates", (
        f"TensorRT {version} recalibrates: its caches begin with TRT-{wanted}, this one with TRT-{cache.version}; "
        f"convert it with --to tensorrt --tensorrt-version {version}"
    )


def acceptance_of_model(path: PathLike, version: str | None) -> tuple[Acceptance, str]:
    """What TensorRT makes of a model's Q/DQ, which are not always quantkit's, and why: one sentence.

    Args:
        path: of the model.
        version: of TensorRT; None takes the installed one, and if there is none says from which on it is accepted.

    Raises:
        CalibrationError: that is no version.
    """
    version = version or installed_tensorrt()
    major = None if version is None else major_version(version)
    if major is not None and major < _FIRST_EXPLICIT:
        return "refuses", f"TensorRT {version} does not support Q/DQ, which came with 8: convert it with --to tensorrt"
    verdicts: dict[str, Acceptance] = {"refused": "refuses", "wrong": "misreads"}
    model = FloatModel(path).graph
    findings = lint_qdq(model)
    for severity, verdict in verdicts.items():
        found = [f for f in findings if f.severity == severity]
        if found:
            more = f" ({len(found)} in all: see quantkit inspect)" if len(found) > 1 else ""
            fix = "convert it with --to qdq --model, which places Q/DQ anew"
            return verdict, f"{found[0].node}: {found[0].text}{more}; {fix}"
    older = _beyond_older_parser(model)
    if older is None:
        return "accepts", f"a model with Q/DQ needs no cache: TensorRT {_FIRST_EXPLICIT} and later use its scales"
    if major is not None and major < _FIRST_LENIENT:
        verdict, where, what, fix = older
        return verdict, f"{where}: {what} before {_FIRST_LENIENT}, and this is for {version}; {fix}"
    return "accepts", (
        f"a model with Q/DQ needs no cache: TensorRT {_FIRST_LENIENT} and later use its scales; earlier ones do not "
        f"({older[1]}: {older[2]} before {_FIRST_LENIENT})"
    )


def _beyond_older_parser(model: ir.Model) -> tuple[Acceptance, str, str, str] | None:
    """The first Q or DQ that TensorRT 8 and 9 do not take as ONNX means it: verdict, node, reason and fix.

    Their parser wants a zero point, and reads every scale as 32-bit (onnx-tensorrt, release/8.6-GA).
    """
    misread = None
    for node in model.graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if len(node.inputs) < 3 or node.inputs[2] is None:
            fix = "convert it with --to qdq --model, which writes zero points"
            return "refuses", node.name or node.op_type, "it has no zero point, which TensorRT requires", fix
        scale = node.inputs[1]
        kind = None if scale is None else scale.dtype if scale.const_value is None else scale.const_value.dtype
        if misread is None and kind is not None and kind.name != "FLOAT":
            what = f"its scale is {kind.name}, which TensorRT reads as FP32"
            misread = (node.name or node.op_type, what)
    if misread is None:
        return None
    return "misreads", *misread, "convert it with --to qdq --model, in --high-precision fp32"


def major_version(version: str) -> int:
    """The first number of TensorRT's version; raises `CalibrationError` for what is none."""
    if not re.fullmatch(r"\d+(\.\d+)*(\.post\d+)?", version):
        raise CalibrationError(f"--tensorrt-version {version!r} is not a version such as 8.6.1 or 10.3.0")
    return int(version.split(".")[0])
