"""What is said of a model that was converted."""

import numpy as np

from quantkit.datasets.arrays import open_arrays
from quantkit.evaluation import conversion
from quantkit.graph.float_model import FloatModel
from tests.graph.builder import Builder


def told(tmp_path, opset):
    g = Builder(opset=opset)
    model = FloatModel(g.model(g.conv(g.input("x", 3, 8, 8), 3, 4)).SerializeToString(), name="net.onnx")
    np.save(tmp_path / "data.npy", np.ones((2, 3, 8, 8), np.float32))
    said = []
    conversion.tell_conversion(model, open_arrays(tmp_path / "data.npy", model.inputs), said.append)
    return [(notice.kind, notice.topic, notice.text) for notice in said]


def test_equal_outputs(tmp_path):
    expected = "net.onnx was converted from opset 9 to 13: outputs on a sample are equal"
    assert told(tmp_path, 9) == [("info", "model", expected)]


def test_a_current_opset_is_not_worth_a_word(tmp_path):
    assert told(tmp_path, 17) == []


def test_another_output_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "LARGEST_DIFFERENCE", -1.0)
    ((kind, _, text),) = told(tmp_path, 9)
    assert kind == "warning"
    assert "export it again" in text


def test_a_model_that_cannot_run_is_not_compared(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise conversion.BackendError("no kernel")

    monkeypatch.setattr(conversion, "OnnxRuntimeRunner", refuse)
    ((kind, _, text),) = told(tmp_path, 9)
    assert (kind, text.endswith("outputs were not compared")) == ("warning", True)
