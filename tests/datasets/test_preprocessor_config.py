from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantkit.datasets import resolve_preprocessing
from quantkit.datasets.open import open_samples
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing, TensorSpec
from quantkit.types.options import ImageOptions

DYNAMIC = TensorSpec("pixel_values", np.dtype(np.float32), ("batch", 3, "height", "width"))
HALF = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
VIT = {"do_resize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098, "resample": 2, **HALF}


def resolve(folder: Path, config: Any, spec: TensorSpec = DYNAMIC, **options: Any) -> Preprocessing:
    path = folder / "preprocessor_config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return resolve_preprocessing(spec, ImageOptions(preset=str(path), **options))


@pytest.mark.parametrize(
    ("config", "resize", "size", "shorter_side", "interpolation"),
    [
        # google/vit-base-patch16-224, and the form of before 4.26
        ({**VIT, "size": {"height": 224, "width": 224}}, "stretch", (224, 224), None, "bilinear"),
        (
            {"do_normalize": True, "do_resize": True, **HALF, "resample": 2, "size": 224},
            "stretch",
            (224, 224),
            None,
            "bilinear",
        ),
        # openai/clip-vit-base-patch32: both forms
        (
            {**VIT, "resample": 3, "do_center_crop": True, "size": 224, "crop_size": 224},
            *("crop", (224, 224), 224, "bicubic"),
        ),
        (
            {
                **VIT,
                "resample": 3,
                "do_center_crop": True,
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
            },
            *("crop", (224, 224), 256, "bicubic"),
        ),
        # facebook/convnext-tiny-224: shorter side 224 / 0.875; at 384 stretched
        ({**VIT, "resample": 3, "crop_pct": 0.875, "size": {"shortest_edge": 224}}, "crop", (224, 224), 256, "bicubic"),
        ({**VIT, "crop_pct": 0.875, "size": {"shortest_edge": 384}}, "stretch", (384, 384), None, "bilinear"),
        # inside a processor_config.json
        ({"image_processor": {**VIT, "size": {"height": 8, "width": 9}}}, "stretch", (8, 9), None, "bilinear"),
    ],
)
def test_published_configurations(tmp_path, config, resize, size, shorter_side, interpolation) -> None:
    p = resolve(tmp_path, config)
    assert (p.resize, p.size, p.shorter_side, p.interpolation) == (resize, size, shorter_side, interpolation)
    assert (p.color, p.mean, p.std) == ("RGB", (0.5,) * 3, (0.5,) * 3)
    assert p.scale == pytest.approx(1 / 255, rel=1e-12)


def test_steps_that_are_off(tmp_path) -> None:
    p = resolve(
        tmp_path,
        {"do_rescale": False, "do_normalize": False, "do_flip_channel_order": True, "size": {"height": 8, "width": 8}},
    )
    assert (p.color, p.scale, p.mean, p.std) == ("BGR", 1.0, (0.0,), (1.0,))


def test_what_is_given_besides_goes_before(tmp_path) -> None:
    config = {**VIT, "do_center_crop": True, "size": {"shortest_edge": 256}, "crop_size": 224}
    p = resolve(tmp_path, config, size=(112, 112), interpolation="lanczos")
    assert (p.size, p.shorter_side, p.interpolation) == ((112, 112), 128, "lanczos")
    assert resolve(tmp_path, config, resize="stretch").resize == "stretch"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "says nothing of images"),
        ({"feature_size": 80, "sampling_rate": 16000}, "says nothing of images"),
        (
            {**VIT, "size": {"shortest_edge": 800, "longest_edge": 1333}},
            "size is .* which no image option describes: use --pre",
        ),
        ({**VIT, "size": {"shortest_edge": 224}}, "images keep their aspect"),
        ({**VIT, "size": {"height": 8, "width": 8}, "do_pad": True}, "do_pad is set"),
        ({**VIT, "size": {"height": 8, "width": 8}, "do_resize": False}, "images keep their size"),
        (
            {**VIT, "size": {"height": 8, "width": 8}, "do_center_crop": True, "crop_size": 7},
            "stretched and then cropped",
        ),
        ({**VIT, "size": {"height": 8, "width": 8}, "rescale_offset": True}, "rescale_offset is set"),
        ({**VIT, "size": {"height": 8, "width": 8}, "resample": 9}, "resample is 9"),
        ({"do_normalize": True, "size": {"height": 8, "width": 8}}, "KeyError 'image_mean': not the form"),
        (VIT, "KeyError 'size'"),
    ],
)
def test_what_cannot_be_said_is_refused(tmp_path, config, message) -> None:
    with pytest.raises(DatasetError, match=message):
        resolve(tmp_path, config)


def test_a_model_of_another_size_is_refused(tmp_path) -> None:
    fixed = TensorSpec("x", np.dtype(np.float32), (1, 3, 32, 32))
    with pytest.raises(DatasetError, match="--size 224x224 contradicts input 'x'"):
        resolve(tmp_path, {**VIT, "size": 224}, fixed)


def test_a_missing_file_is_named(tmp_path, save_image) -> None:
    save_image("a.png")
    preset = str(tmp_path / "no.json")
    with pytest.raises(DatasetError, match=r"cannot read .*no\.json: No such file"):
        open_samples([DYNAMIC], tmp_path, preset, None, num_samples=None, seed=0, order="given")
