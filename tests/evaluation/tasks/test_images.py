from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from quantkit.errors import EvaluationError
from quantkit.evaluation.tasks.images import Images, peak_ratio, structural_similarity
from quantkit.types import Batch

RNG = np.random.default_rng(0)


def batch(count: int) -> Batch:
    return Batch({"x": np.zeros((count, 1))}, tuple(f"d/{i}.png" for i in range(count)))


def scipy_similarity(x, y, peak):
    """SSIM by scipy's Gaussian filter, cut to where the window of 11 pixels lies inside."""

    def blur(plane):
        return gaussian_filter(plane, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    return float((((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_ssim_is_that_of_scipys_filter(peak):
    x, y = RNG.random((2, 3, 20, 17)) * peak
    y = 0.7 * x + 0.3 * y
    expected = np.mean([scipy_similarity(a, b, peak) for a, b in zip(x, y, strict=True)])
    assert structural_similarity(x, y, peak) == pytest.approx(expected, abs=1e-9)
    assert structural_similarity(x, x, peak) == pytest.approx(1)
    with pytest.raises(EvaluationError, match="SSIM needs images of 11 x 11"):
        structural_similarity(x[:, :10], y[:, :10], peak)


@pytest.mark.parametrize(("step", "expected"), [(0.0, 100.0), (1.0, 20 * math.log10(255)), (25.5, 20.0)])
def test_psnr_of_a_constant_error(step, expected):
    image = np.full((3, 12, 12), 100.0)
    assert peak_ratio(image + step, image, 255.0) == pytest.approx(expected)


@pytest.fixture
def targets(tmp_path):
    paths = {}
    for i in range(40):
        (tmp_path / "d").mkdir(exist_ok=True)
        path = tmp_path / f"d/{i}.png"
        Image.fromarray(RNG.integers(0, 256, (12, 14, 3), np.uint8)).save(path)
        paths[f"d/{i}.png"] = path
    return paths


def test_against_targets_the_score_is_psnr_with_an_interval(targets):
    pixels = np.stack([np.asarray(Image.open(path), np.float64) for path in targets.values()])
    truth = pixels.transpose(0, 3, 1, 2) / 255
    good = np.clip(truth + 0.01, 0, 1)
    bad = np.clip(truth + 0.02 + RNG.random((40, 1, 1, 1)) * 0.01, 0, 1)
    task = Images(targets)
    task.update(batch(40), {"fp32": {"y": good}, "int8": {"y": bad}, "nhwc": {"y": good.transpose(0, 2, 3, 1)}})
    found = task.compute()
    mean = np.mean([10 * math.log10(1 / ((a - b) ** 2).mean()) for a, b in zip(good, truth, strict=True)])
    assert task.score.name == "image_psnr"
    assert found["fp32"]["image_psnr"] == pytest.approx(mean)
    assert found["nhwc"]["image_psnr"] == pytest.approx(mean)
    low, high = (found["int8"][f"image_psnr_difference_{end}"] for end in ("low", "high"))
    assert low < found["int8"]["image_psnr"] - found["fp32"]["image_psnr"] < high < 0
    assert found["fp32"]["image_ssim"] > found["int8"]["image_ssim"]


def test_without_targets_the_baseline_is_the_target():
    images = RNG.random((3, 1, 16, 16))
    task = Images(peak=1.0)
    task.update(batch(3), {"fp32": {"y": images}, "int8": {"y": images + 0.1}})
    found = task.compute()
    assert task.score.name == "image_ssim"
    assert found["fp32"] == pytest.approx({"image_psnr": 100.0, "image_ssim": 1.0})
    assert found["int8"]["image_ssim"] < 1
    assert task.notes == ("no interval of SSIM: 3 samples are too few, 30 are needed",)


def test_blue_first_and_gray_and_values_beyond_white(targets):
    truth = np.asarray(Image.open(targets["d/0.png"]), np.float64).transpose(2, 0, 1)[None]
    task = Images(targets, peak=255.0, color_reversed=True)
    task.update(batch(1), {"fp32": {"y": truth[:, ::-1]}})
    assert task.compute()["fp32"]["image_psnr"] == 100
    gray = np.asarray(Image.open(targets["d/0.png"]).convert("L"), np.float64)[None]
    task = Images(targets, peak=255.0)
    task.update(batch(1), {"fp32": {"y": np.where(gray == gray.max(), gray, gray)}})
    assert task.compute()["fp32"]["image_psnr"] == 100


@pytest.mark.parametrize(
    ("outputs", "peak", "message"),
    [
        (np.ones((1, 3, 12, 14)), 255.0, "output 'y' reaches 1 where --peak 255 is white: pass --peak 1"),
        (
            np.ones((1, 3, 24, 28)),
            1.0,
            "is 14 x 12 pixels, the output of 'd/0.png' 28 x 24: targets must have",
        ),
        (np.ones((1, 7)), 1.0, r"no output is an image.*'y' float64 \[1, 7\]"),
        (np.full((1, 3, 12, 14), 200.0), 1.0, "output 'y' reaches 200 where --peak 1 is white: pass --peak 255"),
    ],
)
def test_what_does_not_fit_is_told(targets, outputs, peak, message):
    with pytest.raises(EvaluationError, match=message):
        Images(targets, peak=peak).update(batch(1), {"fp32": {"y": outputs}})
