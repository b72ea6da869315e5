"""`quantkit doctor`: says what is there, and survives what is broken."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys

import pytest

from quantkit.backends.installation import probe
from quantkit.commands.doctor import examine

probe_once = functools.cache(probe)


@pytest.fixture
def probed_once(monkeypatch):
    """What is installed is found out by the first test: processes that import all runtimes take seconds."""
    monkeypatch.setattr("quantkit.commands.doctor.probe", probe_once)


def package(folder, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


@pytest.mark.usefixtures("probed_once")
def test_text_and_json_agree(quantkit):
    outcome = quantkit("doctor", "--json")
    assert outcome.code == 0
    data = json.loads(outcome.out)
    parts = {part["name"]: part for part in data["parts"]}
    assert parts["quantkit"]["status"] == parts["packages"]["status"] == parts["ONNX Runtime"]["status"] == "ok"
    assert "CPU" in parts["ONNX Runtime"]["detail"]
    assert all(part["fix"] for part in data["parts"] if part["status"] != "ok" and part["name"] != "GPU")
    works = {ability["name"]: ability["works"] for ability in data["abilities"]}
    assert works["quantize"]
    assert works["calibrate, evaluate"]
    has_rtx = importlib.util.find_spec("tensorrt_rtx") is not None
    assert works["build a TensorRT-RTX engine"] == has_rtx
    text = quantkit("doctor")
    assert text.code == 0
    for part in data["parts"]:
        assert part["name"] in text.out
        assert not part["fix"] or part["fix"] in text.out
    fixes = {part["name"]: part["fix"] for part in data["parts"]}
    assert not fixes["TensorRT"] or 'pip install "tensorrt<11" pycuda' in fixes["TensorRT"]  # as cmd quotes, too


def test_exit_code_reflects_whether_quantkit_works(quantkit, tmp_path, monkeypatch):
    package(tmp_path, "msgspec", "raise ImportError('half installed')")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = quantkit("doctor")
    assert outcome.code == 1
    assert "msgspec: half installed" in outcome.out
    assert "needs: packages" in outcome.out


@pytest.mark.parametrize(("found", "said"), [(None, "histograms by NumPy"), (object(), "histograms compiled")])
@pytest.mark.usefixtures("probed_once")
def test_what_counts_histograms_is_said(monkeypatch, found, said):
    monkeypatch.setattr("quantkit.commands.doctor.importlib.util.find_spec", lambda name: found)
    assert said in examine().parts[0].detail


@pytest.mark.usefixtures("probed_once")
def test_output_fits_80_columns(quantkit, monkeypatch):
    """But for what is to be done, a line each: it holds commands that are copied."""
    monkeypatch.setenv("COLUMNS", "80")
    found, _, fixes = quantkit("doctor").out.partition("to enable the rest:\n")
    assert all(len(line) <= 80 for line in found.splitlines())
    wanted = dict.fromkeys(f"  {part.fix}" for part in examine().parts if part.fix)
    assert fixes.splitlines() == list(wanted)


@pytest.mark.parametrize(
    ("processor", "said"),
    [("saturating", "saturate at 16 bits (no VNNI or AMX)"), ("exact", "INT8 products do not saturate")],
    indirect=["processor"],
)
@pytest.mark.usefixtures("probed_once")
def test_processor_kind_is_reported(processor, said):
    (part,) = [part for part in examine().parts if part.name == "processor"]
    assert said in part.detail
    assert f"a {processor} processor" in part.detail


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "broken", "libnvinfer.so.10"),
        ("raise OSError('wrong ELF class')", "broken", "wrong ELF class"),
        ("raise RuntimeError('two\\nlines')", "broken", "two"),
        ("import os; os.abort()", "broken", "ends the process (signal 6)"),
        ("import sys; sys.exit(3)", "broken", "3"),
        ("print('noise'); __version__ = '7.2.3'", "broken", "too old"),
        ("import no_such_module_at_all", "missing", ""),
        ("x = 1", "broken", "__version__"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_broken_installations_are_named(tmp_path, monkeypatch, code, status, said):
    package(tmp_path, "tensorrt", code)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = probe("tensorrt")
    assert list(found) == [status]
    assert said in found[status]
    assert "\n" not in found[status]


def test_broken_onnxruntime_does_not_stop_doctor(tmp_path, monkeypatch):
    package(tmp_path, "onnxruntime", "import os; os.abort()")
    package(tmp_path, "tensorrt", _FAKE_TENSORRT)
    monkeypatch.syspath_prepend(str(tmp_path))
    diagnosis = examine()
    parts = {part.name: part for part in diagnosis.parts}
    assert parts["ONNX Runtime"].status == "broken"
    assert "pip install 'quantkit-ptq[cpu]' (or [cuda])" in parts["ONNX Runtime"].fix
    assert (parts["TensorRT"].status, parts["TensorRT"].version) == ("ok", "10.3.0")
    assert parts["TensorRT"].detail == "has calibrators"
    abilities = {a.name: a for a in diagnosis.abilities}
    assert not abilities["calibrate, evaluate"].works
    assert "ONNX Runtime" in abilities["calibrate, evaluate"].detail
    assert abilities["quantize"].works


_FAKE_TENSORRT = """
__version__ = "10.3.0.26.post1"
class BuilderFlag: INT8 = 0
class NetworkDefinitionCreationFlag: STRONGLY_TYPED = 1
class IInt8EntropyCalibrator2: pass
"""
