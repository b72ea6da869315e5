from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import PRESETS, preprocess, resolve_preprocessing
from quantkit.errors import DatasetError
from quantkit.types import TensorSpec

Shape = tuple[int | str | None, ...]


def spec(*shape: int | str | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("data", np.dtype(dtype), shape)


def test_presets_match_their_sources() -> None:
    assert {"imagenet", "yolo", "unit", "none", "tf", "clip", "caffe"} <= PRESETS.keys()
    imagenet = resolve_preprocessing(spec(1, 3, 224, 224), preset="imagenet")
    assert (imagenet.resize, imagenet.shorter_side, imagenet.interpolation) == ("crop", 256, "bilinear")
    assert (imagenet.mean, imagenet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    clip = resolve_preprocessing(spec(1, 3, 336, 336), preset="clip")
    assert (clip.resize, clip.shorter_side, clip.interpolation) == ("crop", 336, "bicubic")
    yolo = resolve_preprocessing(spec(1, 3, 640, 640), preset="yolo")
    assert (yolo.resize, yolo.pad_value, yolo.color) == ("letterbox", 114, "RGB")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("imagenet", [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]),
        ("yolo", [1.0, 0.0, 0.0]),
        ("unit", [1.0, 0.0, 0.0]),
        ("none", [255.0, 0.0, 0.0]),
        ("tf", [1.0, -1.0, -1.0]),
        ("clip", [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]),
        ("caffe", [-103.939, -116.779, 255 - 123.68]),
    ],
)
def test_what_a_preset_makes_of_red(preset: str, expected: list[float]) -> None:
    wanted = resolve_preprocessing(spec("N", 3, 4, 4), preset=preset)
    result = preprocess(Image.new("RGB", (4, 4), (255, 0, 0)), wanted)
    assert result[:, 0, 0].tolist() == [float(np.float32(v)) for v in expected]


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (299, 342), (288, 329), (64, 73), (32, 37)])
def test_imagenets_shorter_side_follows_the_size(size: int, shorter: int) -> None:
    assert resolve_preprocessing(spec(1, 3, size, size)).shorter_side == shorter


def test_defaults_by_input() -> None:
    assert resolve_preprocessing(spec("N", 3, 8, 8)) == resolve_preprocessing(spec("N", 3, 8, 8), preset="imagenet")
    assert resolve_preprocessing(spec("N", 1, 8, 8)) == resolve_preprocessing(spec("N", 1, 8, 8), preset="unit")
    assert resolve_preprocessing(spec("N", 8, 8, 3, dtype="uint8")) == resolve_preprocessing(
        spec("N", 8, 8, 3, dtype="uint8"), preset="none"
    )


def test_one_channel_takes_the_average_of_three() -> None:
    wanted = resolve_preprocessing(spec(1, 1, 8, 8), preset="imagenet")
    assert wanted.color == "L"
    assert wanted.mean == pytest.approx((0.449,))
    assert wanted.std == pytest.approx((0.226,))


def test_a_presets_means_follow_the_color() -> None:
    assert resolve_preprocessing(spec(1, 3, 8, 8), color="BGR").mean == (0.406, 0.456, 0.485)
    assert resolve_preprocessing(spec(1, 3, 8, 8), preset="caffe", color="RGB").mean == (123.68, 116.779, 103.939)
    assert resolve_preprocessing(spec(1, 3, 8, 8), color="BGR", mean=(1, 2, 3)).mean == (1, 2, 3)


def test_explicit_settings_go_before_the_preset() -> None:
    wanted = resolve_preprocessing(
        spec("N", "C", "H", "W", dtype="float16"),
        preset="yolo",
        color="L",
        resize="crop",
        size=(20, 30),
        shorter_side=33,
        interpolation="lanczos",
        pad_value=0,
        scale=0.5,
        mean=[1],
        std=[2],
        layout="NHWC",
    )
    assert (wanted.size, wanted.color, wanted.resize, wanted.shorter_side) == ((20, 30), "L", "crop", 33)
    assert (wanted.interpolation, wanted.pad_value, wanted.scale) == ("lanczos", 0, 0.5)
    assert (wanted.mean, wanted.std, wanted.layout, wanted.dtype) == ((1,), (2,), "NHWC", "float16")


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        (("N", 3, 20, 30), "NCHW", (20, 30)),
        (("N", 20, 30, 3), "NHWC", (20, 30)),
        ((None, 1, 20, 30), "NCHW", (20, 30)),
        ((1, 20, 30, 1), "NHWC", (20, 30)),
        ((1, 3, 1, 30), "NCHW", (1, 30)),
    ],
)
def test_layout_and_size_come_from_the_shape(shape: Shape, layout: str, size: tuple[int, int]) -> None:
    wanted = resolve_preprocessing(spec(*shape))
    assert (wanted.layout, wanted.size) == (layout, size)


