"""Reading an engine with TensorRT itself: by a stand-in for its runtime, and by the names in NVIDIA's bindings."""

from __future__ import annotations

import ast
import json
import sys
import types
from enum import Enum
from pathlib import Path

import pytest

from quantkit.backends.tensorrt.inspection import engine_reader
from quantkit.errors import BackendError

LAYERS = {
    "Layers": [
        {
            "Name": "conv",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major Int8 format"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
            "Weights": {"Type": "Int8", "Count": 100},
        }
    ],
    "I/O Tensors": [],
}


@pytest.fixture
def tensorrt(monkeypatch) -> types.ModuleType:
    """A module that loads the engine b"ftrt good" and refuses others, as TensorRT does: by returning None."""
    module = types.ModuleType("tensorrt")

    class Severity(Enum):
        ERROR = 1

    class Inspector:
        def get_engine_information(self, form: str) -> str:
            assert form == "as JSON"
            return json.dumps(LAYERS)

    class Engine:
        device_memory_size_v2 = 4096

        def create_engine_inspector(self) -> Inspector:
            return Inspector()

    class Logger:
        def __init__(self) -> None: ...

    class Runtime:
        def __init__(self, logger: Logger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            if content == b"ftrt good":
                return Engine()
            if content == b"ftrt worse":
                raise RuntimeError("two\nlines")
            self.logger.log(Severity.ERROR, "The engine plan file is not\ncompatible with this version")
            return None

    module.__version__ = "10.3.0"
    module.ILogger, module.Runtime = Logger, Runtime
    module.LayerInformationFormat = types.SimpleNamespace(JSON="as JSON")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.mark.usefixtures("tensorrt")
def test_layers_and_memory() -> None:
    engine_layers = engine_reader.read_engine(b"ftrt good", name="x.engine")
    assert engine_layers.weighted_coverage.fraction == 1
    assert engine_layers.source == "TensorRT 10.3.0 engine inspector"
    assert engine_layers.memory_bytes == {"file": 9, "weights": 100, "activations": 4096}


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize(("content", "said"), [(b"ftrt bad", "not compatible"), (b"ftrt worse", "two lines")])
def test_refusals_have_tensorrts_words_in_one_line(content, said) -> None:
    with pytest.raises(BackendError, match=said) as error:
        engine_reader.read_engine(content, name="x.engine")
    assert "\n" not in str(error.value)
    assert "x.engine" in str(error.value)


def test_every_name_is_in_the_bindings() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    owners = {"trt": trt, "engine": trt.ICudaEngine, "context": trt.IExecutionContext, "runtime": trt.Runtime}
    owners |= {"inspector": trt.EngineInspector, "library": None}
    tree = ast.parse(Path(engine_reader.__file__).read_text(encoding="utf-8"))
    used = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    checked = {(n.value.id, n.attr) for n in used if owners.get(n.value.id) is not None}
    assert len(checked) > 10
    assert [f"{owner}.{name}" for owner, name in checked if not hasattr(owners[owner], name)] == []
