"""Damage of outputs against formulas written out, for class scores and for everything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.refinement.damage import OutputDamage, recognize_class_scores
from quantkit.refinement.quality import describe_quality, is_low, output_quality

LOGITS = MeasuredOutput("y", "logits", 1)
PROBABILITIES = MeasuredOutput("y", "probabilities", -1)
IMAGE = MeasuredOutput("y", "values", 1)

SCORES = hnp.arrays(np.float32, (6, 4), elements=st.floats(-8, 8, width=32))


def batches(array: np.ndarray, size: int = 2) -> list[dict[str, np.ndarray]]:
    return [{"y": array[i : i + size]} for i in range(0, len(array), size)]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(axis=1, keepdims=True)


def divergences(x: np.ndarray, y: np.ndarray) -> list[float]:
    p, q = softmax(x), softmax(y)
    return [sum(a * np.log(a / b) for a, b in zip(*row, strict=True)) for row in zip(p, q, strict=True)]


def half_variances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[i, j]: half the variance of the error of sample j under the probabilities of sample i."""
    p, errors = softmax(x), np.log(softmax(y)) - np.log(softmax(x))
    return np.array([[(np.dot(q, e**2) - np.dot(q, e) ** 2) / 2 for e in errors] for q in p])


@given(SCORES, SCORES)
def test_errors_of_class_scores_are_weighed_with_the_probabilities_of_all_samples(x: np.ndarray, y: np.ndarray) -> None:
    damage = OutputDamage([LOGITS], batches(x))
    assert damage.is_divergence
    assert damage.of(batches(y)) == pytest.approx(half_variances(x, y).mean(), rel=1e-5, abs=1e-6)
    assert damage.mean_divergence(batches(y)) == pytest.approx(np.mean(divergences(x, y)), abs=1e-6)


@pytest.mark.parametrize("classes", [3, 40])
def test_many_samples_are_put_together_by_how_sure_the_model_is(classes: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(64, classes)) * rng.uniform(0.1, 6, (64, 1))).astype(np.float32)
    y = (x + rng.normal(size=x.shape) * 0.1).astype(np.float32)
    order = np.argsort((softmax(x) ** 2).sum(axis=1), kind="stable")
    expected = np.mean([half_variances(x[part], y[part]).mean() for part in np.array_split(order, 4)])
    assert OutputDamage([LOGITS], batches(x)).of(batches(y)) == pytest.approx(expected, rel=1e-5)


def test_few_samples_tell_more_than_by_their_mean_divergence() -> None:
    """The model is sure of most samples, errors are of one size: the figure moves less from sample to sample."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2000, 10)) * 8).astype(np.float32)
    y = (x + rng.normal(size=x.shape) * 0.2).astype(np.float32)
    whole = np.mean(divergences(x, y))
    found = []
    for start in range(0, len(x), 50):
        part = slice(start, start + 50)
        damage = OutputDamage([LOGITS], batches(x[part], 10))
        found.append((damage.of(batches(y[part], 10)), damage.mean_divergence(batches(y[part], 10))))
    ours, means = np.array(found).T
    assert ours.mean() == pytest.approx(whole, rel=0.1)
    assert ours.std() < 0.75 * means.std()


def test_of_too_many_positions_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """From all columns of an image, however wide it is."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3, 20, 20)).astype(np.float32)
    y = x.copy()
    y[..., 1:] += rng.normal(size=(4, 3, 20, 19)) * 0.1
    damage = OutputDamage([LOGITS], batches(x))
    exact, exact_mean = damage.of(batches(y)), damage.mean_divergence(batches(y))
    for share in (4, 20):
        monkeypatch.setattr("quantkit.refinement.damage._MOST_SCORES", x.size // share)
        damage = OutputDamage([LOGITS], batches(x))
        assert damage.of(batches(y)) == pytest.approx(exact, rel=0.25)
        assert damage.mean_divergence(batches(y)) == pytest.approx(exact_mean, rel=0.25)


def test_nothing_detected_is_no_damage() -> None:
    nothing = [{"y": np.zeros((0, 6), np.float32)}]
    assert recognize_class_scores([IMAGE], nothing) == (IMAGE,)
    assert OutputDamage([LOGITS], nothing).of(nothing) == 0


@given(SCORES, SCORES)
def test_probabilities_are_the_same_as_their_logits(x: np.ndarray, y: np.ndarray) -> None:
    direct = OutputDamage([PROBABILITIES], batches(softmax(x))).of(batches(softmax(y)))
    assert direct == pytest.approx(OutputDamage([LOGITS], batches(x)).of(batches(y)), abs=1e-6)


@given(SCORES, st.floats(-5, 5))
def test_a_constant_added_to_all_classes_does_no_damage(x: np.ndarray, offset: float) -> None:
    assert OutputDamage([LOGITS], batches(x)).of(batches(x + np.float32(offset))) == pytest.approx(0, abs=1e-6)


rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (6 * np.eye(10)[np.arange(32) % 10] + rng.normal(size=(32, 10)), "logits"),
        (9 * np.eye(1000)[np.arange(64) * 7] + rng.normal(size=(64, 1000)), "logits"),
        (3 * np.eye(2)[np.arange(32) % 2], "logits"),
        (
            np.array([300.0, 200, 100, 50]) + rng.normal(size=(32, 4)),
            "values",
        ),  # coordinates: one is always the largest
        (rng.normal(size=(32, 512)) / 8, "values"),  # an embedding
        (np.full((4, 3), np.nan), "values"),
    ],
)
def test_a_product_holds_class_scores_if_its_values_say_so(values: np.ndarray, kind: str) -> None:
    (found,) = recognize_class_scores([LOGITS], batches(values, 4))
    assert found.kind == kind