def test_open_sizes_are_filled() -> None:
    assert resolve_preprocessing(spec("N", 3, "H", "W"), size=64).size == (64, 64)
    assert resolve_preprocessing(spec("N", 3, 64, None), size=(64, 32)).size == (64, 32)
    assert resolve_preprocessing(spec(1, 3, 64, 64), size=64).size == (64, 64)
    assert resolve_preprocessing(spec("N", None, None, None), layout="NCHW", size=8).channels == 3


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((1, 3, 8, 8), {"preset": "imagnet"}, "--preprocess: there is no 'imagnet': did you mean 'imagenet'"),
        ((1, 3, 8, 8), {"preset": "zzz"}, "--preprocess: there is no 'zzz'"),
        ((1, 128), {}, r"images do not match input 'data' of shape \[1, 128\].*npz"),
        ((1, 3, 8, 8, 8), {}, "npz"),
        ((1, 3, 8, 3), {}, r"\[1, 3, 8, 3\] can be NCHW or NHWC.*--layout"),
        ((1, 4, 8, 8), {}, "1 or 3 channels.*npz"),
        ((1, 4, 8, 8), {"layout": "NCHW"}, "4 channels.*npz"),
        (("N", "C", None, "W"), {"size": 8}, r"\[N, C, \?, W\].*--layout"),
        (("N", 3, "H", "W"), {}, r"input 'data' of shape \[N, 3, H, W\].*--size"),
        ((1, 3, 8, 8), {"size": 16}, r"--size 16x16 contradicts input 'data' of shape \[1, 3, 8, 8\]"),
        ((1, 3, 8, 8), {"color": "L"}, "color L has 1 channels, but input 'data'.* has 3"),
        ((1, 1, 8, 8), {"color": "BGR"}, "color BGR has 3 channels"),
        ((1, 3, 8, 8), {"resize": "stretch", "shorter_side": 9}, "shorter_side has no meaning"),
        ((1, 3, 8, 8), {"shorter_side": 7}, "shorter_side 7 must be at least 8"),
        ((1, 3, 8, 8), {"std": (0.0,)}, "std"),
        ((1, 3, 8, 8), {"mean": (0.0, 1.0)}, "mean"),
    ],
)
def test_errors_name_the_input_and_the_way_out(shape: Shape, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words) as raised:
        resolve_preprocessing(spec(*shape), **options)
    assert "\n" not in str(raised.value)


def test_types_that_pixels_cannot_fill_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"input 'data' of type int64.*npz"):
        resolve_preprocessing(spec(1, 3, 8, 8, dtype="int64"))
    with pytest.raises(DatasetError, match=r"too few levels.*--preprocess none --mean 128"):
        resolve_preprocessing(spec(1, 3, 8, 8, dtype="int8"))
    signed = resolve_preprocessing(spec(1, 3, 8, 8, dtype="int8"), preset="none", mean=(128,))
    assert signed.dtype == "int8"
    with pytest.raises(DatasetError, match="outside the model's uint8"):
        resolve_preprocessing(spec(1, 3, 8, 8, dtype="uint8"), preset="imagenet")


def test_a_text_line_is_padded_on_the_right() -> None:
    line = resolve_preprocessing(spec("N", 3, 48, 320), preset="tf", resize="height", pad_value=128)
    assert (line.size, line.pad_position, line.varying) == ((48, 320), "top-left", (False, False))
    pixels = preprocess(Image.new("RGB", (100, 50), (255, 255, 255)), line)
    assert (pixels[:, :, :96] == 1).all()
    assert pixels[:, :, 96:] == pytest.approx(128 / 127.5 - 1)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("N", 3, 64, "w"), {"resize": "limit", "size": 64}, "--resize limit gives each image a height of its own"),
        (
            ("N", 3, "h", 64),
            {"resize": "letterbox", "multiple_of": 32, "size": 64},
            "--multiple-of 32 gives",
        ),
        (("N", 3, "h", "w"), {"resize": "crop", "multiple_of": 32, "size": 64}, "multiple_of has no meaning"),
        (("N", 3, "h", "w"), {"resize": "limit", "multiple_of": 0, "size": 64}, "multiple_of 0 must be from 1 to 64"),
        (("N", 3, 8, 8), {"resize": "stretch", "pad_position": "top-left"}, "pad_position has no meaning"),
        (
            ("N", 3, 8, 8),
            {"pad_position": "bottom"},
            "--pad-position: there is no 'bottom': choose one of center, top-left",
        ),
    ],
)
def test_sizes_of_their_own_need_a_model_that_takes_them(shape: Shape, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        resolve_preprocessing(spec(*shape), **options)
