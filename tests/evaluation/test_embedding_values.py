import numpy as np
import pytest

from quantkit.evaluation.embedding_values import looks_like_embedding

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "is_embedding"),
    [
        (RNG.normal(size=(16, 384)) * 0.3, True),  # MiniLM's mean of tokens
        ((v := RNG.normal(size=(16, 10))) / np.linalg.norm(v, axis=1, keepdims=True), True),  # faces
        (RNG.normal(size=(16, 10)), False),  # too few classes to tell
        (np.eye(100)[:16] * 8 + RNG.normal(size=(16, 100)), False),  # logits of a trained classifier
        (np.full((4, 1000), 1e-3), False),  # probabilities, however flat
        (np.full((4, 40), np.nan), False),
        (RNG.uniform(0.1, 0.9, size=(16, 136)), True),  # landmarks of a face, as shares of its width and height
        (np.abs(np.eye(80)[:16] - RNG.uniform(0, 0.05, size=(16, 80))), False),  # several classes in one image
        (-np.sort(-(RNG.uniform(size=(2, 200)) ** 4)), True),  # of line segments, chosen by TopK
        (np.array([[5.0, 1.0, 0.5], [3.0, 2.0, 1.0]]), False),  # sorted by chance
        (np.ones((4, 20)), False),
    ],
)
def test_what_looks_like_an_embedding(values, is_embedding):
    assert looks_like_embedding(values) == is_embedding
