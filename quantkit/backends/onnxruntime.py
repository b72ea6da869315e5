"""Running ONNX models with ONNX Runtime."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantkit._version import DISTRIBUTION, __version__
from quantkit.backends.registry import BACKENDS, Backend
from quantkit.errors import BackendError, BackendUnavailableError, OutOfDeviceMemoryError, QuantKitError
from quantkit.interrupts import raise_if_stopped, stops_on_signal
from quantkit.machine import is_out_of_memory
from quantkit.storage import temporary_folder
from quantkit.types import Array, PathLike, SharedModel, TensorSpec
from quantkit.types.running import TYPE_SOURCES

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_CUDA_PIP_LINE = f"run pip uninstall onnxruntime, then pip install '{DISTRIBUTION}[cuda]'"
_QUIET = 4  # fatal only: warnings go to the native stderr, past every Python stream


class OnnxRuntimeRunner:
    """A model in an ONNX Runtime session on the CPU, or on the GPU that `using_gpu` names.

    Args:
        model: serialized model, with its weights in it or beside it, or its path (needed when weights are in files).
        name: of the model, for messages.
        threads: intra-op threads; 0: those of `using_threads`, else automatic.
        spinning: whether idle threads spin while they wait. It lowers latency, and wastes CPU time in calibration.
        fuse_qdq: whether operators between DequantizeLinear and QuantizeLinear become integer kernels. False computes
            Q/DQ in float, as the ONNX specification defines them, with the same result on every processor; integer
            kernels saturate on x86 without VNNI (see `quantkit.processor.products_saturate`).
        keep_identities: whether Identity operators are computed: see `quantkit.graph.passes.fp16_rounding`.
        is_optimized: the model comes from `optimized_model`, and is computed as it is.

    Attributes:
        device: that it computes on.

    Raises:
        BackendError: ONNX Runtime rejects the model, with its reason.
        BackendUnavailableError: a provider is missing or does not load.
    """

    def __init__(
        self,
        model: bytes | SharedModel | Path,
        *,
        name: str = "model",
        threads: int = 0,
        spinning: bool = True,
        fuse_qdq: bool = True,
        keep_identities: bool = False,
        is_optimized: bool = False,
    ) -> None:
        ort = _import()
        options = _options(ort)
        options.intra_op_num_threads = threads or _threads.get()
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.add_session_config_entry("session.disable_quant_qdq", "0" if fuse_qdq else "1")
        # ONNX Runtime (1.32 at least) takes a Relu away before a Q of FP8, and does not load a Clip before one.
        disabled = [] if fuse_qdq else ["ReluQuantRewrite", "ClipQuantRewrite"]
        disabled += ["EliminateIdentity"] if keep_identities else []
        if is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        chosen = _providers(ort)
        names = [p if isinstance(p, str) else p[0] for p in chosen]
        unknown = [name for name in names if name not in ort.get_available_providers()]
        if unknown:
            raise BackendUnavailableError(f"ONNX Runtime has no provider {unknown[0]}: {_CUDA_PIP_LINE}")
        try:
            self._session = _load(ort, model, options, providers=chosen, disabled_optimizers=disabled or None)
        except Exception as error:
            raise _failure(f"ONNX Runtime cannot load {name}", error, is_on_gpu=names[0] == _CUDA) from error
        if names[0] not in self._session.get_providers():  # it says so on the native stderr alone, and runs on the CPU
            raise BackendUnavailableError(
                f"ONNX Runtime's {names[0]} does not load: libraries of CUDA or cuDNN are missing or of another version"
            )
        self.device: Literal["cpu", "gpu"] = "gpu" if names[0] == _CUDA else "cpu"
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
        with self._running():
            values = self._session.run(None, dict(inputs), self._run_options)
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}

    @contextmanager
    def _running(self) -> Iterator[None]:
        if self._session is None:
            raise BackendError(f"{self._name}: the runner is closed")
        try:
            yield
        except QuantKitError:
            raise
        except Exception as error:
            raise_if_stopped()
            raise _failure(f"ONNX Runtime cannot run {self._name}", error, is_on_gpu=self.device == "gpu") from error

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
    options = _options(ort)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = _load(ort, model, options, providers=[_CPU])
    except Exception as error:
        raise _failure("ONNX Runtime cannot load the model", error, is_on_gpu=False) from error
    return tuple(_spec(output) for output in session.get_outputs())


TYPE_SOURCES["onnxruntime"] = infer_output_types


def optimized_model(model: SharedModel) -> bytes:
    """The model that ONNX Runtime makes of a model for this processor, with its weights; it holds for no other one.

    Raises:
        BackendError: ONNX Runtime does not load the model, or cannot write what it makes.
    """
    ort = _import()
    options = _options(ort)
    options.intra_op_num_threads = 1  # it never runs
    with temporary_folder() as folder:
        path = folder / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        try:
            _load(ort, model, options, providers=[_CPU])
        except Exception as error:
            raise _failure("ONNX Runtime cannot optimize the model", error, is_on_gpu=False) from error
        return path.read_bytes()


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    _register_extensions(options)
    return options


def _load(ort: Any, model: bytes | SharedModel | Path, options: Any, **keywords: Any) -> Any:
    if isinstance(model, SharedModel):
        arrays = [ort.OrtValue.ortvalue_from_numpy(array) for array in model.weights.values()]
        options.add_external_initializers(list(model.weights), arrays)
        model = model.content
    return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, **keywords)


@contextmanager
def using_extensions(libraries: Sequence[PathLike]) -> Iterator[None]:
    """Registers libraries of custom operators, in their order, with every session that is made meanwhile.

    Raises:
        BackendError: there is no such file, or it is not such a library.
    """
    for path in libraries:
        if not Path(path).is_file():
            raise BackendError(f"--ort-extension {path}: no such file")
    before = list(_extensions)
    _extensions[:] = dict.fromkeys((*before, *(str(Path(path).resolve()) for path in libraries)))
    try:
        if len(_extensions) > len(before):  # where no session follows, nobody else would notice
            _register_extensions(_import().SessionOptions())
        yield
    finally:
        _extensions[:] = before


_extensions: list[str] = []


@contextmanager
def using_gpu(device: int | None) -> Iterator[None]:
    """Makes the sessions that are made meanwhile in this thread compute on a GPU, what it cannot on the CPU.

    FP32 is computed in FP32, not TF32, whose 10 bits of mantissa would be taken for the model's own values; algorithms
    are chosen by rules and not by races, so that two runs give the same values.

    Args:
        device: index of the GPU; None: the CPU.
    """
    before, stayed = _gpu.set(device), _stays_on_cpu.set(False)
    try:
        yield
    finally:
        _gpu.reset(before)
        _stays_on_cpu.reset(stayed)


_gpu: ContextVar[int | None] = ContextVar("gpu", default=None)


@contextmanager
def using_gpu_where_it_pays(multiply_adds: float) -> Iterator[None]:
    """Keeps sessions that are made meanwhile in this thread on the CPU, unless one computes so much that a GPU pays.

    Making a session for a piece of a graph takes a GPU half a second to a second. `chosen_gpu` stays as it is.

    Args:
        multiply_adds: of all that is run in one session.
    """
    before = _stays_on_cpu.set(multiply_adds < LEAST_WORK_FOR_GPU)
    try:
        yield
    finally:
        _stays_on_cpu.reset(before)


_stays_on_cpu: ContextVar[bool] = ContextVar("stays_on_cpu", default=False)
LEAST_WORK_FOR_GPU = 5e11
"""Multiply-adds; some 16 processors take a second for them."""


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Gives sessions that are made meanwhile in this thread so many intra-op threads, where nothing else is said."""
    before = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(before)