def test_batches_with_another_number_of_columns_hold_no_class_scores() -> None:
    """As where a batch is turned into channels: found by fuzzing."""
    (found,) = recognize_class_scores(
        [LOGITS], [{"y": np.zeros((4, 3), np.float32)}, {"y": np.zeros((4, 2), np.float32)}]
    )
    assert (found.kind, found.axis) == ("values", None)


def test_a_softmax_needs_no_proof() -> None:
    assert recognize_class_scores([PROBABILITIES], batches(np.full((4, 3), 1 / 3))) == (PROBABILITIES,)


@pytest.mark.parametrize(("axis", "found"), [(1, 1), (2, -1)])
def test_values_that_add_up_to_one_are_probabilities(axis: int, found: int) -> None:
    """As where a version converter puts Reshape behind the Softmax of a text recognizer."""
    e = np.exp(rng.normal(size=(6, 5, 7)))
    values = e / e.sum(axis=axis, keepdims=True)
    assert recognize_class_scores([IMAGE], batches(values)) == (MeasuredOutput("y", "probabilities", found),)
    assert recognize_class_scores([IMAGE], batches(e)) == (IMAGE,)


def test_values_are_compared_channel_by_channel() -> None:
    """A large channel does not hide a small one that is lost."""
    x = np.random.default_rng(0).standard_normal((6, 2, 5)).astype(np.float32) * np.array([[[1000], [1]]], np.float32)
    y = x.copy()
    y[:, 1] = x[:, 1].mean()
    shares = []
    for channel in range(2):
        error = np.mean((x[:, channel] - y[:, channel]).astype(np.float64) ** 2)
        exact = x[:, channel].astype(np.float64)
        shares.append(error / (error + np.var(exact) + np.mean(exact**2) / exact.size))
    damage = OutputDamage([IMAGE], batches(x))
    assert not damage.is_divergence
    assert damage.of(batches(y)) == pytest.approx(np.mean(shares), rel=1e-5)
    assert damage.of(batches(y)) == pytest.approx(0.25, rel=0.02)


def test_no_change_is_no_damage_and_nothing_left_is_all_of_it() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    damage = OutputDamage([IMAGE], batches(x))
    assert damage.of(batches(x)) == 0
    assert damage.of(batches(np.full_like(x, np.nan))) == 1
    assert damage.of(batches(np.full_like(x, np.inf))) == 1
    assert damage.of(batches(x[:, :1])) == 1
    assert OutputDamage([LOGITS], batches(x[:, :, 0])).of(batches(np.full_like(x[:, :, 0], np.nan))) == np.inf


