"""What can be run: runners of every backend, and the times that a device measures itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from quantkit.errors import EvaluationError
from quantkit.types.data import Array, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class SharedModel:
    """A serialized ONNX model whose large weights are arrays beside it, which a runtime need not copy.

    Attributes:
        content: the ModelProto; the weights are external data in it, of a file that does not exist.
        weights: by the initializer's name; never written to.
    """

    content: bytes
    weights: Mapping[str, Array]


@runtime_checkable
class Runner(Protocol):
    """A model that can be run. Every backend passes the same contract test."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch. Returns every output by name; the arrays are the caller's."""

    def close(self) -> None:
        """Frees what the runner holds; calling it twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


TYPE_SOURCES: dict[str, Callable[[SharedModel], tuple[TensorSpec, ...]]] = {}
"""By runtime, what it infers for the outputs of a model; filled by the modules of `quantkit.backends`."""


@dataclass(frozen=True)
class QueryTimes:
    """Times in ms of consecutive queries on a device, one element for each query.

    Attributes:
        h2d_ms, compute_ms, d2h_ms: copy to the device, computation, copy back: by the device's own events.
        enqueue_ms: how long the host needed to hand the computation over.
        span_ms: from the first query's start to the last one's end, by the device's events.
    """

    h2d_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]
    enqueue_ms: tuple[float, ...]
    span_ms: float

    def __post_init__(self) -> None:
        if not self.h2d_ms or len({len(t) for t in (self.h2d_ms, self.compute_ms, self.d2h_ms, self.enqueue_ms)}) != 1:
            raise EvaluationError("query times need the same number of queries, at least one, in every part")

    def __len__(self) -> int:
        return len(self.compute_ms)


@runtime_checkable
class TimedRunner(Runner, Protocol):
    """A runner that can time its queries on the device."""

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether queries replay a captured CUDA graph."""

    def time_block(self, inputs: Mapping[str, Array], *, duration_ms: float, min_queries: int = 1) -> QueryTimes:
        """Runs the same query again and again, at least so long and so often, without returning its outputs."""
