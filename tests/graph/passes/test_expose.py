from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.errors import ModelError
from quantkit.graph.passes.expose import activation_bytes, batch_first, expose, hide_copies
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import float_activations

from ..models import MODELS
from ..quantizing import load, random_inputs, run


@pytest.mark.parametrize("name", list(MODELS))
def test_every_activation_can_be_observed(name: str) -> None:
    graph = prepare(load(MODELS[name]()), name=name)
    tensors = float_activations(graph)
    inputs = random_inputs(graph)
    plain = run(graph, inputs)
    found = run(expose(graph, tensors), inputs)
    assert list(found) == [t for t in tensors if t not in inputs]
    for output, values in plain.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_hidden_tensors_hold_the_values_of_others(name: str) -> None:
    graph = prepare(load(MODELS[name]()), name=name)
    tensors = float_activations(graph)
    inputs = random_inputs(graph)
    everything = inputs | run(expose(graph, tensors), inputs)
    copies = hide_copies(graph, tensors, batch_first(graph))
    assert {v.name for v in graph.graph.outputs} >= {t for t in tensors if t not in inputs and t not in copies}
    for copy, source in copies.items():
        assert source not in copies
        np.testing.assert_array_equal(np.sort(everything[copy], axis=None), np.sort(everything[source], axis=None))


def chain() -> ir.Model:
    """x - Relu - relu - Transpose - turned - Reshape - flat - Relu - y: the batch is first in x, relu and y alone."""
    text = """
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 2, 3] x) => (float[M] y) {
        relu = Relu(x)
        turned = Transpose<perm = [1, 0, 2]>(relu)
        shape = Constant<value_ints = [-1]>()
        flat = Reshape(turned, shape)
        y = Relu(flat)
    }"""
    return load(onnx.parser.parse_model(text))


def test_copies_of_copies_are_hidden_where_the_batch_allows_it() -> None:
    names = ["relu", "turned", "flat", "y"]
    assert hide_copies(expose(chain(), names), names, {"relu"}) == {"flat": "turned"}
    assert hide_copies(expose(chain(), names), names, set()) == {"turned": "relu", "flat": "relu"}
    assert hide_copies(expose(chain(), ["flat", "y"]), ["flat", "y"], set()) == {}


def test_what_nothing_needs_is_removed() -> None:
    graph = prepare(load(MODELS["conv_relu"]()), name="model")
    first = next(iter(graph.graph)).outputs[0].name
    assert [n.op_type for n in expose(graph, [first]).graph] == ["Conv"]


def test_inputs_alone_leave_the_outputs() -> None:
    """A model whose only quantized tensor is its input has to be run all the same."""
    model = MODELS["matmul_constant_left"]()
    graph = expose(prepare(load(model), name="model"), ["x"])
    assert [v.name for v in graph.graph.outputs] == [v.name for v in model.graph.output]


def test_unknown_tensor() -> None:
    graph = prepare(load(MODELS["conv_relu"]()), name="model")
    with pytest.raises(ModelError, match="no tensor 'nowhere'"):
        expose(graph, ["x", "nowhere"])


@pytest.mark.parametrize("name", ["residual_identity", "stem_maxpool"])
def test_bytes_are_those_of_the_outputs(name: str) -> None:
    graph = prepare(load(MODELS[name]()), name=name)
    tensors = [t for t in float_activations(graph) if t != "x"]
    inputs = random_inputs(graph, batch=3)
    sizes = activation_bytes(graph, tensors, {k: v.shape for k, v in inputs.items()})
    assert sizes == {t: v.nbytes for t, v in run(expose(graph, tensors), inputs).items()}


def test_an_unknown_shape_is_taken_for_large() -> None:
    graph = prepare(load(MODELS["conv_relu"]()), name="model")
    assert min(activation_bytes(graph, ["not there"], {}).values()) > 1 << 20
