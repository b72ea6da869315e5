"""The builder configuration of the fake library: it keeps what it is given."""
# ruff: noqa: N802  (methods have the names of the C++ functions that they stand for)

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from typing import ClassVar

from tests.fake_trt.abi import Abi, FakeObject, slot
from tests.fake_trt.objects import OptimizationProfile, TimingCache


class Config(FakeObject):
    cls = "VBuilderConfig"

    _DEFAULTS: ClassVar = {
        "AvgTimingIterations": 1,
        "BuilderOptimizationLevel": 3,
        "DLACore": -1,
        "MaxAuxStreams": -1,
        "MaxNbTactics": -1,
    }
    _RETURNS_BOOL = ("TacticSources", "MaxNbTactics", "TilingOptimizationLevel", "L2LimitForTiling")
    _NOT_INTEGERS = ("AlgorithmSelector", "PluginsToSerialize", "RemoteAutoTuningConfig")

    def __init__(self) -> None:
        self.flags = 1 << int(Abi.trt.BuilderFlag.TF32)
        self.calibrator: int | None = None
        self.calibration_profile: OptimizationProfile | None = None
        self.profiles: list[OptimizationProfile] = []
        self.pools: dict[int, int] = {}
        self.properties: dict[str, int] = {}
        self.previews: dict[int, bool] = {}
        self.timing_cache: int | None = None
        self.device_types: dict[int, int] = {}
        self.progress_monitor: int | None = None
        self.plugins_to_serialize: list[str] = []
        super().__init__()

    def find(self, name):
        """Functions below, and those of plain integer properties, which come in pairs of set and get."""
        found = super().find(name)
        key = name[3:]
        names = Abi.slots[self.cls]
        pair = f"set{key}" in names and f"get{key}" in names
        if found is not None or name[:3] not in ("set", "get") or not pair or key in self._NOT_INTEGERS:
            return found
        integer = c_int64 if "Limit" in key else c_int32
        if name.startswith("set"):
            returns = c_bool if key in self._RETURNS_BOOL else None
            return slot(returns, integer)(lambda value: self.properties.__setitem__(key, value) or True)
        return slot(integer)(lambda: self.properties.get(key, self._DEFAULTS.get(key, 0)))

    @slot(None, c_int32)
    def setFlag(self, flag):
        self.flags |= 1 << flag

    @slot(None, c_int32)
    def clearFlag(self, flag):
        self.flags &= ~(1 << flag)

    @slot(c_bool, c_int32)
    def getFlag(self, flag):
        return bool(self.flags >> flag & 1)

    @slot(None, c_uint32)
    def setFlags(self, flags):
        self.flags = flags

    @slot(c_uint32)
    def getFlags(self):
        return self.flags

    @slot(None, c_void_p)
    def setInt8Calibrator(self, calibrator):
        self.calibrator = calibrator

    @slot(c_void_p)
    def getInt8Calibrator(self):
        return self.calibrator

    @slot(c_int32, c_void_p)
    def addOptimizationProfile(self, address):
        profile = FakeObject.by_address[address]
        if not profile.isValid():
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    @slot(c_int32)
    def getNbOptimizationProfiles(self):
        return len(self.profiles)

    @slot(c_bool, c_void_p)
    def setCalibrationProfile(self, address):
        self.calibration_profile = FakeObject.by_address[address]
        return True

    @slot(c_void_p)
    def getCalibrationProfile(self):
        return self.calibration_profile.address if self.calibration_profile else None

    @slot(None, c_int32, c_size_t)
    def setMemoryPoolLimit(self, pool, size_bytes):
        self.pools[pool] = size_bytes

    @slot(c_size_t, c_int32)
    def getMemoryPoolLimit(self, pool):
        return self.pools.get(pool, 1 << 34)

    @slot(None, c_int32, c_bool)
    def setPreviewFeature(self, feature, on):
        self.previews[feature] = on

    @slot(c_bool, c_int32)
    def getPreviewFeature(self, feature):
        return self.previews.get(feature, False)

    @slot(c_void_p, c_void_p, c_size_t)
    def createTimingCache(self, content, size):
        return TimingCache(ctypes.string_at(content, size) if content and size else b"").address

    @slot(c_bool, c_void_p, c_bool)
    def setTimingCache(self, cache, ignore_mismatch):
        self.timing_cache = cache
        return True

    @slot(c_void_p)
    def getTimingCache(self):
        return self.timing_cache

    @slot(None, c_void_p, c_int32)
    def setDeviceType(self, layer, device):
        self.device_types[layer] = device

    @slot(c_int32, c_void_p)
    def getDeviceType(self, layer):
        return self.device_types.get(layer, self.properties.get("DefaultDeviceType", 0))

    @slot(c_bool, c_void_p)
    def isDeviceTypeSet(self, layer):
        return layer in self.device_types

    @slot(c_bool, c_void_p)
    def canRunOnDLA(self, layer):
        return FakeObject.by_address[layer].kind != int(Abi.trt.LayerType.SOFTMAX)

    @slot(None, c_void_p, c_int32)
    def setPluginsToSerialize(self, paths, number):
        texts = (c_char_p * number).from_address(paths)
        self.plugins_to_serialize = [text.decode() for text in texts]

    @slot(None, c_void_p)
    def setProgressMonitor(self, monitor):
        self.progress_monitor = monitor

    @slot(c_void_p)
    def getProgressMonitor(self):
        return self.progress_monitor

    @slot(None, c_void_p)
    def setProfileStream(self, stream):
        self.properties["ProfileStream"] = stream or 0

    @slot(c_void_p)
    def getProfileStream(self):
        return self.properties.get("ProfileStream")

    def is_on(self, flag: str) -> bool:
        """Whether a builder flag exists and is set."""
        member = getattr(Abi.trt.BuilderFlag, flag, None)
        return member is not None and bool(self.flags >> int(member) & 1)
