from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import quantkit
from quantkit.caches.complete import check_complete, constant_ranges, coverage_of, ranges_for_cache
from quantkit.caches.formats.tensorrt_cache import parse_cache
from quantkit.commands.quantize import write_tensorrt_cache
from quantkit.errors import IncompleteCacheError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.types.calibration import NOT_FINITE

from ..graph.builder import Builder
from ..graph.quantizing import write


@pytest.fixture
def network(tmp_path):
    """A convolution that is scaled by a constant, and a mask of minus infinity that nothing quantized reads."""
    g = Builder()
    conv = g.conv(g.input("x", 3, 8, 8), 3, 4)
    scaled = g.op("Mul", conv, g.constant([[[-2.5]]], name="factor"))
    dead = g.op("Min", scaled, g.constant(0.0, name="zero"))
    masked = g.op("Mul", g.op("Max", dead, g.constant(0.0, name="nought")), g.constant(3.0, name="three"))
    return write(g.model(g.op("Add", scaled, masked)), tmp_path / "net.onnx")


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    return tmp_path / "x.npy"


def test_a_cache_lists_every_activation_and_for_tensorrt_10_constants_by_the_parsers_names(network, data, tmp_path):
    table = quantkit.calibrate(network, data, method="minmax", progress=False)
    names = float_activations(FloatModel(network).prepared())
    assert table.always_zero  # max(min(x, 0), 0)
    for version, constants in (("10.3.0", {"factor_output": 2.5, "three_output": 3.0}), ("8.6.1", {})):
        cache = parse_cache(write_tensorrt_cache(network, table, tmp_path / "c", tensorrt_version=version).read_text())
        assert list(cache.amax)[: len(names)] == list(names)
        assert all(value > 0 for value in cache.amax.values())
        named = {name: value for name, value in cache.amax.items() if name not in names}
        assert {n: pytest.approx(v) for n, v in constants.items()}.items() <= named.items()
        assert bool(named) == bool(constants)


def test_weights_of_convolutions_are_no_constants_of_the_network(network):
    assert set(constant_ranges(FloatModel(network).prepared())) == {
        "factor_output",
        "zero_output",
        "nought_output",
        "three_output",
    }


