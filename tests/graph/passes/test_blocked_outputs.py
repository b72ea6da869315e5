from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.backends.onnxruntime import OnnxRuntimeRunner, optimized_model
from quantkit.graph.model import share_weights
from quantkit.graph.passes.blocked_outputs import return_blocks
from quantkit.graph.passes.expose import expose
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import float_activations

from ..models import MODELS
from ..quantizing import load, random_inputs


def net(channels: int, rest: str = "", activation: str = "Relu(conv)") -> ir.Model:
    """x - Conv - Relu - first - Conv - second, whose first one has so many channels."""
    text = f"""
    <ir_version: 9, opset_import: ["": 17]>
    g (float[N, 16, 6, 5] x) => (float[N, C, H, W] first, float[N, 32, H, W] second, float[N, M] flat) {{
        conv = Conv<pads = [1, 1, 1, 1]>(x, w)
        low = Constant<value_float = 0.0>()
        high = Constant<value_float = 6.0>()
        first = {activation}
        second = Conv(first, v)
        {rest or "flat = Flatten(x)"}
    }}"""
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in (("w", (channels, 16, 3, 3)), ("v", (32, channels, 1, 1))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.standard_normal(shape, np.float32), name))
    return load(proto)


def run_both(graph: ir.Model) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None]:
    """What a model gives as it is, and with blocks, if there are any."""
    shared, inputs = share_weights(graph), random_inputs(graph)
    blocked = return_blocks(optimized_model(shared))
    with OnnxRuntimeRunner(shared) as runner:
        plain = runner.run(inputs)
    if blocked is None:
        return plain, None
    with OnnxRuntimeRunner(blocked, is_optimized=True) as runner:
        return plain, runner.run(inputs)


def assert_same_values(plain: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Bit for bit, in any order within a sample."""
    assert list(plain) == list(found)
    for name, values in plain.items():
        rows = len(values) if values.ndim > 3 else 1  # blocks have four dimensions, the first one is the batch
        one, other = (np.sort(array.reshape(rows, -1).view(np.int32), axis=1) for array in (values, found[name]))
        np.testing.assert_array_equal(one, other)


def needs_blocks(found: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    if found is None:
        pytest.skip("ONNX Runtime computes without blocks on this processor")
    return found


def test_blocks_hold_the_values_of_a_sample() -> None:
    plain, found = run_both(net(64))
    found = needs_blocks(found)
    assert_same_values(plain, found)
    assert not np.array_equal(plain["second"], found["second"])


@pytest.mark.parametrize("activation", ["Relu(conv)", "Clip(conv, low, high)"])
def test_an_activation_whose_input_is_observed_works_on_blocks(activation: str) -> None:
    plain, found = run_both(expose(net(64, activation=activation), ["conv", "first", "second"]))
    found = needs_blocks(found)
    assert_same_values(plain, found)
    assert not any(np.array_equal(plain[name], found[name]) for name in plain)


def test_an_activation_of_a_transposed_tensor_stays_in_the_plain_layout() -> None:
    """The convolution behind it reads as channels what the Transpose, a part of the reorder, puts there."""
    text = """<ir_version: 9, opset_import: ["": 17]>
    g (float[N, 16, 16, 16] x) => (float[N, C, H, W] across, float[N, C, H, W] first, float[N, C, H, W] second) {
        conv = Conv(x, w)
        across = Transpose<perm = [0, 2, 3, 1]>(conv)
        first = Relu(across)
        second = Conv(first, w)
    }"""
    proto = onnx.parser.parse_model(text)
    weights = np.random.default_rng(0).standard_normal((16, 16, 1, 1), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    plain, found = run_both(load(proto))
    assert_same_values(plain, needs_blocks(found))


def test_blocks_that_are_filled_up_are_not_returned() -> None:
    plain, found = run_both(net(20))
    found = needs_blocks(found)
    assert_same_values(plain, found)
    np.testing.assert_array_equal(plain["first"], found["first"])
    assert not np.array_equal(plain["second"], found["second"])


def test_what_is_read_in_the_plain_layout_stays_in_it() -> None:
    plain, found = run_both(net(64, "flat = Flatten(second)"))
    found = needs_blocks(found)
    assert_same_values(plain, found)
    np.testing.assert_array_equal(plain["second"], found["second"])


@pytest.mark.parametrize("node", ["y = Relu(x)", "y = MaxPool<kernel_shape = [1, 1]>(x)"])
def test_a_model_without_convolutions_has_no_blocks(node: str) -> None:
    graph = f"g (float[N, 16, 4, 4] x) => (float[N, 16, 4, 4] y) {{ {node} }}"
    text = f"""<ir_version: 9, opset_import: ["": 17]> {graph}"""
    assert return_blocks(optimized_model(share_weights(load(onnx.parser.parse_model(text))))) is None


@pytest.mark.parametrize("name", list(MODELS))
def test_every_activation_has_the_same_values(name: str) -> None:
    graph = prepare(load(MODELS[name]()), name=name)
    plain, found = run_both(expose(graph, float_activations(graph)))
    if found is not None:
        assert_same_values(plain, found)
