"""Where the bias of a weighted operator is, and what adding to it does to the output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from quantkit.graph.layer_constants import add_biases, bias_edges
from quantkit.graph.passes.prepare import prepare

from .builder import Builder
from .quantizing import load, random_inputs, run

LAYERS: dict[str, Callable[[Builder], str]] = {
    "conv": lambda g: g.conv(g.input("x", 3, 6, 6), 3, 4, name="layer"),
    "conv without bias": lambda g: g.conv(g.input("x", 3, 6, 6), 3, 4, bias=False, name="layer"),
    "conv transpose": lambda g: g.op("ConvTranspose", g.input("x", 3, 6, 6), g.weight(3, 4, 2, 2), name="layer"),
    "gemm with beta": lambda g: g.op(
        "Gemm", g.input("x", 6), g.weight(6, 4), g.constant(np.ones(4)), beta=0.5, name="layer"
    ),
    "matmul and add": lambda g: g.op(
        "Add", g.constant(np.ones(4)), g.op("MatMul", g.input("x", 5, 6), g.weight(6, 4), name="layer")
    ),
}


def prepared(make: Callable[[Builder], str]) -> ir.Model:
    g = Builder()
    return prepare(load(g.model(make(g))), name="model")


@pytest.mark.parametrize("name", LAYERS)
def test_adding_to_a_bias_moves_the_channels_of_the_output(name: str) -> None:
    graph, other = prepared(LAYERS[name]), prepared(LAYERS[name])
    inputs = random_inputs(graph)
    delta = np.array([1, -2, 0, 0.5], np.float32)
    assert list(bias_edges(graph)) == ["layer"]
    add_biases(graph, {"layer": delta})
    ((_, moved),), ((_, plain),) = run(graph, inputs).items(), run(other, inputs).items()
    axis = 1 if plain.ndim == 4 else -1
    assert np.moveaxis(moved - plain, axis, -1) == pytest.approx(
        np.broadcast_to(delta, plain.shape[:1] + tuple(np.moveaxis(plain, axis, -1).shape[1:])), abs=1e-5
    )


def test_a_bias_that_two_operators_share_is_changed_for_one_of_them() -> None:
    g = Builder()
    x, bias = g.input("x", 3, 6, 6), g.constant(np.ones(4))
    outputs = [g.op("Conv", x, g.weight(4, 3, 1, 1), bias, name=name) for name in ("first", "second")]
    model = g.model(*outputs)
    graph = prepare(load(model), name="model")
    inputs = random_inputs(graph)
    plain = run(model, inputs)
    add_biases(graph, {"first": np.ones(4, np.float32)})
    moved = run(graph, inputs)
    assert moved["first_out"] - plain["first_out"] == pytest.approx(np.ones_like(plain["first_out"]), abs=1e-5)
    assert (moved["second_out"] == plain["second_out"]).all()


def test_a_product_that_others_read_too_has_no_bias() -> None:
    g = Builder()
    y = g.op("MatMul", g.input("x", 5, 6), g.weight(6, 4), name="layer")
    graph = prepare(load(g.model(g.op("Add", y, g.constant(np.ones(4))), g.op("Neg", y))), name="model")
    assert bias_edges(graph) == {}
