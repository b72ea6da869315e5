"""What ONNX Runtime makes of the CPU placement: which operators it runs in integers, and how near the result is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import CalibrationError, ModelError
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.activation_bounds import activation_bounds
from quantkit.graph.placement.onnxruntime_cpu import plan_cpu
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.graph.quant_params import cpu_params
from quantkit.graph.quantize_cpu import cpu_tensors, quantize_for_cpu
from quantkit.processor import products_saturate
from quantkit.types import TensorRange

SHAPE = (1, 16, 8, 8)


class Net:
    """A small model, written operator by operator; every method returns the name of what it made."""

    def __init__(self, shape: tuple[int | str, ...] = SHAPE, opset: int = 17) -> None:
        self.shape, self.opset = shape, opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def const(self, array: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        name = f"{kind}_{len(self.nodes)}"
        names = [f"{name}_out{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name, **attributes))
        return names[0]

    def conv(self, x: str, channels: int = 16, out: int = 16, kernel: int = 1, group: int = 1, stride: int = 1) -> str:
        weight = self.rng.normal(0, (channels // group * kernel**2) ** -0.5, (out, channels // group, kernel, kernel))
        constants = self.const(weight), self.const(self.rng.normal(0, 0.1, out))
        return self.op("Conv", x, *constants, pads=[kernel // 2] * 4, group=group, strides=[stride] * 2)

    def model(self, *outputs: str) -> ir.Model:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shape))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        proto = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
        return prepare(ir.from_proto(proto), name="net")


def run(model: onnx.ModelProto, x: np.ndarray, path: Path | None = None) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if path is not None:
        options.optimized_model_filepath = str(path)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, {"x": x})]


def ranges_of(model: ir.Model, x: np.ndarray) -> dict[str, TensorRange]:
    """Min-max over one sample of every float tensor."""
    proto = ir.to_proto(model.clone())
    names = [name for name in float_activations(model) if name != "x"]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    values = {"x": x, **dict(zip(names, run(proto, x), strict=True))}
    return {
        name: TensorRange(amax=float(np.abs(v).max()), minimum=float(v.min()), maximum=float(v.max()))
        for name, v in values.items()
        if np.abs(v).max() > 0
    }


def quantized(model: ir.Model, tmp_path: Path, **options: object) -> tuple[Counter[str], float]:
    """Operators of the graph that ONNX Runtime runs, and the SQNR of its first output in dB."""
    x = np.random.default_rng(1).normal(size=[d if isinstance(d, int) else 1 for d in model.graph.inputs[0].shape])
    x = x.astype(np.float32)
    reference = run(ir.to_proto(model.clone()), x)[0]
    ranges = ranges_of(model, x)
    needed = cpu_tensors(model)
    assert set(needed) <= set(float_activations(model))
    zero = set(needed) - set(ranges)
    result, _ = quantize_for_cpu(model, ranges, always_zero=zero, reduce_range=products_saturate(), **options)  # type: ignore[arg-type]
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    path = tmp_path / "optimized.onnx"
    noise = run(proto, x, path)[0] - reference
    ops = Counter(node.op_type for node in onnx.load(path).graph.node)
    return ops, 10 * float(np.log10(np.square(reference).sum() / np.square(noise).sum()))


def classifier(net: Net, x: str, channels: int = 16) -> str:
    """What ends every net here, so that all before it lies between quantized operators."""
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.op(
        "Gemm", x, net.const(net.rng.normal(size=(10, channels))), net.const(net.rng.normal(size=10)), transB=1
    )


TAIL = {"QLinearGlobalAveragePool": 1, "Flatten": 1, "QGemm": 1, "QuantizeLinear": 1, "Transpose": 2}


@pytest.mark.processor
@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("activation", ["none", "Relu", "Clip"])
def test_a_chain_of_convolutions_runs_in_integers_only(activation: str, opset: int, tmp_path: Path) -> None:
    net, x = Net(opset=opset), "x"
    for _ in range(3):
        x = net.conv(x, kernel=3)
        if activation == "Relu":
            x = net.op("Relu", x)
        elif activation == "Clip":
            x = net.op("Clip", x, net.const(0.0), net.const(0.7))
    ops, sqnr = quantized(net.model(classifier(net, x)), tmp_path)
    assert ops == {"QLinearConv": 3, **TAIL}
    assert sqnr > 25


@pytest.mark.processor
def test_depthwise_and_strided_convolutions_run_in_integers(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Relu", net.conv("x", out=32))
    x = net.op("Relu", net.conv(x, 32, 32, kernel=3, group=32, stride=2))
    ops, _ = quantized(net.model(classifier(net, net.conv(x, 32, 16))), tmp_path)
    assert ops == {"QLinearConv": 3, **TAIL}


@pytest.mark.processor
@pytest.mark.parametrize("relu", [True, False])
def test_a_residual_add_runs_in_integers(relu: bool, tmp_path: Path) -> None:
    net = Net()
    start = net.op("Relu", net.conv("x"))
    x = net.op("Add", net.conv(net.op("Relu", net.conv(start)), kernel=3), start)
    x = net.op("Relu", x) if relu else x
    ops, sqnr = quantized(net.model(classifier(net, net.conv(x))), tmp_path)
    assert ops == {"QLinearConv": 4, "QLinearAdd": 1, **TAIL}
    assert sqnr > 25


@pytest.mark.processor
def test_silu_runs_in_integers_and_its_input_has_no_codes_for_nothing(tmp_path: Path) -> None:
    net = Net()
    conv = net.conv("x")
    x = net.op("Mul", conv, net.op("Sigmoid", conv))
    model = net.model(classifier(net, net.conv(x)))
    bounds = activation_bounds(model, plan_cpu(model))
    assert bounds[conv] == (-6.0, np.inf)
    ops, sqnr = quantized(model, tmp_path)
    assert ops == {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1, **TAIL}
    assert sqnr > 25


def test_bounds_that_are_no_number_bound_nothing() -> None:
    net = Net()
    conv = net.conv("x")
    clipped = net.op("Clip", conv, net.const(np.array(-np.inf)), net.const(np.array(np.nan)))
    model = net.model(classifier(net, net.conv(clipped)))
    assert not any(np.isnan(value) for pair in activation_bounds(model, plan_cpu(model)).values() for value in pair)


@pytest.mark.processor
@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_squeeze_and_excite_scales_codes(gate: str, tmp_path: Path) -> None:
    net = Net()
    x = net.op("Relu", net.conv("x"))
    pooled = net.op("ReduceMean", x, axes=[2, 3], keepdims=1)
    scale = net.op(gate, net.conv(net.op("Relu", net.conv(pooled, 16, 4)), 4, 16))
    ops, sqnr = quantized(net.model(classifier(net, net.conv(net.op("Mul", x, scale)))), tmp_path)
    assert ops["QLinearConv"] == 4
    assert ops["QLinearMul"] == 1
    assert ops["QLinearGlobalAveragePool"] == 2
    assert ops["ReduceMean"] == ops["Conv"] == ops["Mul"] == 0
    assert sqnr > 25


def test_a_gate_is_never_clipped() -> None:
    net = Net()
    conv = net.conv("x")
    gate = net.op("Sigmoid", conv)
    model = net.model(classifier(net, net.conv(net.op("Mul", conv, gate))))
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    ranges = ranges_of(model, x)
    maximum = ranges[gate].maximum
    ranges[gate] = TensorRange(amax=maximum / 8, minimum=0.0, maximum=maximum)
    result, _ = quantize_for_cpu(model, ranges)
    scale = result.graph.initializers[f"{gate}_scale"].const_value
    assert scale is not None
    np.testing.assert_allclose(scale.numpy() * 255, maximum, rtol=1e-6)


@pytest.mark.processor
@pytest.mark.parametrize("kind", ["HardSwish", "Tanh", "Elu", "Softplus"])
def test_a_float_activation_leaves_the_convolutions_around_it_in_integers(kind: str, tmp_path: Path) -> None:
    net = Net()
    ops, sqnr = quantized(net.model(classifier(net, net.conv(net.op(kind, net.conv("x"))))), tmp_path)
    assert ops["QLinearConv"] == 2
    assert ops["Conv"] == 0
    assert sqnr > 20


@pytest.mark.processor
@pytest.mark.parametrize(
    ("kind", "attributes", "integer"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}, "NhwcMaxPool"),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, "QLinearAveragePool"),
        ("LeakyRelu", {"alpha": 0.1}, "QLinearLeakyRelu"),
    ],
)
def test_pools_run_in_integers(kind: str, attributes: dict[str, object], integer: str, tmp_path: Path) -> None:
    net = Net()
    x = net.op(kind, net.conv("x", kernel=3), **attributes)
    ops, _ = quantized(net.model(classifier(net, net.conv(x))), tmp_path)
    assert ops == {"QLinearConv": 2, integer: 1, **TAIL}


@pytest.mark.processor
@pytest.mark.parametrize("activation", ["none", "Relu", "Clip", "mixed"])
def test_concat_runs_in_integers(activation: str, tmp_path: Path) -> None:
    net = Net()
    left, right = net.conv("x"), net.conv("x", kernel=3)
    if activation == "Clip":
        right = net.op("Clip", right, net.const(0.0), net.const(0.5))
    elif activation != "none":
        right = net.op("Relu", right)
    if activation == "Relu":
        left = net.op("Relu", left)
    ops, _ = quantized(net.model(classifier(net, net.conv(net.op("Concat", left, right, axis=1), 32))), tmp_path)
    assert ops["QLinearConv"] == 3
    assert ops["QLinearConcat"] == 1
    assert ops["DequantizeLinear"] == ops["Conv"] == ops["Relu"] == 0


def test_members_of_a_concat_share_a_scale_only_where_it_costs_nothing() -> None:
    net = Net()
    shared, own = net.conv("x"), net.conv("x")
    x = net.op("Concat", shared, own, axis=1)
    net.op("Add", own, net.conv(own))
    model = net.model(classifier(net, net.conv(net.op("Concat", x, net.nodes[-1].output[0], axis=1), 48), 16))
    groups = plan_cpu(model).groups
    assert any({shared, x} <= group for group in groups)
    assert not any(own in group for group in groups)


@pytest.mark.processor
def test_copies_move_codes(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Reshape", net.op("Relu", net.conv("x")), net.const([1, 2, 8, 8, 8], np.int64))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.const([1, 16, 8, 8], np.int64))
    ops, _ = quantized(net.model(classifier(net, net.conv(x))), tmp_path)
    assert ops["QuantizeLinear"] == 1
    assert ops["DequantizeLinear"] == 0


@pytest.mark.processor
def test_an_upsampled_skip_connection_stays_in_codes(tmp_path: Path) -> None:
    net = Net()
    skip = net.op("Relu", net.conv("x"))
    down = net.op("Relu", net.conv(skip, kernel=3, stride=2))
    sizes = net.const([1, 1, 2, 2])
    up = net.op("Resize", down, "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric")
    ops, _ = quantized(net.model(classifier(net, net.conv(net.op("Concat", up, skip, axis=1), 32))), tmp_path)
    assert ops["QLinearConcat"] == ops["Resize"] == 1
    assert ops["DequantizeLinear"] == 0


@pytest.mark.processor
def test_zero_padding_is_folded_or_done_on_codes(tmp_path: Path) -> None:
    net = Net()
    padded = net.op("Pad", net.op("Relu", net.conv("x")), net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    folded = net.conv(padded, kernel=3)
    wider = net.op("Pad", net.op("Relu", folded), net.const([0, 4, 0, 0, 0, 4, 0, 0], np.int64))
    ops, sqnr = quantized(net.model(classifier(net, net.conv(wider, 24))), tmp_path)
    assert ops["Pad"] == 1
    assert ops["QLinearConv"] == 3
    assert ops["DequantizeLinear"] == 0
    assert ops["QuantizeLinear"] == 1
    assert sqnr > 25


@pytest.mark.processor
def test_batch_normalization_is_folded(tmp_path: Path) -> None:
    net = Net()
    statistics = [net.const(net.rng.uniform(0.5, 2, 16)) for _ in range(4)]
    x = net.op("Relu", net.op("BatchNormalization", net.conv("x"), *statistics))
    ops, sqnr = quantized(net.model(classifier(net, net.conv(x))), tmp_path)
    assert ops == {"QLinearConv": 2, **TAIL}
    assert sqnr > 25


@pytest.mark.processor
@pytest.mark.parametrize("channels", [1, 3])
def test_a_first_convolution_over_image_channels(channels: int, tmp_path: Path) -> None:
    net = Net((1, channels, 8, 8))
    x = net.op("Relu", net.conv("x", channels, 16, kernel=3))
    ops, sqnr = quantized(net.model(classifier(net, net.conv(x))), tmp_path)
    assert ops["QLinearConv"] == 2
    assert ops["Pad"] == (channels == 3)
    assert sqnr > 25


@pytest.mark.processor
def test_padding_the_channels_of_the_first_convolution_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs() -> np.ndarray:
        net = Net((1, 3, 8, 8))
        model = net.model(classifier(net, net.op("Relu", net.conv("x", 3, 16, kernel=3))))
        x = np.random.default_rng(2).normal(size=(1, 3, 8, 8)).astype(np.float32)
        result, _ = quantize_for_cpu(model, ranges_of(model, x), reduce_range=products_saturate())
        return run(ir.to_proto(result), x)[0]

    padded = outputs()
    monkeypatch.setattr("quantkit.graph.quantize_cpu.align_channels", lambda model: model)
    np.testing.assert_array_equal(padded, outputs())


@pytest.mark.processor
@pytest.mark.parametrize(
    ("shape", "integer"), [((4, 32), "QGemm"), ((2, 4, 32), "QGemm"), (("batch", 4, 32), "MatMulIntegerToFloat")]
)
def test_a_multilayer_perceptron_runs_in_integers(shape: tuple[int | str, ...], integer: str, tmp_path: Path) -> None:
    net, x = Net(shape), "x"
    for _ in range(3):
        x = net.op("MatMul", x, net.const(net.rng.normal(0, 0.2, (32, 32))))
        x = net.op("Relu", net.op("Add", x, net.const(net.rng.normal(size=32))))
    ops, sqnr = quantized(net.model(x), tmp_path)
    assert ops[integer] == 3
    assert ops["MatMul"] == ops["Gemm"] == 0
    assert sqnr > 25


@pytest.mark.processor
def test_a_transformer_block_keeps_attention_and_residual_stream_in_float(tmp_path: Path) -> None:
    net = Net((1, 8, 32))
    dense = lambda x: net.op("MatMul", x, net.const(net.rng.normal(0, 0.2, (32, 32))))  # noqa: E731
    normed = net.op("LayerNormalization", "x", net.const(np.ones(32)), net.const(np.zeros(32)))
    query, key, value = dense(normed), dense(normed), dense(normed)
    scores = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 2, 1])))
    stream = net.op("Add", "x", dense(net.op("MatMul", scores, value)))
    model = net.model(net.op("LayerNormalization", stream, net.const(np.ones(32)), net.const(np.zeros(32))))
    plan = plan_cpu(model)
    assert {edge.tensor for edge in plan.activations} == {normed, net.nodes[-4].output[0]}
    assert sum("two activations" in reason for reason in plan.skipped.values()) == 2
    ops, _ = quantized(model, tmp_path)
    assert ops["MatMulIntegerToFloat"] == 4
    assert ops["DequantizeLinear"] == 0


def test_a_patch_embedding_stays_in_float() -> None:
    net = Net((1, 3, 8, 8))
    x = net.op("Reshape", net.conv("x", 3, 32, kernel=1), net.const([1, 32, 64], np.int64))
    x = net.op("LayerNormalization", x, net.const(np.ones(64)), net.const(np.zeros(64)))
    model = net.model(net.op("MatMul", x, net.const(np.ones((64, 10)))))
    plan = plan_cpu(model)
    assert [edge.node for edge in plan.weights] == ["MatMul_3"]
    assert "no quantized operator before or after" in plan.skipped["Conv_0"]


@pytest.mark.processor
def test_a_convolution_that_writes_a_model_output_stays_in_float(tmp_path: Path) -> None:
    net = Net()
    model = net.model(net.conv(net.op("Relu", net.conv("x"))))
    assert plan_cpu(model).skipped["Conv_2"].startswith("its output is a model output")
    ops, _ = quantized(model, tmp_path)
    assert ops["QLinearConv"] == ops["Conv"] == 1


@pytest.mark.processor
def test_a_tensor_that_is_also_a_model_output_does_not_cost_the_integer_kernel(tmp_path: Path) -> None:
    net = Net()
    feature = net.op("Relu", net.conv("x"))
    ops, _ = quantized(net.model(feature, classifier(net, net.conv(feature))), tmp_path)
    assert ops["QLinearConv"] == 2
    assert ops["Conv"] == 0


@pytest.mark.processor
def test_a_shape_that_is_read_off_a_convolution_does_not_cost_the_integer_kernel(tmp_path: Path) -> None:
    net = Net()
    conv = net.conv("x")
    start = net.op("Slice", net.op("Shape", conv), net.const([0], np.int64), net.const([2], np.int64))
    shape = net.op("Concat", start, net.const([-1], np.int64), axis=0)
    x = net.op("ReduceMax", net.op("Reshape", net.conv(conv), shape), axes=[2], keepdims=0)
    x = net.op("Gemm", x, net.const(np.eye(16)), net.const(np.zeros(16)))
    ops, _ = quantized(net.model(x), tmp_path)
    assert ops["QLinearConv"] == 2
    assert ops["Conv"] == 0


@pytest.mark.processor
def test_exclusions_keep_nodes_in_float_and_the_rest_in_integers(tmp_path: Path) -> None:
    net, x = Net(), "x"
    for _ in range(4):
        x = net.op("Relu", net.conv(x))
    ops, _ = quantized(net.model(classifier(net, x)), tmp_path, exclude=["Conv_4"])
    assert ops["QLinearConv"] == 3
    assert ops["Conv"] == 1


@pytest.mark.processor
def test_a_transposed_convolution_keeps_its_weight(tmp_path: Path) -> None:
    net = Net()
    weight = net.const(net.rng.normal(size=(16, 16, 2, 2)))
    up = net.op("ConvTranspose", net.op("Relu", net.conv(net.conv("x"))), weight, strides=[2, 2])
    model = net.model(classifier(net, net.conv(net.op("Relu", up))))
    assert "no integer kernel" in plan_cpu(model).skipped["ConvTranspose_3"]
    ops, sqnr = quantized(model, tmp_path)
    assert ops["QLinearConv"] == 3
    assert ops["ConvTranspose"] == 1
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    read = next(node.input[1] for node in optimized.node if node.op_type == "ConvTranspose")
    assert read in {tensor.name for tensor in optimized.initializer if tensor.data_type == TensorProto.FLOAT}
    assert sqnr > 25


def test_an_unknown_exclusion_and_a_model_without_weights_are_errors() -> None:
    net = Net()
    model = net.model(net.op("Relu", net.conv(net.op("Relu", "x"))))
    with pytest.raises(ModelError, match="matches no node"):
        plan_cpu(model, exclude=["nothing"])
    with pytest.raises(ModelError, match="no node to quantize: excluded by 'Conv'"):
        plan_cpu(model, exclude=["Conv"])
    empty = Net()
    with pytest.raises(ModelError, match="has no Conv, Gemm or MatMul"):
        plan_cpu(empty.model(empty.op("Relu", "x")))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [(np.float16, "export it in FP32, or use --target tensorrt"), (np.float64, "export it in FP32")],
)
def test_another_type_is_an_error_with_what_helps(dtype: type, remedy: str) -> None:
    net = Net((2, 4))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    product = net.op("MatMul", net.op("Cast", "x", to=kind), net.const(np.ones((4, 3)), dtype))
    model = net.model(net.op("Cast", product, to=TensorProto.FLOAT))
    with pytest.raises(ModelError, match=f"^m.onnx has no node to quantize: its inputs are not FP32; {remedy}$"):
        plan_cpu(model, name="m.onnx")
    with pytest.raises(ModelError, match=r"excluded by 'MatMul'$"):
        plan_cpu(model, name="m.onnx", exclude=["MatMul"])


def test_a_missing_range_names_the_tensor() -> None:
    net = Net()
    conv = net.conv("x")
    model = net.model(classifier(net, conv))
    with pytest.raises(CalibrationError, match="'x'"):
        quantize_for_cpu(model, {conv: TensorRange(1, -1, 1)})


@pytest.mark.processor
def test_a_tensor_that_was_zero_on_every_sample_does_not_cost_the_integer_kernel(tmp_path: Path) -> None:
    net = Net()
    dead = net.op("Clip", net.conv("x"), net.const(0.0), net.const(1e-30))
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    model = net.model(classifier(net, net.op("Add", net.conv("x"), net.conv(dead))))
    ranges = {name: r for name, r in ranges_of(model, x).items() if name != dead}
    result, _ = quantize_for_cpu(model, ranges, always_zero=[dead])
    path = tmp_path / "optimized.onnx"
    assert np.isfinite(run(ir.to_proto(result), x, path)[0]).all()
    assert Counter(n.op_type for n in onnx.load(path).graph.node)["QLinearConv"] == 3


@pytest.mark.processor
def test_a_bias_that_would_overflow_raises_the_scale_of_its_weights(tmp_path: Path) -> None:
    net = Net()
    weight = np.full((16, 16, 1, 1), 0.1)
    weight[3] = 1e-12
    x = net.op("Conv", "x", net.const(weight), net.const(np.full(16, 5.0)))
    ops, sqnr = quantized(net.model(classifier(net, x)), tmp_path)
    assert ops["QLinearConv"] == 1
    assert sqnr > 25


def test_reduced_range_leaves_room_for_the_sum_of_two_products(tmp_path: Path) -> None:
    net = Net()
    model = net.model(classifier(net, net.conv("x", kernel=3)))
    x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    result, _ = quantize_for_cpu(model, ranges_of(model, x), reduce_range=True)
    readers = [node for node in result.graph if node.op_type == "DequantizeLinear"]
    stored = [(node, node.inputs[0].const_value) for node in readers if node.inputs[0].dtype is ir.DataType.INT8]
    weights = [np.moveaxis(codes.numpy(), node.attributes["axis"].as_int(), 0) for node, codes in stored if codes]
    assert len(weights) == 2
    for rows in (array.reshape(len(array), -1).astype(int) for array in weights):
        for sign in (1, -1):
            assert np.sort(sign * rows, axis=1)[:, -2:].clip(0).sum(axis=1).max() <= 128
    assert 63 < max(np.abs(array.astype(int)).max() for array in weights) < 127


def test_asking_which_tensors_are_needed_leaves_the_model_as_it_is() -> None:
    net = Net()
    statistics = [net.const(np.ones(16)) for _ in range(4)]
    model = net.model(classifier(net, net.op("BatchNormalization", net.conv("x"), *statistics)))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    cpu_tensors(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@given(
    minimum=st.floats(-1e4, 1e4, width=32),
    width=st.floats(0, 1e4, width=32),
    keep=st.floats(0.1, 1),
    high=st.floats(0.015625, 1e4, width=32) | st.just(float("inf")),
)
@settings(max_examples=300, deadline=None)
def test_codes_hold_zero_exactly_and_cover_the_range(minimum: float, width: float, keep: float, high: float) -> None:
    maximum = minimum + width
    amax = max(abs(minimum), abs(maximum), 1e-3) * keep
    params = cpu_params(TensorRange(amax=amax, minimum=minimum, maximum=maximum), high=high)
    scale, zero = np.float32(params.scale), params.zero_point
    low, top = scale * np.float32(0 - zero), scale * np.float32(255 - zero)
    assert params.dtype == np.uint8
    wanted_low, wanted_top = min(0.0, max(minimum, -amax)), max(0.0, min(maximum, amax, high))
    # Rounding the zero point moves the interval by up to half a code.
    assert low <= wanted_low + float(scale) * 0.51
    assert top >= wanted_top - float(scale) * 0.51
    if wanted_low == 0:
        assert zero == 0
        assert top <= np.float32(high)
