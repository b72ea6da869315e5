import os
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.library import (
    DEFAULT_TENSORRT_VERSION,
    Library,
    choose_library,
    installed_tensorrt,
    load_library,
    parse_version,
    version_of_caches,
)
from quantkit.caches.acceptance import acceptance_of_cache
from quantkit.caches.formats.tensorrt_cache import library_version
from quantkit.caches.range_cache import RangeCache
from quantkit.errors import BackendUnavailableError, NotInstalledError


def describe():
    library = load_library()
    return {
        "title": library.title,
        "has_calibrators": library.has_calibrators,
        "has_precision_flags": library.has_precision_flags,
        "has_strong_typing": library.has_strong_typing,
        "is_rtx": library.is_rtx,
    }


def test_what_each_release_can_do(bindings):
    release = bindings.release
    is_weak = release.major <= 10
    assert bindings.call(describe) == {
        "title": f"TensorRT {release.version}",
        "has_calibrators": is_weak,
        "has_precision_flags": is_weak,
        "has_strong_typing": release.major >= 10,
        "is_rtx": False,
    }


def test_missing_library_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r"TensorRT is not installed: pip install tensorrt pycuda"):
        load_library()


def test_a_library_that_does_not_load_says_why(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file\\nx')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"does not load \(libnvinfer.so.10: cannot open [^\n]*\)"):
        load_library()


def test_an_old_library_is_refused(monkeypatch):
    module = types.ModuleType("tensorrt")
    module.__version__ = "8.5.3.1"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 8\.5\.3 is too old"):
        load_library()


@pytest.mark.parametrize(
    ("text", "version"),
    [("8.6.1", (8, 6, 1)), ("10.14.1.48.post1", (10, 14, 1)), ("10.0.0b6", (10, 0, 0)), ("11", (11, 0, 0))],
)
def test_versions(text, version):
    assert parse_version(text) == version


@given(st.integers(8, 10), st.integers(0, 99), st.integers(0, 99))
def test_the_number_in_a_cache_is_that_of_the_cache_writer(major, minor, patch):
    library = Library(module=None, name="tensorrt", version=(major, minor, patch))
    assert library.cache_version == library_version(f"{major}.{minor}.{patch}")


@pytest.fixture
def distributions(tmp_path, monkeypatch):
    """Puts nothing but the metadata of distributions on the path: {name: version}."""

    def install(**versions: str) -> None:
        for name, version in versions.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            folder.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)])

    return install


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({}, None),
        ({"numpy": "2.0.0", "tensorrt_rtx": "1.7.1", "tensorrt_rtx_cu13_bindings": "1.7.1"}, None),
        ({"tensorrt_cu12": "10.3.0"}, "10.3.0"),
        ({"tensorrt_cu11": "8.6.1.post1"}, "8.6.1.post1"),
        ({"tensorrt_cu13_bindings": "10.13.3", "tensorrt_cu13_libs": "10.13.3"}, "10.13.3"),
        ({"tensorrt_lean": "10.3.0"}, "10.3.0"),
        ({"tensorrt_lean": "10.1.0", "tensorrt_cu12": "10.3.0"}, "10.3.0"),
        ({"tensorrt": "10.3.0", "tensorrt_cu12": "10.16.1"}, "10.3.0"),
    ],
)
def test_tensorrt_is_found_under_any_of_its_names(distributions, versions, expected):
    distributions(**versions)
    assert installed_tensorrt() == expected


def test_a_search_path_that_cannot_be_read_is_passed_over(distributions, tmp_path, monkeypatch):
    distributions(tensorrt_cu12="10.3.0")
    private, archive, read = tmp_path / "private", tmp_path / "modules.zip", os.listdir
    private.mkdir()
    archive.touch()

    def listdir(folder):
        if folder == str(private):
            raise PermissionError(folder)
        return read(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(sys, "path", [str(private), str(archive), str(tmp_path / "gone"), *sys.path])
    assert installed_tensorrt() == "10.3.0"


def test_metadata_without_a_version_in_their_name_are_found(tmp_path, monkeypatch):
    folder = tmp_path / "tensorrt.egg-info"
    folder.mkdir()
    folder.joinpath("PKG-INFO").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.3.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed_tensorrt() == "10.3.0"


def test_a_cache_is_written_for_the_installed_tensorrt_and_accepted_by_it(distributions):
    distributions(tensorrt_cu12="10.3.0")
    number = library_version(version_of_caches())
    cache = RangeCache("c", "tensorrt", {}, version=number, algorithm="EntropyCalibration2")
    assert number == 100300
    assert acceptance_of_cache(cache, None)[0] == "accepts"


def test_a_cache_is_written_for_the_last_tensorrt_with_calibrators_where_none_is_installed(distributions):
    assert version_of_caches("8.6.1") == "8.6.1"
    distributions(tensorrt="11.4.0")
    assert version_of_caches() == DEFAULT_TENSORRT_VERSION


def test_where_a_calibrator_is_wanted_the_pip_line_gets_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailableError, match=r'not installed: pip install "tensorrt<11" pycuda'):
        load_library(calibrators=True)
    newest = types.ModuleType("tensorrt")
    newest.__version__ = "11.4.0"
    monkeypatch.setitem(sys.modules, "tensorrt", newest)
    with pytest.raises(BackendUnavailableError, match=r'11\.4\.0 has no calibrators: pip install "tensorrt<11" pycuda'):
        load_library(calibrators=True)


def test_without_a_gpu_no_software_that_needs_one_is_proposed(monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NotInstalledError, match=r"TensorRT needs an NVIDIA GPU, and this machine has none"):
        choose_library("tensorrt", has_gpu=False)
    with pytest.raises(NotInstalledError, match=r"is installed: pip install tensorrt-rtx, which"):
        choose_library("auto", has_gpu=False)
    with pytest.raises(NotInstalledError, match=r"is installed: pip install tensorrt pycuda for the GPU"):
        choose_library("auto")
