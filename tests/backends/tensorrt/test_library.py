import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.library import Library, load_library, parse_version
from quantkit.caches.formats.tensorrt_cache import library_version
from quantkit.errors import BackendUnavailableError


def describe():
    library = load_library()
    return {
        "title": library.title,
        "has_calibrators": library.has_calibrators,
        "has_precision_flags": library.has_precision_flags,
        "has_strong_typing": library.has_strong_typing,
        "is_rtx": library.is_rtx,
    }


EXPECTED = {
    "8.6": ("8.6.1", True, True, False),
    "10.0": ("10.0.1", True, True, True),
    "10.16": ("10.16.1", True, True, True),
    "11.4": ("11.4.0", False, False, True),
}


def test_what_each_release_can_do(bindings):
    version, calibrators, flags, typing = EXPECTED[bindings.release.name]
    assert bindings.call(describe) == {
        "title": f"TensorRT {version}",
        "has_calibrators": calibrators,
        "has_precision_flags": flags,
        "has_strong_typing": typing,
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
