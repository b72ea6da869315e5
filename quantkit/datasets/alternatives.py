"""Other preprocessings that a model may have been trained with. Trying them on the model is left to the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quantkit.datasets.preprocess import pixel_table
from quantkit.datasets.presets import PRESETS
from quantkit.errors import DatasetError
from quantkit.types import Preprocessing

_Numbers = tuple[float, tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Alternative:
    """A preprocessing that differs from the declared one.

    Attributes:
        preprocessing: all of it.
        changes: what differs, a clause each.
        flags: options that make the declared one this.
        has_same_values: scale, mean and std are the declared ones: only channels or resizing differ.
    """

    preprocessing: Preprocessing
    changes: tuple[str, ...]
    flags: str
    has_same_values: bool


def other_values(declared: Preprocessing) -> list[Alternative]:
    """Other channel orders, scales, means and stds; the same geometry. What the model's type cannot hold is left out.

    Means and stds are taken from the presets, and from the declared ones times or over 255; each in the declared
    channel order and in the reverse.
    """
    normalizations = _normalizations()
    same: _Numbers = (declared.scale, declared.mean, declared.std)
    numbers: dict[str, _Numbers] = {name: _numbers(name, declared) for name in normalizations}
    if declared.scale >= 0.5:
        numbers["divided"] = (declared.scale / 255, declared.mean, declared.std)
        if max(declared.mean) > 2:  # in pixels, not in parts of 255
            numbers["divided all"] = (
                declared.scale / 255,
                tuple(v / 255 for v in declared.mean),
                tuple(v / 255 for v in declared.std),
            )
            normalizations["divided all"] = "mean and std divided by 255"
    else:
        numbers["multiplied"] = (declared.scale * 255, declared.mean, declared.std)
    candidates = []
    for name, (scale, mean, std) in {"": same, **numbers}.items():
        values = replace(declared, scale=scale, mean=mean, std=std)
        for turned in (False, True) if declared.channels == 3 else (False,):
            candidates.append((_turn(values) if turned else values, name))
    if declared.channels == 3 and (len(declared.mean) > 1 or len(declared.std) > 1):
        # The numbers may be in the right order already, and only the pixels in the wrong one; or the reverse.
        candidates.append((replace(declared, color=_turn(declared).color), "same places"))
        normalizations["same places"] = "mean and std in the same places"
    return _describe(declared, candidates, normalizations)


def other_resizes(declared: Preprocessing, base: Preprocessing) -> list[Alternative]:
    """Other ways to the model's size, on top of the values of `base`; none where images keep their own."""
    if any(declared.varying):
        return []
    side = max(declared.size)
    plain = replace(base, resize="stretch", shorter_side=None, pad_position="center")
    candidates = [
        plain,
        replace(plain, resize="letterbox"),
        replace(plain, resize="crop", shorter_side=side),
        replace(plain, resize="crop", shorter_side=round(side * 256 / 224)),
    ]
    return _describe(declared, [(c, "") for c in candidates if c != base], _normalizations())


def _normalizations() -> dict[str, str]:
    """What the mean and std of presets are called, the most common first: of two that fit alike, it is named."""
    return {name: preset.normalization for name, preset in PRESETS.items() if preset.normalization}


def _numbers(preset: str, declared: Preprocessing) -> _Numbers:
    """Scale, mean and std of a preset in the declared channel order."""
    p = PRESETS[preset]
    ordered: list[tuple[float, ...]] = []
    for values in (p.mean, p.std):
        if len(values) == 1:
            ordered.append(values)
        elif declared.color == "L":
            ordered.append((sum(values) / len(values),))
        else:
            ordered.append(values if p.color == declared.color else values[::-1])
    return p.scale, ordered[0], ordered[1]


def _turn(preprocessing: Preprocessing) -> Preprocessing:
    """The other channel order, means and stds along with their channels."""
    return replace(
        preprocessing,
        color="RGB" if preprocessing.color == "BGR" else "BGR",
        mean=preprocessing.mean[::-1],
        std=preprocessing.std[::-1],
    )


def _describe(
    declared: Preprocessing, candidates: list[tuple[Preprocessing, str]], normalizations: Mapping[str, str]
) -> list[Alternative]:
    """Each distinct preprocessing once, with what differs from the declared one."""
    known = {_identity(declared)}
    found = []
    for candidate, name in candidates:
        if _identity(candidate) in known or not _fits(candidate):
            continue
        known.add(_identity(candidate))
        changes, flags = [], []
        if candidate.color != declared.color:
            changes.append(f"channels in the order {candidate.color} instead of {declared.color}")
            flags.append(f"--color {candidate.color}")
        if candidate.scale != declared.scale:
            changes.append(f"pixels times {_factor(candidate.scale)} instead of {_factor(declared.scale)}")
        kept = _turn(candidate) if candidate.color != declared.color else candidate
        if _values(kept)[1:] != _values(declared)[1:]:
            changes.append(normalizations.get(name, "another mean and std"))
        if value_flags := _value_flags(candidate, declared):
            flags.append(value_flags)
        if (candidate.resize, candidate.shorter_side) != (declared.resize, declared.shorter_side):
            changes.append(f"resize {candidate.resize} instead of {declared.resize}")
            side = "" if candidate.shorter_side is None else f" --shorter-side {candidate.shorter_side}"
            changes[-1] += side.replace(" --", ", ").replace("-", " ")
            flags.append(f"--resize {candidate.resize}{side}")
        found.append(Alternative(candidate, tuple(changes), " ".join(flags), _values(kept) == _values(declared)))
    return found


def _identity(preprocessing: Preprocessing) -> tuple[object, ...]:
    """Equal for preprocessings that do the same: (0,) and (0, 0, 0) are one mean."""
    p = preprocessing
    return (p.color, p.resize, p.shorter_side, *_values(p))


def _values(p: Preprocessing) -> tuple[object, ...]:
    return (p.scale, *(values * p.channels if len(values) == 1 else values for values in (p.mean, p.std)))


def _fits(preprocessing: Preprocessing) -> bool:
    try:
        pixel_table(preprocessing)
    except DatasetError:
        return False
    return True


def _factor(scale: float) -> str:
    return f"1/{1 / scale:g}" if scale < 1 else f"{scale:g}"


def _value_flags(candidate: Preprocessing, declared: Preprocessing) -> str:
    words = []
    if candidate.scale != declared.scale:
        words.append(f"--scale {_factor(candidate.scale)}")
    for name, value, before in (("mean", candidate.mean, declared.mean), ("std", candidate.std, declared.std)):
        # A preset turns its means with the colors: numbers that must stay in place are said.
        if value != before or (candidate.color != declared.color and len(value) > 1):
            words.append(f"--{name} {','.join(f'{v:.6g}' for v in value)}")
    return " ".join(words)
