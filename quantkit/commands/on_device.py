"""The devices of a run: `--device` decided and said, and collectors of statistics on each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from quantkit.backends.cuda.context import PrimaryContext, using_device
from quantkit.backends.cuda.histogram import DeviceHistograms
from quantkit.backends.device_runner import DeviceRunner
from quantkit.backends.devices import Devices, choose_devices
from quantkit.backends.onnxruntime import OnnxRuntimeRunner, chosen_gpu, optimized_model, using_gpu
from quantkit.calibration.collect import Collector, fitting_batch_size
from quantkit.datasets.batching import make_batches
from quantkit.datasets.rolled_states import RunnableModel
from quantkit.errors import BackendError, CalibrationError, ModelError, OutOfDeviceMemoryError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import share_weights
from quantkit.graph.passes.blocked_outputs import return_blocks
from quantkit.graph.passes.expose import batch_first, hide_copies
from quantkit.notices import Notice, Notify
from quantkit.types import Dataset, Runner, SharedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantkit.calibration.statistics_file import KeptStatistics
    from quantkit.graph.observed_tensors import ObservedTensors
    from quantkit.types.options import CalibrationOptions, DeviceOptions

_Result = TypeVar("_Result")

_SHARE_OF_MEMORY = 0.2
"""Share of free GPU memory for observed activations of a batch: there are two at once, and the runtime needs some."""

_LARGEST_BATCH = 64

_MANY_SAMPLES = 256
"""From here on it pays to load a model twice, which takes up to 0.2 seconds."""

_LARGEST_COPY = 128 << 20
"""Bytes of weights that are copied, a few times at once, to load a model twice."""


@contextmanager
def on_device(options: DeviceOptions, notify: Notify) -> Iterator[Devices]:
    """ONNX Runtime and TensorRT compute on the device that `--device` asks for, the first of several; a GPU is named.

    TensorRT, which runs on no CPU, takes the first GPU there.

    Raises:
        BackendError: a GPU is asked for that is not there or cannot be used.
    """
    devices = choose_devices(options.device)
    if devices.gpus or devices.is_fallback:
        notify(Notice("info", "device", f"device: {devices} ({devices.reason})"))
    with using_gpu(devices.first_gpu), using_device(devices.first_gpu):
        yield devices


def or_on_cpu(run: Callable[[], _Result], notify: Notify) -> _Result:
    """What `run` returns; if the GPU's memory is too small for it, once more with everything on the CPU."""
    try:
        return run()
    except OutOfDeviceMemoryError as error:
        notify(Notice("warning", "device", f"on the CPU instead: {error}"))
        with using_gpu(None):
            return run()


def runnable(model: FloatModel) -> RunnableModel:
    """The model for data sets: states of recurrent models are what it makes of the samples."""
    model.prepared()  # refuses what would end the process
    return RunnableModel(model.inputs, lambda: OnnxRuntimeRunner(share_weights(model.graph), name="the model"))


@dataclass(frozen=True)
class Member:
    """A collector and what feeds it.

    Attributes:
        limits: of its batches: arguments of `fitting_batch_size`.
    """

    runner: Runner
    collector: Collector
    limits: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def open_members(
    exposed: ir.Model,
    observed: ObservedTensors,
    options: CalibrationOptions,
    devices: Devices,
    resumed: KeptStatistics | None,
    *,
    name: str,
    threads: int = 0,
    num_samples: int = 0,
) -> Iterator[Sequence[Member]]:
    """A collector for each device.

    Args:
        exposed: the model with all of `observed` among its outputs or inputs; changed in place.
        observed: what to observe.
        options: of the calibration.
        devices: where to collect.
        resumed: statistics of earlier samples, which the first collector adds to.
        name: of the model, for messages.
        threads: of ONNX Runtime on a CPU; 0 lets it choose.
        num_samples: how many will be collected; 0 if none will be here.
    """
    start, batched = None if resumed is None else resumed.tensors, batch_first(exposed)
    copies = hide_copies(exposed, observed.names, batched)
    shared, on_gpu = share_weights(exposed), options.histogram == "exact" and devices.gpus
    if len(devices.gpus) > 1 and not on_gpu:
        raise CalibrationError("--histogram tensorrt depends on the order of the data: give --device one GPU")
    make_collector = partial(
        Collector,
        observed.names,
        rule=options.histogram,
        batch_first=batched,
        optional=frozenset(observed.names) - observed.needed,
        copies=copies,
    )
    with ExitStack() as stack:
        if not on_gpu:
            runner: Runner = stack.enter_context(open_observer(shared, num_samples, name=name, threads=threads))
            yield [Member(runner, make_collector(start=start))]
            return
        members: list[Member] = []
        for gpu in devices.gpus:
            context = PrimaryContext(gpu)
            runner = stack.enter_context(DeviceRunner(shared, context, name=name))
            histograms = DeviceHistograms(context, [name for name in observed.names if name not in copies])
            stack.callback(histograms.free)
            free, _ = context.memory_bytes()
            limits = {"budget_bytes": int(free * _SHARE_OF_MEMORY), "largest": _LARGEST_BATCH}
            collector = make_collector(start=None if members else start, accumulator=histograms)
            members.append(Member(runner, collector, limits))
        yield members


def open_observer(shared: SharedModel, num_samples: int, *, name: str, threads: int = 0) -> OnnxRuntimeRunner:
    """What returns the observed tensors, in whatever order ONNX Runtime has the values of a sample.

    Args:
        shared: the model with these tensors as its outputs.
        num_samples: how many will be run.
        name: of the model, for messages.
        threads: of ONNX Runtime; 0 lets it choose.
    """
    size = sum(array.nbytes for array in shared.weights.values())
    if num_samples >= _MANY_SAMPLES and size <= _LARGEST_COPY and chosen_gpu() is None:
        with suppress(BackendError, ModelError, OSError):  # what is wrong with the model itself is said below
            blocked = return_blocks(optimized_model(shared))
            if blocked is not None:
                return OnnxRuntimeRunner(blocked, name=name, threads=threads, spinning=False, is_optimized=True)
    return OnnxRuntimeRunner(shared, name=name, threads=threads, spinning=False)


def choose_batch_size(members: Sequence[Member], dataset: Dataset, *, strict: bool) -> int:
    """How many samples each of the members can run at once."""
    first = next(iter(make_batches(dataset, 1, strict=strict, workers=1, skipped={})))
    return min(fitting_batch_size(member.runner, first, **member.limits) for member in members)
