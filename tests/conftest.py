"""What several packages of tests need."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import settings

from quantkit import processor as processor_module

from .ray_nodes import Inline

# Tests run on machines of any speed, next to other work: time decides nothing.
# The same examples in every run, so that a pass means a pass; the profile "random" draws others, and more, each time.
settings.register_profile("quantkit", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("random", deadline=None, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quantkit"))

PROCESSORS = {"saturating": "avx2 fma", "exact": "avx2 fma avx512_vnni"}
"""Flags of the two kinds of x86 processors: without VNNI, sums of INT8 products saturate at 16 bits."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `processor` runs for both kinds of processors."""
    if metafunc.definition.get_closest_marker("processor"):
        metafunc.fixturenames.append("processor")
        metafunc.parametrize("processor", list(PROCESSORS), indirect=True)


@pytest.fixture
def processor(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of processor that quantkit believes to run on: its decisions follow.

    Kernels are this machine's. Where they saturate, ONNX Runtime is told to widen its products for the kind "exact",
    which gives the sums of a processor with VNNI. The kernels of the other kind themselves run under an emulator: see
    CONTRIBUTING.md.
    """
    kind = str(request.param)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: a {kind} processor\nflags\t\t: {PROCESSORS[kind]}\n")
    monkeypatch.setattr(processor_module, "CPUINFO", cpuinfo)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    if kind == "exact" and kernels_saturate():
        original = onnxruntime.SessionOptions

        def widened() -> onnxruntime.SessionOptions:
            options = original()
            options.add_session_config_entry("session.x64quantprecision", "1")
            return options

        monkeypatch.setattr(onnxruntime, "SessionOptions", widened)
    return kind


@functools.cache
def kernels_saturate() -> bool:
    """Whether ONNX Runtime's integer kernels saturate here, found by running one."""
    weight = onnx.numpy_helper.from_array(np.full((64, 16), 127, np.int8), "w")
    graph = onnx.parser.parse_graph("net (uint8[1, 64] x) => (int32[1, 16] y) { y = MatMulInteger(x, w) }")
    graph.initializer.append(weight)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 64), 255, np.uint8)})
    return bool(found[0, 0] != 64 * 255 * 127)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of material that is not part of the repository: trained models, data, golden caches."""
    folder = Path(os.environ.get("QUANTKIT_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip("no shared material: set QUANTKIT_SHARED to its folder")
    return folder


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray cluster a command asks for is this process."""
    monkeypatch.setattr("quantkit.commands.cluster.connect", lambda address, use_gpus: nullcontext(Inline()))
    for command in ("calibrate", "evaluate", "sensitivity"):
        monkeypatch.setattr(f"quantkit.commands.{command}.check_cluster", lambda address: None)


@pytest.fixture
def ordinary_rights() -> Iterator[None]:
    """Takes root's right to read and write every file from this thread, so that permissions hold: capabilities(7)."""
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions of files are POSIX's")
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    words = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: twice 32 bits
    assert libc.capget(header, words) == 0
    before = words[0]
    words[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, words) == 0
    yield
    words[0] = before
    assert libc.capset(header, words) == 0
