"""Names that changed are found again by what computes them; what is ambiguous is left out."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.graph.name_mapping import match_by_order, match_by_structure
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import float_activations

from .models import MODELS


def renamed(model: onnx.ModelProto, prefix: str = "new/") -> onnx.ModelProto:
    """Every activation under another name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {t.name for t in copy.graph.initializer}
    for node in copy.graph.node:
        for names in (node.input, node.output):
            names[:] = [n if not n or n in constants else prefix + n for n in names]
        node.name = ""
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if value.name not in constants:
            value.name = prefix + value.name
    return copy


def retrained(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.5), tensor.name))
    return copy


def prepared(model: onnx.ModelProto) -> ir.Model:
    return prepare(ir.from_proto(model), name="m")


@pytest.mark.parametrize(
    "name", ["conv_relu", "residual_downsample", "inception_concat", "attention", "squeeze_excite"]
)
def test_every_tensor_is_found_under_its_new_name(name):
    old, new = prepared(MODELS[name]()), prepared(renamed(MODELS[name]()))
    assert match_by_structure(old, new) == {n: f"new/{n}" for n in float_activations(old)}


@pytest.mark.parametrize("name", ["conv_relu", "residual_downsample", "stem_maxpool"])
def test_after_training_again_the_structure_still_tells(name):
    model = MODELS[name]()
    old, new = prepared(model), prepared(renamed(retrained(model)))
    found = match_by_structure(old, new)
    assert found
    assert all(b == f"new/{a}" for a, b in found.items())
    assert len(found) >= len(float_activations(old)) / 2


def test_the_same_names_are_no_mapping():
    assert match_by_structure(prepared(MODELS["conv_relu"]()), prepared(MODELS["conv_relu"]())) == {}


def test_twins_are_left_out():
    from onnx import TensorProto, helper

    def twins(a: str, b: str) -> ir.Model:
        nodes = [helper.make_node("Relu", ["x"], [a]), helper.make_node("Relu", ["x"], [b])]
        nodes.append(helper.make_node("Add", [a, b], ["y"]))
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xy"]
        graph = helper.make_graph(nodes, "g", info[:1], info[1:])
        return prepared(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    found = match_by_structure(twins("a", "b"), twins("c", "d"))
    # Both computations are the same, but they are told apart by which side of the sum they are on.
    assert found in ({}, {"a": "c", "b": "d"})


def test_by_order():
    assert match_by_order(["x", "a", "y"], ["x", "b", "y"]) == {"a": "b"}
    assert match_by_order(["x", "a", "b", "y"], ["x", "c", "y"]) == {}
    assert match_by_order(["y", "x"], ["x", "y"]) == {}
    assert match_by_order(["a"], ["b"]) == {"a": "b"}


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("defghi"), unique=True))
def test_by_order_renames_nothing_that_is_known(old, new):
    found = match_by_order(old, new)
    assert not found.keys() & set(new)
    assert len(set(found.values())) == len(found)
    assert set(found.values()) <= set(new) - set(old)
