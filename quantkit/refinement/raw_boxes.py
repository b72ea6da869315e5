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
"""Most bins of a distribution over distances, for each side: wider rows are features."""

_NEARLY_ALL = 0.99
"""Where all four numbers are above 0 in more than this share of what is detected, they are distances."""

SURE = 0.5
"""A score from which on something is said to be detected."""

_SMALL_BOX = 0.01
"""Share of the mean area to which smaller areas are raised."""

SUM_ERROR = 1e-3
"""How far the sum of probabilities may be from 1."""

_TINY = 1e-30


@dataclass(frozen=True)
class RawBoxes:
    """Boxes of one output, or of several with the same rows.

    Attributes:
        boxes: the output with their coordinates, or with what these are made of.
        scores: the output with the probabilities of the classes.
        axis: of the columns, in all of them.
        columns: of the coordinates.
        classes: columns of the classes, without the one that stands for no object.
        objectness: output and column of the probability that there is an object, by which the others are multiplied.
        points: the output with coordinates of further points, such as the eyes of a face.
    """

    boxes: str
    scores: str
    axis: int
    columns: tuple[int, ...]
    classes: tuple[int, ...]
    objectness: tuple[str, int] | None = None
    points: str | None = None

    def read(self, outputs: Mapping[str, Array]) -> tuple[_Floats, _Floats]:
        """Coordinates [rows, 4 or more], those of points behind those of boxes, and scores [rows, C]."""
        coordinates = _rows(outputs[self.boxes], self.axis)[:, self.columns]
        scores = _rows(outputs[self.scores], self.axis)[:, self.classes]
        if self.objectness is not None:
            name, column = self.objectness
            scores = scores * _rows(outputs[name], self.axis)[:, [column]]
        if self.points is not None:
            coordinates = np.concatenate((coordinates, _rows(outputs[self.points], self.axis)), axis=1)
        return coordinates, scores


