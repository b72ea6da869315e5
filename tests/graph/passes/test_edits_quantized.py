"""What scaling and shifting do for the INT8 model, and that TensorRT-RTX runs no kernel more for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantkit.graph.passes.channel_scale import apply_channel_scales, scalable_tensors
from quantkit.graph.passes.fp16 import to_fp16
from quantkit.graph.passes.input_channels import follow_edits
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.passes.qdq import insert_qdq
from quantkit.graph.passes.shift import apply_shifts, shiftable_tensors
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.graph.quant_params import activation_params
from quantkit.refinement.equalize import equalizing_scales

from ... import rtx
from ..builder import Builder
from ..models import MODELS
from ..quantizing import observe, random_inputs, run, sqnr_db
from .editing import prepared

ACTIVATIONS: dict[str, Callable[[Builder, str], str]] = {
    "relu": lambda g, x: g.op("Relu", x),
    "hard swish": lambda g, x: g.op("HardSwish", x),
    "silu": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
}


def bottlenecks(activation: str, *, blocks: int = 1, spread: float = 1.0) -> onnx.ModelProto:
    """Inverted bottlenecks; the gains of the expanded channels lie between `spread` and 1."""
    g = Builder()
    act = ACTIVATIONS[activation]
    x = g.input("x", 32, 16, 16)
    for _ in range(blocks):
        gains = np.geomspace(spread, 1, 64).reshape(-1, 1, 1, 1)
        weight = g.constant(g.random.standard_normal((64, 32, 1, 1)) * 0.4 * gains)
        y = act(g, g.op("Conv", x, weight, g.constant(np.zeros(64))))
        y = g.op("Conv", y, g.constant(g.random.standard_normal((64, 1, 3, 3)) / gains), pads=[1] * 4, group=64)
        y = act(g, g.batch_norm(y, 64))
        x = g.op("Add", x, g.conv(y, 64, 32, 1))
    return g.model(g.conv(x, 32, 32, 1))


def edit(model: onnx.ModelProto, *, scales: bool, shifts: bool) -> ir.Model:
    """Shifts each channel by the middle of its range, then equalizes the channels at depthwise convolutions."""
    graph, plan = prepared(model)
    if shifts:
        sites = shiftable_tensors(graph, plan, padded=True)
        values = observed(graph, sites)
        middles = {t: (v.min((0, 2, 3)) + v.max((0, 2, 3))) / 2 for t, v in values.items()}
        apply_shifts(graph, plan, middles)
        plan = follow_edits(plan, graph)
    if scales:
        sites = {t: s for t, s in scalable_tensors(graph, plan).items() if s.is_depthwise}
        amax = {t: np.abs(v).max((0, 2, 3)) for t, v in observed(graph, sites).items()}
        factors = {t: equalizing_scales(amax[t]) for t in sites}
        names = apply_channel_scales(graph, plan, factors)
        scaled = observed(graph, names.values())
        for tensor, name in names.items():
            assert np.abs(scaled[name]).max((0, 2, 3)) == pytest.approx(factors[tensor] * amax[tensor], rel=1e-4)
    return graph


def observed(graph: ir.Model, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """Values of tensors on random inputs."""
    copy, inputs = graph.clone(), random_inputs(graph)
    values = {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.extend(values[t] for t in tensors if t not in inputs)
    found = {**inputs, **run(copy, inputs)}
    return {t: found[t] for t in tensors}


def to_int8(graph: ir.Model, *, half: bool = False, weights: bool = True) -> ir.Model:
    """`graph` with Q/DQ, the plan made anew; if not `weights`, at activations alone."""
    proto = ir.to_proto(graph)
    plan = plan_tensorrt(graph)
    plan = plan if weights else replace(plan, weights=())
    ranges = observe(proto, plan.tensors, random_inputs(graph))
    insert_qdq(graph, plan, activation_params(plan, ranges), fp16_scales=half)
    return to_fp16(graph) if half else graph


def quality_db(activation: str, *, scales: bool = False, shifts: bool = False, weights: bool = True) -> float:
    model = bottlenecks(activation, spread=1 / 128)
    inputs = random_inputs(prepared(model)[0])
    (reference,) = run(model, inputs).values()
    (found,) = run(to_int8(edit(model, scales=scales, shifts=shifts), weights=weights), inputs).values()
    return sqnr_db(reference, found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_scales_keep_channels_of_small_range(activation: str) -> None:
    plain, scaled = quality_db(activation), quality_db(activation, scales=True)
    assert scaled > plain + 8, (plain, scaled)


def test_shifts_use_the_codes_of_negative_values() -> None:
    """With float weights: the error that rounded weights make of the mean of x - m is left to bias correction."""
    plain, shifted = (quality_db("silu", scales=True, shifts=shifts, weights=False) for shifts in (False, True))
    assert shifted > plain + 1.5, (plain, shifted)


def count_kernels(graph: ir.Model) -> tuple[int, int]:
    """How many kernels TensorRT-RTX runs for the INT8 form, and how many weighted operators in INT8."""
    weighted = weighted_nodes(graph)
    content = ir.to_proto(to_int8(graph, half=True)).SerializeToString()
    layers = rtx.read_layers(rtx.build(content, capabilities=["SM89"]))
    return len(layers), len(rtx.int8_nodes(layers, weighted))


@functools.cache
def kernels(activation: str, scales: bool, shifts: bool) -> tuple[int, int]:
    return count_kernels(edit(bottlenecks(activation, blocks=3), scales=scales, shifts=shifts))


@pytest.mark.parametrize(("scales", "shifts"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_kernel_more(activation: str, scales: bool, shifts: bool) -> None:
    plain = kernels(activation, False, False)
    assert plain[1] == 10
    assert kernels(activation, scales, shifts) == plain


@pytest.mark.parametrize("name", ["attention", "attention_one_projection", "mlp_gelu"])
def test_no_kernel_more_in_transformers(name: str) -> None:
    counts = []
    for edits in ((), (apply_shifts,), (apply_shifts, apply_channel_scales)):
        graph, plan = prepared(MODELS[name](opset=19))
        for apply in edits:
            find = shiftable_tensors if apply is apply_shifts else scalable_tensors
            sites = find(graph, plan)
            assert sites
            apply(graph, plan, {t: np.full(s.channels, 0.5, np.float32) for t, s in sites.items()})
            plan = follow_edits(plan, graph)
        counts.append(count_kernels(graph))
    assert counts[1:] == counts[:1] * 2
