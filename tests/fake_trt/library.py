"""Loading the fake libnvinfer, and its builder: it drives the calibrator, and its engine is JSON of what was asked.

Written after NVIDIA's headers, samples and documentation; what it decides proves nothing about libnvinfer.
"""
# ruff: noqa: N802  (methods have the names of the C++ functions that they stand for)

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int32, c_long, c_uint32, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fake_trt import abi, driver
from tests.fake_trt.abi import Abi, FakeObject, slot
from tests.fake_trt.config import Config
from tests.fake_trt.objects import HostMemory, Layer, Network, OptimizationProfile
from tests.fake_trt.parser import Parser

INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

_ALGORITHMS = {0: "LegacyCalibration", 1: "EntropyCalibration", 2: "EntropyCalibration2", 3: "MinMaxCalibration"}
_SCALE = "3c010a14"  # what TensorRT writes for a tensor of magnitude 1
_TOO_MANY_BATCHES = 100_000


@dataclass
class Fake:
    """The loaded library.

    Attributes:
        trt: the real bindings; also what `import tensorrt` finds.
        on_batch: called with names and device pointers while TensorRT would compute on a calibration batch.
        on_build: called when a build starts.
        max_batches: calibration stops asking after so many batches, as it does where the bindings lose an error.
        reads_cache: whether a cache is asked for; TensorRT always does.
        plugins_ready: whether NVIDIA's plugins are registered.
        loaded: plugin libraries that were registered by path.
        dla_cores: of the machine.
        scale_bits: what calibration finds for a tensor, instead of what magnitude 1 gives.
    """

    trt: Any = None
    on_batch: Callable[[list[str], list[int]], None] | None = None
    on_build: Callable[[], None] | None = None
    max_batches: int = _TOO_MANY_BATCHES
    reads_cache: bool = True
    scale_bits: dict[str, str] = field(default_factory=dict)
    plugins_ready: bool = False
    dla_cores: int = 0
    loaded: list[str] = field(default_factory=list)
    unimplemented: list[tuple[str, str]] = field(default_factory=lambda: abi.unimplemented)
    errors: list[str] = field(default_factory=lambda: abi.errors)

    @property
    def major(self) -> int:
        """TensorRT's major version."""
        return Abi.major


fake = Fake()


def load(stubs: str | os.PathLike[str], bindings: str | os.PathLike[str]) -> Fake:
    """Loads stubs and bindings into this process, which can hold one version only, and installs the fakes."""
    libraries = {}
    for path in sorted(Path(stubs).glob("*.so.*")):
        libraries[path.name.split(".")[0]] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(bindings))
    trt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = trt
    fake.trt = trt
    major = trt.__version__.split(".")[0]
    slots = json.loads((Path(__file__).parent / "slots.json").read_text())
    Abi.choose(trt, slots[major])

    def hook(library: str, name: str, function: Callable[[int, int, int], int]) -> None:
        made = abi.keep(ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_long)(function))
        getattr(libraries[library], f"hook_{name}")(made)

    def init_plugins(*_: int) -> int:
        fake.plugins_ready = True
        return 1

    registry = PluginRegistry()
    hook("libnvinfer_plugin", "initLibNvInferPlugins", init_plugins)
    hook("libnvinfer", "getPluginRegistry", lambda *_: registry.address)
    hook("libnvinfer", "createInferBuilder_INTERNAL", lambda logger, *_: Builder(logger).address)
    hook("libnvonnxparser", "createNvOnnxParser_INTERNAL", lambda net, *_: Parser(FakeObject.by_address[net]).address)
    return fake


class PluginRegistry(FakeObject):
    cls = "IPluginRegistry"
    is_interface = True

    @slot(c_void_p, c_char_p)
    def loadLibrary(self, path):
        if path.decode() in fake.loaded:
            return None  # its plugins are registered already
        fake.loaded.append(path.decode())
        return len(fake.loaded)


