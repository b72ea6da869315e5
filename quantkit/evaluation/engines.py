"""Engines among the variants of an evaluation: opened with what stands next to them, timed on the GPU, described."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.backends.tensorrt.build.manifest import check_loadable, is_engine_of, load_manifest, manifest_path
from quantkit.backends.tensorrt.gpu import find_gpu, find_gpu_address
from quantkit.backends.tensorrt.inspection.inspector import parse_inspector
from quantkit.backends.tensorrt.inspection.rtx_plan import MAGIC
from quantkit.backends.tensorrt.library import load_library
from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner
from quantkit.errors import BackendError, EvaluationError
from quantkit.evaluation.gpu_environment import describe_gpu_settings
from quantkit.evaluation.latency.device import latency_notes
from quantkit.evaluation.run import metric_notes
from quantkit.types import Evaluation, Latency, PathLike

if TYPE_CHECKING:
    from quantkit.backends.tensorrt.build.manifest import Manifest


__all__ = ["OpenEngine", "describe_gpu", "is_engine", "largest_batch", "open_engine", "open_engines"]

_SUFFIXES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class OpenEngine:
    """An engine that can be run; `manifest` is None where none stands next to it."""

    path: Path
    runner: TensorRTRunner
    manifest: Manifest | None

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
        notes += [*metric_notes(metrics), *self.runner.notes, *(latency_notes(latencies[0]) if latencies else ())]
        if self.manifest is not None and self.manifest.model_hash != model_hash:
            notes.append(f"it was built from {self.manifest.model_name!r}, which is not the baseline's file")
        return Evaluation(
            name=name,
            precision=precision,
            backend=self.runner.backend,
            size_bytes=os.path.getsize(self.path),
            num_samples=num_samples,
            metrics=metrics,
            latency=latencies[0] if latencies else None,
            sweep=tuple(latencies[1:]),
            notes=tuple(notes),
        )

    def _precision(self, name: str) -> tuple[Literal["fp32", "fp16", "int8"], list[str]]:
        """By its manifest, else by its layers, else by its name; and a note where that is a guess."""
        found = self.manifest.precision if self.manifest is not None else _precision_of_layers(self.runner)
        guess = next((word for word in ("int8", "fp16") if word in f"{name} {self.path.name}".lower()), "fp32")
        notes = [] if found else [f"the engine does not tell its precision: {guess} is taken from its name"]
        chosen = found or guess
        return ("int8" if chosen == "int8" else "fp16" if chosen == "fp16" else "fp32"), notes


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of an engine, by its suffix."""
    return Path(path).suffix.lower() in _SUFFIXES


def open_engine(path: str | os.PathLike[str], *, name: str, cuda_graph: bool) -> OpenEngine:
    """Loads an engine with the library that made it.

    Args:
        path: of the engine; MODEL.engine.json next to it is its manifest.
        name: of the variant, for messages.
        cuda_graph: replay queries from a CUDA graph.

    Raises:
        BackendError: it cannot be read, or was made for another library, version or GPU.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            start = opened.read(len(MAGIC))
    except OSError as error:
        raise BackendError(f"--engine {name}: cannot read {file}: {error.strerror or error}") from error
    if not start:
        raise BackendError(f"--engine {name}: {file} is empty: build the engine again")
    library = load_library("tensorrt-rtx" if start == MAGIC else "tensorrt")
    manifest = load_manifest(manifest_path(file)) if manifest_path(file).is_file() else None
    if manifest is not None and not is_engine_of(manifest, file):
        manifest = None
    if manifest is not None:
        check_loadable(manifest, library, find_gpu(), name=str(file))
    return OpenEngine(
        file, TensorRTRunner(file, library=library, name=f"engine {name}", cuda_graph=cuda_graph), manifest
    )


def describe_gpu() -> dict[str, str]:
    """The GPU that engines run on and how it is set, as lines of the report's environment."""
    gpu = find_gpu()
    return {} if gpu is None else {"gpu": str(gpu), **describe_gpu_settings(find_gpu_address())}


def largest_batch(engines: Mapping[str, OpenEngine], batch_size: int) -> int:
    """The batch size, or what the engines take if that is less."""
    return min([batch_size, *(e.runner.max_batch_size or batch_size for e in engines.values())])


def _precision_of_layers(runner: TensorRTRunner) -> str | None:
    """The lowest precision that the engine computes in; None where it does not tell."""
    try:
        anatomy = parse_inspector(runner.describe_layers())
    except BackendError:
        return None
    if not anatomy.has_details:
        return None
    if any(layer.is_quantized for layer in anatomy.layers):
        return "int8"
    return "fp16" if any(layer.precision in ("fp16", "bf16") for layer in anatomy.weighted) else "fp32"


def open_engines(
    stack: ExitStack, models: Mapping[str, PathLike], engines: Mapping[str, PathLike], *, cuda_graph: bool
) -> tuple[dict[str, PathLike], dict[str, OpenEngine]]:
    """Opens the engines among finished models, and those that are given as engines.

    Args:
        stack: closes them.
        models: finished models by name; a .engine, .plan or .trt is an engine.
        engines: by name.
        cuda_graph: replay their queries from CUDA graphs.

    Returns:
        The models that are no engines, and the engines.

    Raises:
        EvaluationError: a name is taken.
        BackendError: an engine does not load here.
    """
    found = {name: path for name, path in models.items() if is_engine(path)}
    if twice := found.keys() & engines.keys():
        raise EvaluationError(f"--engine {min(twice)}: that name is taken; call the engine something else")
    opened: dict[str, OpenEngine] = {}
    for name, path in {**found, **engines}.items():
        opened[name] = open_engine(path, name=name, cuda_graph=cuda_graph)
        stack.enter_context(opened[name].runner)
    return {name: path for name, path in models.items() if name not in found}, opened
