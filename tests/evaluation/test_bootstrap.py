from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from quantkit.evaluation.bootstrap import (
    can_draw,
    draw_weights,
    explain_no_interval,
    mean_difference_interval,
    percentile_interval,
)


def test_draws_are_the_same_for_both_sides_of_a_difference():
    first, second = list(draw_weights(7, num_draws=20)), list(draw_weights(7, num_draws=20))
    assert all((a == b).all() and a.sum() == 7 for a, b in zip(first, second, strict=True))
    assert any((a != b).any() for a, b in pairwise(first))


def test_every_sample_is_drawn_equally_often():
    total = sum(draw_weights(10, num_draws=4000))
    assert np.abs(total / 4000 - 1).max() < 5 * math.sqrt(0.9 / 4000)


def test_interval_of_a_mean_is_the_normal_one_for_many_samples():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 2000)
    variant = base + rng.normal(-0.1, 0.5, 2000)
    low, high = mean_difference_interval(base, variant, num_draws=2000)
    d = variant - base
    half = 1.96 * d.std() / math.sqrt(2000)
    assert low == pytest.approx(d.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(d.mean() + half, abs=0.15 * half)


def test_interval_has_nominal_coverage():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        d = rng.binomial(1, 0.3, 80).astype(float)
        low, high = mean_difference_interval(np.zeros(80), d, num_draws=300)
        held += low <= 0.3 <= high
    assert 0.89 < held / 300 < 0.99


def test_draws_without_a_value_are_dropped():
    assert percentile_interval([1.0, math.nan, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no draw"):
        percentile_interval([math.nan])
    with pytest.raises(ValueError, match="shape"):
        mean_difference_interval(np.zeros(0), np.zeros(0))


def test_few_samples_and_few_that_differ_allow_no_interval():
    assert [can_draw(29, 29), can_draw(30, 9), can_draw(30, 10)] == [False, False, True]
    few = explain_no_interval("mAP", {"int8": 10, "b": 2}, num_samples=10, baseline="fp32")
    assert few == ("no interval of mAP: 10 images are too few, 30 are needed",)
    found = explain_no_interval("Mean", {"a": 10, "b": 0}, num_samples=5000, baseline="fp32", noun="samples")
    assert found == ("b: no interval of Mean: none of 5,000 samples differ from fp32's",)
    assert explain_no_interval("mAP", {}, num_samples=0, baseline="fp32") == ()
