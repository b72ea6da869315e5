"""What a few bytes can describe is bounded before it is expanded."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph import expansion
from quantkit.graph.float_model import FloatModel
from quantkit.graph.randomness import random_operators

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]


def model_of(nodes, functions=(), **weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=9).SerializeToString()


def calling(name, *callees):
    nodes = [
        helper.make_node(c, ["a" if i == 0 else f"t{i}"], [f"t{i + 1}"], domain="l") for i, c in enumerate(callees)
    ]
    nodes += [helper.make_node("Relu", [f"t{len(callees)}" if callees else "a"], ["c"])]
    return helper.make_function("l", name, ["a"], ["c"], nodes, OPSETS)


def called(*functions):
    return model_of([helper.make_node("f0", ["x"], ["y"], domain="l")], functions)


def test_functions_that_double_are_refused():
    functions = [calling(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(40)]
    with pytest.raises(ModelError, match=r"expands to about 10\^12 nodes, more than the limit of 1000000"):
        FloatModel(called(*functions, calling("f40")))


def test_functions_in_a_circle_or_too_deep_are_refused():
    with pytest.raises(ModelError, match="the function 'f0' calls itself"):
        FloatModel(called(calling("f0", "f1"), calling("f1", "f0")))
    deep = [calling(f"f{i}", f"f{i + 1}") for i in range(200)]
    with pytest.raises(ModelError, match="more levels than the limit of 100"):
        FloatModel(called(*deep, calling("f200")))


def test_nested_functions_within_the_limits_are_fine():
    functions = [calling(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(5)]
    assert len(FloatModel(called(*functions, calling("f5"))).prepared().graph) == 63


def test_numbers_of_tensors_and_lengths_of_names_are_bounded(monkeypatch):
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    monkeypatch.setattr(expansion, "MOST_TENSORS", 2)
    FloatModel(model_of(relu, a=1.0, b=1.0))
    with pytest.raises(ModelError, match="3 tensors are more than the limit of 2"):
        FloatModel(model_of(relu, a=1.0, b=1.0, c=1.0))
    long = "n" * 65_537
    with pytest.raises(ModelError, match=r"the name 'nnn.*is longer than the limit of 65536 characters"):
        FloatModel(model_of([helper.make_node("Relu", ["x"], ["y"], name=long)]))


def test_a_range_of_constants_is_bounded():
    nodes = [
        helper.make_node("Range", ["a", "b", "c"], ["r"], name="r"),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    with pytest.raises(ModelError, match=r"node 'r' \(Range\) gives 1e\+11 numbers, more than the limit"):
        FloatModel(model_of(nodes, a=0, b=10**11, c=1))
    FloatModel(model_of(nodes, a=0, b=4, c=1)).prepared()


def dropout(*mode):
    return [helper.make_node("Dropout", ["x", "ratio", *mode], ["y"], name="drop")]


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([helper.make_node("RandomNormalLike", ["x"], ["y"], name="noise")], ["noise (RandomNormalLike)"]),
        ([helper.make_node("Bernoulli", ["x"], ["y"])], ["y (Bernoulli)"]),
        (dropout("on"), ["drop (Dropout)"]),
        (dropout("off"), []),
        (dropout(), []),
        ([helper.make_node("Relu", ["x"], ["y"])], []),
    ],
)
def test_operators_that_draw_are_found(nodes, found):
    weights = {"ratio": np.float32(0.5), "on": np.bool_(True), "off": np.bool_(False)}
    used = {name: weights[name] for node in nodes for name in node.input if name in weights}
    assert random_operators(FloatModel(model_of(nodes, **used)).graph) == found


@pytest.mark.parametrize("is_output", [True, False])
def test_a_long_name_makes_no_long_line(is_output):
    """Whatever else is wrong with what bears it."""
    long = "n" * 70_000
    model = onnx.load_from_string(model_of([helper.make_node("Relu", ["x"], ["z"])]))
    if is_output:
        model.graph.output[0].name = long  # nothing makes it
    else:
        model.graph.node[0].name, model.graph.node[0].op_type = long, "Nonsense"
    with pytest.raises(ModelError, match="longer than the limit") as error:
        FloatModel(model.SerializeToString())
    assert len(str(error.value)) < 200
