"""Damaged models are refused in words; all sound ones of the tests pass."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.validation import check_content

from .models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_sound_models_pass(name):
    check_content(ir.from_proto(MODELS[name]()), name)


def refusal(change) -> str:
    model = MODELS["conv_relu"]()
    change(model.graph)
    with pytest.raises(ModelError) as error:
        check_content(ir.from_proto(model), "m.onnx")
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.node[0].ClearField("input"), r"(Conv) has 0 inputs, the operator takes 2 to 3"),
        (lambda g: g.node[0].input.__setitem__(1, ""), r"(Conv) has no input 'W'"),
        (lambda g: g.node[1].ClearField("output"), r"(Relu) has 0 outputs, the operator has 1 to 1"),
        (lambda g: g.node[0].attribute[0].ClearField("type"), "without a type"),
        (lambda g: g.node[0].attribute.append(helper.make_attribute("alpha", 1)), "'alpha' that the operator does not"),
        (lambda g: g.node[0].attribute.append(helper.make_attribute("auto_pad", 1)), "'auto_pad' of type INT, not its"),
        (lambda g: g.node.append(helper.make_node("Concat", ["x"], ["c"])), "(Concat) has no attribute 'axis'"),
        (lambda g: g.node.append(helper.make_node("Constant", [], ["c"])), "(Constant) has 0 values"),
        (lambda g: g.initializer[0].ClearField("data_type"), "has an unknown type"),
        (lambda g: g.initializer[0].__setattr__("raw_data", b"abc"), "cannot be read"),
        (
            lambda g: g.node[0].__setattr__("domain", "acme"),
            "(Conv) is of the domain 'acme', which the model does not im",
        ),
        (lambda g: g.initializer[0].dims.append(-1), "has no shape of whole numbers"),
    ],
)
def test_what_is_refused(change, words):
    message = refusal(change)
    assert message.startswith("m.onnx: ")
    assert words in message


def test_names_that_are_no_text():
    model = MODELS["conv_relu"]()
    helper.set_model_props(model, {"author": "x"})
    content = model.SerializeToString().replace(b"author", b"\xff" * 6)
    with pytest.raises(ModelError, match="is not Unicode text"):
        check_content(ir.from_proto(onnx.ModelProto.FromString(content)), "m.onnx")


def test_operators_of_others_may_have_what_they_like():
    model = MODELS["conv_relu"]()
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.append(helper.make_node("Conv", [], [], domain="mine", kernel=1))
    model.graph.initializer.append(numpy_helper.from_array(np.array(["é".encode()], object), "words"))
    check_content(ir.from_proto(model), "m.onnx")
