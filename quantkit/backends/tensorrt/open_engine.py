"""Opening an engine with the library that made it, after a look at the manifest next to it."""

from __future__ import annotations

from pathlib import Path

from quantkit.backends.registry import BACKENDS, Backend
from quantkit.backends.tensorrt.build.manifest import check_loadable, find_manifest
from quantkit.backends.tensorrt.gpu import find_gpu
from quantkit.backends.tensorrt.inspection.rtx_plan import MAGIC
from quantkit.backends.tensorrt.library import load_library
from quantkit.backends.tensorrt.runtime.runner import TensorRTRunner
from quantkit.errors import BackendError, BackendUnavailableError
from quantkit.machine import open_regular


def open_engine(path: Path, *, name: str, threads: int = 0, cuda_graph: bool = False) -> TensorRTRunner:
    """Loads an engine.

    Args:
        path: of the engine.
        name: of the variant, for messages.
        threads: not used: engines run on the GPU.
        cuda_graph: replay queries from a CUDA graph.

    Raises:
        BackendUnavailableError: there is no GPU, or no such library.
        BackendError: it cannot be read, or was made for another library, version or GPU.
    """
    try:
        with open_regular(path) as opened:
            start = opened.read(len(MAGIC))
    except OSError as error:
        raise BackendError(f"engine {name}: cannot read {path}: {error.strerror or error}") from error
    if not start:
        raise BackendError(f"engine {name}: {path} is empty: build the engine again")
    if (gpu := find_gpu()) is None:
        raise BackendUnavailableError(f"engine {name}: engines run on an NVIDIA GPU, and this machine has none")
    library = load_library("tensorrt-rtx" if start == MAGIC else "tensorrt")
    if (manifest := find_manifest(path)) is not None:
        check_loadable(manifest, library, gpu, name=str(path))
    return TensorRTRunner(
        path,
        library=library,
        name=f"engine {name}",
        cuda_graph=cuda_graph,
        dla_core=None if manifest is None else manifest.options.get("dla_core"),
        host_code=manifest is not None and manifest.holds_host_code,
    )


BACKENDS["tensorrt"] = Backend(suffixes=(".engine", ".plan", ".trt"), open=open_engine, device="gpu")
