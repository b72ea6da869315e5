"""Trying one change at a time: only what lies behind a tensor runs again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.graph.measured_outputs import MeasuredOutput
from quantkit.graph.pieces import GraphPieces, Piece
from quantkit.numerics import fake_quantize
from quantkit.refinement.damage import OutputDamage
from quantkit.refinement.observation import observe
from quantkit.types import INT8, Array, QdqEdge, QuantFormat


class Trials:
    """The float model on a few samples, its inner tensors kept, and what changes of one tensor do to the output.

    Args:
        pieces: of the prepared float model.
        behind: what lies behind each unit: `pieces_behind`.
        outputs: what the damage is measured on.
        units: quantized edges that are tried together, by the name of the unit: the readers of one tensor, or of a
            group of tensors that share a scale.
        batches: inputs of the samples.
        name: of the model, for messages.
        fmt: that the tensors are quantized to.
    """

    def __init__(
        self,
        pieces: GraphPieces,
        behind: Mapping[str, Piece],
        outputs: Sequence[MeasuredOutput],
        units: Mapping[str, Sequence[QdqEdge]],
        batches: Sequence[Mapping[str, Array]],
        *,
        name: str,
        fmt: QuantFormat = INT8,
    ) -> None:
        self._pieces, self._units, self._name, self.format = pieces, units, name, fmt
        self.outputs = tuple(output.name for output in outputs)
        self._behind = behind
        self._values = list(observe(pieces, kept_tensors(behind, outputs, units), batches))
        self.damage = OutputDamage(outputs, self._values)

    @property
    def values(self) -> Sequence[Mapping[str, Array]]:
        """The kept tensors by name, one mapping for each batch."""
        return self._values

    def of(self, unit: str) -> Trial:
        """Everything behind a unit, ready to run; to be used in a `with` statement."""
        edges = self._units[unit]
        replaced = {(edge.node, edge.index): f"{edge.tensor}{_MARK}" for edge in edges}
        piece = self._behind[unit]
        made = {name for position in piece.nodes for name in self._pieces.makes(position)}
        outputs = [name for name in self.outputs if name in made]
        model = self._pieces.cut(piece, outputs, dtypes=_dtypes(self._values[0]), replaced=replaced)
        runner = OnnxRuntimeRunner(model, name=self._name, spinning=False) if outputs else None
        return Trial(runner, tuple(dict.fromkeys(edge.tensor for edge in edges)), self)


def kept_tensors(
    behind: Mapping[str, Piece], outputs: Iterable[MeasuredOutput], units: Mapping[str, Sequence[QdqEdge]]
) -> frozenset[str]:
    """Inner tensors that `Trials` keeps of every sample."""
    tensors = {edge.tensor for edges in units.values() for edge in edges}
    starts = {name for piece in behind.values() for name in piece.inputs}
    return frozenset(starts | tensors | {output.name for output in outputs})


def pieces_behind(pieces: GraphPieces, units: Mapping[str, Sequence[QdqEdge]]) -> dict[str, Piece]:
    """By unit, what lies behind the nodes that read its tensors."""
    return {unit: pieces.behind({edge.node for edge in edges}) for unit, edges in units.items()}


_MARK = "__quantized"


class Trial:
    """One unit: `damage` runs it with other scales. Made by `Trials.of`."""

    def __init__(self, runner: OnnxRuntimeRunner | None, tensors: tuple[str, ...], trials: Trials) -> None:
        self._runner, self._tensors, self._trials = runner, tensors, trials

    def damage(self, scale: float | npt.NDArray[np.float32], offset: npt.NDArray[np.float32] | None = None) -> float:
        """Damage to the output where these tensors alone are quantized; 0 where no output shows it.

        Args:
            scale: one for all, or an array that broadcasts against the tensors.
            offset: subtracted before they are quantized and added back behind; likewise.
        """
        if self._runner is None:
            return 0.0
        outputs = []
        for values in self._trials.values:
            changed = {
                f"{name}{_MARK}": _quantized(values[name], scale, offset, self._trials.format) for name in self._tensors
            }
            feeds = {spec.name: changed.get(spec.name, values.get(spec.name)) for spec in self._runner.inputs}
            outputs.append({**values, **self._runner.run({n: v for n, v in feeds.items() if v is not None})})
        return self._trials.damage.of(outputs)

    def squared_error(self, scale: float) -> float:
        """Mean squared error of the tensors' own values."""
        total, count = 0.0, 0
        for values in self._trials.values:
            for name in self._tensors:
                x = np.asarray(values[name], np.float32)
                difference = np.asarray(fake_quantize(x, scale, self._trials.format), np.float32).ravel() - x.ravel()
                total, count = total + float(difference @ difference), count + difference.size
        return total / max(count, 1)

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            self._runner.close()


def _quantized(
    x: Array, scale: float | npt.NDArray[np.float32], offset: npt.NDArray[np.float32] | None, fmt: QuantFormat
) -> Array:
    if offset is None:
        return fake_quantize(x, scale, fmt)
    moved = fake_quantize(np.asarray(x, np.float32) - offset, scale, fmt)
    return np.asarray(np.asarray(moved, np.float32) + offset, x.dtype)


def _dtypes(values: Mapping[str, Array]) -> dict[str, np.dtype]:
    return {name: np.asarray(array).dtype for name, array in values.items()}
