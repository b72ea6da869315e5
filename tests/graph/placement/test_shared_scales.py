from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from quantkit.errors import CalibrationError
from quantkit.graph.passes.input_channels import channel_sites, follow_edits
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.shift import apply_shifts
from quantkit.graph.placement.tensorrt import exclude_tensors, plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.types import QdqPlan, TensorRange

from ..backbones import BACKBONES
from ..builder import Builder
from ..quantizing import load, quantize, run, sqnr_db


def plan_of(model: onnx.ModelProto, **options) -> QdqPlan:
    return plan_tensorrt(prepare(load(model), name="model"), **options)


def readers(plan: QdqPlan, tensor: str) -> set[str]:
    """Types of the operators that read a tensor in INT8."""
    return {edge.node.rpartition("_")[0] for edge in plan.activations if edge.tensor == tensor}


def conv_relu(g: Builder, x: str, channels_in: int = 8, channels: int = 8) -> str:
    return g.op("Relu", g.conv(x, channels_in, channels))


def start() -> tuple[Builder, str]:
    g = Builder(batch=2)
    return g, conv_relu(g, g.input("x", 8, 8, 8))


ACTIVATIONS: dict[str, Callable[[Builder, str], str]] = {
    "silu": lambda g, y: g.op("Mul", y, g.op("Sigmoid", y)),
    "leaky": lambda g, y: g.op("LeakyRelu", y),
    "hardswish": lambda g, y: g.op("HardSwish", y),
    "clip": lambda g, y: g.clip(y, 0.0, 6.0),
    "gate": lambda g, y: g.op("Mul", y, g.op("Sigmoid", g.conv(g.op("GlobalAveragePool", y), 8, 8, 1))),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_the_skip_of_an_activated_residual_is_quantized(kind: str) -> None:
    g, x = start()
    branch = ACTIVATIONS[kind](g, g.conv(x, 8, 8))
    total = g.op("Add", x, branch)
    plan = plan_of(g.model(g.conv(total, 8, 8)))
    assert readers(plan, x) == {"Conv", "Add"}
    assert branch not in plan.tensors


def test_a_residual_that_is_normalized_stays_in_float() -> None:
    g = Builder(batch=2)
    x = g.norm(g.input("x", 4, 16), 16)
    total = g.op("Add", x, g.op("Relu", g.linear(x, 16, 16)))
    plan = plan_of(g.model(g.linear(g.norm(total, 16), 16, 8)))
    assert readers(plan, x) == {"MatMul"}


def test_a_batch_norm_beside_convolutions_reads_int8() -> None:
    g, x = start()
    total = g.op("Add", g.op("Add", g.conv(x, 8, 8), g.conv(x, 8, 8, 1)), g.batch_norm(x, 8))
    plan = plan_of(g.model(g.conv(g.op("Relu", total), 8, 8)), quantize_all=True)
    assert readers(plan, x) == {"Conv", "BatchNormalization"}


def test_a_float_reader_that_cannot_share_keeps_all_others_in_float() -> None:
    """The tensor is written in float anyway."""
    g, x = start()
    total = g.op("Add", x, g.op("LeakyRelu", g.conv(x, 8, 8)))
    plan = plan_of(g.model(g.conv(total, 8, 8), g.op("Tanh", x)))
    assert readers(plan, x) == {"Conv"}


def test_pools_and_what_they_join_have_one_scale() -> None:
    """SPPF."""
    g, x = start()
    parts = [x]
    for _ in range(3):
        parts.append(g.op("MaxPool", parts[-1], kernel_shape=[3, 3], pads=[1] * 4))
    joined = g.op("Concat", *parts, axis=1)
    plan = plan_of(g.model(g.conv(joined, 32, 8)))
    assert plan.groups == (frozenset({*parts, joined}),)
    assert readers(plan, x) == readers(plan, parts[1]) == {"MaxPool", "Concat"}
    assert readers(plan, joined) == {"Conv"}


def test_a_copy_that_alone_reads_a_tensor_needs_no_second_q() -> None:
    """TensorRT moves the one behind the pool in front of it."""
    g, x = start()
    pooled = g.op("MaxPool", x, kernel_shape=[2, 2])
    plan = plan_of(g.model(g.conv(pooled, 8, 8)))
    assert (readers(plan, x), readers(plan, pooled), plan.groups) == (set(), {"Conv"}, ())


def test_asking_for_the_shape_is_not_reading() -> None:
    g, x = start()
    flat = g.op("Reshape", x, g.op("Concat", g.op("Shape", x, end=1), g.constant(np.array([-1])), axis=0))
    g.opset = 17
    plan = plan_of(g.model(g.gemm(flat, 512, 8)))
    assert readers(plan, x) == set()


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_encoder_features_of_a_unet(mode: str) -> None:
    """Linear interpolation makes new values: what it reads keeps its own scale."""
    g, x = start()
    deep = conv_relu(g, g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    g.initializers.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    up = g.op("Resize", deep, "", "scales", mode=mode)
    joined = g.op("Concat", x, up, axis=1)
    plan = plan_of(g.model(conv_relu(g, joined, 16), g.conv(deep, 8, 8)))
    (group,) = plan.groups
    assert {x, joined} <= group
    assert (deep in group) == (mode == "nearest")
    assert readers(plan, x) == {"MaxPool", "Concat"}


def test_parts_of_a_split_that_are_joined_again_have_one_scale() -> None:
    """C2f."""
    g, x = start()
    first = g.op("Split", x, outputs=2, axis=1)
    second = f"{first}1"
    total = g.op("Add", second, g.op("LeakyRelu", g.conv(second, 4, 4)))
    joined = g.op("Concat", first, second, total, axis=1)
    plan = plan_of(g.model(g.conv(joined, 12, 8)), quantize_all=True)
    assert plan.groups == (frozenset({first, second, total, joined}),)
    assert readers(plan, second) == {"Conv", "Add", "Concat"}


def test_a_copy_for_a_model_output_stays_in_float() -> None:
    g, x = start()
    joined = g.op("Concat", x, g.conv(x, 8, 8), axis=1)
    plan = plan_of(g.model(g.conv(joined, 16, 8), joined))
    assert readers(plan, x) == {"Conv"}


def test_query_key_and_value_keep_their_own_scales() -> None:
    for name in ("vit_fused", "swin", "yolov11"):
        plan = plan_of(BACKBONES[name]())
        operands = {e.tensor for e in plan.activations if e.node.startswith("MatMul") and e.index == 1}
        assert all(len(group & operands) < 2 for group in plan.groups)


def test_dense_blocks_join_int8() -> None:
    """What a BatchNormalization alone reads, before the next product, is quantized where it is joined."""
    plan = plan_of(BACKBONES["densenet_chain"]())
    assert {"BatchNormalization", "Concat"} <= {edge.node.rpartition("_")[0] for edge in plan.activations}
    joined = [name for name in plan.tensors if name.startswith("Concat")]
    assert len(joined) == 3
    assert any(set(joined) <= group for group in plan.groups)


def test_excluded_nodes_share_nothing() -> None:
    g, x = start()
    total = g.op("Add", x, g.op("LeakyRelu", g.conv(x, 8, 8)), name="sum")
    joined = g.op("Concat", total, x, axis=1, name="joined")
    model = g.model(g.conv(joined, 16, 8))
    assert {"sum", "joined"} <= {edge.node for edge in plan_of(model).activations}
    for name in ("sum", "joined"):
        assert name not in {edge.node for edge in plan_of(model, exclude=[name]).activations}


def residual() -> tuple[onnx.ModelProto, str]:
    g, x = start()
    total = g.op("Add", x, g.op("LeakyRelu", g.conv(x, 8, 8)))
    return g.model(g.conv(total, 8, 8)), x


def test_what_shares_goes_with_what_it_shares() -> None:
    model, x = residual()
    plan = exclude_tensors(plan_of(model), {x: "more accurate in float"})
    assert readers(plan, x) == set()


def test_sharing_yields_to_a_shift() -> None:
    """Channels of a tensor are edited for its products; the Add then reads the float tensor, as before."""
    model, x = residual()
    graph = prepare(load(model), name="model")
    plan = plan_tensorrt(graph)
    (reader,) = channel_sites(graph, plan)[x].readers
    names = apply_shifts(graph, plan, {x: np.full(8, 0.25, np.float32)})
    followed = follow_edits(plan, graph)
    assert [e.node for e in followed.activations if e.tensor in (x, names[x])] == [reader]


def test_a_table_without_a_copy_has_its_range() -> None:
    plan = plan_of(BACKBONES["sppf"]())
    ranges = {name: TensorRange(float(i + 1)) for i, name in enumerate(plan.tensors)}
    (group,) = plan.groups
    joined = next(name for name in group if name.startswith("Concat"))
    older = {name: found for name, found in ranges.items() if name not in group or name == joined}
    params = activation_params(plan, older)
    assert {float(params[name].scale) for name in group} == {float(params[joined].scale)}
    del older[joined]
    with pytest.raises(CalibrationError, match="calibrate again"):
        activation_params(plan, older)


@pytest.mark.parametrize("name", ["sppf", "unet", "densenet_chain", "repvgg_branches"])
def test_outputs_stay_close(name: str) -> None:
    model = BACKBONES[name]()
    q = quantize(model)
    for output, values in run(q.graph, q.inputs).items():
        assert sqnr_db(run(model, q.inputs)[output], values) > 25
