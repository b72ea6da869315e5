import numpy as np
import pytest

from quantkit.errors import EvaluationError
from quantkit.evaluation import PreprocessingScore, advantage, is_clearly_better, score_preprocessing
from quantkit.evaluation.preprocessing_score import gain_interval, may_be_better
from quantkit.types import Batch, TensorSpec

CLASSES = 10


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def made(share_right, *, seed=0, count=200, sharpness=5.0, labels=True):
    """Predictions that are right on that share of samples, others at random."""
    rng = np.random.default_rng(7)
    targets = rng.integers(0, CLASSES, count)
    rng = np.random.default_rng(seed)
    seen = np.where(rng.random(count) < share_right, targets, rng.integers(0, CLASSES, count))
    scores = rng.standard_normal((count, CLASSES))
    scores[np.arange(count), seen] += sharpness
    return PreprocessingScore(softmax(scores), targets if labels else None)


class Echo:
    """A model whose output is its input."""

    inputs = (TensorSpec("x", np.dtype(np.float32), ("n", 3)),)

    def run(self, inputs):
        return {"y": inputs["x"]}


def batch(rows, targets=None):
    x = np.asarray(rows, np.float32)
    targets = None if targets is None else np.asarray(targets, np.int64)
    return Batch({"x": x}, tuple(map(str, range(len(x)))), targets)


def test_scores_become_probabilities_and_probabilities_stay():
    fit = score_preprocessing(Echo(), [batch([[1, 2, 3], [0, 0, 0]], [2, 0]), batch([[9, 0, 0]], [1])])
    assert fit.probabilities.sum(axis=1) == pytest.approx([1, 1, 1])
    assert fit.right.tolist() == [True, True, False]
    assert fit.losses[1] == pytest.approx(np.log(3))
    rows = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]]
    assert score_preprocessing(Echo(), [batch(rows)]).probabilities == pytest.approx(np.array(rows), abs=1e-6)


def test_non_finite_scores_are_ignored():
    fit = score_preprocessing(Echo(), [batch([[np.nan, np.inf, -np.inf]])])
    assert np.isfinite(fit.probabilities).all()


def test_a_model_without_scores_is_refused():
    class Boxes(Echo):
        def run(self, inputs):
            return {"y": np.zeros((len(inputs["x"]), 4, 5), np.float32)}

    with pytest.raises(EvaluationError, match="class scores"):
        score_preprocessing(Boxes(), [batch([[1, 2, 3]])])
    with pytest.raises(EvaluationError, match="no samples"):
        score_preprocessing(Echo(), [])


def test_information_is_high_for_sure_and_various_predictions_only():
    various = PreprocessingScore(np.eye(CLASSES).repeat(3, axis=0), None)
    one_class = PreprocessingScore(np.eye(CLASSES)[np.zeros(30, int)], None)
    unsure = PreprocessingScore(np.full((30, CLASSES), 1 / CLASSES), None)
    assert various.information == pytest.approx(np.log(CLASSES))
    assert one_class.information == pytest.approx(0, abs=1e-9)
    assert unsure.information == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("labels", [True, False])
def test_clear_gain_is_detected_in_one_direction(labels):
    good, bad = made(0.9, labels=labels), made(0.3, seed=1, sharpness=5.0 if labels else 1.0, labels=labels)
    assert is_clearly_better(good, bad)
    assert not is_clearly_better(bad, good)
    assert advantage(good, bad) == pytest.approx(-advantage(bad, good))


@pytest.mark.parametrize("labels", [True, False])
def test_equal_models_are_hardly_ever_distinguished(labels):
    """By chance one of 4,300 pairs is 3.5 standard errors apart in one direction; the other conditions leave fewer."""
    pairs = ((made(0.8, seed=2 * i, labels=labels), made(0.8, seed=2 * i + 1, labels=labels)) for i in range(1500))
    assert sum(is_clearly_better(*pair) for pair in pairs) <= 2


@pytest.mark.parametrize("labels", [True, False])
def test_a_model_is_not_better_than_itself(labels):
    fit = made(0.8, labels=labels)
    assert advantage(fit, fit) == 0
    assert not is_clearly_better(fit, fit)


def test_more_confidence_in_the_same_answers_is_not_better():
    assert not is_clearly_better(made(0.8, sharpness=9.0), made(0.8, sharpness=5.0))


def test_a_small_sample_leaves_open_what_a_large_one_settles():
    few = made(0.62, seed=1, count=40), made(0.5, seed=2, count=40)
    many = made(0.9, seed=1, count=2000), made(0.3, seed=2, count=2000)
    assert may_be_better(*few)
    assert not may_be_better(*many)
    assert is_clearly_better(*many)
    low, high = gain_interval(*many)
    assert 0 < low < high
    assert gain_interval(*few)[1] - gain_interval(*few)[0] > high - low