def test_a_single_sample_is_measured_by_its_own_size() -> None:
    x = np.array([[3.0, 4]])
    assert OutputDamage([IMAGE], [{"y": x}]).of([{"y": x * 1.1}]) == pytest.approx(0.01 / 1.01)


def test_values_that_the_float_model_itself_cannot_hold_do_not_count() -> None:
    x = np.array([[1, 2], [3, np.inf]], np.float32)
    y = np.array([[1, 2], [3, 5]], np.float32)
    assert OutputDamage([IMAGE], batches(x)).of(batches(y)) == 0


def test_outputs_of_two_kinds_are_all_values() -> None:
    x = [{"y": np.eye(2, dtype=np.float32), "z": np.ones((2, 3), np.float32)}]
    damage = OutputDamage([LOGITS, MeasuredOutput("z", "values", None)], x)
    assert not damage.is_divergence
    assert damage.unit == "relative error"
    assert damage.of([{"y": x[0]["y"], "z": np.zeros((2, 3), np.float32)}]) == pytest.approx(3 / 7)


def test_the_first_batches_alone_can_be_compared() -> None:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    y = x + np.float32(0.5) * np.eye(6, 4, dtype=np.float32)
    part = OutputDamage([LOGITS], batches(x)).of(batches(y)[:2])
    assert part == pytest.approx(OutputDamage([LOGITS], batches(x)[:2]).of(batches(y)[:2]))


# --------------------------------------------------------------------------------------------- quality


def quality(output: MeasuredOutput, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return output_quality([output], batches(x), batches(y), num_samples=len(x))


def test_quality_of_class_scores() -> None:
    x = np.array([[3, 1], [0, 2], [1, 0], [5, 4]], np.float32)
    y = np.array([[2, 1], [0, 2], [0, 1], [5, 4]], np.float32)
    found = quality(LOGITS, x, y)
    assert found["num_samples"] == 4
    assert found["agreement"] == 0.75
    assert found["kl_divergence"] == pytest.approx(np.mean(divergences(x, y)))
    assert found["sqnr_db"] == pytest.approx(10 * np.log10((x**2).sum() / 3), abs=0.01)


def test_quality_of_values() -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    found = quality(IMAGE, x, x + np.float32(0.1))
    assert found.keys() == {"num_samples", "sqnr_db", "relative_error"}
    assert found["sqnr_db"] == pytest.approx(10 * np.log10((x.astype(float) ** 2).mean() / 0.01), abs=0.01)


def test_quality_is_a_number_of_json_whatever_comes_out() -> None:
    x = np.ones((2, 3), np.float32)
    assert quality(LOGITS, x, x)["sqnr_db"] == 999
    ruined = quality(LOGITS, x, np.full_like(x, np.nan))
    assert (ruined["sqnr_db"], ruined["kl_divergence"]) == (-999, 999)
    assert is_low(ruined | {"agreement": 0.0})


@pytest.mark.parametrize(
    ("found", "low"),
    [
        ({"sqnr_db": 3.0, "kl_divergence": 0.1, "agreement": 0.95}, False),
        ({"sqnr_db": 30.0, "kl_divergence": 0.1, "agreement": 0.85}, True),
        ({"sqnr_db": 11.0, "relative_error": 0.1}, True),
        ({"sqnr_db": 13.0, "relative_error": 0.1}, False),
    ],
)
def test_who_is_warned(found: dict[str, float], low: bool) -> None:
    assert is_low(found) == low


def test_values_have_a_line_of_their_own() -> None:
    assert describe_quality({"num_samples": 8.0, "sqnr_db": 20.0, "relative_error": 0.015}) == (
        "SQNR 20.0 dB, relative error 0.015 (8 samples, against FP32)"
    )


@pytest.mark.parametrize("output", [LOGITS, IMAGE])
def test_an_output_without_values_has_no_damage(output: MeasuredOutput) -> None:
    empty = batches(np.zeros((4, 0), np.float32))
    assert OutputDamage(recognize_class_scores([output], empty), empty).of(empty) == 0
