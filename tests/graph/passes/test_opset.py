"""Models of old and of newer opsets."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import NEWEST_OPSET
from quantkit.graph.passes.prepare import weighted_nodes
from quantkit.graph.placement.tensorrt import plan_tensorrt

from ..builder import LOADABLE_OPSET, Builder
from ..quantizing import random_inputs, run


def old_net(opset: int) -> onnx.ModelProto:
    """Operators whose attributes became inputs, or that have another name since."""
    g = Builder(opset=opset)
    y = g.op("Clip", g.conv(g.input("x", 3, 8, 8), 3, 8), min=0.0, max=6.0)
    y = g.op("Slice", y, axes=[2], starts=[0], ends=[4])
    if opset >= 9:
        y = g.op("Upsample", y, g.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    else:
        y = g.op("Upsample", y, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
    y = g.op("Pad", g.batch_norm(g.conv(y, 8, 8), 8), pads=[0, 0, 1, 1, 0, 0, 1, 1])
    y = g.op("Reshape", g.op("GlobalAveragePool", y), g.constant(np.array([-1, 8])))
    return g.model(g.gemm(g.op("Dropout", y), 8, 4))


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_old_opsets_compute_the_same(opset: int) -> None:
    proto = old_net(opset)
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert graph.opset_imports[""] == 13
    plan = plan_tensorrt(graph)
    assert {edge.node for edge in plan.weights} | (plan.skipped.keys() & weighted_nodes(graph)) == weighted_nodes(graph)
    assert len(weighted_nodes(graph)) == 3
    inputs = random_inputs(graph)
    for name, values in run(proto, inputs).items():
        np.testing.assert_allclose(run(graph, inputs)[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(LOADABLE_OPSET < NEWEST_OPSET, reason="this ONNX Runtime loads older opsets only")
def test_a_newer_opset_is_converted_down() -> None:
    g = Builder(opset=NEWEST_OPSET + 1)
    proto = g.model(g.op("Relu", g.conv(g.input("x", 3, 8, 8), 3, 8)))
    graph = FloatModel(proto.SerializeToString()).prepared()
    assert graph.opset_imports[""] == NEWEST_OPSET
    inputs = random_inputs(graph)
    (name,) = run(graph, inputs)
    np.testing.assert_array_equal(run(graph, inputs)[name], run(proto, inputs)[name])


def test_what_has_no_conversion_is_named() -> None:
    """Since opset 9 statistics are of channels only."""
    g = Builder(opset=8)
    y = g.conv(g.input("x", 3, 2, 2), 3, 4)
    statistics = [g.constant(np.ones((4, 2, 2))) for _ in range(4)]
    proto = g.model(g.op("BatchNormalization", y, *statistics, spatial=0, name="each pixel"))
    named = r"^m\.onnx: opset 8 cannot be converted to 13: node 'each pixel' \(BatchNormalization\) has no conversion"
    with pytest.raises(ModelError, match=named):
        FloatModel(proto.SerializeToString(), name="m.onnx").prepared()