def test_a_table_that_lacks_activations_is_refused_by_name(network, data, tmp_path):
    table = quantkit.calibrate(network, data, method="minmax", progress=False, all_tensors=False)
    assert len(table.tensors) < len(float_activations(FloatModel(network).prepared()))
    with pytest.raises(IncompleteCacheError, match=r"have none: .*Mul.*calibrate without --no-all-tensors"):
        write_tensorrt_cache(network, table, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_coverage_names_the_layers_at_what_is_missing(network):
    graph = FloatModel(network).prepared()
    names = float_activations(graph)
    full = coverage_of(graph, dict.fromkeys(names, 1.0))
    assert (full.share, full.missing, full.layers) == (1, (), ())
    some = coverage_of(graph, {**dict.fromkeys(names, 1.0), "x": 0.0})
    assert some.missing == ("x",)
    assert [node.op_type for node in graph.graph if node.name in some.layers] == ["Conv"]
    assert str(some).startswith(f"scales for {len(names) - 1} of the {len(names)} activations")


def test_what_is_not_finite_and_not_needed_ends_no_calibration(tmp_path, data):
    g = Builder()
    conv = g.conv(g.input("x", 3, 8, 8), 3, 4)
    infinite = g.op("Where", g.op("Less", conv, g.constant(0.0)), g.constant(-np.inf), conv)
    model = write(g.model(g.op("Relu", infinite)), tmp_path / "net.onnx")
    table = quantkit.calibrate(model, data, method="minmax", progress=False)
    assert table.skipped == {infinite: NOT_FINITE}
    assert table.always_zero == ()
    graph = FloatModel(model).prepared()
    amax = ranges_for_cache(graph, {n: r.amax for n, r in table.tensors.items()}, version=8601)
    with pytest.raises(IncompleteCacheError, match=f"{infinite}.*NaN or infinite"):
        check_complete(graph, amax, table.skipped)


def save_classifier(path, image, scores, nodes, weights):
    """Adds the TopK of MLPerf's classifiers, whose second output is an integer, and writes the model."""
    outputs = ["topk_layer_output_value", "topk_layer_output_index"]
    weights.append(numpy_helper.from_array(np.array([1]), "k"))
    nodes.append(helper.make_node("TopK", [scores, "k"], outputs, axis=1))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info(image, TensorProto.FLOAT, ["n", 3, 32, 32])],
        [
            helper.make_tensor_value_info(name, kind, ["n", 1, 1, 1])
            for name, kind in zip(outputs, (TensorProto.FLOAT, TensorProto.INT64), strict=True)
        ],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def mobilenet_v1(path):
    """MobileNet V1 in small, with the tensor names of NVIDIA's submission to MLPerf Inference 0.5: 27 convolutions."""
    rng = np.random.default_rng(0)
    nodes, weights, last, number = [], [], "0", 84

    def constant(values):
        weights.append(numpy_helper.from_array(np.asarray(values, np.float32), f"w{len(weights)}"))
        return weights[-1].name

    def block(channels_in, channels, kernel, *, stride=1, depthwise=False):
        nonlocal last, number
        shape = (channels, 1 if depthwise else channels_in, kernel, kernel)
        conv, norm, result = map(str, range(number, number + 3))
        options = {"group": channels if depthwise else 1, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        nodes.append(helper.make_node("Conv", [last, constant(rng.standard_normal(shape) * 0.3)], [conv], **options))
        statistics = [constant(np.full(channels, value)) for value in (1.0, 0.1, 0.0, 1.0)]
        nodes.append(helper.make_node("BatchNormalization", [conv, *statistics], [norm]))
        nodes.append(helper.make_node("Relu", [norm], [result]))
        last, number = result, number + 3

    block(3, 8, 3, stride=2)
    for index in range(13):
        block(8, 8, 3, stride=2 if index in (1, 3) else 1, depthwise=True)
        block(8, 8, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooling_replaced_output"]))
    head = constant(rng.standard_normal((16, 8, 1, 1)))
    nodes.append(helper.make_node("Conv", ["pooling_replaced_output", head], ["fc_replaced_output"]))
    save_classifier(path, "0", "fc_replaced_output", nodes, weights)
    return path


def test_a_cache_has_the_tensor_names_of_nvidias_own(tmp_path):
    """Of mlcommons/inference_results_v0.5, closed/NVIDIA/code/mobilenet/tensorrt/calibrator.cache (TensorRT 6.0.1).

    Theirs lists the integer output of TopK too, which later versions do not: see the caches of 9.0 and 10.1 below.
    """
    theirs = {"0", *map(str, range(84, 165)), "pooling_replaced_output", "fc_replaced_output"}
    theirs |= {"topk_layer_output_value", "topk_layer_output_index"}
    model = mobilenet_v1(tmp_path / "mobilenet.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32))
    table = quantkit.calibrate(model, tmp_path / "data.npy", accuracy="fast", progress=False)
    cache = write_tensorrt_cache(model, table, tmp_path / "c", tensorrt_version="8.6.1")
    assert set(parse_cache(cache.read_text()).amax) == theirs - {"topk_layer_output_index"}


def resnet50(path):
    """ResNet-50 in small, with the tensor names of submissions to MLPerf Inference 4.1."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(values):
        weights.append(numpy_helper.from_array(np.asarray(values, np.float32), f"w{len(weights)}"))
        return weights[-1].name

    def conv(x, name, channels_in, channels, kernel, stride=1):
        weight = constant(rng.standard_normal((channels, channels_in, kernel, kernel)) * 0.3)
        options = {"strides": [stride] * 2, "pads": [kernel // 2] * 4}
        nodes.append(helper.make_node("Conv", [x, weight], [f"{name}_out_0"], **options))
        return f"{name}_out_0"

    def op(op_type, inputs, name, **options):
        nodes.append(helper.make_node(op_type, inputs, [name], **options))
        return name

    statistics = [constant(np.full(8, value)) for value in (1.0, 0.1, 0.0, 1.0)]
    x = conv("input_tensor_0", "conv1", 3, 8, 7, 2)
    x = op("Relu", [op("BatchNormalization", [x, *statistics], "scale_conv1_out_0")], "conv1_relu_out_0")
    x = op("MaxPool", [x], "pool1_out_0", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, blocks in ((2, "abc"), (3, "abcd"), (4, "abcdef"), (5, "abc")):
        for block in blocks:
            name, first, stride = f"res{stage}{block}", block == "a", 2 if block == "a" and stage > 2 else 1
            y = conv(x, f"{name}_branch2a", 8 if first and stage == 2 else 16, 8, 1)
            skip = conv(x, f"{name}_branch1", 8 if stage == 2 else 16, 16, 1, stride) if first else x
            y = op("Relu", [y], f"{name}_branch2a_relu_out_0")
            y = op("Relu", [conv(y, f"{name}_branch2b", 8, 8, 3, stride)], f"{name}_branch2b_relu_out_0")
            x = op("Add", [conv(y, f"{name}_branch2c", 8, 16, 1), skip], f"{name}_out_0")
            x = op("Relu", [x], f"{name}_relu_out_0")
    x = conv(op("GlobalAveragePool", [x], "squeeze_replaced_out_0"), "fc_replaced", 16, 16, 1)
    save_classifier(path, "input_tensor_0", x, nodes, weights)
    return path


@pytest.mark.parametrize("version", ["9.0.0", "10.1.0"])
def test_a_cache_has_the_tensor_names_of_later_ones_of_nvidia(tmp_path, version):
    """Of mlcommons/inference_results_v4.1, code/resnet50/tensorrt/calibrator.cache: 9.0.0 and 10.1.0 list the same."""
    blocks = [f"res{stage}{block}" for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)) for block in "abcdef"[:count]]
    inner = ("branch2a", "branch2a_relu", "branch2b", "branch2b_relu", "branch2c")
    theirs = {"input_tensor_0", *(f"{name}_out_0" for name in ("conv1", "scale_conv1", "conv1_relu", "pool1"))}
    theirs |= {f"{block}_{name}_out_0" for block in blocks for name in (*inner, "relu")}
    theirs |= {f"{block}_out_0" for block in blocks} | {f"res{stage}a_branch1_out_0" for stage in (2, 3, 4, 5)}
    theirs |= {"squeeze_replaced_out_0", "fc_replaced_out_0", "topk_layer_output_value"}
    model = resnet50(tmp_path / "resnet50.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32))
    table = quantkit.calibrate(model, tmp_path / "data.npy", accuracy="fast", progress=False)
    cache = write_tensorrt_cache(model, table, tmp_path / "c", tensorrt_version=version)
    assert set(parse_cache(cache.read_text()).amax) == theirs
    assert len(theirs) == 124
