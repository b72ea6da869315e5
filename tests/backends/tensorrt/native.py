"""Calibration by TensorRT in a process that has one release of NVIDIA's bindings, a fake library and a fake GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def install_gpu() -> Any:
    """The same, as a GPU of an older generation."""
    import quantkit.backends.tensorrt.build as build
    import quantkit.backends.tensorrt.gpu as device

    fake = install_driver()
    device.find_gpu = build.find_gpu = lambda: device.Gpu("Fake GPU", "8.6")
    return fake


def install_driver(count: int = 1) -> Any:
    """A fake GPU, or several, that pycuda and the driver both show."""
    from tests.backends import gpu

    class Patch:
        def setitem(self, items: Any, key: str, value: object) -> None:
            items[key] = value

        def setattr(self, owner: object, name: str, value: object) -> None:
            setattr(owner, name, value)

    fake = gpu.Gpu(capacity=1 << 30, count=count)
    gpu.install(fake, Patch())
    return fake


def live_bytes(fake: Any) -> int:
    """Device and pinned memory that nobody freed."""
    return sum(map(len, fake.memory.values())) + sum(p.content.nbytes for p in fake.pinned.values())


def calibrate(model: str, data: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """`quantkit.calibrate` with everything that it writes, or its error."""
    from quantkit.calibration.table import load_table
    from quantkit.commands.calibrate import calibrate
    from quantkit.errors import QuantKitError
    from quantkit.types.options import ImageOptions
    from tests.fake_trt.library import fake as library

    fake = install_gpu()
    library.scale_bits = options.pop("scale_bits", {})
    told: list[str] = []
    out = Path(folder)
    if "preprocess" in options:
        options = {**options, "preprocess": ImageOptions(**options["preprocess"])}
    if "preprocessing" in options:
        words = {name: tuple(value) for name, value in options["preprocessing"].items()}
        options = {**options, "preprocessing": ImageOptions(**words)}
    try:
        table = calibrate(
            model,
            data,
            table_path=out / "net.calib.json",
            cache_path=out / "net.calib",
            engine_path=out / "net.int8.engine",
            progress=False,
            notify=lambda notice: told.append(notice.text),
            **options,
        )
    except QuantKitError as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "told": told,
            "files": sorted(p.name for p in out.iterdir()),
            "live_bytes": live_bytes(fake),
        }
    assert load_table(out / "net.calib.json") == table
    cache, engine = out / "net.calib", out / "net.int8.engine"
    return {
        "told": told,
        "settings": dict(table.settings),
        "versions": dict(table.versions),
        "num_samples": table.num_samples,
        "amax": {name: r.amax for name, r in table.tensors.items()},
        "methods": {name: r.method for name, r in table.tensors.items()},
        "cache": cache.read_text() if cache.exists() else None,
        "engine": json.loads(engine.read_bytes()) if engine.exists() else None,
        "files": sorted(p.name for p in out.iterdir()),
        "live_bytes": live_bytes(fake),
    }


def calibrate_and_interrupt(model: str, data: str, folder: str) -> dict[str, Any]:
    """Ctrl-C while the data are read."""
    from quantkit.commands.calibrate import calibrate
    from quantkit.datasets.image_files import ImageFiles

    fake = install_gpu()
    original = ImageFiles.__getitem__

    def interrupted(self: ImageFiles, index: int) -> Any:
        if self.ids[index].startswith("009"):
            raise KeyboardInterrupt
        return original(self, index)

    ImageFiles.__getitem__ = interrupted  # type: ignore[method-assign]
    try:
        calibrate(
            model,
            data,
            table_path=Path(folder) / "net.calib.json",
            engine_path=Path(folder) / "net.int8.engine",
            order="given",
            batch_size=4,
            progress=False,
        )
    except BaseException as error:
        raised = type(error).__name__
    else:
        raised = "nothing"
    finally:
        ImageFiles.__getitem__ = original  # type: ignore[method-assign]
    return {"raised": raised, "files": sorted(p.name for p in Path(folder).iterdir()), "live_bytes": live_bytes(fake)}


def verify(model: str, path: str) -> list[str]:
    """What `quantkit cache verify` finds stale about a file that calibration wrote."""
    from quantkit.caches.verify import verify_cache

    return list(verify_cache(path, model).problems)


def build_again(model: str, table: str, engine: str) -> list[str]:
    """`quantkit build` on the engine that calibration wrote."""
    from quantkit.commands.build import build

    install_gpu()
    told: list[str] = []
    build(
        model,
        precision="int8",
        table=table,
        output=engine,
        library="tensorrt",
        mode="implicit",
        progress=False,
        notify=lambda notice: told.append(notice.text),
    )
    return told


def work_on_second_gpu(model: str, data: str, folder: str) -> dict[str, Any]:
    """Calibrates with TensorRT and builds, each on the second of two GPUs: which of them were used for what."""
    from contextlib import nullcontext

    import quantkit
    from quantkit.backends.devices import Devices
    from quantkit.backends.tensorrt.build.manifest import load_manifest, manifest_path
    from quantkit.commands import on_device
    from tests.fake_trt.library import fake as library

    gpu = install_driver(count=2)
    # ONNX Runtime, which is not built for CUDA here, stays on the CPU.
    on_device.choose_devices = lambda text: Devices((1,), "a test")
    on_device.using_gpu = lambda device: nullcontext()
    building: list[int] = []
    library.on_build = lambda: building.append(gpu.stack[-1].device if gpu.stack else 0)
    calibrated, built = Path(folder) / "net.int8.engine", Path(folder) / "net.fp16.engine"
    table = Path(folder) / "net.calib.json"
    words = {"table_path": table, "engine_path": calibrated, "progress": False}
    quantkit.calibrate(model, data, method="entropy", calibrator="tensorrt", device="cuda:1", **words)
    found = {"memory": sorted(gpu.used)}
    quantkit.build(model, precision="fp16", output=built, library="tensorrt", device="cuda:1", progress=False)
    quantkit.build(model, precision="fp32", output=Path(folder) / "first.engine", library="tensorrt", progress=False)
    paths = (calibrated, built, Path(folder) / "first.engine")
    return {**found, "building": building, "gpus": [load_manifest(manifest_path(path)).gpu for path in paths]}
