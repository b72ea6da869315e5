from __future__ import annotations

import importlib
import warnings
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from quantkit.datasets import preprocess
from quantkit.datasets.preprocess import PixelInput, look_up, pixel_table
from quantkit.errors import DatasetError
from quantkit.types import Interpolation, Preprocessing

preprocess_module = importlib.import_module("quantkit.datasets.preprocess")  # the package has a function of its name
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def keep(height: int, width: int, color: str = "RGB") -> Preprocessing:
    """Pixels as they are, height x width, uint8, channels last."""
    return Preprocessing(
        size=(height, width),
        color=color,  # type: ignore[arg-type]
        interpolation="nearest",
        layout="NHWC",
        dtype="uint8",
    )


def pixels(image: Image.Image, color: str = "RGB") -> npt.NDArray[np.uint8]:
    result = preprocess(image, keep(image.height, image.width, color))
    assert result.dtype == np.uint8
    return np.asarray(result, np.uint8)


def resample_triangle(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Bilinear resize of axis 0, smoothing when it shrinks: the definition, without fixed-point arithmetic."""
    scale = len(values) / size
    support = max(scale, 1.0)
    centers = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(len(values)) + 0.5 - centers[:, None]) / support
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.tensordot(weights, values, axes=1))


def resize_twice(
    image: npt.NDArray[np.uint8], sizes: tuple[int, int], axes: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """One axis, then the other, each rounded half up to 8 bits."""
    result = image.astype(np.float64)
    for axis in axes:
        moved = resample_triangle(np.moveaxis(result, axis, 0), sizes[axis])
        result = np.moveaxis(np.floor(moved + 0.5), 0, axis)
    return result


# ------------------------------------------------------------------------------------------------------------ colors


def test_channels_follow_the_color_option() -> None:
    image = Image.new("RGB", (1, 1), (10, 20, 30))
    assert pixels(image).ravel().tolist() == [10, 20, 30]
    assert pixels(image, "BGR").ravel().tolist() == [30, 20, 10]
    # ITU-R 601-2: 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
    assert pixels(image, "L").ravel().tolist() == [18]


@pytest.mark.parametrize(
    ("mode", "color", "rgb", "gray"),
    [
        ("1", 1, (255, 255, 255), 255),
        ("L", 77, (77, 77, 77), 77),
        ("LA", (77, 0), (77, 77, 77), 77),
        ("La", (77, 255), (77, 77, 77), 77),
        ("RGB", (10, 20, 30), (10, 20, 30), 18),
        ("RGBX", (10, 20, 30, 9), (10, 20, 30), 18),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30), 18),
        ("RGBa", (10, 20, 30, 255), (10, 20, 30), 18),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0), 76),
        ("YCbCr", (128, 128, 128), (128, 128, 128), 128),
        ("HSV", (0, 255, 255), (255, 0, 0), 76),
        ("I", 257 * 100, (100, 100, 100), 100),
        ("F", 99.6, (100, 100, 100), 100),
    ],
)
def test_every_color_mode_becomes_rgb_and_gray(
    mode: str, color: int | float | tuple[int, ...], rgb: tuple[int, ...], gray: int
) -> None:
    image = Image.new(mode, (3, 2), color)
    assert (pixels(image) == rgb).all()
    assert (pixels(image, "L") == gray).all()
    assert image.mode == mode


def test_lab_becomes_rgb_and_gray() -> None:
    color = Image.new("RGB", (3, 2), (200, 60, 30))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(color, to_lab)
    assert lab is not None
    assert lab.mode == "LAB"
    assert np.abs(pixels(lab).astype(int) - (200, 60, 30)).max() <= 3
    assert np.abs(pixels(lab, "L").astype(int) - 98).max() <= 3  # 0.299 * 200 + 0.587 * 60 + 0.114 * 30 = 98.4


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I"])
def test_sixteen_bits_are_scaled_not_clipped(mode: str) -> None:
    image = Image.new(mode, (4, 1))
    for x, value in enumerate((0, 257, 32768, 65535)):
        image.putpixel((x, 0), value)
    assert pixels(image, "L").ravel().tolist() == [0, 1, 128, 255]
    assert pixels(image)[0, :, 2].tolist() == [0, 1, 128, 255]


@given(st.integers(0, 65535))
def test_sixteen_bits_round_to_the_nearest_level(value: int) -> None:
    expected = int(value / 257 + 0.5)
    assert pixels(Image.fromarray(np.full((1, 1), value, np.uint16)), "L").item() == expected


@pytest.mark.parametrize(("mode", "value"), [("I", -1), ("I", 65536), ("F", -0.5), ("F", 256.0), ("F", float("nan"))])
def test_pixels_of_an_unknown_range_are_refused(mode: str, value: float) -> None:
    with pytest.raises(DatasetError, match="say what is white, --pixel-max"):
        pixels(Image.new(mode, (2, 2), value))


def test_float_pixels_that_would_be_black_are_refused() -> None:
    with pytest.raises(DatasetError, match="would be black"):
        pixels(Image.new("F", (2, 2), 0.5))
    assert not pixels(Image.new("F", (2, 2), 0.0)).any()


def palette_image(mode: str) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 1, 2, 3])
    image.putpixel((1, 0), 1)
    return image.convert("PA") if mode == "PA" else image


@pytest.mark.parametrize("mode", ["P", "PA"])
@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80"])
def test_palettes_lose_their_transparency_without_a_warning(mode: str, transparency: int | bytes | None) -> None:
    image = palette_image(mode)
    if transparency is not None:
        image.info["transparency"] = transparency
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(image).tolist() == [[[200, 100, 50], [1, 2, 3]]]
        assert pixels(image, "L").ravel().tolist() == [124, 2]
    assert image.info.get("transparency") == transparency


def test_color_key_transparency_is_dropped() -> None:
    image = Image.new("RGB", (1, 1), (10, 20, 30))
    image.info["transparency"] = (10, 20, 30)
    assert pixels(image, "L").item() == 18
    assert "transparency" in image.info


# ------------------------------------------------------------------------------------------------------- orientation

CORNERS = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
# What each value of the EXIF tag says about a stored [[1, 2, 3], [4, 5, 6]], written down by hand.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_first(orientation: int) -> None:
    image = Image.fromarray(CORNERS)
    image.getexif()[0x0112] = orientation
    expected = np.array(UPRIGHT[orientation])
    result = preprocess(image, keep(*expected.shape, "L"))
    assert result[:, :, 0].tolist() == expected.tolist()
    assert np.asarray(ImageOps.exif_transpose(image)).tolist() == expected.tolist()


@pytest.mark.parametrize("orientation", [0, 9, 1234])
def test_invalid_orientation_is_ignored(orientation: int) -> None:
    image = Image.fromarray(CORNERS)
    image.getexif()[0x0112] = orientation
    assert pixels(image, "L")[:, :, 0].tolist() == CORNERS.tolist()


def test_broken_exif_is_ignored() -> None:
    image = Image.fromarray(CORNERS)
    image.info["exif"] = b"Exif\x00\x00not a header at all"
    assert pixels(image, "L")[:, :, 0].tolist() == CORNERS.tolist()


# ------------------------------------------------------------------------------------------------------------ resize


@pytest.mark.parametrize("sizes", [(48, 101), (19, 64), (19, 101), (101, 30), (31, 30)])
def test_stretch_equals_bilinear_interpolation(sizes: tuple[int, int]) -> None:
    # Sizes at which few values lie halfway between two levels, where fixed-point weights decide.
    result = preprocess(Image.fromarray(NOISE), replace(keep(*sizes), interpolation="bilinear"))
    # Which axis comes first is Pillow's choice, and differs between its versions; rounding between them shows it.
    differences = [np.abs(result - resize_twice(NOISE, sizes, axes)) for axes in ((0, 1), (1, 0))]
    assert min(difference.mean() for difference in differences) < 0.01
    assert all(difference.max() <= 1 for difference in differences)


def test_stretch_by_an_integer_factor() -> None:
    small = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (
        preprocess(Image.fromarray(small), keep(4, 9, "L"))[:, :, 0].tolist()
        == np.kron(small, np.ones((2, 3), np.uint8)).tolist()
    )


# width, height of the image; shorter side; (height, width) of the crop; resized width, height; left, top
CROPS = [
    (500, 375, 256, (224, 224), (341, 256), (58, 16)),  # 58.5 rounds to even
    (375, 500, 256, (224, 224), (256, 341), (16, 58)),
    (300, 300, 256, (224, 224), (256, 256), (16, 16)),
    (64, 48, 73, (64, 64), (97, 73), (16, 4)),  # 97.33 is cut; 16.5 and 4.5 round to even
    (40, 30, 33, (20, 32), (44, 33), (6, 6)),  # 13 / 2 = 6.5 rounds to even
    (224, 224, 224, (224, 224), (224, 224), (0, 0)),
]


@pytest.mark.parametrize(("width", "height", "side", "size", "resized", "corner"), CROPS)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_crop_equals_torchvision(
    width: int,
    height: int,
    side: int,
    size: tuple[int, int],
    resized: tuple[int, int],
    corner: tuple[int, int],
    interpolation: Interpolation,
) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    wanted = replace(keep(*size), resize="crop", shorter_side=side, interpolation=interpolation)
    whole = np.asarray(image.resize(resized, Image.Resampling[interpolation.upper()]))
    left, top = corner
    expected = whole[top : top + size[0], left : left + size[1]]
    assert np.array_equal(preprocess(image, wanted), expected)


def test_letterbox_pads_a_wide_image() -> None:
    image = Image.fromarray(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8))
    result = preprocess(image, replace(keep(5, 4, "L"), resize="letterbox", pad_value=114))
    assert result[:, :, 0].tolist() == [
        [114, 114, 114, 114],
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [114, 114, 114, 114],
        [114, 114, 114, 114],
    ]


def test_letterbox_scales_up_a_tall_image() -> None:
    image = Image.fromarray(np.array([[10], [20]], np.uint8))
    result = preprocess(image, replace(keep(4, 4, "L"), resize="letterbox", pad_value=0))
    assert result[:, :, 0].tolist() == [[0, 10, 10, 0], [0, 10, 10, 0], [0, 20, 20, 0], [0, 20, 20, 0]]


@given(st.integers(1, 70), st.integers(1, 70))
def test_letterbox_keeps_aspect_and_center(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), (255, 255, 255))
    result = preprocess(image, replace(keep(32, 48), resize="letterbox", pad_value=0))[:, :, 0]
    rows, columns = np.flatnonzero(result.any(axis=1)), np.flatnonzero(result.any(axis=0))
    assert len(rows) == 32 or len(columns) == 48
    assert abs(len(columns) * height - len(rows) * width) <= max(width, height) / 2 + 1e-9 or 1 in (
        len(rows),
        len(columns),
    )
    assert 0 <= (32 - 1 - rows[-1]) - rows[0] <= 1
    assert 0 <= (48 - 1 - columns[-1]) - columns[0] <= 1


def test_too_narrow_image_is_refused() -> None:
    wanted = replace(keep(224, 224), resize="crop", shorter_side=256)
    with pytest.raises(DatasetError, match="too narrow"):
        preprocess(Image.new("L", (1, 10_000)), wanted)


# ------------------------------------------------------------------------------------------------------ value mapping


def test_unit_range_is_exact() -> None:
    table = pixel_table(Preprocessing(size=(1, 1), scale=1 / 255))
    assert table.dtype == np.float32
    assert table[:, 255].tolist() == [1.0, 1.0, 1.0]
    assert np.array_equal(table[0], (np.arange(256, dtype=np.float64) / 255).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_are_rounded_once(dtype: str) -> None:
    means, stds = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    table = pixel_table(Preprocessing(size=(1, 1), scale=1 / 255, mean=means, std=stds, dtype=dtype))
    for c in range(3):
        for level in (0, 1, 127, 128, 254, 255):
            exact = (level * (1 / 255) - means[c]) / stds[c]  # Python floats are float64
            assert table[c, level] == np.dtype(dtype).type(exact)


def test_integers_round_half_to_even_and_fill_their_range() -> None:
    assert pixel_table(Preprocessing(size=(1, 1), dtype="uint8"))[0].tolist() == list(range(256))
    signed = pixel_table(Preprocessing(size=(1, 1), mean=(128.0,), dtype="int8"))
    assert signed[0].tolist() == list(range(-128, 128))
    halves = pixel_table(Preprocessing(size=(1, 1), scale=0.5, dtype="uint8"))
    assert halves[0, :6].tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, r"0 \.\. 255, outside the model's int8 .*--mean 128"),
        ({"dtype": "uint8", "mean": (1.0,)}, "outside the model's uint8"),
        ({"dtype": "uint8", "scale": 1 / 255}, "too few levels"),
        ({"dtype": "float16", "scale": 1000.0}, "float16 cannot hold"),
    ],
)
def test_values_outside_the_input_type_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        pixel_table(replace(Preprocessing(size=(1, 1)), **changes))  # type: ignore[arg-type]


def test_lookup_table_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        pixel_table(Preprocessing(size=(1, 1)))[0, 0] = 1


@pytest.mark.parametrize("color", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_layout_and_type_follow_the_input(color: str, layout: str, dtype: str) -> None:
    image = Image.fromarray(NOISE)
    wanted = replace(keep(48, 64, color), layout=layout, dtype=dtype)  # type: ignore[arg-type]
    result = preprocess(image, wanted)
    channels = np.asarray(image.convert("L"))[:, :, None] if color == "L" else NOISE
    expected = channels[:, :, ::-1] if color == "BGR" else channels
    if layout == "NCHW":
        expected = expected.transpose(2, 0, 1)
    assert result.dtype == dtype
    assert result.flags.c_contiguous
    assert np.array_equal(result, expected.astype(dtype))


def test_means_follow_the_channel_order() -> None:
    wanted = Preprocessing(size=(1, 1), color="BGR", mean=(1.0, 2.0, 3.0))
    assert preprocess(Image.new("RGB", (1, 1), (10, 20, 30)), wanted).ravel().tolist() == [29.0, 18.0, 7.0]


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    color=st.sampled_from(["RGB", "BGR", "L"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    dtype=st.sampled_from(["uint8", "int8", "float16", "float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_the_kernel_looks_up_what_numpy_does(size, color, layout, dtype, seed):
    if preprocess_module._KERNEL is None:
        pytest.skip("it was not compiled")
    mean = 128.0 if dtype == "int8" else 3.7 if dtype.startswith("float") else 0.0
    how = Preprocessing(size, color=color, layout=layout, dtype=dtype, mean=(mean,))
    levels = np.random.default_rng(seed).integers(0, 256, (*size, 1 if color == "L" else 3), dtype=np.uint8)
    found = look_up(levels, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess_module, "_KERNEL", None)
        wanted = look_up(levels, how)
    assert found.dtype == wanted.dtype == dtype
    assert np.array_equal(found, wanted)
    assert found.flags.c_contiguous
    rows = np.zeros((2, *found.shape), dtype)
    PixelInput("x", levels, how).write(rows[1])
    assert np.array_equal(rows[1], wanted)
    assert not rows[0].any()


def test_the_kernel_refuses_what_does_not_fit():
    if preprocess_module._KERNEL is None:
        pytest.skip("it was not compiled")
    call = preprocess_module._KERNEL.look_up
    pixels, table = np.zeros((4, 3), np.uint8), np.zeros((3, 256), np.float32)
    for arguments in (
        (pixels, table, np.zeros(11, np.float32)),
        (pixels, table, np.zeros(12, np.float64)),
        (np.zeros(13, np.uint8), table, np.zeros(13, np.float32)),
        (pixels, np.zeros(0, np.float32), np.zeros(12, np.float32)),
        (pixels, np.zeros((3, 256), "V3"), np.zeros(12, "V3")),
        (np.zeros((4, 3), np.uint16), table, np.zeros(24, np.float32)),
    ):
        with pytest.raises(ValueError, match=r"fit together|bytes"):
            call(*arguments, True, False)
    read_only = np.zeros(12, np.float32)
    read_only.flags.writeable = False
    with pytest.raises((BufferError, ValueError), match=r"read-only|writ"):
        call(pixels, table, read_only, True, False)


def test_the_input_of_an_image_is_a_mapping():
    levels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    found = PixelInput("x", levels, Preprocessing((2, 2), scale=2.0))
    assert list(found) == ["x"]
    assert len(found) == 1
    assert found.shape == found["x"].shape == (3, 2, 2)
    assert found.dtype == found["x"].dtype
    assert np.array_equal(found["x"], 2.0 * levels.transpose(2, 0, 1))
    with pytest.raises(KeyError):
        found["y"]


def test_inputs_are_compared_by_name_without_their_values(monkeypatch):
    one = PixelInput("x", NOISE, keep(*NOISE.shape[:2]))
    monkeypatch.setattr(preprocess_module, "look_up", pytest.fail)
    assert one.keys() == {"x"}
    assert "y" not in one
