from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.datasets import iterate_batches, open_dataset, resolve_preprocessing
from quantkit.datasets.masks import open_masks
from quantkit.errors import EvaluationError
from quantkit.evaluation import evaluate
from quantkit.evaluation.bootstrap import draw_weights
from quantkit.evaluation.tasks.class_maps import Head, read_classes, view_image
from quantkit.evaluation.tasks.segmentation import Segmentation
from quantkit.numerics import fit_image
from quantkit.significance import DIFFERING
from quantkit.types import Batch, Preprocessing
from tests.geometry import input_from_image

from ...segmenter import CLASSES, write_scenes, write_segmenter

RNG = np.random.default_rng(5)


class Masks:
    """Annotations in memory."""

    source = "masks"
    fingerprint = "0" * 64

    def __init__(self, masks, *, classes=(), ignored=255):
        self.masks = {f"{i}.png": np.asarray(mask, np.uint8) for i, mask in enumerate(masks)}
        self.classes, self.ignored = classes, ignored

    def __getitem__(self, sample):
        return self.masks[sample]


def one_hot(maps, classes=3):
    """Class maps [N, h, w] → scores [N, C, h, w] that say so."""
    return np.moveaxis(np.eye(classes, dtype=np.float32)[np.asarray(maps)], -1, 1)


def run(masks, outputs, *, preprocessing=None, sizes=None, step=2, **options):
    """`outputs`: by variant, [N, ...] each."""
    count = len(masks.masks)
    task = Segmentation(masks, preprocessing, **options)
    for start in range(0, count, step):
        part = slice(start, start + step)
        ids = tuple(masks.masks)[part]
        batch = Batch({"x": np.zeros((len(ids), 1), np.float32)}, ids, None, None if sizes is None else sizes[part])
        task.update(batch, {variant: {"y": array[part]} for variant, array in outputs.items()})
    return task


def reference_miou(truth, predicted, ignored=255):
    """From the confusion matrix, as torchmetrics' MulticlassJaccardIndex (macro, ignore_index) does."""
    truth, predicted = np.ravel(truth), np.ravel(predicted)
    truth, predicted = truth[truth != ignored], predicted[truth != ignored]
    matrix = np.zeros((256, 256))
    np.add.at(matrix, (truth, predicted), 1)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return (np.diag(matrix)[union > 0] / union[union > 0]).mean()


TRUTH = [[[0, 0, 1], [0, 1, 255]], [[2, 2, 0], [0, 0, 0]]]
FP32 = [[[0, 0, 1], [0, 1, 1]], [[2, 0, 0], [0, 0, 0]]]
INT8 = [[[0, 1, 1], [0, 0, 2]], [[0, 0, 0], [0, 0, 0]]]


def test_scores_of_a_worked_example():
    """Classes 0, 1, 2 of 11 pixels: fp32 has 7/8, 2/2, 1/2; int8 6/10, 1/3, 0/2."""
    task = run(Masks(TRUTH, classes=("a", "b", "c")), {"fp32": one_hot(FP32), "int8": one_hot(INT8)})
    found = task.compute()
    assert found["fp32"] == {"miou": pytest.approx((7 / 8 + 1 + 1 / 2) / 3), "pixel_accuracy": 10 / 11}
    assert found["int8"]["miou"] == pytest.approx((6 / 10 + 1 / 3 + 0) / 3)
    assert found["int8"]["pixel_accuracy"] == 7 / 11
    assert found["int8"]["agreement"] == 8 / 11
    assert [(c.label, c.count, c.scores) for c in task.classes()] == [
        ("a", 7, {"fp32": 7 / 8, "int8": 6 / 10}),
        ("b", 2, {"fp32": 1, "int8": 1 / 3}),
        ("c", 2, {"fp32": 1 / 2, "int8": 0}),
    ]
    assert task.score.name == "miou"


