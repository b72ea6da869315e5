"""The two streams against whole models, and the rounding that they feed: on all operators, with and without a bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quantkit.graph.layer_constants import bias_edges, constant_array
from quantkit.graph.pieces import GraphPieces
from quantkit.graph.quantize_tensorrt import insert_refined_qdq, plan_refined
from quantkit.numerics import QuantParams, dequantize_array, quantize_array, weight_params
from quantkit.refinement.quantized_run import run_model
from quantkit.refinement.rounding import old_bias, round_weights
from quantkit.refinement.walk import NewConstants, Stop, Walk
from quantkit.types import Refinement

from ..arrays import assert_close
from ..graph.builder import Builder
from ..graph.quantizing import sqnr_db
from .nets import Net, images, net, small_net, token_net

NETS = {"images": small_net, "tokens": token_net}


@pytest.fixture(scope="module", params=NETS)
def subject(request: pytest.FixtureRequest) -> Net:
    return NETS[request.param]()


def outputs_of(subject: Net, refinement: Refinement) -> np.ndarray:
    """Of the INT8 model."""
    graph = subject.model.prepared()
    plan = plan_refined(graph, subject.ranges(), refinement)
    insert_refined_qdq(graph, plan, refinement)
    found = run_model(graph, subject.samples.batches, outputs=subject.outputs)
    return np.concatenate([batch[subject.outputs[0]] for batch in found])


def float_outputs(subject: Net) -> np.ndarray:
    found = run_model(subject.model.prepared(), subject.samples.batches, outputs=subject.outputs)
    return np.concatenate([batch[subject.outputs[0]] for batch in found])


def test_the_streams_end_as_the_float_and_the_int8_model_do(subject: Net) -> None:
    graph, plan = subject.model.prepared(), subject.plan
    params = {name: QuantParams.from_amax(r.amax) for name, r in subject.ranges().items()}
    biases = bias_edges(graph)
    constants = {(edge.node, edge.index): constant_array(graph, edge.tensor) for edge in plan.weights}
    for node, bias in biases.items():
        weight = next(edge for edge in plan.weights if edge.node == node)
        channels = constant_array(graph, weight.tensor).shape[weight.axis or 0]
        constants[bias.owner, bias.index] = old_bias(bias, channels)
    read = {edge.node: edge.tensor for edge in plan.activations}
    visited: list[str] = []

    def visit(stop: Stop) -> NewConstants:
        visited.append(stop.edge.node)
        pairs = list(stop.inputs())
        assert len(pairs) == len(subject.samples.batches)
        if len(visited) == 1:  # nothing was quantized in front: the streams differ by the Q/DQ of this input alone
            for exact, quantized in pairs:
                assert np.abs(exact - quantized).max() <= params[read[stop.edge.node]].scale * 0.501
        weight = constant_array(graph, stop.edge.tensor)
        of_weight = weight_params(weight, stop.edge.axis)
        return NewConstants(dequantize_array(quantize_array(weight, of_weight), of_weight))

    walk = Walk(GraphPieces(graph), plan, params, biases, constants)
    found = walk.run(subject.samples.batches, subject.outputs, visit)
    exact, quantized = (np.concatenate([streams[i][subject.outputs[0]] for streams in found]) for i in (0, 1))
    assert visited == [edge.node for edge in plan.weights]
    assert_close(exact, float_outputs(subject), rel=1e-4, abs=1e-4)
    expected = outputs_of(subject, Refinement())
    assert sqnr_db(expected, quantized) > sqnr_db(exact, expected) + 15


def test_rounding_lowers_the_error_of_every_layer(subject: Net) -> None:
    graph, plan = subject.model.prepared(), subject.plan
    found, layers = round_weights(graph, plan, subject.ranges(), subject.samples)
    assert [layer.node for layer in layers] == [edge.node for edge in plan.weights]
    assert all(layer.error <= layer.nearest_error * 1.001 for layer in layers)
    for edge in plan.weights:
        rounded = found.weights[edge.tensor]
        weight = constant_array(graph, edge.tensor)
        assert rounded.codes.shape == weight.shape
        assert np.abs(rounded.codes.astype(int)).max() == 127
        assert rounded.axis == edge.axis


def test_rounding_lowers_the_error_of_the_output_of_a_correlated_net() -> None:
    """Channels that are nearly the same: errors of their weights can cancel, from layer to layer."""
    g = Builder()
    x = g.input("x", 8, 6, 6)
    for _ in range(3):
        x = g.op("Relu", g.conv(x, 8, 8))
    random = np.random.default_rng(0)
    values = random.normal(size=(64, 1, 6, 6)) + 0.1 * random.normal(size=(64, 8, 6, 6))
    subject = net(g.model(g.conv(x, 8, 4, 1)), {"x": values.astype(np.float32)})
    graph = subject.model.prepared()
    found, _ = round_weights(graph, subject.plan, subject.ranges(), subject.samples)
    exact = float_outputs(subject)
    nearest, refined = (sqnr_db(exact, outputs_of(subject, r)) for r in (Refinement(), found))
    assert refined > nearest + 0.5


def test_rounding_twice_gives_the_same_bits(subject: Net) -> None:
    def run() -> Refinement:
        return round_weights(subject.model.prepared(), subject.plan, subject.ranges(), subject.samples)[0]

    first, second = run(), run()
    assert all((first.weights[n].codes == second.weights[n].codes).all() for n in first.weights)
    assert all((first.biases[n] == second.biases[n]).all() for n in first.biases)
    assert first.weights.keys() == second.weights.keys()
    assert first.biases.keys() == second.biases.keys()


def odd_biases(kind: str) -> Net:
    """Products with a constant added that is no bias of output channels, or not one for each row of the weight."""
    g = Builder()
    x = g.input("x", 3, 8, 6)
    if kind == "weight on the left":
        y = g.op("MatMul", g.constant(g.random.standard_normal((6, 8))), x, name="product")
        y = g.op("Add", y, g.constant(g.random.standard_normal(6)))
    elif kind == "a matrix for each channel":
        y = g.op("MatMul", x, g.constant(g.random.standard_normal((3, 6, 5))), name="product")
        y = g.op("Add", y, g.constant(g.random.standard_normal(5)))
    else:
        flat = g.op("Reshape", x, g.constant(np.array([-1, 48])))
        turned = g.op("Transpose", flat, perm=[1, 0])
        weight = g.constant(g.random.standard_normal((7, 48)))
        y = g.op("Transpose", g.op("Gemm", weight, turned, name="product"), perm=[1, 0])
    return net(g.model(y), {"x": images(24, 3, 8, 6)})


@pytest.mark.parametrize("kind", ["weight on the left", "a matrix for each channel", "Gemm, weight on the left"])
def test_what_is_no_bias_of_the_rows_is_left_alone(kind: str) -> None:
    subject = odd_biases(kind)
    graph, plan = subject.model.prepared(), subject.plan
    found, _ = round_weights(graph, plan, subject.ranges(), subject.samples)
    assert found.biases == {}
    exact = float_outputs(subject)
    assert sqnr_db(exact, outputs_of(subject, found)) > sqnr_db(exact, outputs_of(subject, Refinement())) - 0.5


def test_biases_are_added_to_the_channels_of_the_output(subject: Net) -> None:
    graph, plan = subject.model.prepared(), subject.plan
    last = plan.weights[-1]
    channels = constant_array(graph, last.tensor).shape[last.axis or 0]
    if last.node not in bias_edges(graph):
        pytest.skip("the last product has no bias to correct")
    delta = np.arange(channels, dtype=np.float32)
    plain = outputs_of(subject, Refinement())
    moved = outputs_of(subject, replace(Refinement(), biases={last.node: delta}))
    assert_close(moved - plain, np.broadcast_to(delta, plain.shape), abs=1e-4)


def test_a_bias_behind_another_product_is_corrected_in_the_stream_too() -> None:
    """MatMul A, MatMul B, Add A, Add B: the constant of A lies behind the stop at B."""
    g = Builder()
    x = g.input("x", 4)
    products = [g.op("MatMul", x, g.weight(4, 4, name=f"w{name}"), name=name) for name in "ab"]
    sums = [g.op("Add", product, g.constant(np.zeros(4)), name=f"add_{i}") for i, product in enumerate(products)]
    subject = net(g.model(*sums), {"x": images(8, 4)})
    graph, plan = subject.model.prepared(), subject.plan
    biases = bias_edges(graph)
    constants = {(edge.node, edge.index): constant_array(graph, edge.tensor) for edge in plan.weights}
    constants |= {(edge.owner, edge.index): old_bias(edge, 4) for edge in biases.values()}

    def visit(stop: Stop) -> NewConstants:
        return NewConstants(constant_array(graph, stop.edge.tensor), np.full(4, 100, np.float32))

    params = {name: QuantParams.from_amax(r.amax) for name, r in subject.ranges().items()}
    found = Walk(GraphPieces(graph), plan, params, biases, constants).run(
        subject.samples.batches, subject.outputs, visit
    )
    for name in subject.outputs:
        exact, moved = (np.concatenate([streams[i][name] for streams in found]) for i in (0, 1))
        assert_close(moved - exact, np.full(exact.shape, 100), abs=0.5)


def test_members_of_a_group_are_quantized_with_its_scale() -> None:
    """A Concat joins the readers: rounding sees the inputs that the INT8 model gives, not those of a finer scale."""
    g = Builder()
    a, b = g.op("Relu", g.input("a", 4, 6, 6)), g.op("Relu", g.input("b", 4, 6, 6))
    joined = g.op("Concat", a, b, axis=1)
    outputs = (g.conv(a, 4, 4, 1), g.conv(b, 4, 4, 1), g.conv(joined, 8, 4, 1))
    subject = net(g.model(*outputs), {"a": images(8, 4, 6, 6), "b": 0.01 * images(8, 4, 6, 6, seed=1)})
    assert any({a, b} <= group for group in subject.plan.groups)
    wide = max(r.amax for name, r in subject.ranges().items() if name in (a, b))
    seen: dict[str, np.ndarray] = {}

    def spy(self: Walk, *arguments: object, original=Walk.__init__) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        seen.update(self._params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Walk, "__init__", spy)
        round_weights(subject.model.prepared(), subject.plan, subject.ranges(), subject.samples)
    assert seen[a].scale == seen[b].scale == pytest.approx(wide / 127)
