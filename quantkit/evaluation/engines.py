"""Engines among the variants of an evaluation: opened with what stands next to them, timed on the GPU, described."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.backends import BACKENDS, find_backend
from quantkit.backends.tensorrt.build.manifest import find_manifest
from quantkit.backends.tensorrt.gpu import find_gpu, find_gpu_address
from quantkit.backends.tensorrt.inspection.inspector import parse_inspector
from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner
from quantkit.errors import BackendError, EvaluationError
from quantkit.evaluation.gpu_environment import describe_gpu_settings
from quantkit.evaluation.latency.device import latency_notes
from quantkit.evaluation.run import metric_notes
from quantkit.types import Evaluation, Latency, PathLike, Precision, Runner

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.manifest import Manifest


@dataclass(frozen=True)
class OpenEngine:
    """A finished model of another runtime than ONNX Runtime; `manifest` is None where none stands next to it."""

    path: Path
    runner: Runner
    backend: str
    manifest: Manifest | None
    device: Literal["cpu", "gpu"] | None

    def evaluation(
        self,
        name: str,
        metrics: Mapping[str, float],
        latencies: Sequence[Latency],
        *,
        num_samples: int,
        model_hash: str,
    ) -> Evaluation:
        """What was measured of it.

        Args:
            name: of the variant.
            metrics: of its outputs.
            latencies: at each batch size; empty where it was not timed.
            num_samples: behind the metrics.
            model_hash: of the baseline, which the engine should be made of.
        """
        precision, notes = self._precision(name)
        notes += [*metric_notes(metrics), *getattr(self.runner, "notes", ())]
        notes += latency_notes(latencies[0]) if latencies else ()
        if self.manifest is not None and self.manifest.model_hash != model_hash:
            notes.append(f"it was built from {self.manifest.model_name!r}, which is not the baseline's file")
        return Evaluation(
            name=name,
            precision=precision,
            backend=self.backend,
            size_bytes=os.path.getsize(self.path),
            num_samples=num_samples,
            metrics=metrics,
            latency=latencies[0] if latencies else None,
            sweep=tuple(latencies[1:]),
            notes=tuple(notes),
            device=self.device,
        )

    def _precision(self, name: str) -> tuple[Precision, list[str]]:
        """By its manifest, else by its layers, else by its name; and a note where that is a guess."""
        found = self.manifest.precision if self.manifest is not None else _precision_of_layers(self.runner)
        words = f"{name} {self.path.name}".lower()
        # The longest name first: "int4+int8" has the others in it.
        known: tuple[Precision, ...] = ("int4+int8", "int8", "int4", "fp8", "fp16", "fp32")
        if found is not None:
            return next((word for word in known if word == found), "fp32"), []
        guess: Precision = next((word for word in known if word in words), "fp32")
        return guess, [f"the engine does not report its precision: {guess} is taken from its name"]


def open_timed_engine(
    path: str | os.PathLike[str], *, name: str, backend: str = "tensorrt", threads: int = 0, cuda_graph: bool = False
) -> OpenEngine:
    """Opens a finished model with its runtime.

    Args:
        path: of the model; MODEL.engine.json next to an engine is its manifest.
        name: of the variant, for messages.
        backend: a name in `BACKENDS`.
        threads: within an operator; 0 leaves it to the runtime.
        cuda_graph: replay queries from a CUDA graph.

    Raises:
        BackendError: it cannot be read, or was made for another library, version or GPU.
    """
    file = Path(path)
    runtime = BACKENDS[backend]
    runner = runtime.open(file, name=name, threads=threads, cuda_graph=cuda_graph)
    return OpenEngine(file, runner, getattr(runner, "backend", backend), find_manifest(file), runtime.device)


def describe_gpu() -> dict[str, str]:
    """The GPU that engines run on and how it is set, as lines of the report's environment."""
    gpu = find_gpu()
    return {} if gpu is None else {"gpu": str(gpu), **describe_gpu_settings(find_gpu_address())}


def largest_batch(engines: Mapping[str, OpenEngine], batch_size: int) -> int:
    """The batch size, or what the engines take if that is less."""
    return min([batch_size, *(getattr(e.runner, "max_batch_size", None) or batch_size for e in engines.values())])


def _precision_of_layers(runner: Runner) -> str | None:
    """The lowest precision that the engine computes in; None where it does not tell."""
    if not isinstance(runner, TensorRTRunner):
        return None
    try:
        engine_layers = parse_inspector(runner.describe_layers())
    except BackendError:
        return None
    if not engine_layers.has_details:
        return None
    if quantized := [layer.precision for layer in engine_layers.layers if layer.is_quantized]:
        return max(set(quantized), key=quantized.count)
    return "fp16" if any(layer.precision in ("fp16", "bf16") for layer in engine_layers.weighted) else "fp32"


def open_engines(
    stack: ExitStack,
    models: Mapping[str, PathLike],
    engines: Mapping[str, PathLike],
    *,
    threads: int,
    cuda_graph: bool,
) -> tuple[dict[str, Path], dict[str, OpenEngine]]:
    """Opens the finished models of other runtimes than ONNX Runtime, and the engines.

    Args:
        stack: closes them.
        models: finished models by name; `find_backend` says which runtime opens one.
        engines: by name, of TensorRT or TensorRT-RTX.
        threads: within an operator; 0 leaves it to the runtime.
        cuda_graph: replay their queries from CUDA graphs.

    Returns:
        The models that ONNX Runtime runs, and the others.

    Raises:
        EvaluationError: a name is taken.
        BackendError: an engine does not load here.
    """
    located = {name: find_backend(file) for name, file in models.items()}
    own = {name: path for name, (backend, path) in located.items() if backend == "onnxruntime"}
    if twice := (located.keys() - own.keys()) & engines.keys():
        raise EvaluationError(f"--engine {min(twice)}: that name is taken; call the engine something else")
    located |= {name: ("tensorrt", Path(path)) for name, path in engines.items()}
    opened: dict[str, OpenEngine] = {}
    for name, (backend, path) in located.items():
        if name not in own:
            opened[name] = open_timed_engine(path, name=name, backend=backend, threads=threads, cuda_graph=cuda_graph)
            stack.enter_context(opened[name].runner)
    return own, opened
