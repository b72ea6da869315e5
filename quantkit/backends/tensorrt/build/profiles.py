"""Optimization profiles: the shapes that an engine accepts, parsed and checked against the model's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantkit.errors import BackendError
from quantkit.types import Preprocessing

DEFAULT_BATCHES = (1, 8, 32)
"""Minimum, optimum and maximum batch size if only the batch is dynamic and no profile is given."""

Shapes = Mapping[str, tuple[int | str | None, ...]]
"""Shape by input name; a dimension that is not an int is dynamic."""

# trtexec writes 1x3x224x224, Polygraphy [1,3,224,224]. A name may hold colons (TensorFlow's "input_1:0").
_SHAPE = re.compile(r"\s*(?P<name>[^,]+?)\s*:\s*(?P<shape>\[[\d\s,]*\]|\d+(?:x\d+)*)\s*(?:,|$)")


@dataclass(frozen=True)
class ShapeRange:
    """Minimum, optimum and maximum shape of one input."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.minimum) == len(self.optimum) == len(self.maximum):
            raise BackendError(f"minimum, optimum and maximum have different ranks: {self}")
        for low, best, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            if not 0 <= low <= best <= high:
                raise BackendError(f"minimum <= optimum <= maximum is violated: {self}")

    def __str__(self) -> str:
        shapes = (self.optimum,) if self.minimum == self.maximum else (self.minimum, self.optimum, self.maximum)
        return " / ".join("x".join(map(str, shape)) for shape in shapes)


@dataclass(frozen=True)
class OptimizationProfile:
    """An optimization profile: the shape range of every dynamic input."""

    shapes: Mapping[str, ShapeRange]

    def __post_init__(self) -> None:
        if not self.shapes:
            raise BackendError("an optimization profile needs at least one input")


def parse_profiles(
    minimum: Sequence[str], optimum: Sequence[str], maximum: Sequence[str]
) -> tuple[OptimizationProfile, ...]:
    """Profiles from --min-shapes, --opt-shapes and --max-shapes; the i-th of each make the i-th profile.

    Args:
        minimum: such as "input:1x3x224x224" or "input:[1,3,224,224],mask:[1,224]"; empty: the optimum.
        optimum: in the same form, one for each profile.
        maximum: in the same form; empty: the optimum.

    Raises:
        BackendError: naming the option and what is wrong.
    """
    for option, given in (("--min-shapes", minimum), ("--max-shapes", maximum)):
        if given and not optimum:
            raise BackendError(f"{option} needs --opt-shapes too: the shapes that the engine is tuned for")
        if given and len(given) != len(optimum):
            raise BackendError(
                f"{option} is given {len(given)} times, --opt-shapes {len(optimum)}: give each once a profile"
            )
    profiles = []
    for i, text in enumerate(optimum):
        best = parse_shapes(text, "--opt-shapes")
        low = parse_shapes(minimum[i], "--min-shapes") if minimum else best
        high = parse_shapes(maximum[i], "--max-shapes") if maximum else best
        for option, shapes in (("--min-shapes", low), ("--max-shapes", high)):
            if different := shapes.keys() ^ best.keys():
                raise BackendError(f"input {min(different)!r} is in only one of {option} and --opt-shapes")
        ranges = {}
        for name in best:
            try:
                ranges[name] = ShapeRange(low[name], best[name], high[name])
            except BackendError as error:
                raise BackendError(f"shapes of input {name!r}: {error}") from None
        profiles.append(OptimizationProfile(ranges))
    return tuple(profiles)


