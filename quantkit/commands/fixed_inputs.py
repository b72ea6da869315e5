"""Inputs that have one value for every sample decide which branch of an If a model takes: that branch is quantized."""

from __future__ import annotations

from collections.abc import Mapping

from quantkit.datasets.batch_axes import constant_inputs
from quantkit.datasets.placement import stored_constants
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.constants import decided_by
from quantkit.notices import Notice, Notify, join_names
from quantkit.types import CalibrationTable
from quantkit.types.options import ImageOptions


def fix_inputs(model: FloatModel, said: object, notify: Notify | None = None) -> FloatModel:
    """The model whose prepared form has the branches that inputs of one value decide.

    Args:
        model: the float model.
        said: `ImageOptions` with the constants; with anything else there are none.
        notify: hears which inputs decide.

    Raises:
        DatasetError: see `constant_inputs`.
    """
    return _fix(model, (said.constant or {}) if isinstance(said, ImageOptions) else {}, notify)


def fix_as_calibrated(model: FloatModel, table: CalibrationTable | None, said: object = None) -> FloatModel:
    """The same with the constants that a table was made with; without a table, with those that are said."""
    return fix_inputs(model, said) if table is None else _fix(model, stored_constants(table.settings), None)


def _fix(model: FloatModel, constants: Mapping[str, float], notify: Notify | None) -> FloatModel:
    deciding = decided_by(model.graph, constants) if constants else []
    if deciding and notify is not None:
        said = join_names([f"{name} = {constants[name]:g}" for name in deciding])
        text = f"The INT8 model holds only the branch that {said} takes, whatever value is fed later."
        notify(Notice("info", "constant", text))
    return model.fixing(constant_inputs(model.inputs, {name: constants[name] for name in deciding}))
