"""An engine at work on one stream: a batch through it, or the same query again and again by the clock of the GPU."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from quantkit.backends.cuda.cuda_graph import CudaGraph, capture_graph
from quantkit.backends.cuda.streams import QueryEvents
from quantkit.backends.tensorrt.runtime.engine_memory import EngineMemory
from quantkit.errors import BackendError
from quantkit.types import Array, QueryTimes

_QUERIES_IN_FLIGHT = 2
"""As trtexec: the host hands over a query while the GPU works on the one before."""

_UNTIMED_QUERIES = 2
"""At the beginning of a block: the GPU was idle; with a graph, the first runs plainly and the second captures it."""

_SHOWN_ERRORS = 2


class Execution:
    """What `TensorRTRunner` does between opening and closing; the primary context is current in every method.

    Args:
        driver: pycuda's.
        context: a `trt.IExecutionContext`.
        stream: everything is queued there.
        memory: of the context.
        logger: collects TensorRT's messages.
        name: of the engine, for messages.
        cuda_graph: replay queries of an unchanged layout from a graph.
    """

    def __init__(
        self,
        driver: Any,
        *,
        context: Any,
        stream: Any,
        memory: EngineMemory,
        logger: Any,
        name: str,
        cuda_graph: bool,
    ) -> None:
        self._driver, self._context, self._stream, self._memory = driver, context, stream, memory
        self._logger, self._name = logger, name
        self._wants_graph = cuda_graph
        self._graph: CudaGraph | None = None
        self._graph_layout: object = None
        self._plain_layout: object = None
        self._events: list[QueryEvents] = []
        self.notes: tuple[str, ...] = ()

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether there is a captured graph."""
        return self._graph is not None

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch, checked already, and returns copies of the outputs."""
        self._place(arrays)
        self._memory.upload()
        self._compute()
        self._memory.download()
        self._stream.synchronize()
        return self._memory.outputs()

    def time_queries(self, arrays: Mapping[str, Array], *, duration_s: float, min_queries: int) -> QueryTimes:
        """Repeats one query for so long, and at least so often. Batch checked already."""
        self._place(arrays)
        while len(self._events) < _QUERIES_IN_FLIGHT + 1:
            self._events.append(QueryEvents.make(self._driver))
        # The block's first events are kept to its end, for the span; the others go round.
        first, *others = self._events
        for _ in range(_UNTIMED_QUERIES):
            self._queue(others[0])
        free, in_flight = deque(others), deque[tuple[QueryEvents, float]]()
        times: list[tuple[float, float, float, float]] = []
        events, last, done = first, first, False
        begin = time.perf_counter()
        while not done:
            in_flight.append((events, self._queue(events)))
            done = len(times) + len(in_flight) >= min_queries and time.perf_counter() - begin >= duration_s
            while in_flight and (done or len(in_flight) == _QUERIES_IN_FLIGHT):
                last, enqueue_ms = in_flight.popleft()
                times.append((*last.parts_ms(), enqueue_ms))
                if last is not first:
                    free.append(last)
            if not done:
                events = free.popleft()
        h2d, compute, d2h, enqueue = zip(*times, strict=True)
        return QueryTimes(h2d, compute, d2h, enqueue, span_ms=float(last.end.time_since(first.start)))

    def drop_context(self) -> None:
        """Lets go of TensorRT's context and what was captured from it."""
        self._drop_graph()
        self._context = None
        self._memory.drop_context()

    def free(self) -> None:
        """Gives memory and events back; the context is gone."""
        self._events = []
        self._stream = None
        self._memory.free()

    def _place(self, arrays: Mapping[str, Array]) -> None:
        self._logger.messages.clear()
        try:
            self._memory.place(arrays)
        except BackendError as error:
            raise BackendError(f"{error}{describe_errors(self._logger)}") from error

    def _queue(self, events: QueryEvents) -> float:
        """Hands one query to the GPU. Returns the host's time for the computation alone, in ms."""
        events.start.record(self._stream)
        self._memory.upload()
        events.uploaded.record(self._stream)
        begin = time.perf_counter()
        self._compute()
        enqueue_ms = 1e3 * (time.perf_counter() - begin)
        events.computed.record(self._stream)
        self._memory.download()
        events.end.record(self._stream)
        return enqueue_ms

    def _compute(self) -> None:
        layout = self._memory.layout
        if self._wants_graph and layout != self._graph_layout and layout == self._plain_layout:
            self._capture()
        if self._graph is not None and layout == self._graph_layout:
            self._graph.launch(self._stream.handle)
            return
        done = self._context.execute_async_v3(self._stream.handle)
        self._memory.raise_error()
        if not done:
            raise BackendError(f"TensorRT cannot run {self._name}{describe_errors(self._logger)}")
        self._plain_layout = layout

    def _capture(self) -> None:
        """Once the engine has run with these shapes and addresses; what cannot be captured once is not tried again."""
        self._drop_graph()
        handle = self._stream.handle
        try:
            if not self._memory.is_fixed:
                raise BackendError("the data decide the shape of an output, or a shape lies on the host")
            self._graph = capture_graph(handle, lambda: bool(self._context.execute_async_v3(handle)))
            self._graph_layout = self._memory.layout
        except BackendError as error:
            self._wants_graph = False
            self.notes += (f"it runs without a CUDA graph: {error}",)

    def _drop_graph(self) -> None:
        graph, self._graph, self._graph_layout = self._graph, None, None
        if graph is not None:
            graph.close()


def describe_errors(logger: Any) -> str:
    """TensorRT's error messages, to be appended to a message; empty if there are none."""
    errors = [] if logger is None else logger.errors()
    return f": {'; '.join(errors[:_SHOWN_ERRORS])}" if errors else ""
