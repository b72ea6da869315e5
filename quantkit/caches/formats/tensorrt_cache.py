"""TensorRT's calibration cache: the text file that IInt8Calibrator reads and writes, byte for byte.

    TRT-<version>-<algorithm>
    <tensor name>: <scale as float32, big-endian hexadecimal, not padded>

in network order, LF, with scale = amax / 127. The version is major * 1000 + minor * 100 + patch before TensorRT 10 and
major * 10000 + minor * 100 + patch from there on (getInferLibVersion, NvInferRuntimeBase.h). Tensor names may hold
": ", spaces and brackets.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantkit.errors import CalibrationError

ALGORITHMS = ("EntropyCalibration2", "MinMaxCalibration", "EntropyCalibration", "LegacyCalibration")

_HEADER = re.compile(r"TRT-(\d{3,7})-(\w+)")
_VALUE = re.compile(r"[0-9a-f]{1,8}")


@dataclass(frozen=True)
class TensorRTCache:
    """What a cache says: the library's version number, the calibrator, and scale bits by tensor in network order.

    Scales are kept as their 32 bits, so that a cache is rewritten byte for byte.
    """

    version: int
    algorithm: str
    scale_bits: Mapping[str, int]

    @property
    def amax(self) -> dict[str, float]:
        """127 * scale by tensor, in double precision so that / 127 gives the scale; 0 for what was always zero."""
        return {
            name: 127 * float(struct.unpack(">f", struct.pack(">I", bits))[0]) for name, bits in self.scale_bits.items()
        }

    def text(self) -> str:
        """The file's content."""
        lines = [f"TRT-{self.version}-{self.algorithm}"]
        lines += [f"{name}: {bits:x}" for name, bits in self.scale_bits.items()]
        return "\n".join(lines) + "\n"


def library_version(version: str) -> int:
    """The number in a cache's header for a version such as "8.6.1" (8601) or "10.3.0" (100300).

    Raises:
        CalibrationError: the version is not of that form, or TensorRT has no calibrator in it.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(\.\d+)*(\.post\d+)?", version)
    if match is None:
        raise CalibrationError(f"--tensorrt-version {version!r} is not a whole version such as 8.6.1 or 10.3.0")
    major, minor, patch = int(match[1]), int(match[2]), int(match[3])
    if not 5 <= major <= 10:
        raise CalibrationError(
            f"--tensorrt-version {version}: calibration caches exist for TensorRT 5 to 10; "
            "TensorRT 11 takes the INT8 model with Q/DQ instead"
        )
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch


def cache_text(amax: Mapping[str, float], *, tensorrt_version: str, algorithm: str = "EntropyCalibration2") -> str:
    """A cache for TensorRT from ranges.

    Args:
        amax: by tensor name, in network order.
        tensorrt_version: of the library that will read it: another version calibrates again.
        algorithm: of the calibrator that will read it.

    Raises:
        CalibrationError: an unknown algorithm, an impossible version, a name with a line break, a bad amax.
    """
    if algorithm not in ALGORITHMS:
        raise CalibrationError(f"TensorRT has no calibration algorithm {algorithm!r}: use {', '.join(ALGORITHMS)}")
    bits = {}
    for name, value in amax.items():
        if "\n" in name or "\r" in name:
            raise CalibrationError(f"tensor name {name!r} contains a line break, which a TensorRT cache cannot store")
        with np.errstate(over="ignore"):
            scale = np.float32(float(value) / 127)
        if not (np.isfinite(scale) and scale >= 0):
            raise CalibrationError(f"tensor {name!r}: amax {value} is not a range")
        bits[name] = int(struct.unpack(">I", struct.pack(">f", scale))[0])
    return TensorRTCache(library_version(tensorrt_version), algorithm, bits).text()


def parse_cache(text: str, *, name: str = "calibration cache") -> TensorRTCache:
    """Reads a cache of any TensorRT since 5.

    Args:
        text: the file's content.
        name: of the file, for messages.

    Raises:
        CalibrationError: naming the line.
    """
    for found, what in (("\r\n" in text, "Windows line ends"), (text.startswith("\ufeff"), "a byte order mark")):
        if found:
            raise CalibrationError(
                f"{name} has {what}, which TensorRT does not write: save it as UTF-8 with LF "
                "(in git: '*.calib -text' in .gitattributes)"
            )
    lines = text.split("\n")
    header = _HEADER.fullmatch(lines[0])
    if header is None:
        raise CalibrationError(f"{name} is not a TensorRT calibration cache: line 1 is {lines[0][:60]!r}, not TRT-...")
    if lines[-1] != "":
        raise CalibrationError(f"{name} is truncated: its last line does not end")
    bits: dict[str, int] = {}
    for number, line in enumerate(lines[1:-1], start=2):
        tensor, separator, value = line.rpartition(": ")
        if not separator or not _VALUE.fullmatch(value):
            raise CalibrationError(f"{name}, line {number}: {line[:60]!r} is not 'tensor: hexadecimal scale'")
        if tensor in bits:
            raise CalibrationError(f"{name}, line {number}: tensor {tensor!r} is listed twice")
        bits[tensor] = int(value, 16)
    return TensorRTCache(int(header[1]), header[2], bits)
