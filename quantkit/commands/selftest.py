"""What only a machine with TensorRT can show, as checks: each passes, fails or is skipped, with the reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import choose_library
from quantkit.commands.selftest_checks import SkippedError, TensorRTChecks
from quantkit.errors import BackendUnavailableError, QuantKitError
from quantkit.notices import Notify, announcing
from quantkit.types import PathLike
from quantkit.types.option import make_options
from quantkit.types.options import SelftestOptions

Outcome = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class CheckResult:
    """What came of a check."""

    name: str
    status: Outcome
    detail: str


@dataclass(frozen=True)
class Selftest:
    """All checks, and where they ran."""

    library: str
    gpu: str
    results: tuple[CheckResult, ...]

    @property
    def has_failed(self) -> bool:
        """Whether a check failed."""
        return any(result.status == "fail" for result in self.results)


def selftest(
    model: PathLike,
    data: PathLike,
    options: SelftestOptions | None = None,
    *,
    notify: Notify | None = None,
    **keywords: Any,
) -> Selftest:
    """Runs the checks with the installed TensorRT, or with TensorRT-RTX, which builds without a GPU.

    Raises:
        QuantKitError: neither is installed.
    """
    options = make_options(SelftestOptions, options, keywords)
    gpu = find_gpu()
    library = choose_library(options.library, has_gpu=gpu is not None)
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        on = TensorRTChecks(Path(model), data, library, options, Path(folder), announcing(notify))
        checks: dict[str, Callable[[], str]] = {
            "calibration by quantkit": on.calibrate,
            "calibration by TensorRT": on.calibrate_natively,
            "its cache, read back": on.read_cache_back,
            "FP32 engine": lambda: on.build_precision("fp32"),
            "FP16 engine": lambda: on.build_precision("fp16"),
            "INT8 engine, explicit": lambda: on.build_precision("int8"),
            "INT8 engine, implicit": on.build_implicit,
            "layers in INT8": on.inspect,
            "accuracy and latency": on.run,
            "the faster of FP16 and INT8": on.choose_fastest,
            "version compatibility": lambda: on.build_portable("none", version=True),
            "hardware compatibility": lambda: on.build_portable("ampere-plus", version=False),
            "plugins": on.register_plugins,
        }
        results = tuple(_check(name, check) for name, check in checks.items())
    return Selftest(library.title, "none" if gpu is None else str(gpu), results)


def _check(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, "pass", check())
    except (SkippedError, BackendUnavailableError) as error:
        return CheckResult(name, "skip", str(error))
    except QuantKitError as error:
        return CheckResult(name, "fail", str(error))