def random_case(count=6, shape=(9, 11), classes=5):
    truth = RNG.integers(0, classes, (count, *shape)).astype(np.uint8)
    truth[RNG.random(truth.shape) < 0.1] = 255
    clean = np.where(truth == 255, 0, truth)
    flips = [
        np.where(RNG.random(truth.shape) < rate, RNG.integers(0, classes, truth.shape), clean) for rate in (0.2, 0.4)
    ]
    return truth, {"fp32": flips[0], "int8": flips[1]}


@pytest.mark.parametrize("step", [1, 4, 6])
def test_scores_are_those_of_the_confusion_matrix_whatever_the_batches(step):
    truth, maps = random_case()
    task = run(Masks(truth), {v: one_hot(m, 5) for v, m in maps.items()}, step=step)
    found = task.compute()
    for variant, predicted in maps.items():
        assert found[variant]["miou"] == pytest.approx(reference_miou(truth, predicted))
        mean = np.mean([c.scores[variant] for c in task.classes() if variant in c.scores])
        assert found[variant]["miou"] == pytest.approx(mean)


def test_scores_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    truth, maps = random_case()
    found = run(Masks(truth), {v: one_hot(m, 5) for v, m in maps.items()}).compute()
    counted = truth != 255
    for variant, predicted in maps.items():
        t, p = truth[counted], predicted[counted]
        assert found[variant]["miou"] == pytest.approx(metrics.jaccard_score(t, p, average="macro"))
        matrix = metrics.confusion_matrix(t, p)
        assert found[variant]["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())


def test_the_interval_is_that_of_the_same_draws_through_the_definition():
    truth, maps = random_case(count=30)
    found = run(Masks(truth), {v: one_hot(m, 5) for v, m in maps.items()}).compute()
    differences = []
    for weights in draw_weights(30):
        drawn = np.repeat(np.arange(30), weights)
        differences.append(
            reference_miou(truth[drawn], maps["int8"][drawn]) - reference_miou(truth[drawn], maps["fp32"][drawn])
        )
    low, high = np.quantile(differences, (0.025, 0.975))
    assert found["int8"]["miou_difference_low"] == pytest.approx(low)
    assert found["int8"]["miou_difference_high"] == pytest.approx(high)
    assert low < found["int8"]["miou"] - found["fp32"]["miou"] < high


def test_an_unchanged_variant_differs_by_nothing():
    same = {"a": one_hot(FP32), "b": one_hot(FP32)}
    found = run(Masks(TRUTH), same).compute()["b"]
    assert (found["agreement"], found[DIFFERING]) == (1, 0)
    assert "miou_difference_low" not in found


def test_a_class_that_only_a_variant_predicts_counts_against_it_alone():
    truth = np.zeros((1, 2, 2), np.uint8)
    wrong = truth.copy()
    wrong[0, 0, 0] = 2
    task = run(Masks(truth), {"fp32": one_hot(truth), "int8": one_hot(wrong)})
    found = task.compute()
    assert (found["fp32"]["miou"], found["int8"]["miou"]) == (1, (3 / 4 + 0) / 2)
    assert [(c.label, c.scores) for c in task.classes()] == [
        ("class 0", {"fp32": 1, "int8": 0.75}),
        ("class 2", {"int8": 0}),
    ]


def test_changed_images_are_those_with_changed_miou():
    truth = np.zeros((4, 20, 10), np.uint8)
    truth[:, :10] = 1
    before = truth.copy()
    before[2, 10] = 1
    after = truth.copy()
    after[0, 0] = 0  # ten pixels lost
    after[1, 0, 0] = 2  # a stray pixel of another class: 50 points of a mean over it, half a point over the mask's
    task = run(Masks(truth, classes=("road", "car", "sky")), {"a": one_hot(before), "b": one_hot(after)})
    worst, fixed = task.changes()
    assert (worst.sample, worst.kind, worst.truth) == ("0.png", "broken", "road, car")
    own = (90 / 100 + 100 / 110) / 2
    assert (worst.before, worst.after) == ("mIoU 100.0%", f"{100 * own:.1f}%")
    assert worst.severity == pytest.approx(1 - own)
    assert (fixed.sample, fixed.kind) == ("2.png", "fixed")
    assert task.num_changes() == {"b": {"broken": 1, "fixed": 1}}
    assert "falls or rises by a point or more" in task.score.definition
    assert task.facts == {"num_pixels": 800}


def test_many_classes_are_summed_up():
    truth = np.arange(6).reshape(1, 2, 3).astype(np.uint8)
    scores = one_hot(truth, 300)
    scores[0, 299, 0, 0] = 2
    task = run(Masks(truth), {"a": scores})
    assert task.compute()["a"]["miou"] == 5 / 7
    (change,) = run(Masks(truth), {"a": one_hot(truth, 300), "b": scores}).changes()
    assert change.truth == "class 0, class 1, class 2 and 3 more"


@pytest.mark.parametrize("kind", ["NHWC", "int32", "[N, 1, h, w]", "uint8", "half"])
def test_every_layout_gives_the_same_scores(kind):
    maps = np.array(FP32)
    preprocessing = Preprocessing(size=(2, 3), layout="NHWC" if kind == "NHWC" else "NCHW")
    output = {
        "NHWC": np.moveaxis(one_hot(maps), 1, -1),
        "int32": maps.astype(np.int32),
        "[N, 1, h, w]": maps[:, None],
        "uint8": maps.astype(np.uint8),
        "half": one_hot(maps).astype(np.float16),
    }[kind]
    expected = run(Masks(TRUTH), {"a": one_hot(maps)}).compute()
    assert run(Masks(TRUTH), {"a": output}, preprocessing=preprocessing).compute() == expected


@pytest.mark.parametrize("shape", [(2, 1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("binary", ["logits", "probabilities"])
def test_single_channel_follows_the_declaration(binary, shape):
    truth = np.array([[[0, 1], [1, 0]], [[0, 0], [1, 1]]], np.uint8)
    values = {"logits": (-3.0, 0.2), "probabilities": (0.4, 0.6)}[binary]
    output = np.where(truth == 1, *values[::-1]).astype(np.float32).reshape(shape)
    task = run(Masks(truth), {"a": output}, binary=binary)
    assert task.compute()["a"]["miou"] == 1
    with pytest.raises(EvaluationError, match=r"'y'.*one channel.*--binary"):
        run(Masks(truth), {"a": output})
    other = {"logits": "probabilities", "probabilities": "logits"}[binary]
    with pytest.raises(EvaluationError, match=f"these are {binary}, not {other}"):
        run(Masks(truth), {"a": output}, binary=other)


def test_black_and_white_masks():
    truth = np.array([[[0, 255], [255, 0]]], np.uint8)
    output = np.where(truth == 255, 2.0, -2.0).astype(np.float32)
    assert run(Masks(truth, ignored=None), {"a": output}, binary="logits").compute()["a"]["miou"] == 1
    with pytest.raises(EvaluationError, match=r"hold 0 and the ignored value 255 alone: .*--ignored -1"):
        run(Masks(truth), {"a": output}, binary="logits").compute()


def test_black_and_white_masks_do_not_judge_a_model_of_other_classes():
    """Foreground that counts for nothing would leave only what is found beyond the background, all of it wrong."""
    truth = np.array([[[0, 255], [255, 0]]], np.uint8)
    found = np.where(truth == 255, 1, 0)
    with pytest.raises(EvaluationError, match=r"ignored value 255 alone: masks with the model's 3 classes are needed"):
        run(Masks(truth), {"a": one_hot(found)}).compute()
    with pytest.raises(
        EvaluationError, match=r"ignored value 255 alone: .*--ignored -1, and the names of both classes"
    ):
        run(Masks(truth), {"a": found}).compute()
    named = run(Masks(truth, ignored=None), {"a": found}, class_names=("no", "yes"))
    assert named.compute()["a"]["miou"] == 1


def test_masks_of_background_alone_are_noted():
    task = run(Masks(np.zeros((1, 2, 2), np.uint8)), {"a": one_hot([[[0, 0], [0, 1]]])})
    assert task.compute()["a"]["miou"] == 3 / 4 / 2
    assert any("only class 0" in note for note in task.notes)
    both = run(Masks([[[0, 1]]]), {"a": one_hot([[[0, 1]]])})
    both.compute()
    assert not any("only class 0" in note for note in both.notes)


@pytest.mark.parametrize("shape", ["[N, C, h, w]", "indices"])
def test_binary_is_refused_where_no_output_has_one_channel(shape):
    output = np.array(FP32) if shape == "indices" else one_hot(FP32)
    with pytest.raises(EvaluationError, match=r"--binary logits: output 'y' .* has (3 channels as NCHW|class indices)"):
        run(Masks(TRUTH), {"a": output}, binary="logits")


def test_binary_passes_over_outputs_of_more_channels():
    truth = np.array([[[0, 1], [1, 0]]], np.uint8)
    logits = np.where(truth == 1, 3.0, -3.0).astype(np.float32)
    task = Segmentation(Masks(truth), None, binary="logits")
    task.update(Batch({"x": np.zeros((1, 1))}, ("0.png",)), {"a": {"features": one_hot([FP32[0]]), "mask": logits}})
    assert task.compute()["a"]["miou"] == 1


def test_nan_pixels_are_wrong_and_agree_with_nothing():
    scores = one_hot(FP32)
    scores[0, 1, 0, 0] = np.nan
    found = run(Masks(TRUTH), {"a": one_hot(FP32), "b": scores, "c": scores}).compute()
    assert found["b"]["pixel_accuracy"] == 9 / 11
    assert found["b"]["agreement"] == found["c"]["agreement"] == 10 / 11
    assert found["b"]["miou"] == pytest.approx((6 / 8 + 1 + 1 / 2) / 3)


def test_first_matching_or_named_output_is_used():
    masks = Masks(TRUTH)
    batch = Batch({"x": np.zeros((2, 1))}, ("0.png", "1.png"))
    outputs = {"features": np.zeros((2, 7), np.float32), "out": one_hot(FP32), "aux": one_hot(INT8)}
    for name, expected in ((None, FP32), ("aux", INT8)):
        task = Segmentation(masks, None, output=name)
        task.update(batch, {"a": outputs})
        assert task.compute()["a"]["miou"] == pytest.approx(reference_miou(TRUTH, expected))
    with pytest.raises(EvaluationError, match="there is no output 'other': the model has 'features', 'out', 'aux'"):
        Segmentation(masks, None, output="other").update(batch, {"a": outputs})
    with pytest.raises(EvaluationError, match=r"no output is a class map.*'features' float32 \[2, 7\]"):
        Segmentation(masks, None).update(batch, {"a": {"features": outputs["features"]}})


def test_mismatched_outputs_are_refused():
    with pytest.raises(EvaluationError, match=r"mask of '0\.png' holds class 2, but output 'y' has 2 classes, 0 to 1"):
        run(Masks([[[2]]]), {"a": one_hot([[[0]]], 2)})
    with pytest.raises(EvaluationError, match=r"holds class 255.*if it counts for nothing, say --ignored 255"):
        run(Masks([[[255]]], ignored=None), {"a": one_hot([[[0]]], 3)})
    with pytest.raises(EvaluationError, match=r"\[1, 3, 1, 1\] has 3 classes as NCHW, but 2 class names"):
        run(Masks([[[1]]]), {"a": one_hot([[[0]]])}, class_names=("a", "b"))
    with pytest.raises(EvaluationError, match="'y' contains class index 7, outside 0 to 1"):
        run(Masks([[[1]]]), {"a": np.array([[[7]]])}, class_names=("a", "b"))
    with pytest.raises(EvaluationError, match="contains class index -1"):
        run(Masks([[[1]]]), {"a": np.array([[[-1]]])})
    with pytest.raises(EvaluationError, match="no pixel of the masks counts"):
        run(Masks([[[255]]]), {"a": one_hot([[[0]]])}).compute()
    with pytest.raises(EvaluationError, match="--binary: there is no 'yes'"):
        Segmentation(Masks([]), None, binary="yes")


def test_a_mask_must_have_the_size_of_its_image():
    plain = Preprocessing(size=(2, 3))
    with pytest.raises(EvaluationError, match=r"mask of '0\.png' is 3 x 2 pixels, the image 2 x 3: .*EXIF"):
        run(Masks(TRUTH), {"a": one_hot(FP32)}, preprocessing=plain, sizes=((3, 2), (2, 3)))
    with pytest.raises(EvaluationError, match="the image 6 x 4: both must have one size"):
        run(Masks(TRUTH), {"a": one_hot(FP32)}, preprocessing=plain, sizes=((4, 6), (2, 3)))


SCORES = Head("y", "scores", 1, 4)


@st.composite
def fits(draw):
    resize = draw(st.sampled_from(["stretch", "crop", "letterbox"]))
    size = (draw(st.integers(4, 20)), draw(st.integers(4, 20)))
    shorter = draw(st.integers(max(size), 30)) if resize == "crop" else None
    image = (draw(st.integers(3, 50)), draw(st.integers(3, 50)))
    return fit_image(image, Preprocessing(size=size, resize=resize, shorter_side=shorter)), draw(st.integers(1, 3))


@given(fits(), st.integers(0, 1000))
def test_mask_pixel_takes_the_class_at_its_center(case, seed):
    """Against `ImageTransform`'s own way from the image into the input, pixel by pixel, also for smaller outputs."""
    fit, stride = case
    height, width = (max(1, n // stride) for n in fit.input_size)
    classes = np.random.default_rng(seed).integers(0, 4, (height, width))
    view = view_image(fit)
    found = read_classes(one_hot(classes[None], 4)[0], SCORES, view)
    seen = np.full(fit.image_size, -9)
    seen[view.rows, view.columns] = found
    rows, columns = np.indices(fit.image_size)
    corners = np.stack([columns + 0.5, rows + 0.5] * 2, axis=-1).reshape(-1, 4)
    places = input_from_image(fit, corners)[:, :2].reshape(*fit.image_size, 2)
    for row, column in np.ndindex(fit.image_size):
        x, y = places[row, column]
        inside = -1e-9 <= x < fit.input_size[1] - 1e-9 and -1e-9 <= y < fit.input_size[0] - 1e-9
        if not inside:
            assert seen[row, column] == -9
            continue
        down, right = y * height / fit.input_size[0], x * width / fit.input_size[1]
        # A centre on the edge of two pixels may be in either, as far as this arithmetic in floats can tell.
        near = {
            int(classes[min(max(math.floor(down + dy), 0), height - 1), min(max(math.floor(right + dx), 0), width - 1)])
            for dy in (-1e-9, 1e-9)
            for dx in (-1e-9, 1e-9)
        }
        assert seen[row, column] in near


def test_cropped_pixels_are_ignored():
    """A 4 x 8 image of which the model sees the 4 x 4 in the middle."""
    truth = np.zeros((1, 4, 8), np.uint8)
    truth[0, :, :2] = 1
    scores = one_hot(np.zeros((1, 4, 4), int))
    crop = Preprocessing(size=(4, 4), resize="crop", shorter_side=4)
    task = run(Masks(truth), {"a": scores}, preprocessing=crop, sizes=((4, 8),))
    assert task.compute()["a"] == {"miou": 1, "pixel_accuracy": 1}
    assert task.notes[0].startswith("50.0% of the masks' pixels were cut off")
    assert task.facts == {"num_pixels": 16}


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_letterbox_padding_is_excluded(upsampling):
    """An 8 x 16 image in the middle of an 8 x 8 input, whose padding is class 2, and surely so."""
    small = np.zeros((4, 8), np.uint8)
    small[:, 2:6] = 1
    scores = one_hot(np.pad(small, ((2, 2), (0, 0)), constant_values=2)[None])
    scores[:, 2] *= 1000
    truth = small.repeat(2, axis=0).repeat(2, axis=1)[None]
    letterbox = Preprocessing(size=(8, 8), resize="letterbox")
    options = {"preprocessing": letterbox, "sizes": ((8, 16),), "upsampling": upsampling}
    assert run(Masks(truth), {"a": scores}, **options).compute()["a"]["miou"] == 1


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_an_image_of_which_no_pixel_is_in_the_middle_of_the_crop(upsampling):
    crop = Preprocessing(size=(2, 2), resize="crop", shorter_side=20)
    view = view_image(fit_image((2, 2), crop))
    found = read_classes(one_hot(np.zeros((1, 2, 2), int))[0], SCORES, view, upsampling=upsampling)
    assert found.size == 0


@pytest.mark.parametrize(("out", "size"), [((7, 5), (20, 13)), ((16, 16), (8, 8)), ((6, 6), (6, 6)), ((1, 1), (5, 4))])
def test_upsampling_equals_onnx_and_pytorch(out, size):
    """PyTorch's "nearest-exact", and "bilinear" with align_corners=False, as its exporter writes them."""
    scores = RNG.normal(size=(3, *out)).astype(np.float32)
    view = view_image(fit_image(size, Preprocessing(size=(32, 32))))
    head = Head("y", "scores", 1, 3)
    for ours, attributes in (
        ("nearest", 'mode = "nearest", nearest_mode = "round_prefer_ceil"'),
        ("bilinear", 'mode = "linear"'),
    ):
        expected = resize(scores[None], size, attributes)[0].argmax(0)
        assert (read_classes(scores, head, view, upsampling=ours) == expected).all()


def resize(scores, size, attributes):
    """`scores`, [1, C, H, W], at another height and width, by ONNX Runtime's Resize at half pixels."""
    node = f'Resize <coordinate_transformation_mode = "half_pixel", {attributes}> (x, "", "", sizes)'
    graph = f"net (float[1, C, H, W] x, int64[4] sizes) => (float[1, C, h, w] y) {{ y = {node} }}"
    model = onnx.helper.make_model(
        onnx.parser.parse_graph(graph), opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": scores, "sizes": np.array([1, 3, *size], np.int64)})[0]


def test_bilinear_upsampling_in_blocks_and_of_one_channel(monkeypatch):
    monkeypatch.setattr("quantkit.evaluation.tasks.class_maps._BLOCK_VALUES", 50)
    logits = RNG.normal(size=(1, 6, 6)).astype(np.float32)
    view = view_image(fit_image((17, 12), Preprocessing(size=(6, 6))))
    one = read_classes(logits, Head("y", "logits", 1, 2), view, upsampling="bilinear")
    two = read_classes(np.concatenate([0 * logits, logits]), Head("y", "scores", 1, 2), view, upsampling="bilinear")
    assert (one == two).all()
    assert 0 < one.mean() < 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("head", ["scores", "indices", "probabilities", "logits"])
def test_model_segments_scenes_end_to_end(tmp_path, head, layout):
    binary = head if head in ("probabilities", "logits") else None
    images, folder = write_scenes(tmp_path, 6, binary=binary is not None)
    model = write_segmenter(tmp_path / "m.onnx", head=head, layout=layout)
    with OnnxRuntimeRunner(model) as runner:
        preprocessing = resolve_preprocessing(runner.inputs[0], preset="unit")
        dataset = open_dataset(images, runner.inputs, preprocessing=preprocessing)
        masks = open_masks(folder, dataset, ignored=None if binary else 255, classes=() if binary else CLASSES)
        task = Segmentation(masks, dataset.preprocessing, binary=binary)
        batches = iterate_batches(dataset, 4)
        found = evaluate({"a": runner, "b": runner}, batches, baseline="a", task=task)
    assert found.num_samples == 6
    assert found.metrics["a"]["miou"] > 0.85
    assert found.metrics["b"]["agreement"] == 1
    assert found.metrics["b"]["miou"] == found.metrics["a"]["miou"]
    assert ("sqnr_db" in found.metrics["b"]) == (head != "indices")
