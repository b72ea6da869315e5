"""Raw outputs of detectors: which columns hold boxes and scores, and what an error of these does to what is detected.

Nearly all rows of a detector's output are background. Errors count where something is detected, or would be now: the
scores of all rows are taken together, and the error of a box, beside its size, counts as the square of its score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.notices import plural
from quantkit.types import Array

_Floats = npt.NDArray[np.float32]

_SIDES = 4
_MOST_BINS = 32
"""Of a distribution over distances, for each side: wider rows are features."""

_SUM_ERROR = 1e-3
"""Of probabilities, from 1."""

_TINY = 1e-30


@dataclass(frozen=True)
class RawBoxes:
    """Boxes of one output, or of two with the same rows.

    Attributes:
        boxes: the output with their coordinates, or with what these are made of.
        scores: the output with the probabilities of the classes.
        axis: of the columns, in both.
        columns: of the coordinates.
        classes: columns of the classes, without the one that stands for no object.
        objectness: column of the probability that there is an object at all, by which the others are multiplied.
    """

    boxes: str
    scores: str
    axis: int
    columns: tuple[int, ...]
    classes: tuple[int, ...]
    objectness: int | None = None

    def read(self, outputs: Mapping[str, Array]) -> tuple[_Floats, _Floats]:
        """Coordinates [rows, 4 or more] and scores [rows, C]."""
        boxes, values = (_rows(outputs[name], self.axis) for name in (self.boxes, self.scores))
        scores = values[:, self.classes]
        if self.objectness is not None:
            scores = scores * values[:, [self.objectness]]
        return boxes[:, self.columns], scores


def find_boxes(outputs: Sequence[MeasuredOutput], reference: Sequence[Mapping[str, Array]]) -> tuple[RawBoxes, ...]:
    """Where the outputs of a float model hold boxes with scores, by their values; empty if not all of them do.

    Either each output has four columns, side by side, and probabilities in all others, or each that holds
    probabilities has another with as many rows, of four columns or a multiple.
    """
    if len(reference) > 1 and not find_boxes(outputs, reference[:1]):
        return ()  # large maps of anything else are not copied
    found = {o.name: _rows_of_all(o, reference) for o in outputs}
    if any(rows is None for rows in found.values()):
        return ()
    known = {name: rows for name, rows in found.items() if rows is not None}
    inside = {name: np.asarray(((rows >= 0) & (rows <= 1)).all(axis=0)) for name, rows in known.items()}
    alone = [_in_one_output(o, known[o.name], inside[o.name]) for o in outputs]
    if all(alone):
        return tuple(boxes for boxes in alone if boxes)
    pairs = {
        scores.name: boxes.name
        for scores in outputs
        for boxes in outputs
        if scores is not boxes
        and _is_last(scores) == _is_last(boxes)
        and len(known[scores.name]) == len(known[boxes.name])
        and inside[scores.name].all()
        and _may_be_sides(inside[boxes.name])
    }
    if len({*pairs, *pairs.values()}) != len(outputs) or 2 * len(pairs) != len(outputs):
        return ()
    axes = {o.name: o.axis or 0 for o in outputs}
    return tuple(
        RawBoxes(boxes, scores, axes[scores], tuple(range(known[boxes].shape[1])), _classes(known[scores]))
        for scores, boxes in pairs.items()
    )


def _may_be_sides(inside: npt.NDArray[np.bool_]) -> bool:
    """Whether columns, of which it is known whether they are probabilities, may hold boxes."""
    bins, rest = divmod(len(inside), _SIDES)
    return rest == 0 and (bins == 1 or (bins <= _MOST_BINS and not inside.any()))


def _is_last(output: MeasuredOutput) -> bool:
    """Whether each row of a matrix is a box."""
    return output.axis in (-1, 2)


def _rows_of_all(output: MeasuredOutput, reference: Sequence[Mapping[str, Array]]) -> _Floats | None:
    """[rows, columns] of all batches; None if they have no columns or values that are not finite."""
    arrays = [np.asarray(batch[output.name]) for batch in reference]
    if output.axis is None or any(array.ndim < 3 for array in arrays):
        return None
    if len({array.shape[output.axis] for array in arrays}) > 1:
        return None
    rows = np.concatenate([_rows(array, output.axis) for array in arrays])
    return rows if rows.size and np.isfinite(rows).all() else None


def _in_one_output(output: MeasuredOutput, rows: _Floats, inside: npt.NDArray[np.bool_]) -> RawBoxes | None:
    """Four columns beside each other that are no probabilities, and only such in all others."""
    sides = np.flatnonzero(~inside)
    if len(sides) != _SIDES or sides[-1] - sides[0] != _SIDES - 1 or len(inside) < _SIDES + 2:
        return None
    columns, classes = tuple(sides.tolist()), np.flatnonzero(inside)
    first = int(classes[0])
    may_be = first < sides[0] or _is_last(output)  # where columns are boxes, as YOLOv8 has them, it stands in front
    objectness = first if may_be and _is_objectness(rows[:, first], rows[:, classes[1:]]) else None
    kept = classes if objectness is None else classes[1:]
    return RawBoxes(output.name, output.name, output.axis or 0, columns, tuple(kept.tolist()), objectness)


def _is_objectness(column: _Floats, others: _Floats) -> bool:
    """Whether a column is high only together with another one, as that of a class would not be."""
    high = column >= column.max() / 2
    return bool(column.max() > 0 and others[high].max(axis=1).mean() > column[high].mean() / 2)


def _classes(scores: _Floats) -> tuple[int, ...]:
    """Columns of probabilities; without the largest on average, background, where they add up to 1."""
    columns = list(range(scores.shape[1]))
    if len(columns) > 1 and (np.abs(scores.sum(axis=1, dtype=np.float64) - 1) < _SUM_ERROR).all():
        columns.remove(int(scores.mean(axis=0).argmax()))
    return tuple(columns)


class BoxDamage:
    """Compares boxes and scores with those of the float model on the same batches.

    Args:
        found: where they are.
        reference: outputs of the float model.
    """

    def __init__(self, found: Sequence[RawBoxes], reference: Sequence[Mapping[str, Array]]) -> None:
        self._found = found
        exact = [[boxes.read(batch) for boxes in found] for batch in reference]
        units = [_units([batch[i][0] for batch in exact], [batch[i][1] for batch in exact]) for i in range(len(found))]
        self._exact = [
            [(rows, scores, _weights(scores), unit[number]) for (rows, scores), unit in zip(batch, units, strict=True)]
            for number, batch in enumerate(exact)
        ]

    def __str__(self) -> str:
        first = self._found[0]
        sure = "" if first.objectness is None else " times objectness"
        return f"boxes with {plural(len(first.classes), 'score')}{sure}"

    def of(self, outputs: Sequence[Mapping[str, Array]]) -> float:
        """Shares of the error in error and signal, of scores and of boxes: their mean."""
        missed = signal = moved = total = 0.0
        for exact, batch in zip(self._exact, outputs, strict=False):
            for boxes, (rows, scores, weights, units) in zip(self._found, exact, strict=True):
                got_rows, got = boxes.read(batch)
                if got.shape != scores.shape or got_rows.shape != rows.shape:
                    return 1.0
                with np.errstate(over="ignore", invalid="ignore"):
                    missed += float(np.square(got - scores).sum(dtype=np.float64))
                    sides = (np.square(got_rows - rows) / units).mean(axis=1, dtype=np.float64)
                    moved += _SIDES * float((weights * sides).sum())
                signal, total = signal + float(np.square(scores).sum(dtype=np.float64)), total + float(weights.sum())
        shares = _share(missed, signal), _share(moved, total)
        return float(np.mean(shares))


def _share(error: float, signal: float) -> float:
    return error / (error + signal + _TINY) if np.isfinite(error) else 1.0


def _weights(scores: _Floats) -> npt.NDArray[np.float64]:
    """How much each row counts."""
    return np.asarray(np.square(scores.max(axis=1), dtype=np.float64))


def _units(rows: Sequence[_Floats], scores: Sequence[_Floats]) -> list[_Floats]:
    """Squares of what an error of each coordinate is compared with, one array for each batch, [rows or 1, columns].

    That is the size of the box, from its corners, or from its width and height or the logarithms of these. Of
    anything else, such as distributions, it is the variance of the column.
    """
    if rows[0].shape[1] != _SIDES:
        values, weights = np.concatenate(rows), np.concatenate([_weights(s) for s in scores]) + _TINY
        mean = np.average(values, axis=0, weights=weights)
        variance = np.average(np.square(values - mean), axis=0, weights=weights)
        return [np.asarray(variance[None] + _TINY, np.float32)] * len(rows)
    for sides in ([r[:, 2:] - r[:, :2] for r in rows], [r[:, 2:] for r in rows]):
        if all((s > 0).all() for s in sides):
            return [np.asarray(s.prod(axis=1, keepdims=True) + _TINY, np.float32) for s in sides]
    areas = [np.exp(np.clip(r[:, 2:].sum(axis=1, keepdims=True), -40, 40)) for r in rows]
    return [np.asarray(np.concatenate((a, a, np.ones_like(a), np.ones_like(a)), axis=1), np.float32) for a in areas]


def _rows(values: Array, axis: int) -> _Floats:
    """[rows, columns]."""
    array = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    return array.reshape(-1, array.shape[-1])
