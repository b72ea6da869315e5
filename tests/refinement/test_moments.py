import numpy as np
import pytest

from quantkit.refinement import moments as module
from quantkit.refinement.moment_sums import HostSums
from quantkit.refinement.moments import InputMoments, Moments

ALIKE = np.ones(300, np.float32)
"""Weights of columns that count alike."""


def columns(seed, groups=2, width=5, count=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, size=(groups, width, count)).astype(np.float32)
    return x, x + rng.normal(0.1, 0.2, size=x.shape).astype(np.float32)


def cut_wider_than(widest, monkeypatch):
    """Layers of two groups and five inputs."""
    monkeypatch.setattr(module, "MOST_VALUES", 2 * 5 * widest)
    monkeypatch.setattr(module, "_NARROWEST_BLOCK", 1)


def in_float64(x, quantized):
    """Moments as they are defined: means and E[x^ x^T], E[d x^T], E[d d^T]."""
    q, d = quantized.astype(np.float64), x.astype(np.float64) - quantized
    pairs = (q, q), (d, q), (d, d)
    raw = [np.einsum("gip,gjp->gij", a, b) / q.shape[2] for a, b in pairs]
    means = [(a.mean(2), b.mean(2)) for a, b in pairs]
    centered = [m - a[:, :, None] * b[:, None, :] for m, (a, b) in zip(raw, means, strict=True)]
    return q.mean(2), d.mean(2), raw, centered


def all_moments(inputs, *, centered):
    names = "second_moment", "cross_moment", "difference_moment"
    return [getattr(inputs, name)(centered=centered) for name in names]


def test_moments_are_as_defined():
    x, quantized = columns(0)
    inputs = InputMoments(HostSums.of_nothing(2, 5, True))
    inputs.add(x, quantized, ALIKE)
    quantized_mean, difference_mean, raw, centered = in_float64(x, quantized)
    assert inputs.count == 300
    np.testing.assert_allclose(inputs.quantized_mean, quantized_mean, rtol=1e-6)
    np.testing.assert_allclose(inputs.difference_mean, difference_mean, rtol=1e-5)
    np.testing.assert_allclose(all_moments(inputs, centered=False), raw, atol=1e-6)
    np.testing.assert_allclose(all_moments(inputs, centered=True), centered, atol=1e-6)


def test_moments_do_not_depend_on_how_samples_are_batched(monkeypatch):
    x, quantized = columns(1)
    whole, parts = (InputMoments(HostSums.of_nothing(2, 5, True)) for _ in range(2))
    whole.add(x, quantized, ALIKE)
    monkeypatch.setattr(module, "_CHUNK", 37)
    for batch in np.split(np.arange(300), [1, 50, 200]):
        parts.add(x[:, :, batch], quantized[:, :, batch], ALIKE[batch])
    np.testing.assert_allclose(all_moments(parts, centered=True), all_moments(whole, centered=True), atol=1e-5)


def test_a_column_of_weight_two_counts_as_two():
    random = np.random.default_rng(0)
    x, quantized = random.normal(size=(2, 1, 4, 6)).astype(np.float32)
    once, twice = (InputMoments(HostSums.of_nothing(1, 4, True)) for _ in range(2))
    weights = np.array([2, 1, 1, 1, 1, 0], np.float32)
    once.add(x, quantized, weights)
    columns = [0, 0, 1, 2, 3, 4]
    twice.add(x[:, :, columns], quantized[:, :, columns], ALIKE[:6])
    for centered in (False, True):
        np.testing.assert_allclose(
            once.second_moment(centered=centered), twice.second_moment(centered=centered), atol=1e-6
        )
        np.testing.assert_allclose(
            once.cross_moment(centered=centered), twice.cross_moment(centered=centered), atol=1e-6
        )
        np.testing.assert_allclose(
            once.difference_moment(centered=centered), twice.difference_moment(centered=centered), atol=1e-6
        )


def test_training_and_held_out_samples_merge_to_all_of_them():
    first, second = columns(2), columns(3, count=100)
    moments = Moments(2, 5)
    moments.add(*first, weights=ALIKE)
    moments.add(*second, weights=ALIKE[:100], held_out=True)
    assert (moments.training.count, moments.held_out.count) == (300, 100)
    merged = moments.training.merge(moments.held_out)
    together = [np.concatenate(pair, axis=2) for pair in zip(first, second, strict=True)]
    quantized_mean, difference_mean, _, centered = in_float64(*together)
    assert merged.count == 400
    np.testing.assert_allclose(merged.quantized_mean, quantized_mean, rtol=1e-5)
    np.testing.assert_allclose(merged.difference_mean, difference_mean, rtol=1e-5)
    np.testing.assert_allclose(merged.second_moment(centered=True), centered[0], atol=1e-6)
    np.testing.assert_allclose(merged.cross_moment(centered=True), centered[1], atol=1e-6)


@pytest.mark.parametrize(("widest", "num_blocks"), [(5, 1), (3, 2), (2, 3)])
def test_blocks_of_inputs_count_as_groups(monkeypatch, widest, num_blocks):
    cut_wider_than(widest, monkeypatch)
    moments = Moments(2, 5)
    assert moments.num_blocks == num_blocks
    matrix = np.random.default_rng(0).normal(size=(2, 3, 5))
    blocks = moments.split(matrix)
    np.testing.assert_array_equal(moments.join(blocks, 5), matrix)
    x, quantized = columns(4)
    moments.add(x, quantized, weights=ALIKE)
    # Each block holds the moments of its inputs, and the blocks' parts of the output add up.
    mean = (blocks @ moments.training.quantized_mean[:, :, None]).reshape(2, num_blocks, 3).sum(1)
    np.testing.assert_allclose(mean, (matrix @ quantized.mean(2)[:, :, None])[:, :, 0], rtol=1e-4, atol=1e-5)
    _, _, raw, _ = in_float64(x, quantized)
    width = blocks.shape[2]
    found = moments.training.second_moment(centered=False)[:, : min(width, 5), : min(width, 5)]
    np.testing.assert_allclose(found[0], raw[0][0, :width, :width], atol=1e-5)


def test_no_samples_give_moments_of_zero():
    inputs = InputMoments(HostSums.of_nothing(1, 3, True))
    assert not np.any(all_moments(inputs, centered=True))


@pytest.mark.parametrize("widest", [3, 5])
def test_a_batch_without_columns_adds_nothing(monkeypatch, widest):
    cut_wider_than(widest, monkeypatch)
    moments = Moments(2, 5)
    x, quantized = columns(5, count=0)
    moments.add(x, quantized, weights=ALIKE[:0], held_out=True)
    assert moments.held_out.count == 0
    assert not np.any(all_moments(moments.held_out, centered=True))


@pytest.mark.parametrize(
    ("groups", "width", "blocks"),
    [(1, 4096, (1, 4096)), (1, 4608, (2, 2304)), (1, 25088, (38, 661)), (8, 4096, (8, 512)), (960, 9, (1, 9))],
)
def test_memory_does_not_grow_with_the_layer(groups, width, blocks):
    assert module._blocks(groups, width) == blocks
    assert groups * blocks[0] * blocks[1] ** 2 <= 1.01 * module.MOST_VALUES