def parse_shapes(text: str, option: str) -> dict[str, tuple[int, ...]]:
    """Shapes by input name.

    Raises:
        BackendError: naming `option`.

    Example:
        >>> parse_shapes("a:1x3x8x8,b:[1,8]", "--opt-shapes")
        {'a': (1, 3, 8, 8), 'b': (1, 8)}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    position = 0
    while position < len(text):
        match = _SHAPE.match(text, position)
        if match is None:
            raise BackendError(f"{option} {text!r} is not of the form input:1x3x224x224 or input:[1,3,224,224]")
        if match["name"] in shapes:
            raise BackendError(f"{option} {text!r} names input {match['name']!r} twice")
        shapes[match["name"]] = tuple(int(number) for number in re.findall(r"\d+", match["shape"]))
        position = match.end()
    if not shapes:
        raise BackendError(f"{option} is empty: write input:1x3x224x224")
    return shapes


def resolve_profiles(
    inputs: Shapes,
    profiles: Sequence[OptimizationProfile],
    *,
    known: Mapping[str, Sequence[int | None]] | None = None,
    axes: Mapping[str, int | None] | None = None,
    is_static: bool = False,
) -> tuple[OptimizationProfile, ...]:
    """Profiles of a model: the given ones, checked, or a default one for a dynamic batch.

    Args:
        inputs: shapes of the model's inputs.
        profiles: as given by the user.
        known: dimensions by input name that are known otherwise, such as the size of the calibration images.
        axes: dimension of an input that is its batch, if not the first; None for an input without one.
        is_static: the default is of one sample alone, as a DLA takes it.

    Returns:
        Profiles over exactly the dynamic inputs; none for a model without any.

    Raises:
        BackendError: naming the input, and what to write.
    """
    dynamic = {name: shape for name, shape in inputs.items() if not all(isinstance(d, int) for d in shape)}
    if profiles:
        checked = [_check(profile, inputs, dynamic) for profile in profiles]
        return tuple(profile for profile in checked if profile is not None)
    ranges = {
        name: _default_range(
            name,
            shape,
            (known or {}).get(name, ()),
            (axes or {}).get(name, 0),
            (1, 1, 1) if is_static else DEFAULT_BATCHES,
        )
        for name, shape in dynamic.items()
    }
    return (OptimizationProfile(ranges),) if ranges else ()


def image_sizes(preprocessing: Preprocessing | None, inputs: Shapes) -> dict[str, list[int | None]]:
    """Height and width of the calibrated images, for the one image input of a model."""
    if preprocessing is None or preprocessing.function is not None or len(inputs) != 1:
        return {}
    name, shape = next(iter(inputs.items()))
    sizes: list[int | None] = [None, *preprocessing.size]
    sizes.insert(1 if preprocessing.layout == "NCHW" else 3, None)
    return {name: sizes} if len(shape) == len(sizes) else {}


def _check(profile: OptimizationProfile, inputs: Shapes, dynamic: Shapes) -> OptimizationProfile | None:
    for name, wanted in profile.shapes.items():
        if name not in inputs:
            raise BackendError(f"the model has no input {name!r}: its inputs are {', '.join(map(repr, inputs))}")
        shape = inputs[name]
        if len(wanted.optimum) != len(shape):
            raise BackendError(
                f"input {name!r} has {len(shape)} dimensions {_text(shape)}, its profile {len(wanted.optimum)}"
            )
        for i, size in enumerate(shape):
            if isinstance(size, int) and not wanted.minimum[i] == wanted.maximum[i] == size:
                raise BackendError(
                    f"input {name!r} is {_text(shape)}: dimension {i} is fixed to {size}, which the profile {wanted} "
                    "leaves; export the model with that dimension dynamic, or give its size"
                )
    if missing := [name for name in dynamic if name not in profile.shapes]:
        raise BackendError(
            f"input {missing[0]!r} {_text(dynamic[missing[0]])} is dynamic and the profile has no shapes for it: "
            f"add it to --min-shapes, --opt-shapes and --max-shapes"
        )
    return OptimizationProfile({name: profile.shapes[name] for name in dynamic}) if dynamic else None


def _default_range(
    name: str,
    shape: tuple[int | str | None, ...],
    known: Sequence[int | None],
    axis: int | None,
    batches: Sequence[int],
) -> ShapeRange:
    sizes: list[int | None] = [size if isinstance(size, int) else None for size in shape]
    if len(known) == len(sizes):
        sizes = [k if s is None and i != axis else s for i, (s, k) in enumerate(zip(sizes, known, strict=True))]
    if any(size is None for i, size in enumerate(sizes) if i != axis):
        example = "x".join(str(size if size is not None else 1) for size in sizes)
        raise BackendError(
            f"input {name!r} {_text(shape)} has dynamic dimensions besides the batch: pass its shapes, --opt-shapes "
            f"{name}:{example} with your sizes, and --min-shapes and --max-shapes unless they are all the same"
        )
    low, best, high = (tuple(batch if size is None else size for size in sizes) for batch in batches)
    return ShapeRange(low, best, high)


def _text(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
