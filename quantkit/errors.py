"""The exceptions that quantkit raises on purpose.

    QuantKitError
    ├── DatasetError                 a folder, list, array or image that cannot be used
    │   └── UnreadableSampleError    a sample that cannot be read
    ├── ModelError                   a file that is not an ONNX model, or one that cannot be quantized
    ├── CalibrationError             statistics, a method or a calibration table that cannot be used
    │   ├── StaleTableError          the table belongs to another model, data set or setting
    │   ├── NewerFormatError         a later quantkit wrote the file
    │   ├── IncompleteCacheError     a TensorRT cache would lack activations
    │   └── NonFiniteActivationError a tensor became NaN or infinite on some sample
    ├── EvaluationError              variants that cannot be compared
    │   ├── LimitError               a limit or batch size that cannot be
    │   └── GateFailedError          a variant breaks a limit; the message holds the line that failed
    ├── FatalError                   what ends a run even where it is about a part that could be left out
    │   ├── ChangedDataError         samples that were replaced while they were in use
    │   └── MachineError             the machine failed (I/O error, too little memory, too many open files), no file
    ├── OutputError                  a file or folder that cannot be written
    ├── OptionError                  an option that does not exist, or a value that it cannot have
    └── BackendError                 a runtime failed
        ├── BackendUnavailableError  a runtime cannot be used here; the message holds the pip line
        │   └── NotInstalledError    it is not installed
        └── EngineBuildError         TensorRT refused to build; the message holds its own words

A message is one line: what happened, to which file, tensor or option, and what to do about it. Names come from files of
any origin: line breaks and control characters in them are shown escaped. The library raises and never logs; the command
line prints the message and exits with the code of the class.
"""

from __future__ import annotations

import re

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What breaks a line, moves a terminal's cursor, turns the direction of the text or is no character at all."""

_LONGEST = 4000
"""Signs of a message: names in files may have any length, those of two paths fit."""


def one_line(text: str) -> str:
    """The text with what would not stay in its line escaped, as `repr` does it, and a long one without its middle."""
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 2 :]}"
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def joined_lines(error: BaseException) -> str:
    """What another library says of an error, without its line breaks."""
    return " ".join(str(error).split())


class QuantKitError(Exception):
    """Base of every error that quantkit raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class DatasetError(QuantKitError):
    """A folder, list, array or image that cannot be used."""


class UnreadableSampleError(DatasetError):
    """A sample that cannot be read.

    Attributes:
        reason: the message without the name of the sample.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = one_line(reason)


class ModelError(QuantKitError):
    """A file that is no ONNX model, or a model that cannot be quantized."""


class CalibrationError(QuantKitError):
    """Statistics, a calibration method or a calibration table that cannot be used."""


class StaleTableError(CalibrationError):
    """A calibration table that belongs to another model, data set or setting."""

    exit_code = 4


class NewerFormatError(CalibrationError):
    """A file in a format version that only a later quantkit writes."""


class IncompleteCacheError(CalibrationError):
    """A TensorRT cache would lack activations, and the layers at them would run in float without a word."""


class NonFiniteActivationError(CalibrationError):
    """A tensor became NaN or infinite on some sample."""


class EvaluationError(QuantKitError):
    """Variants of a model that cannot be compared."""


class LimitError(EvaluationError):
    """A limit or a batch size that cannot be."""

    exit_code = 2


class GateFailedError(EvaluationError):
    """A variant that breaks a limit of a gate."""

    exit_code = 3


class OptionError(QuantKitError):
    """An option that does not exist, or a value that it cannot have."""

    exit_code = 2


class FatalError(QuantKitError):
    """What ends a run even where it is about a part that could be left out: the rest could not be trusted."""


class ChangedDataError(FatalError):
    """Samples whose files were replaced or written to while they were in use."""


class MachineError(FatalError):
    """A fault of the machine, which says nothing of the file that was being read: I/O, memory, open files."""


class OutputError(QuantKitError):
    """A file or folder that cannot be written."""


class BackendError(QuantKitError):
    """A runtime (ONNX Runtime, TensorRT, CUDA) failed."""


class OutOfDeviceMemoryError(BackendError):
    """The memory of a GPU is too small for what was asked of it."""


class BackendUnavailableError(BackendError):
    """A runtime that cannot be used here: it is not installed, does not load, is too old, or finds no GPU."""


class NotInstalledError(BackendUnavailableError):
    """A runtime that is not installed."""


class EngineBuildError(BackendError):
    """TensorRT refused to build an engine."""
