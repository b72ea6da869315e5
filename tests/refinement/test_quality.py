"""A ruined model is told, with the activation that ruined it."""

import numpy as np
import pytest

from quantkit.calibration.statistics import new_statistics, update
from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.refinement.quality import describe_quality, is_low, output_quality, warn_if_low

GOOD = {"num_samples": 16.0, "sqnr_db": 31.0, "relative_error": 0.001}
NOISY = {"num_samples": 16.0, "sqnr_db": 4.0, "relative_error": 0.3}
CONFUSED = {"num_samples": 16.0, "sqnr_db": 31.0, "kl_divergence": 0.2, "agreement": 0.7}


def said(quality, activations=None, effort="balanced"):
    notices = []
    warn_if_low(quality, notices.append, activations, effort=effort)
    assert {(n.kind, n.topic) for n in notices} <= {("warning", "accuracy")}
    return [n.text for n in notices]


@pytest.mark.parametrize("quality", [{}, GOOD])
def test_nothing_is_said_of_good_output_or_where_nobody_knows(quality):
    assert said(quality) == []


@pytest.mark.parametrize(("quality", "number"), [(NOISY, "4.0 dB"), (CONFUSED, "70.0%")])
def test_low_output_is_a_warning_with_its_numbers(quality, number):
    (text,) = said(quality)
    assert number in text
    assert "--accuracy best" in text


def test_no_effort_is_advised_that_was_made():
    (fast,), (best,) = said(NOISY, effort="fast"), said(NOISY, effort="best")
    assert "Try --accuracy balanced, or leave operators" in fast
    assert "--accuracy" not in best
    assert "--exclude" in best


def test_the_activation_that_lost_most_is_named_first():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    seen = new_statistics()
    update(seen, values)
    (text,) = said(NOISY, {"fine": (seen, 4.0), "cut": (seen, 0.5), "wide": (seen, 400.0)})
    named = text.partition("Least precise: ")[2]
    assert named.index("wide") < named.index("cut")
    assert "fine" not in text
    assert f"values to {np.abs(values).max():.4g}" in text
    (text,) = said(NOISY, {"fine": (seen, 4.0)})
    assert "No single activation" in text


def test_an_output_of_another_size_is_wholly_wrong():
    rows = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float32)
    output = MeasuredOutput("boxes", "values", None)
    equal = output_quality([output], [{"boxes": rows}], [{"boxes": rows}], num_samples=1)
    assert describe_quality(equal) == "equal to the float model's, relative error 0 (1 sample, against FP32)"
    fewer = output_quality([output], [{"boxes": rows}], [{"boxes": rows[:, :5]}], num_samples=1)
    assert is_low(fewer)
    assert fewer["sqnr_db"] == 0


def test_a_large_output_does_not_hide_a_small_one():
    """An image of 3 x 8 x 8 beside a vector of three numbers: the vector alone is noisy."""
    image = 100 * np.ones((2, 3, 8, 8), np.float32)
    vector = np.ones((2, 3), np.float32)
    outputs = [MeasuredOutput("image", "values", 1), MeasuredOutput("vector", "values", 1)]
    exact = [{"image": image, "vector": vector}]
    found = output_quality(outputs, exact, [{"image": image, "vector": vector + np.float32(1)}], num_samples=2)
    assert found["sqnr_db"] == 0
    assert is_low(found)


def test_a_large_mean_does_not_hide_that_channels_are_lost():
    """Values around 10 that vary by one, and are wrong by one: 20 dB."""
    rng = np.random.default_rng(0)
    exact = 10 + rng.standard_normal((4096, 2)).astype(np.float32)
    wrong = exact + rng.standard_normal((4096, 2)).astype(np.float32)
    found = output_quality(
        [MeasuredOutput("pitch", "values", -1)], [{"pitch": exact}], [{"pitch": wrong}], num_samples=64
    )
    assert found["sqnr_db"] > 19
    assert is_low(found)


def test_the_agreement_is_that_of_the_worst_class_scores():
    many, one = np.eye(4, dtype=np.float32)[None].repeat(8, 1), np.eye(4, dtype=np.float32)[:1]
    outputs = [MeasuredOutput("pixels", "logits", -1), MeasuredOutput("image", "logits", -1)]
    found = output_quality(
        outputs, [{"pixels": many, "image": one}], [{"pixels": many, "image": one[:, ::-1]}], num_samples=1
    )
    assert found["agreement"] == 0
