"""Runs an engine with TensorRT or TensorRT-RTX, and times it with CUDA events."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantkit.backends.cuda.context import PrimaryContext
from quantkit.backends.cuda.streams import make_stream, report_cuda_errors
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.backends.tensorrt.logger import make_logger
from quantkit.backends.tensorrt.plugins import init_standard_plugins
from quantkit.backends.tensorrt.runtime.bindings import Binding, read_bindings
from quantkit.backends.tensorrt.runtime.engine_memory import EngineMemory
from quantkit.backends.tensorrt.runtime.execution import Execution, describe_errors
from quantkit.errors import BackendError
from quantkit.machine import read_input
from quantkit.types import Array, QueryTimes, TensorSpec


class TensorRTRunner:
    """An engine in an execution context, on the GPU's primary context and one stream.

    Not for use from two threads at once. The GPU is the first that CUDA shows (CUDA_VISIBLE_DEVICES decides).

    Args:
        engine: serialized engine, or its path.
        library: that built it; TensorRT if not given.
        name: of the engine, for messages.
        profile: which optimization profile to use.
        cuda_graph: replay queries of an unchanged shape from a CUDA graph; if that is impossible, `notes` states why.
        dla_core: DLA core to run on, for an engine that was built for one.
        host_code: let the engine run code that it carries, as version-compatible ones do. Only for engines of people
            whom you trust.

    Raises:
        BackendUnavailableError: TensorRT, pycuda or a GPU is missing.
        BackendError: the engine does not load, with TensorRT's reason, or has inputs that cannot be fed.
    """

    def __init__(
        self,
        engine: bytes | Path,
        *,
        library: Library | None = None,
        name: str = "engine",
        profile: int = 0,
        cuda_graph: bool = False,
        dla_core: int | None = None,
        host_code: bool = False,
    ) -> None:
        self._library = library or load_library()
        self._name = name
        self._logger: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._execution: Execution | None = None
        self._bindings: tuple[Binding, ...] = ()
        content = engine if isinstance(engine, bytes) else read_input(engine, BackendError, name, most_bytes=None)
        self._primary: PrimaryContext | None = PrimaryContext()
        self._driver = self._primary.driver
        try:
            with self._active("it cannot be opened"):
                self._open(content, profile, cuda_graph=cuda_graph, dla_core=dla_core, host_code=host_code)
        except BaseException as error:
            # The frames of the traceback hold TensorRT's objects, which must be gone before the context is.
            traceback.clear_frames(error.__traceback__)
            self.close()
            raise

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes. A dynamic dimension is None."""
        return tuple(b.spec for b in self._bindings if b.is_input)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""
        return tuple(b.spec for b in self._bindings if not b.is_input)

    @property
    def backend(self) -> str:
        """Library and GPU, as a report names them."""
        gpu = find_gpu()
        return f"{self._library.title} {gpu.name if gpu else 'GPU'}"

    @property
    def max_batch_size(self) -> int | None:
        """Largest batch that the profile allows; None where the batch is fixed."""
        batches = (b.maximum[0] for b in self._bindings if b.is_input and b.spec.shape[:1] == (None,))
        return min(batches, default=None)

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether queries replay a captured graph."""
        return self._execution is not None and self._execution.uses_cuda_graph

    @property
    def notes(self) -> tuple[str, ...]:
        """Caveats for the reported times, one sentence each."""
        return () if self._execution is None else self._execution.notes

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch.

        Floating values are cast to the engine's floating type, integers to its integer type if they fit.

        Raises:
            BackendError: the runner is closed; an input is missing, unknown, or of a shape or type that the engine does
                not take; the memory does not suffice; TensorRT fails, with its reason.
        """
        execution, arrays = self._check(inputs)
        with self._active("it cannot be run"):
            return execution.run(arrays)

    def time_block(self, inputs: Mapping[str, Array], *, duration_ms: float, min_queries: int = 1) -> QueryTimes:
        """Runs the same query again and again, two in flight, and times its parts by CUDA events.

        Each query copies the inputs from page-locked memory, computes, and copies the outputs there. The first two of
        a block are not timed.

        Args:
            inputs: one batch, as for `run`.
            duration_ms: by the host's clock, at least.
            min_queries: timed queries, at least.

        Raises:
            BackendError: as `run`.
        """
        execution, arrays = self._check(inputs)
        with self._active("it cannot be timed"):
            return execution.time_queries(arrays, duration_s=duration_ms / 1e3, min_queries=min_queries)

    def describe_layers(self) -> str:
        """The engine's layers as JSON, for `quantkit.backends.tensorrt.inspection.inspector`.

        Raises:
            BackendError: the runner is closed.
        """
        if self._engine is None:
            raise BackendError(f"{self._name}: the runner is closed")
        with self._active("its layers cannot be listed"):
            inspector = self._engine.create_engine_inspector()
            return str(inspector.get_engine_information(self._library.module.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Frees what the runner holds, on the GPU and beside it; calling it twice is fine."""
        primary, self._primary = self._primary, None
        if primary is None:
            return
        # After an error on the GPU every call fails, also these: what can be freed is.
        with suppress(Exception), primary:
            with suppress(Exception):
                self._stream.synchronize()
            execution, self._execution = self._execution, None
            # Each of these uses the one after it; the memory is freed once nothing can run in it.
            if execution is not None:
                execution.drop_context()
            self._context = None
            self._engine = None
            self._runtime = None
            if execution is not None:
                execution.free()
            self._stream = None

    def __enter__(self) -> TensorRTRunner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self, content: bytes, profile: int, *, cuda_graph: bool, dla_core: int | None, host_code: bool) -> None:
        title, name = self._library.title, self._name
        self._logger = make_logger(self._library)
        init_standard_plugins(self._library, self._logger)
        try:
            self._runtime = self._library.module.Runtime(self._logger)
        except TypeError as error:
            raise BackendError(f"{title} does not start{describe_errors(self._logger)}") from error
        if host_code:
            self._runtime.engine_host_code_allowed = True
        if dla_core is not None:
            self._runtime.DLA_core = dla_core
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BackendError(
                f"{title} cannot load {name}{describe_errors(self._logger)}: an engine runs only with the version and "
                "on the kind of GPU that it was built for; build it here"
            )
        count = self._engine.num_optimization_profiles
        if not 0 <= profile < count:
            raise BackendError(f"{name} has {count} optimization profiles, counted from 0, not {profile}")
        self._bindings = read_bindings(self._library, self._engine, profile=profile, name=name)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{title} finds no room for {name} on the GPU{describe_errors(self._logger)}: "
                "free the GPU, or build the engine with smaller --max-shapes"
            )
        self._stream = make_stream(self._driver)
        if profile and not self._context.set_optimization_profile_async(profile, self._stream.handle):
            raise BackendError(f"{name}: TensorRT refuses profile {profile}{describe_errors(self._logger)}")
        self._stream.synchronize()
        memory = EngineMemory(
            self._library, self._driver, context=self._context, bindings=self._bindings, stream=self._stream, name=name
        )
        self._execution = Execution(
            self._driver,
            context=self._context,
            stream=self._stream,
            memory=memory,
            logger=self._logger,
            name=name,
            cuda_graph=cuda_graph,
        )

    @contextmanager
    def _active(self, what: str) -> Iterator[None]:
        """The primary context current; CUDA's errors told as ours; after any error, nothing left in flight."""
        assert self._primary is not None
        with self._primary, report_cuda_errors(self._driver, f"{self._name}: {what}"):
            try:
                yield
            except BaseException:
                with suppress(Exception):
                    self._stream.synchronize()
                raise

    def _check(self, inputs: Mapping[str, Array]) -> tuple[Execution, dict[str, Array]]:
        if self._execution is None:
            raise BackendError(f"{self._name}: the runner is closed")
        wanted = {b.name: b for b in self._bindings if b.is_input}
        if odd := [name for name in (*wanted, *inputs) if name not in wanted or name not in inputs]:
            problem = "is not given" if odd[0] in wanted else "is not one of the engine's"
            raise BackendError(f"{self._name}: input {odd[0]!r} {problem}; it takes {', '.join(map(repr, wanted))}")
        return self._execution, {name: b.check(inputs[name], self._name) for name, b in wanted.items()}
