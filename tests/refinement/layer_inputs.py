import numpy as np

from quantkit.refinement.feedback import matrix_scale


def correlated(rng, groups, width, count, rank=None, mean=1.0):
    """Inputs [G, K, P] of which each is a mixture of a few causes."""
    rank = rank or max(width // 4, 1)
    mixing = rng.normal(size=(groups, width, rank))
    x = mixing @ rng.normal(size=(groups, rank, count)) + 0.1 * rng.normal(size=(groups, width, count)) + mean
    return x.astype(np.float32)


def per_row(matrix):
    return matrix_scale(matrix, matrix.shape[:2])