def find_boxes(outputs: Sequence[MeasuredOutput], reference: Sequence[Mapping[str, Array]]) -> tuple[RawBoxes, ...]:
    """Where the outputs of a float model hold boxes with scores, by their values; empty if not all of them do.

    Either each output has four columns, side by side, and probabilities in all others, or outputs with as many rows
    belong together: see `_in_several_outputs`.
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
    groups: dict[tuple[bool, int], list[MeasuredOutput]] = {}
    for output in outputs:
        groups.setdefault((_is_last(output), len(known[output.name])), []).append(output)
    together = [_in_several_outputs(group, known, inside) for group in groups.values()]
    return tuple(boxes for boxes in together if boxes) if all(together) else ()


def _in_several_outputs(
    group: Sequence[MeasuredOutput], rows: Mapping[str, _Floats], inside: Mapping[str, npt.NDArray[np.bool_]]
) -> RawBoxes | None:
    """Boxes of four columns or a multiple, probabilities, perhaps those of objectness, and perhaps further points."""
    axes = {output.name: output.axis or 0 for output in group}
    four = [name for name in axes if rows[name].shape[1] == _SIDES]
    no_scores = [name for name in four if not inside[name].all()]
    boxes = no_scores or four or [name for name in axes if _may_be_distributions(inside[name])]
    scores = [name for name in axes if name not in boxes and inside[name].all()]
    single = [name for name in scores if rows[name].shape[1] == 1]
    scores = single if len(single) > 1 else scores  # points may lie from 0 to 1, too
    sure = single[-1:] if len(scores) > 1 else []
    points = [name for name in axes if name not in (*boxes, *scores)]
    classes = [name for name in scores if name not in sure]
    if not len(boxes) == len(classes) == 1 or len(points) > 1 or any(rows[name].shape[1] % 2 for name in points):
        return None
    return RawBoxes(
        boxes[0],
        classes[0],
        axes[classes[0]],
        tuple(range(rows[boxes[0]].shape[1])),
        _classes(rows[classes[0]]),
        (sure[0], 0) if sure else None,
        points[0] if points else None,
    )


def _may_be_distributions(inside: npt.NDArray[np.bool_]) -> bool:
    """Whether columns, of which it is known whether they are probabilities, may be distributions over distances."""
    bins, rest = divmod(len(inside), _SIDES)
    return rest == 0 and 1 < bins <= _MOST_BINS and not inside.any()


def _is_last(output: MeasuredOutput) -> bool:
    """Whether each row of a matrix is a box."""
    return output.axis in (-1, 2)


def _rows_of_all(output: MeasuredOutput, reference: Sequence[Mapping[str, Array]]) -> _Floats | None:
    """[rows, columns] of all batches; None if one is empty, or they have no columns or values that are not finite."""
    arrays = [np.asarray(batch[output.name]) for batch in reference]
    if output.axis is None or any(array.ndim < 3 or not array.size for array in arrays):
        return None
    if len({array.shape[output.axis] for array in arrays}) > 1:
        return None
    rows = np.concatenate([_rows(array, output.axis) for array in arrays])
    return rows if np.isfinite(rows).all() else None


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
    sure = None if objectness is None else (output.name, objectness)
    return RawBoxes(output.name, output.name, output.axis or 0, columns, tuple(kept.tolist()), sure)


def _is_objectness(column: _Floats, others: _Floats) -> bool:
    """Whether a column is high only together with another one, as that of a class would not be."""
    high = column >= column.max() / 2
    return bool(column.max() > 0 and others[high].max(axis=1).mean() > column[high].mean() / 2)


def _classes(scores: _Floats) -> tuple[int, ...]:
    """Columns of probabilities; without the largest on average, background, where they add up to 1."""
    columns = list(range(scores.shape[1]))
    if len(columns) > 1 and (np.abs(scores.sum(axis=1, dtype=np.float64) - 1) < SUM_ERROR).all():
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
        units = [
            _units([batch[i][0] for batch in exact], [batch[i][1] for batch in exact], len(boxes.columns))
            for i, boxes in enumerate(found)
        ]
        self._exact = [
            [(rows, scores, _weights(scores), unit[number]) for (rows, scores), unit in zip(batch, units, strict=True)]
            for number, batch in enumerate(exact)
        ]
        best = [
            np.max(
                [s.reshape(len(batch[f.scores]), -1).max(axis=1) for f, (_, s) in zip(found, read, strict=True)], axis=0
            )
            for batch, read in zip(reference, exact, strict=True)
        ]
        self.detects = np.concatenate(best) >= SURE
        """For each sample whether something is detected."""

    def __str__(self) -> str:
        first = self._found[0]
        sure = "" if first.objectness is None else " times objectness"
        points = "" if first.points is None else " and points"
        return f"boxes with {plural(len(first.classes), 'score')}{sure}{points}"

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


def _units(rows: Sequence[_Floats], scores: Sequence[_Floats], num_columns: int) -> list[_Floats]:
    """Squares of what an error of each coordinate is compared with, one array for each batch.

    That is the size of the box, from its corners, from its width and height or the logarithms of these, or from the
    distances of its sides. Of anything else, such as distributions, it is the variance of the column.

    Args:
        rows: coordinates, those of further points behind those of boxes.
        scores: of the classes.
        num_columns: of boxes.
    """
    values, weights = np.concatenate(rows), np.concatenate([_weights(s) for s in scores]) + _TINY
    mean = np.average(values, axis=0, weights=weights)
    variance = np.average(np.square(values - mean), axis=0, weights=weights)[None] + _TINY
    if num_columns != _SIDES:
        return [np.asarray(variance, np.float32)] * len(rows)
    ends = [r[:, 2:_SIDES] for r in rows]
    for sides in ([end - r[:, :2] for r, end in zip(rows, ends, strict=True)], ends):
        if all((s > 0).all() for s in sides):
            return [np.asarray(s.prod(axis=1, keepdims=True) + _TINY, np.float32) for s in sides]
    if np.average((values[:, :_SIDES] > 0).all(axis=1), weights=weights) > _NEARLY_ALL:
        areas = [(r[:, :2] + end).prod(axis=1, keepdims=True) for r, end in zip(rows, ends, strict=True)]
        least = _SMALL_BOX * np.average(np.concatenate(areas)[:, 0], weights=weights)
        return [np.maximum(area, np.float32(least)) for area in areas]
    areas = [np.exp(np.clip(end.sum(axis=1, keepdims=True), -40, 40)) for end in ends]
    others = [np.broadcast_to(variance[:, _SIDES:], (len(a), variance.shape[1] - _SIDES)) for a in areas]
    parts = ((a, a, np.ones_like(a), np.ones_like(a), more) for a, more in zip(areas, others, strict=True))
    return [np.asarray(np.concatenate(part, axis=1), np.float32) for part in parts]


def _rows(values: Array, axis: int) -> _Floats:
    """[rows, columns]."""
    array = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    return array.reshape(-1, array.shape[-1])
