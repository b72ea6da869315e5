"""A Ray cluster: a task for each part of the data, run again where a worker dies, and the results merged in a tree.

Only results travel between nodes: tasks read their part of the data themselves, by paths that every node sees.
"""

from __future__ import annotations

import importlib.util
import platform
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from quantkit.errors import BackendError, DatasetError, NotInstalledError, QuantKitError, UnreadableSampleError
from quantkit.interrupts import is_ending, leave_threads

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

_RETRIES = 3
"""Retries of a task whose worker or node died."""

_CPUS_PER_TASK = 4
"""At most: ONNX Runtime makes little of more on one batch."""

_REACHABLE_S = 5.0

_POLL_S = 0.2
"""Between two looks at what is done, in which Ctrl-C is heard: it has to be answered within half a second."""


@dataclass(frozen=True)
class RayCluster:
    """A connection to a cluster; see `connect`.

    Attributes:
        ray: the module.
        cpus: of one task.
        gpus: of one task, 0 or 1.
        num_slots: tasks that run at once.
    """

    ray: Any
    cpus: int
    gpus: int
    num_slots: int

    def map_merge(
        self,
        task: Callable[[_Part], _Result],
        parts: Sequence[_Part],
        merge: Callable[[_Result, _Result], _Result],
        done: Callable[[int], object],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> _Result:
        """The results of all parts, merged two by two on the nodes where they are.

        A task may run more than once, but only one of its results counts.

        Args:
            task: a function of an importable module.
            parts: of the work; small.
            merge: associative and commutative.
            done: told the index of each part as it ends.
            should_stop: asked often: whether to be content with the parts that have ended.

        Raises:
            KeyboardInterrupt: it is to stop before any part has ended.
            QuantKitError: that a task raised, with the node that it ran on.
            BackendError: the cluster failed.
        """
        resources = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": _RETRIES}
        run = self.ray.remote(num_returns=2, **resources)(_attempt)
        join = self.ray.remote(num_cpus=0, max_retries=_RETRIES)(_join)
        running: dict[Any, tuple[int, Any]] = {}  # reference of the failure → part, reference of the result
        for index, part in enumerate(parts):
            failure, result = run.remote(task, part)
            running[failure] = index, result
        joining: set[Any] = set()
        ready: deque[Any] = deque()
        try:
            while running or joining or len(ready) > 1:
                if running and should_stop():
                    self._cancel(running)
                    running.clear()
                    if not joining and not ready:
                        raise KeyboardInterrupt
                while len(ready) > 1:
                    joining.add(join.remote(merge, ready.popleft(), ready.popleft()))
                ended, _ = self.ray.wait([*running, *joining], timeout=_POLL_S, fetch_local=False)
                for reference in ended:
                    if reference in joining:
                        joining.remove(reference)
                        ready.append(reference)
                        continue
                    if (failure := self.ray.get(reference)) is not None:
                        raise failure
                    index, result = running.pop(reference)
                    ready.append(result)
                    done(index)
            merged: _Result | None = self.ray.get(ready[0])
        except BaseException as error:
            if not is_ending():  # what ends the process ends its tasks
                self._cancel([*running, *joining])
            if isinstance(error, self.ray.exceptions.RayError):
                raise BackendError(f"the Ray cluster failed: {_reason(error)}") from error
            raise
        if merged is None:
            raise BackendError("the Ray cluster lost results of a task, which failed when it was run again: run again")
        return merged

    def _cancel(self, references: Iterable[Any]) -> None:
        for reference in references:
            self.ray.cancel(reference, force=True)


def check_cluster(address: str | None) -> None:
    """What can be known of a cluster, if one is asked for, at once.

    Raises:
        NotInstalledError: Ray is missing.
        BackendError: nobody listens at HOST:PORT; Ray itself would try for minutes.
    """
    if address is None:
        return
    if importlib.util.find_spec("ray") is None:
        raise NotInstalledError('--ray needs Ray: pip install "quantkit-ptq[ray]"')
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
        except (OSError, ValueError) as error:  # also a name that can be none, or a port
            raise _no_cluster(address, error) from error


@contextmanager
def connect(address: str, *, use_gpus: bool) -> Iterator[RayCluster]:
    """Connects to a cluster, or to the one that the process is connected to already.

    Args:
        address: "auto" for the cluster of this machine or of RAY_ADDRESS, "local" for one that is started on this
            machine and ends with the connection, else HOST:PORT.
        use_gpus: one GPU for each task, if nodes have any.

    Raises:
        NotInstalledError: Ray is missing.
        BackendError: there is no such cluster.
    """
    check_cluster(address)
    import ray  # an extra, which takes a second to load

    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            _init(ray, address)
        except Exception as error:  # Ray's own are of every kind
            raise _no_cluster(address, error) from error
    try:
        yield _describe(ray, use_gpus)
    finally:
        if is_ending():
            leave_threads()  # Ray takes seconds to shut down; its processes and tasks end with this one
        elif is_ours:
            ray.shutdown()


def _init(ray: Any, address: str) -> None:
    """Connects, and leaves SIGTERM alone, which ends a command with 143: with Ray's handler it would be 134."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
    install = signal.signal

    def install_others(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number == signal.SIGTERM else install(number, handler)

    signal.signal = install_others  # type: ignore[assignment]
    try:
        ray.init(address=address, **quiet, **({"include_dashboard": False} if address == "local" else {}))
    finally:
        signal.signal = install


def _no_cluster(address: str, error: Exception) -> BackendError:
    advice = "start one with `ray start --head`, or pass --ray local"
    return BackendError(f"--ray {address}: no Ray cluster ({_reason(error)}): {advice}")


def _describe(ray: Any, use_gpus: bool) -> RayCluster:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [int(node.get("GPU", 0)) for node in nodes] if use_gpus else [0] * len(nodes)
    if not max(cpus, default=0):
        raise BackendError("the Ray cluster has no node with a CPU for tasks: start one with --num-cpus")
    if with_gpu := sum(map(min, cpus, gpus)):
        return RayCluster(ray, 1, 1, with_gpu)
    of_task = min(_CPUS_PER_TASK, max(cpus))
    return RayCluster(ray, of_task, 0, sum(cpu // of_task for cpu in cpus))


def _attempt(task: Callable[[_Part], _Result], part: _Part) -> tuple[QuantKitError | None, _Result | None]:
    """What a task raised, or its result: the driver hears of the first without fetching the second."""
    try:
        return None, task(part)
    except QuantKitError as error:
        kind = DatasetError if isinstance(error, UnreadableSampleError) else type(error)  # is made of two parts
        return kind(f"on Ray node {platform.node()}: {error}"), None


def _join(merge: Callable[[_Result, _Result], _Result], one: _Result | None, other: _Result | None) -> _Result | None:
    """Both results, or nothing where a task that had ended well was run again and failed."""
    return None if one is None or other is None else merge(one, other)


def _reason(error: BaseException) -> str:
    """The first line of what failed, of a task that raised something unexpected what that was."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0].rstrip('.')}"
