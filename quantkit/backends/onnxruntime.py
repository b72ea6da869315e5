"""Running ONNX models with ONNX Runtime."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from quantkit._version import DISTRIBUTION
from quantkit.backends.registry import BACKENDS, Backend
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.interrupts import raise_if_stopped, stops_on_signal
from quantkit.types import Array, PathLike, SharedModel, TensorSpec
from quantkit.types.running import TYPE_SOURCES

__all__ = ["OnnxRuntimeRunner", "has_operator", "runtime_version", "using_extensions"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}
_QUIET = 4  # fatal only: warnings go to the native stderr, past every Python stream


class OnnxRuntimeRunner:
    """A model in an ONNX Runtime session.

    Args:
        model: serialized model, with its weights in it or beside it, or its path (needed when weights are in files).
        name: of the model, for messages.
        providers: execution providers in order of preference.
        threads: intra-op threads; 0: automatic.
        spinning: whether idle threads spin while they wait. It lowers latency, and wastes CPU time in calibration.
        fuse_qdq: whether operators between DequantizeLinear and QuantizeLinear become integer kernels. False computes
            Q/DQ in float, as the ONNX specification defines them, with the same result on every processor; integer
            kernels saturate on x86 without VNNI (see `quantkit.processor.products_saturate`).
        keep_identities: whether Identity operators are computed: see `quantkit.graph.passes.fp16_rounding`.

    Raises:
        BackendError: ONNX Runtime rejects the model, with its reason.
    """

    def __init__(
        self,
        model: bytes | SharedModel | Path,
        *,
        name: str = "model",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
        spinning: bool = True,
        fuse_qdq: bool = True,
        keep_identities: bool = False,
    ) -> None:
        ort = _import()
        options = ort.SessionOptions()
        _register_extensions(options)
        options.intra_op_num_threads = threads
        options.log_severity_level = _QUIET
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.add_session_config_entry("session.disable_quant_qdq", "0" if fuse_qdq else "1")
        # ONNX Runtime (1.32 at least) takes a Relu away before a Q of FP8, and does not load a Clip before one.
        disabled = [] if fuse_qdq else ["ReluQuantRewrite", "ClipQuantRewrite"]
        disabled += ["EliminateIdentity"] if keep_identities else []
        unknown = [p for p in providers if p not in ort.get_available_providers()]
        if unknown:
            raise BackendUnavailableError(
                f"ONNX Runtime has no provider {unknown[0]}; for the CUDA ones run: pip uninstall onnxruntime, "
                f"then pip install '{DISTRIBUTION}[cuda]'"
            )
        try:
            if isinstance(model, SharedModel):
                arrays = [ort.OrtValue.ortvalue_from_numpy(array) for array in model.weights.values()]
                options.add_external_initializers(list(model.weights), arrays)
                source: bytes | str = model.content
            else:
                source = model if isinstance(model, bytes) else str(model)
            self._session: Any = ort.InferenceSession(
                source,
                options,
                providers=list(providers),
                disabled_optimizers=disabled or None,
            )
        except Exception as error:
            raise BackendError(f"ONNX Runtime cannot load {name}: {_reason(error)}") from error
        self._run_options = ort.RunOptions()
        self._name = name
        self._weights = model.weights if isinstance(model, SharedModel) else {}  # the session computes with them
        self.inputs = tuple(_spec(i) for i in self._session.get_inputs())
        self.outputs = tuple(_spec(o) for o in self._session.get_outputs())
        stops_on_signal(self)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch.

        Raises:
            BackendError: the runner is closed, or ONNX Runtime fails, with its reason.
        """
        if self._session is None:
            raise BackendError(f"{self._name}: the runner is closed")
        try:
            values = self._session.run(None, dict(inputs), self._run_options)
        except Exception as error:
            raise_if_stopped()
            raise BackendError(f"ONNX Runtime cannot run {self._name}: {_reason(error)}") from error
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}

    def stop(self) -> None:
        """Makes what runs fail soon, and what is run later."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Frees the session; calling it twice is fine."""
        self._session, self._weights = None, {}

    def __enter__(self) -> OnnxRuntimeRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open(path: Path, *, name: str, threads: int, cuda_graph: bool) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(path, name=name, threads=threads)


BACKENDS["onnxruntime"] = Backend(suffixes=(".onnx",), open=_open, device="cpu")


def infer_output_types(model: SharedModel) -> tuple[TensorSpec, ...]:
    """Types and shapes that ONNX Runtime infers for the outputs of a model, which may have none.

    Raises:
        BackendError: it does not load the model.
        BackendUnavailableError: it is not installed.
    """
    ort = _import()
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    _register_extensions(options)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        arrays = [ort.OrtValue.ortvalue_from_numpy(array) for array in model.weights.values()]
        options.add_external_initializers(list(model.weights), arrays)
        session = ort.InferenceSession(model.content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {_reason(error)}") from error
    return tuple(_spec(output) for output in session.get_outputs())


TYPE_SOURCES["onnxruntime"] = infer_output_types


@contextmanager
def using_extensions(libraries: Sequence[PathLike]) -> Iterator[None]:
    """Registers libraries of custom operators with every session that is made meanwhile.

    Raises:
        BackendError: there is no such file.
    """
    for path in libraries:
        if not Path(path).is_file():
            raise BackendError(f"--ort-extension {path}: no such file")
    _extensions.extend(str(Path(path).resolve()) for path in libraries)
    try:
        yield
    finally:
        del _extensions[len(_extensions) - len(libraries) :]


_extensions: list[str] = []


def has_operator(domain: str, op_type: str) -> bool:
    """Whether ONNX Runtime knows an operator, or a library of `using_extensions` may."""
    return bool(_extensions) or (domain, op_type) in _own_operators()


@functools.cache
def _own_operators() -> frozenset[tuple[str, str]]:
    schemas = _import().capi.onnxruntime_pybind11_state.get_all_operator_schema()
    return frozenset((str(schema.domain), str(schema.name)) for schema in schemas)


def _register_extensions(options: Any) -> None:
    for path in _extensions:
        try:
            options.register_custom_ops_library(path)
        except Exception as error:
            raise BackendError(f"--ort-extension {path}: ONNX Runtime cannot load it: {_reason(error)}") from error


def runtime_version() -> str:
    """Version of the installed ONNX Runtime."""
    return str(_import().__version__)


def _import() -> Any:
    try:
        import onnxruntime  # optional at import time: only running a model needs it
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX Runtime is not installed: pip install '{DISTRIBUTION}[cpu]' (for CUDA: '{DISTRIBUTION}[cuda]')"
        ) from error
    return onnxruntime


def _spec(argument: Any) -> TensorSpec:
    kind = str(argument.type)
    inner = re.fullmatch(r"tensor\((\w+)\)", kind)
    dtype = _DTYPES.get(kind) or (inner[1] if inner else "object")
    try:
        numpy_dtype = np.dtype(dtype)
    except TypeError:
        numpy_dtype = np.dtype(object)
    shape = tuple(None if isinstance(d, int) and d < 0 else d for d in argument.shape or ())
    return TensorSpec(str(argument.name), numpy_dtype, shape)


def _reason(error: Exception) -> str:
    """ONNX Runtime's message on one line without its error-code prefix."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    return " ".join(text.split())[:300]
