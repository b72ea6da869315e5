from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantkit.evaluation.detection import suppress


def brute_force(corners, scores, classes, threshold, limit):
    kept: list[int] = []
    for row in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if all(classes[row] != classes[k] or iou(corners[row], corners[k]) <= threshold for k in kept):
            kept.append(row)
    return kept[:limit]


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 700),
    num_classes=st.integers(1, 4),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    limit=st.integers(1, 100),
    spread=st.sampled_from([6, 60]),
)
def test_suppression_is_greedy(seed, count, num_classes, threshold, limit, spread):
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, spread, (count, 2))
    corners = np.concatenate((starts, starts + generator.integers(0, 20, (count, 2))), axis=1)
    scores = generator.integers(1, 50, count) / 50  # many of them equal
    classes = generator.integers(0, num_classes, count)
    found = suppress(
        corners.astype(np.float32),
        scores.astype(np.float32),
        classes.astype(np.int64),
        iou_threshold=threshold,
        max_detections=limit,
    )
    assert found.tolist() == brute_force(corners.tolist(), scores.tolist(), classes.tolist(), threshold, limit)


def test_number_of_candidates_is_limited():
    """30,000 times the same box, and one elsewhere with a score below and then above theirs."""
    corners = np.tile(np.array([0, 0, 10, 10], np.float32), (30_001, 1))
    corners[-1] += 100
    classes = np.zeros(len(corners), np.int64)
    for score, kept in ((0.1, [0]), (0.9, [30_000, 0])):
        scores = np.full(len(corners), 0.5, np.float32)
        scores[-1] = score
        assert suppress(corners, scores, classes, iou_threshold=0.5, max_detections=300).tolist() == kept
