"""Which activations can be shifted and scaled, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.graph.passes.input_channels import ChannelSite
from quantkit.refinement.observation import ChannelValues
from quantkit.refinement.range_choice import RangeChoice
from quantkit.refinement.samples import SampleBatches
from quantkit.refinement.transforms import _around_means, _transforms, balance, equalize, find_sites

from ..graph.builder import Builder
from .nets import images, net


def test_what_is_zero_on_these_samples_is_not_scaled() -> None:
    g = Builder()
    x = g.op("Relu", g.input("x", 6))
    subject = net(g.model(g.linear(x, 6, 4)), {"x": -np.abs(images(8, 6)) - 1})
    graph = subject.model.prepared()
    sites = find_sites(graph, subject.plan, subject.samples)
    assert x in sites.scalable
    assert equalize(graph, sites, {}, [0.5, 1.0]) == [{}, {}]
    assert balance(graph, sites, {}, {x: RangeChoice(1.0, "minmax", 1.0, {})}, weight_share=1) == {}


def test_readers_of_a_shared_weight_are_left_alone() -> None:
    """Each would need a weight of its own, whose name depends on what else is quantized."""
    g = Builder()
    weight = g.weight(6, 6, name="w")
    x, y, z = (g.op("Sigmoid", g.input(name, 6)) for name in "xyz")
    outputs = (g.op("MatMul", x, weight), g.op("MatMul", y, weight), g.linear(z, 6, 4))
    subject = net(g.model(*outputs), {name: images(8, 6) for name in "xyz"})
    sites = find_sites(subject.model.prepared(), subject.plan, SampleBatches(subject.samples.batches))
    assert set(sites.scalable) == {z}


@pytest.mark.parametrize(("spread", "pays"), [([1.0, 6.0, 0.5, 3.0], True), ([1.0, 1.0, 1.0, 1.0], False)])
def test_convolutions_take_difficulty_into_their_weights_where_that_pays(spread: list[float], pays: bool) -> None:
    """Channels of very different range: one scale for all of them loses the small ones, whose weights are large."""
    g, random = Builder(), np.random.default_rng(0)
    x = g.op("Relu", g.input("x", 4, 6, 6))
    size = np.array(spread, np.float32)[:, None, None]
    weight = random.normal(size=(5, 4, 3, 3)).astype(np.float32) / size
    conv = g.op("Conv", x, g.constant(weight), pads=[1, 1, 1, 1])
    subject = net(g.model(conv), {"x": random.normal(size=(8, 4, 6, 6)).astype(np.float32) * size})
    graph = subject.model.prepared()
    sites = find_sites(graph, subject.plan, subject.samples)
    choices = {x: RangeChoice(float(sites.values[x].high.max()), "minmax", 1.0, {})}
    found = balance(graph, sites, {}, choices, weight_share=0.25)
    assert (x in found) == pays
    if pays:  # the ranges of the channels are about equal
        assert np.ptp(np.log2(found[x].factors * sites.values[x].high)) < 0.5 * np.ptp(np.log2(size))


@pytest.mark.parametrize(("mean", "pays"), [(0.0, False), (0.4, False), (0.6, True)])
def test_channels_are_shifted_for_fp8_where_their_means_hold_much_of_the_power(mean: float, pays: bool) -> None:
    values = ChannelValues(*(np.full(4, bound, np.float32) for bound in (-3, 3)), np.full(4, mean), np.ones(4))
    found = list(_around_means(values, 3.0))
    assert len(found) == pays
    assert all(transform.offset is not None and (transform.offset == np.float32(mean)).all() for transform in found)


@pytest.mark.parametrize(("amax", "count"), [(3.0, 3), (2.0, 6)])
def test_ranges_of_channels_are_tried_clipped_only_where_that_clips(amax: float, count: int) -> None:
    site = ChannelSite("x", -3, 4, ("conv",), is_depthwise=True, is_attention_output=False, is_grouped=False)
    low, high = np.full(4, -1, np.float32), np.array([1, 2, 3, 3], np.float32)
    values = ChannelValues(low, high, np.zeros(4), np.ones(4))
    assert len(list(_transforms(site, values, amax, is_shiftable=True))) == count
