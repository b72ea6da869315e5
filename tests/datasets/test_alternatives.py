from dataclasses import replace

import numpy as np
import pytest

from quantkit.datasets import resolve_preprocessing
from quantkit.datasets.alternatives import other_resizes, other_values
from quantkit.types import TensorSpec

SPEC = TensorSpec("x", np.dtype(np.float32), ("n", 3, 32, 32))
IMAGENET = resolve_preprocessing(SPEC, preset="imagenet", resize="stretch")


def named(alternatives, *words):
    (found,) = (
        a for a in alternatives if all(any(w in c for c in a.changes) for w in words) and len(a.changes) == len(words)
    )
    return found


def test_alternatives_are_unique_and_exclude_the_declared_one():
    for preset in ("imagenet", "unit", "none", "tf", "clip", "caffe"):
        declared = resolve_preprocessing(SPEC, preset=preset, resize="stretch")
        found = [a.preprocessing for a in other_values(declared)]
        assert declared not in found
        assert len(set(found)) == len(found)
        assert all(a.changes and a.flags for a in other_values(declared))
        assert {p.size for p in found} == {(32, 32)}


def test_swapped_channels_swap_their_means():
    swapped = replace(IMAGENET, color="BGR", mean=IMAGENET.mean[::-1], std=IMAGENET.std[::-1])
    found = named(other_values(swapped), "RGB instead of BGR")
    assert found.preprocessing == IMAGENET
    assert found.flags == "--color RGB --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"


def test_missing_division_by_255_is_proposed():
    found = named(other_values(replace(IMAGENET, scale=1.0)), "pixels times 1/255 instead of 1")
    assert found.preprocessing == IMAGENET
    assert found.flags == "--scale 1/255"


def test_missing_mean_and_std_are_proposed():
    unit = resolve_preprocessing(SPEC, preset="unit")
    found = named(other_values(unit), "the mean and std of ImageNet")
    assert found.preprocessing == IMAGENET
    assert found.flags == "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"


def test_undivided_means_are_scaled_to_the_unit_range():
    raw = replace(IMAGENET, mean=(123.0, 117.0, 104.0), std=(58.0, 57.0, 57.0), scale=1.0)
    found = [a.preprocessing for a in other_values(raw)]
    assert any(p.scale == 1 / 255 and p.mean == pytest.approx([v / 255 for v in raw.mean]) for p in found)


def test_single_channel_has_no_channel_swap():
    gray = resolve_preprocessing(TensorSpec("x", np.dtype(np.float32), ("n", 1, 8, 8)))
    found = other_values(gray)
    assert {a.preprocessing.color for a in found} == {"L"}
    assert not any("channels" in change for a in found for change in a.changes)


def test_integer_inputs_exclude_fractional_alternatives():
    whole = resolve_preprocessing(TensorSpec("x", np.dtype(np.uint8), ("n", 3, 8, 8)))
    assert [a.flags for a in other_values(whole)] == ["--color BGR"]


def test_resize_alternatives_keep_the_normalization():
    base = replace(IMAGENET, scale=1.0)
    found = other_resizes(IMAGENET, base)
    assert {a.preprocessing.resize for a in found} == {"crop", "letterbox"}
    assert all(a.preprocessing.scale == 1.0 for a in found)
    crop = resolve_preprocessing(SPEC, preset="imagenet")
    found = named(other_resizes(crop, crop), "resize stretch instead of crop")
    assert found.flags == "--resize stretch"
    assert named(other_resizes(IMAGENET, IMAGENET), "shorter side 37").flags == "--resize crop --shorter-side 37"
