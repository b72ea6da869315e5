"""A detector's outputs as a function of the user's reads them, where no layout can be declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit.errors import EvaluationError
from quantkit.evaluation.detection.declared import Bound
from quantkit.evaluation.detection.decoding import Candidates, Frame, given_classes
from quantkit.types import Array
from quantkit.user_code import call


@dataclass(frozen=True)
class UserDecoder:
    """A function of the user's in the place of a declared layout.

    ``decode(outputs, input_size)`` gets the outputs of a batch by name, which cannot be written to, and the (height,
    width) of the model's input. For each image it returns (boxes, scores, classes): [M, 4] left, top, right, bottom in
    pixels of the input; [M] from 0 to 1; [M] class indices. Duplicates may be in it, and are removed afterwards. Where
    the function has an attribute ``compares_outputs = False``, raw outputs are not compared.

    Attributes:
        function: the user's.
    """

    function: Callable[[Mapping[str, Array], tuple[int, int]], Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise EvaluationError(f"--decoder: {self.function!r} is no function")

    @property
    def suppresses(self) -> bool:
        """Whether duplicates are removed: of boxes that are suppressed already nothing is lost."""
        return True

    @property
    def is_aligned(self) -> bool:
        """Whether raw outputs of two variants can be compared."""
        return bool(getattr(self.function, "compares_outputs", True))

    @property
    def options(self) -> Mapping[str, str]:
        """Nothing is left to say of the tensors."""
        return {}

    def bind(self, outputs: Mapping[str, Array], *, num_samples: int, num_classes: int | None) -> Bound:
        """Every output is the function's to read."""
        return Bound({}, None)

    def decode(self, outputs: Mapping[str, Array], bound: Bound, frame: Frame, *, is_checked: bool) -> list[Candidates]:
        """Candidates of each image.

        Raises:
            EvaluationError: the function failed, by file and line, or returned something else than was asked for.
        """
        name = getattr(self.function, "__name__", "decoder")
        found = call(f"{name}(outputs, input_size)", self.function, _read_only(outputs), frame.input_size)
        if isinstance(found, Iterator):
            found = call(name, list, found)
        if not isinstance(found, Sequence) or len(found) != frame.num_samples:
            raise EvaluationError(
                f"{name} returned {_describe(found)}: a list of (boxes, scores, classes) is needed, one for each of "
                f"the {frame.num_samples} images"
            )
        return [self._candidates(one, f"image {index} of {name}", frame) for index, one in enumerate(found)]

    def _candidates(self, found: Any, where: str, frame: Frame) -> Candidates:
        try:
            boxes, scores, classes = (np.asarray(part) for part in found)
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"{where}: no (boxes, scores, classes), but {_describe(found)}") from error
        if not (boxes.size or scores.size or classes.size):
            boxes, scores, classes = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
        count = len(scores)
        if (boxes.shape, scores.shape, classes.shape) != ((count, 4), (count,), (count,)):
            shapes = ", ".join(str(list(part.shape)) for part in (boxes, scores, classes))
            raise EvaluationError(f"{where}: boxes, scores and classes have shapes {shapes}, not [M, 4], [M], [M]")
        if any(part.dtype.kind not in "biuf" for part in (boxes, scores, classes)):
            raise EvaluationError(f"{where}: boxes, scores and classes must be numbers")
        if not (np.rint(classes) == classes).all():
            raise EvaluationError(f"{where}: classes must be whole numbers")
        if classes.min(initial=0) < 0:
            raise EvaluationError(f"{where}: class {classes.min():g} is negative: leave out what is no object")
        scores = scores.astype(np.float32)
        for worst in (np.nanmax(scores, initial=0), np.nanmin(scores, initial=0)):
            if not 0 <= worst <= 1.01:
                raise EvaluationError(f"{where}: scores reach {worst:.4g}, but must be from 0 to 1")
        return given_classes(boxes.astype(np.float32), scores, classes.astype(np.int64), frame)


def _read_only(outputs: Mapping[str, Array]) -> dict[str, Array]:
    views = {name: array.view() for name, array in outputs.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def _describe(found: Any) -> str:
    return f"{type(found).__name__} of {len(found)}" if hasattr(found, "__len__") else type(found).__name__
