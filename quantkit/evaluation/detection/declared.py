"""A layout as the user declares it by `--detections`: its tensors among a model's outputs, candidates, refusals.

What layouts there are is left to `layouts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantkit.errors import EvaluationError
from quantkit.evaluation.detection.decoding import Candidates, Frame, decode
from quantkit.evaluation.detection.layouts import DEFAULT_OPTIONS, LAYOUTS, OPTIONS, DetectionLayout
from quantkit.evaluation.detection.shapes import RoleShapes, bind_roles, describe_shape
from quantkit.registry import suggest
from quantkit.types import Array

_SURE = 0.05
"""Candidates below this score may lie anywhere: they show nothing about the layout."""
_LARGEST_FRACTION = 2.0
"""Boxes in pixels reach further than this, boxes in fractions of the input hardly over 1."""
_FARTHEST = 8.0
"""Times the input: a box may end outside of it, but pixels taken for fractions lie far beyond."""


@dataclass(frozen=True)
class Bound:
    """Which outputs a declared layout reads.

    Attributes:
        names: output by role.
        num_classes: that the model scores; None where only labels come out.
    """

    names: Mapping[str, str]
    num_classes: int | None


@dataclass(frozen=True)
class Declared:
    """A layout as the user declared it.

    Attributes:
        name: of the layout.
        layout: the layout.
        names: outputs by role that were named; the others are found.
        options: all of `OPTIONS`.
    """

    name: str
    layout: DetectionLayout
    names: Mapping[str, str]
    options: Mapping[str, str]

    @property
    def suppresses(self) -> bool:
        """Whether duplicates are still among its boxes."""
        return self.layout.suppresses

    @property
    def is_aligned(self) -> bool:
        """Whether raw outputs of two variants can be compared."""
        return self.layout.is_aligned

    def bind(self, outputs: Mapping[str, Array], *, num_samples: int, num_classes: int | None) -> Bound:
        """Finds the layout's tensors among the outputs: by the given names, those of the exporter, or the shapes.

        Args:
            outputs: by name.
            num_samples: in the batch.
            num_classes: that the annotations know; None where they do not say.

        Raises:
            EvaluationError: an output that is not there, outputs that do not fit, or that fit in several ways.
        """
        if unknown := [name for name in self.names.values() if name not in outputs]:
            raise EvaluationError(f"--detections: there is no output {unknown[0]!r}, but {_list(outputs)}")
        for names in (self.names, *({**names, **self.names} for names in self.layout.names)):
            if names.keys() >= set(self.layout.roles) and set(names.values()) <= outputs.keys():
                chosen = {names[role]: outputs[names[role]] for role in self.layout.roles}
                return self._bind_among(chosen, names, num_samples, num_classes)
        return self._bind_among(outputs, self.names, num_samples, num_classes)

    def decode(self, outputs: Mapping[str, Array], bound: Bound, frame: Frame, *, is_checked: bool) -> list[Candidates]:
        """Candidates of each image.

        Args:
            outputs: by name.
            bound: which of them to read.
            frame: input size and threshold; its options must be those declared.
            is_checked: whether to refuse values that the layout cannot have. Only for the baseline: what quantization
                does to the values is measured, not refused.

        Raises:
            EvaluationError: a shape that is not as it was, or values that show that the layout is another one.
        """
        tensors = {role: outputs[name] for role, name in bound.names.items()}
        letters = {"N": frame.num_samples} | ({} if bound.num_classes is None else {"C": bound.num_classes})
        if not any(self._fits(form, tensors, letters) for form in self._forms(frame.num_samples)):
            raise EvaluationError(self._refusal({bound.names[r]: a for r, a in tensors.items()}, letters))
        try:
            found = list(decode(self.layout, tensors, frame))
        except (ValueError, IndexError) as error:  # YOLOX's grid, indices that point nowhere
            raise EvaluationError(
                f"{_list({bound.names[r]: a for r, a in tensors.items()})} cannot be decoded as {self.name} for an "
                f"input of {frame.input_size[1]} x {frame.input_size[0]} pixels: {error}"
            ) from error
        if is_checked:
            self._check_values(found, bound, frame)
        return found

    def _forms(self, num_samples: int) -> list[RoleShapes]:
        """Where neither a dimension nor a column (of M rows) tells images apart, there can be one."""
        forms = self.layout.forms
        return [f for f in forms if num_samples == 1 or any("N" in shape or "M" in shape for shape in f.values())]

    def _fits(self, form: RoleShapes, tensors: Mapping[str, Array], letters: Mapping[str, int]) -> bool:
        ways = bind_roles(self._with_background(form), tensors, letters=letters, is_dense=self.layout.is_dense)
        return any(all(role == name for role, name in names.items()) for names, _ in ways)

    def _with_background(self, form: RoleShapes) -> RoleShapes:
        """The shape of the scores is decided by whether a column stands for no object."""
        if not self.layout.is_matrix:
            return form
        classes = "C" if self.options["background"] == "none" else "1+C"
        return {**form, "scores": f"[N, B, {classes}]"}

    def _bind_among(
        self, outputs: Mapping[str, Array], names: Mapping[str, str], num_samples: int, num_classes: int | None
    ) -> Bound:
        letters = {"N": num_samples} | ({} if num_classes is None else {"C": num_classes})
        ways = self._ways(outputs, letters, names)
        if not ways and num_classes is not None and (others := self._ways(outputs, {"N": num_samples}, names)):
            found = sorted({values.get("C", 0) for _, values in others})
            raise EvaluationError(
                f"{_list({n: outputs[n] for n in others[0][0].values()})}: layout {self.name} makes that {found[0]} "
                f"classes, but the annotations have {num_classes}: give the model's class names in its order with "
                "--classes" + self._hint(outputs, letters)
            )
        if not ways:
            raise EvaluationError(self._refusal(outputs, letters))
        if len({tuple(sorted(way.items())) for way, _ in ways}) > 1:
            example = ",".join(f"{role}={name}" for role, name in ways[0][0].items())
            raise EvaluationError(
                f"several outputs fit layout {self.name} ({_list(outputs)}): name them, "
                f"--detections {self.name}:{example}"
            )
        found_names, values = ways[0]
        return Bound(found_names, values.get("C"))

    def _ways(
        self, outputs: Mapping[str, Array], letters: Mapping[str, int], names: Mapping[str, str]
    ) -> list[tuple[dict[str, str], dict[str, int]]]:
        return [
            (way, values)
            for form in self._forms(letters["N"])
            for way, values in bind_roles(
                self._with_background(form), outputs, letters=letters, is_dense=self.layout.is_dense
            )
            if all(way.get(role) == name for role, name in names.items())
        ]

    def _refusal(self, outputs: Mapping[str, Array], letters: Mapping[str, int]) -> str:
        classes = f" with C = {letters['C']} classes" if "C" in letters else ""
        form = self._with_background(self.layout.forms[0])
        expected = ", ".join(f"{role} {shape}" for role, shape in form.items())
        return (
            f"{_list(outputs)} of {letters['N']} image(s) do not fit layout {self.name}, which takes "
            f"{expected}{classes}" + self._hint(outputs, letters)
        )

    def _hint(self, outputs: Mapping[str, Array], letters: Mapping[str, int]) -> str:
        """The layouts that would fit, those with the known number of classes if there are any."""
        others = "they fit, with another number of classes,"
        for known, found in ((letters, "their shapes fit"), ({"N": letters["N"]}, others)):
            fitting = [
                name
                for name, layout in LAYOUTS.items()
                if name != self.name
                and Declared(name, layout, {}, {**DEFAULT_OPTIONS, **layout.options})._ways(outputs, known, {})
            ]
            if fitting:
                return f"; {found} {', '.join(fitting)}; --decoder file.py:function reads any other"
        return "; they fit no layout known here: --decoder file.py:function reads any"

    def _check_values(self, found: list[Candidates], bound: Bound, frame: Frame) -> None:
        """Refuses what shows, on images that a float model has seen, that another layout was meant."""
        scores = np.concatenate([c.scores for c in found])
        if not scores.size:
            return
        where = bound.names.get("scores", bound.names.get("detections", ""))
        if scores.max() > 1.01:
            raise EvaluationError(
                f"scores of output {where!r} reach {scores.max():.4g}, but layout {self.name} has probabilities: "
                "is it another layout?"
            )
        if min(int(c.classes.min(initial=0)) for c in found) < 0:
            raise EvaluationError(
                f"output {bound.names.get('labels', where)!r} has label 0, but layout {self.name} counts from 1: "
                f"--detections {self.name}:labels_from=0, if that is right"
            )
        self._check_corners(found, bound.names.get("boxes", where), frame)

    def _check_corners(self, found: list[Candidates], where: str, frame: Frame) -> None:
        corners = np.concatenate([c.corners[c.scores > _SURE] for c in found])
        if not corners.size:
            return
        largest = float(np.abs(corners).max())
        if self.options["coordinates"] == "pixels" and largest <= _LARGEST_FRACTION:
            raise EvaluationError(
                f"boxes of output {where!r} reach only {largest:.3g}, but layout {self.name} has pixels: if they are "
                f"fractions of the input, say --detections {self.name}:coordinates=relative"
            )
        if self.options["coordinates"] == "relative" and largest > _FARTHEST * max(frame.input_size):
            raise EvaluationError(
                f"boxes of output {where!r} reach {largest / max(frame.input_size):.3g} times the input, but layout "
                f"{self.name} has fractions of it: if they are pixels, say --detections {self.name}:coordinates=pixels"
            )
        inverted = (corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1])
        if inverted.mean() > 0.5:
            raise EvaluationError(
                f"most boxes of output {where!r} end before they begin: they are not {self.options['order']}, as "
                f"layout {self.name} has them; is it another layout, or order=cxcywh?"
            )


def parse_layout(text: str) -> Declared:
    """Reads ``NAME`` or ``NAME:role=output,option=value,...``.

    >>> parse_layout("detr:scores=pred_logits,boxes=pred_boxes").names
    {'scores': 'pred_logits', 'boxes': 'pred_boxes'}

    Raises:
        EvaluationError: a layout, role, option or value that is not known, naming what is.
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in LAYOUTS:
        raise EvaluationError(f"--detections: there is no {name!r}: {suggest(name, LAYOUTS)}")
    layout = LAYOUTS[name]
    names: dict[str, str] = {}
    options = {**DEFAULT_OPTIONS, **layout.options}
    for word in filter(None, rest.split(",")):
        key, equals, value = (part.strip() for part in word.partition("="))
        key = "scores" if key == "logits" and "scores" in layout.roles else key
        if not equals or not value or key not in (*layout.roles, *layout.choices):
            raise EvaluationError(
                f"--detections {text!r}: {word!r} must be role=output or option=value; the roles of {name} are "
                f"{', '.join(layout.roles)}, its options {', '.join(layout.choices) or 'none'}"
            )
        if key in layout.roles:
            names[key] = value
        elif value not in OPTIONS[key]:
            raise EvaluationError(f"--detections {text!r}: {key} is one of {', '.join(OPTIONS[key])}, not {value!r}")
        else:
            options[key] = value
    if twice := [output for output in names.values() if list(names.values()).count(output) > 1]:
        raise EvaluationError(f"--detections {text!r}: output {twice[0]!r} is named for two roles")
    return Declared(name, layout, names, options)


def _list(outputs: Mapping[str, Array]) -> str:
    shown = [f"{name!r} {describe_shape(array)}" for name, array in outputs.items()]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return f"output{'s' if len(shown) > 1 else ''} {', '.join(shown[:6])}{more}"
