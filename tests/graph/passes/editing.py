"""Editing activations of models in memory, and comparing what the models compute before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.graph.model import check_model
from quantkit.graph.passes.channel_scale import apply_channel_scales, scalable_tensors
from quantkit.graph.passes.input_channels import ChannelSite
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.passes.shift import apply_shifts, shiftable_tensors
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.types import QdqEdge, QdqPlan

from ..quantizing import load, random_inputs, run


@dataclass(frozen=True)
class Edited:
    """A model before and after, the plan of before, and what the pass returned."""

    before: ir.Model
    after: ir.Model
    plan: QdqPlan
    names: dict[str, str]

    def error(self, *, seed: int = 1) -> float:
        """The largest difference of any output, in parts of the largest value of that output."""
        assert [v.name for v in self.after.graph.outputs] == [v.name for v in self.before.graph.outputs]
        check_model(self.after, "edited")
        inputs = random_inputs(self.before, seed=seed)
        old, new = run(self.before, inputs), run(self.after, inputs)
        return max(
            float(np.abs(new[k].astype(np.float64) - v).max() / np.abs(v.astype(np.float64)).max())
            for k, v in old.items()
        )

    def added(self) -> dict[str, int]:
        """How many more nodes of each operator there are."""
        counts: dict[str, int] = {}
        for graph, sign in ((self.after.graph, 1), (self.before.graph, -1)):
            for node in graph:
                counts[node.op_type] = counts.get(node.op_type, 0) + sign
        return {op_type: count for op_type, count in counts.items() if count}


def prepared(model: onnx.ModelProto) -> tuple[ir.Model, QdqPlan]:
    graph = prepare(load(model), name="model")
    return graph, plan_tensorrt(graph)


def own_edges(plan: QdqPlan) -> list[QdqEdge]:
    """The edges of activations that are quantized for their own sake."""
    return [edge for edge in plan.activations if not edge.shared]


def random_scales(sites: Mapping[str, ChannelSite], *, seed: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: np.exp2(random.uniform(-3, 3, s.channels)).astype(np.float32) for name, s in sites.items()}


def random_shifts(sites: Mapping[str, ChannelSite], *, seed: int = 6) -> dict[str, float | np.ndarray]:
    """Alternately one for the tensor and one for each channel."""
    random = np.random.default_rng(seed)
    return {
        name: random.uniform(-1, 1, s.channels).astype(np.float32) if i % 2 else float(random.uniform(-1, 1))
        for i, (name, s) in enumerate(sites.items())
    }


def scale(model: onnx.ModelProto, *tensors: str) -> Edited:
    """Scales `tensors`, or whatever can be scaled."""
    find = partial(scalable_tensors, attention=True, grouped=True)
    return _edit(model, tensors, find, lambda g, p, sites: apply_channel_scales(g, p, random_scales(sites)))


def shift(model: onnx.ModelProto, *tensors: str, padded: bool = False) -> Edited:
    """Shifts `tensors`, or whatever can be shifted."""
    find = partial(shiftable_tensors, padded=padded, attention=True, grouped=True)
    return _edit(model, tensors, find, lambda g, p, sites: apply_shifts(g, p, random_shifts(sites)))


def _edit(model: onnx.ModelProto, tensors: tuple[str, ...], find: Callable, apply: Callable) -> Edited:
    before, _ = prepared(model)
    after, plan = prepared(model)
    sites = find(after, plan)
    return Edited(before, after, plan, apply(after, plan, {t: sites[t] for t in tensors or sites}))
