"""Which activations can be shifted and scaled, and what is left alone."""

from __future__ import annotations

import numpy as np

from quantkit.refinement.samples import SampleBatches
from quantkit.refinement.transforms import equalize_products, find_sites

from ..graph.builder import Builder
from .nets import images, net


def test_what_is_zero_on_these_samples_is_not_scaled() -> None:
    g = Builder()
    x = g.op("Relu", g.input("x", 6))
    subject = net(g.model(g.linear(x, 6, 4)), {"x": -np.abs(images(8, 6)) - 1})
    graph = subject.model.prepared()
    sites = find_sites(graph, subject.plan, subject.samples)
    assert x in sites.scalable
    assert equalize_products(graph, sites, {}, alpha=0.5) == {}


def test_readers_of_a_shared_weight_are_left_alone() -> None:
    """Each would need a weight of its own, whose name depends on what else is quantized."""
    g = Builder()
    weight = g.weight(6, 6, name="w")
    x, y, z = (g.op("Sigmoid", g.input(name, 6)) for name in "xyz")
    outputs = (g.op("MatMul", x, weight), g.op("MatMul", y, weight), g.linear(z, 6, 4))
    subject = net(g.model(*outputs), {name: images(8, 6) for name in "xyz"})
    sites = find_sites(subject.model.prepared(), subject.plan, SampleBatches(subject.samples.batches))
    assert set(sites.scalable) == {z}