class Builder(FakeObject):
    cls = "VBuilder"

    def __init__(self, logger: int) -> None:
        self.logger = logger
        self.plugins_ready, self.loaded = fake.plugins_ready, list(fake.loaded)
        super().__init__()

    @slot(c_void_p, c_uint32)
    def createNetworkV2(self, flags):
        return Network(flags).address

    @slot(c_void_p)
    def createBuilderConfig(self):
        return Config().address

    @slot(c_void_p)
    def createOptimizationProfile(self):
        return OptimizationProfile().address

    @slot(c_bool)
    def platformHasFastInt8(self):
        return True

    @slot(c_bool)
    def platformHasFastFp16(self):
        return True

    @slot(c_bool)
    def platformHasTf32(self):
        return True

    @slot(c_int32)
    def getNbDLACores(self):
        return fake.dla_cores

    @slot(c_int32)
    def getMaxDLABatchSize(self):
        return 0

    @slot(c_void_p)
    def getLogger(self):
        return self.logger

    @slot(None)
    def reset(self):
        pass

    @slot(c_bool, c_int32)
    def setMaxThreads(self, number):
        return True

    @slot(c_int32)
    def getMaxThreads(self):
        return 1

    @slot(c_bool, c_void_p, c_void_p)
    def isNetworkSupported(self, network, config):
        return True

    @slot(c_void_p, c_void_p, c_void_p)
    def buildSerializedNetwork(self, network, config):
        if fake.on_build is not None:
            fake.on_build()
        engine = self._build(FakeObject.by_address[network], FakeObject.by_address[config])
        return None if engine is None else HostMemory(json.dumps(engine).encode()).address

    def log(self, severity: int, message: str) -> None:
        """Says something to the logger."""
        driver.log(self.logger, severity, message, major=Abi.major)

    def _build(self, network: Network, config: Config) -> dict[str, Any] | None:
        if any(-1 in tensor.dims for tensor in network.inputs) and not config.profiles:
            self.log(ERROR, "Network has dynamic or shape inputs, but no optimization profile has been defined.")
            return None
        engine = _describe(network, config)
        engine["parser_flags"] = network.parser_flags
        engine["plugins"] = {
            "before_builder": self.plugins_ready,
            "loaded": self.loaded,
            "serialized": config.plugins_to_serialize,
        }
        if config.is_on("INT8") and not engine["qdq"]:
            if config.calibrator:
                engine["calibration"] = self._calibrate(network, config)
                if engine["calibration"] is None:
                    return None
            elif not engine["dynamic_ranges"]:
                self.log(
                    WARNING,
                    "Calibrator is not being used. Users must provide dynamic range for all tensors that are not Int32 "
                    "or Bool.",
                )
        return engine

    def _calibrate(self, network: Network, config: Config) -> dict[str, Any] | None:
        calibrator = driver.CalibratorDriver(config.calibrator, major=Abi.major)
        algorithm = _ALGORITHMS[calibrator.algorithm()]
        header = f"TRT-{_library_version()}-{algorithm}"
        record: dict[str, Any] = {"algorithm": algorithm, "batches": 0, "pointers": [], "batch_size": None}
        cache = calibrator.read() if fake.reads_cache else None
        if cache and cache.split(b"\n")[0].decode() != header:
            self.log(ERROR, "Calibration table does not match calibrator algorithm type.")
            cache = None
        record["cache_used"] = bool(cache)
        if cache:
            self.log(INFO, f"Reading Calibration Cache for calibrator: {algorithm}")
        else:
            names = [tensor.name for tensor in network.inputs]
            record["batch_size"] = calibrator.batch_size()
            while record["batches"] < fake.max_batches and (pointers := calibrator.batch(names)) is not None:
                record["batches"] += 1
                record["pointers"].append(pointers)
                if fake.on_batch is not None:
                    fake.on_batch(names, pointers)
            if not record["batches"]:
                self.log(
                    ERROR,
                    "Calibration failure occurred with no scaling factors detected. This could be due to no int8 "
                    "calibrator or insufficient custom scales for network layers.",
                )
                return None
            tensors = [*network.inputs, *(tensor for layer in network.layers for tensor in layer.outputs)]
            lines = [f"{tensor.name}: {fake.scale_bits.get(tensor.name, _SCALE)}\n" for tensor in tensors]
            cache = (header + "\n" + "".join(lines)).encode()
        calibrator.write(cache)
        record["scales"] = cache.count(b"\n") - 1
        return record


def _describe(network: Network, config: Config) -> dict[str, Any]:
    """Everything that was asked of a build."""
    flags = fake.trt.BuilderFlag.__members__
    kinds = (int(fake.trt.LayerType.QUANTIZE), int(fake.trt.LayerType.DEQUANTIZE))
    products = (int(fake.trt.LayerType.CONVOLUTION), int(fake.trt.LayerType.MATRIX_MULTIPLY))
    dequantized = {tensor.name for layer in network.layers if layer.kind == kinds[1] for tensor in layer.outputs}
    profile = config.calibration_profile

    def reads_int8(layer: Layer) -> bool:
        return any(tensor.name in dequantized for tensor in layer.inputs)

    return {
        "version": fake.trt.__version__,
        "network_flags": network.flags,
        "flags": [name for name, member in flags.items() if config.flags >> int(member) & 1],
        "pools": {str(pool): size for pool, size in config.pools.items()},
        "properties": config.properties,
        "default_device": config.properties.get("DefaultDeviceType", 0),
        "profiles": [{name: [s[0], s[1], s[2]] for name, s in p.shapes.items()} for p in config.profiles],
        "calibration_profile": {name: s[1] for name, s in profile.shapes.items()} if profile else None,
        "inputs": [(tensor.name, tensor.dims) for tensor in network.inputs],
        "io_formats": {
            tensor.name: [tensor.dtype, tensor.formats]
            for tensor in (*network.inputs, *network.outputs)
            if tensor.formats is not None
        },
        "outputs": [tensor.name for tensor in network.outputs],
        "output_shapes": [(tensor.name, tensor.dims) for tensor in network.outputs],
        "products": [layer.name for layer in network.layers if layer.kind in products],
        "int8_products": [layer.name for layer in network.layers if layer.kind in products and reads_int8(layer)],
        "precisions": {layer.name: layer.precision for layer in network.layers if layer.precision is not None},
        "output_types": {layer.name: layer.output_types for layer in network.layers if layer.output_types},
        "dynamic_ranges": {
            tensor.name: tensor.range
            for tensor in (*network.inputs, *(t for layer in network.layers for t in layer.outputs))
            if tensor.range
        },
        "qdq": sum(layer.kind in kinds for layer in network.layers),
    }


def _library_version() -> int:
    major, minor, patch = map(int, fake.trt.__version__.split(".")[:3])
    return major * (1000 if major < 10 else 10000) + minor * 100 + patch