_threads: ContextVar[int] = ContextVar("threads", default=0)


def chosen_gpu() -> int | None:
    """Index of the GPU of `using_gpu`; None: the CPU."""
    return _gpu.get()


def has_cuda_provider() -> bool:
    """Whether the installed ONNX Runtime is built for CUDA. Whether it loads here, a session tells."""
    return _CUDA in _import().get_available_providers()


def _providers(ort: Any) -> list[str | tuple[str, dict[str, str]]]:
    device = chosen_gpu()
    if device is None or _stays_on_cpu.get():
        return [_CPU]
    ort.set_default_logger_severity(_QUIET)  # the provider tells of every plan of cuDNN that it does without
    return [(_CUDA, {"device_id": str(device), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), _CPU]


def has_operator(domain: str, op_type: str) -> bool:
    """Whether ONNX Runtime knows an operator, or a library of `using_extensions` may."""
    return bool(_extensions) or (domain, op_type) in _own_operators()


def _failure(what: str, error: Exception, *, is_on_gpu: bool) -> Exception:
    """What to raise: want of memory, of the GPU or of this process, is no fault of the model."""
    text = f"{what}: {_reason(error)}"
    if is_on_gpu and re.search(r"[Ff]ailed to allocate memory|out of memory|ALLOC_FAILED", str(error)):
        return OutOfDeviceMemoryError(text)
    return MemoryError(text) if is_out_of_memory(error) else BackendError(text)


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


def collecting_versions() -> dict[str, str]:
    """Versions of what statistics depend on."""
    return {"quantkit": __version__, "onnxruntime": runtime_version()}


def _import() -> Any:
    try:
        import onnxruntime  # optional at import time: only running a model needs it
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX Runtime is not installed: pip install '{DISTRIBUTION}[cpu]' (for CUDA: '{DISTRIBUTION}[cuda]')"
        ) from error
    return onnxruntime


def _spec(argument: Any) -> TensorSpec:
    shape = tuple(None if isinstance(d, int) and d < 0 else d for d in argument.shape or ())
    return TensorSpec(str(argument.name), _dtype(str(argument.type)), shape)


def _dtype(kind: str) -> np.dtype:
    """From ONNX Runtime's name of a type."""
    inner = re.fullmatch(r"tensor\((\w+)\)", kind)
    try:
        return np.dtype(_DTYPES.get(kind) or (inner[1] if inner else "object"))
    except TypeError:
        return np.dtype(object)


def _reason(error: Exception) -> str:
    """ONNX Runtime's message on one line without its error-code prefix."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    return " ".join(text.split())[:300]
