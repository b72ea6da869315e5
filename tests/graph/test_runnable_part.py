"""What lies before operators that a runtime lacks is a model of its own."""

from __future__ import annotations

from onnx import TensorProto, helper

from quantkit.graph.float_model import FloatModel
from quantkit.graph.runnable_part import runnable_part

from .builder import Builder


def part_before_strange(g: Builder, *outputs: str) -> FloatModel:
    """The part of a model before its operator Strange, which is looked at only here."""
    g.domains["own"] = 1
    model = FloatModel(g.model(*outputs).SerializeToString())
    part, obstacles = runnable_part(model, lambda domain, op_type: op_type != "Strange")
    assert obstacles == ("strange (Strange)",)
    return part


def outputs_and_nodes(part: FloatModel) -> tuple[set[str], set[str]]:
    graph = part.prepared().graph
    return {str(v.name) for v in graph.outputs}, {str(node.name) for node in graph}


def test_it_ends_in_what_the_rest_reads_and_in_outputs_that_can_be_computed() -> None:
    g = Builder()
    x = g.input("x", 4)
    relu = g.op("Relu", x, name="relu")
    strange = g.op("Strange", relu, name="strange", domain="own")
    behind = g.op("Add", strange, g.op("Sigmoid", x, name="sigmoid"), name="behind")
    part = part_before_strange(g, behind, g.op("Neg", x, name="neg"))
    assert outputs_and_nodes(part) == ({"relu_out", "sigmoid_out", "neg_out"}, {"relu", "sigmoid", "neg"})


def test_a_branch_behind_it_is_fed_by_what_it_reads_outside_alone() -> None:
    g = Builder()
    x = g.input("x", 4)
    relu = g.op("Relu", x, name="relu")
    strange = g.op("Strange", x, name="strange", domain="own")
    choose = g.op("Greater", g.op("ReduceSum", x, name="sum", keepdims=0), g.constant(0.0), name="greater")

    def branch(*nodes: tuple[str, list[str], str]) -> object:
        value = helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)
        made = [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in nodes]
        return helper.make_graph(made, "branch", [], [value])

    then = branch(("Neg", [relu], "inner"), ("Add", ["inner", strange], "then"))
    chosen = g.op("If", choose, name="if", then_branch=then, else_branch=branch(("Identity", [x], "else")))
    outputs, nodes = outputs_and_nodes(part_before_strange(g, chosen))
    assert outputs == {"relu_out", "greater_out"}
    assert nodes == {"relu", "sum", "greater"}
