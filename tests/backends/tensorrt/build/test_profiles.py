"""Optimisation profiles: both ways of writing them, and every way of getting them wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.build.profiles import (
    OptimizationProfile,
    ShapeRange,
    parse_profiles,
    parse_shapes,
    resolve_profiles,
)
from quantkit.errors import BackendError

NAMES = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="_.:/[]"), min_size=1, max_size=9
)
SHAPES = st.dictionaries(
    NAMES.filter(lambda name: name.strip(":") == name and "::" not in name),
    st.lists(st.integers(0, 999), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=3,
)


@given(SHAPES, st.booleans())
def test_both_notations_round_trip(shapes, brackets):
    def word(shape):
        return f"[{','.join(map(str, shape))}]" if brackets else "x".join(map(str, shape))

    assert parse_shapes(",".join(f"{n}:{word(s)}" for n, s in shapes.items()), "--opt-shapes") == shapes


def test_names_with_colons_are_parsed():
    assert parse_shapes("input_1:0:1x3, b : [ 2, 4 ]", "--opt-shapes") == {"input_1:0": (1, 3), "b": (2, 4)}


@pytest.mark.parametrize("text", ["", "x", "1x3x8x8", "x:", "x:axb", "x:1x3,,y:1", "x:1x-3", "x:[1,3", ":1x3"])
def test_invalid_shape_names_the_option(text):
    with pytest.raises(BackendError, match="--max-shapes"):
        parse_shapes(text, "--max-shapes")


def test_repeated_input_is_refused():
    with pytest.raises(BackendError, match="twice"):
        parse_shapes("x:1x3,x:2x3", "--opt-shapes")


def test_shapes_are_combined_by_position():
    first, second = parse_profiles(["x:1x3", "x:5x3"], ["x:2x3", "x:6x3"], ["x:4x3", "x:8x3"])
    assert first.shapes["x"] == ShapeRange((1, 3), (2, 3), (4, 3))
    assert second.shapes["x"] == ShapeRange((5, 3), (6, 3), (8, 3))
    assert parse_profiles([], ["x:2x3"], [])[0].shapes["x"] == ShapeRange((2, 3), (2, 3), (2, 3))
    assert parse_profiles([], [], []) == ()


@pytest.mark.parametrize(
    ("low", "best", "high", "words"),
    [
        (["x:1x3"], [], [], "--min-shapes needs --opt-shapes"),
        ([], [], ["x:1x3"], "--max-shapes needs --opt-shapes"),
        (["x:1x3"], ["x:1x3", "x:2x3"], [], "--min-shapes is given 1 times, --opt-shapes 2"),
        (["y:1x3"], ["x:1x3"], [], "'x' is in only one of --min-shapes"),
        (["x:3x3"], ["x:2x3"], [], "'x': minimum <= optimum <= maximum is violated"),
        ([], ["x:2x3"], ["x:2x2"], "'x': minimum <= optimum <= maximum is violated"),
        ([], ["x:2x3"], ["x:2x3x4"], "'x': minimum, optimum and maximum have different ranks"),
    ],
)
def test_inconsistent_profiles_are_refused(low, best, high, words):
    with pytest.raises(BackendError, match=words):
        parse_profiles(low, best, high)


def profile(**shapes):
    return OptimizationProfile({name: ShapeRange(*three) for name, three in shapes.items()})


def test_fixed_shapes_need_no_profile():
    assert resolve_profiles({"x": (1, 3, 8, 8)}, ()) == ()
    assert resolve_profiles({"x": (1, 3)}, [profile(x=((1, 3),) * 3)]) == ()


def test_dynamic_batch_has_a_default_profile():
    (made,) = resolve_profiles({"x": ("N", 3, 8), "y": (None, 2), "z": (4, 4)}, ())
    assert {name: str(shape) for name, shape in made.shapes.items()} == {
        "x": "1x3x8 / 8x3x8 / 32x3x8",
        "y": "1x2 / 8x2 / 32x2",
    }


def test_known_sizes_complete_the_shapes():
    (made,) = resolve_profiles({"x": ("N", 3, "h", "w")}, (), known={"x": (None, None, 64, 48)})
    assert str(made.shapes["x"]) == "1x3x64x48 / 8x3x64x48 / 32x3x64x48"
    (state,) = resolve_profiles({"x": (2, "N", 64)}, (), axes={"x": 1})
    assert str(state.shapes["x"]) == "2x1x64 / 2x8x64 / 2x32x64"
    (fixed,) = resolve_profiles({"x": (2, 3, "h", "w")}, (), known={"x": (None, None, 64, 48)})
    assert str(fixed.shapes["x"]) == "2x3x64x48"


@pytest.mark.parametrize(
    ("inputs", "given", "words"),
    [
        ({"x": ("N", 3, "h", "w")}, [], r"--opt-shapes x:1x3x1x1"),
        ({"x": ("N", 3)}, [profile(y=((1, 3),) * 3)], "no input 'y': its inputs are 'x'"),
        ({"x": ("N", 3)}, [profile(x=((1, 3, 3),) * 3)], r"has 2 dimensions \[N, 3\], its profile 3"),
        ({"x": ("N", 3)}, [profile(x=((1, 3), (1, 4), (1, 4)))], "dimension 1 is fixed to 3"),
        ({"x": (4, 3)}, [profile(x=((1, 3), (2, 3), (4, 3)))], "dimension 0 is fixed to 4"),
        ({"x": ("N", 3), "m": ("N", 2)}, [profile(x=((1, 3),) * 3)], r"'m' \[N, 2\] is dynamic and the profile has no"),
    ],
)
def test_profiles_of_another_model_are_refused(inputs, given, words):
    with pytest.raises(BackendError, match=words):
        resolve_profiles(inputs, given)


def test_every_profile_is_checked_and_fixed_inputs_are_left_out():
    good = profile(x=((1, 3), (2, 3), (4, 3)), z=((4, 4),) * 3)
    inputs = {"x": ("N", 3), "z": (4, 4)}
    (kept,) = resolve_profiles(inputs, [good])
    assert set(kept.shapes) == {"x"}
    with pytest.raises(BackendError, match="no input 'q'"):
        resolve_profiles(inputs, [good, profile(q=((1,),) * 3)])
