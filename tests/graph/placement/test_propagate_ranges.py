from __future__ import annotations

import numpy as np

from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.propagate_ranges import propagate_to_copies

from ..builder import Builder
from ..quantizing import load


def test_copies_and_pools_inherit_the_range_of_their_input() -> None:
    g = Builder()
    y = g.conv(g.input("x", 8, 4, 4), 8, 8)
    pooled = g.op("MaxPool", y, kernel_shape=[2, 2])
    averaged = g.op("GlobalAveragePool", pooled)
    flat = g.op("Flatten", averaged)
    model = g.model(g.op("Relu", flat))
    ranges = propagate_to_copies(prepare(load(model), name="m"), {"x": 1.0, y: 3.0, pooled: 2.0})
    assert ranges == {"x": 1.0, y: 3.0, pooled: 3.0, averaged: 3.0, flat: 3.0}
    assert list(ranges) == ["x", y, pooled, averaged, flat]


def test_members_of_a_concat_share_the_largest() -> None:
    g = Builder()
    x = g.input("x", 8, 4, 4)
    a, b = g.conv(x, 8, 8), g.conv(x, 8, 8)
    joined = g.op("Concat", a, b, axis=1)
    model = g.model(g.conv(joined, 16, 8))
    ranges = propagate_to_copies(prepare(load(model), name="m"), {"x": 1.0, a: 2.0, b: 5.0, joined: 5.0})
    assert ranges == {"x": 1.0, a: 5.0, b: 5.0, joined: 5.0}


def test_what_was_not_calibrated_is_not_invented() -> None:
    g = Builder()
    y = g.op("Relu", g.conv(g.input("x", 8, 4, 4), 8, 8))
    first = g.op("Split", y, g.constant(np.array([4, 4])), outputs=2, axis=1)
    model = g.model(first, f"{first}1")
    graph = prepare(load(model), name="m")
    assert propagate_to_copies(graph, {"x": 1.0}) == {"x": 1.0}
    assert propagate_to_copies(graph, {y: 2.0}) == {y: 2.0, first: 2.0, f"{first}1": 2.0}
