"""Operators that give something else each time, or in other company: ranges of what they make are of one draw alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantkit.graph.expansion import all_nodes
from quantkit.notices import Notice, Notify, join_names

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
)
_TRAINING_INPUT = 2
"""The input of Dropout that says whether it drops, since opset 12."""


def random_operators(model: ir.Model) -> list[str]:
    """Nodes that draw random numbers, "name (operator)", those of sub-graphs and functions included."""
    return _titles(model, _is_random)


def training_operators(model: ir.Model) -> list[str]:
    """Nodes that normalize by the batch at hand as in training, so that a sample's result depends on the others."""
    return _titles(model, _is_of_training)


def warn_of_randomness(model: ir.Model, notify: Notify) -> None:
    """Warns of nodes that draw random numbers or depend on the batch, before anything is measured with them."""
    if found := random_operators(model):
        text = (
            f"the model draws random numbers, so that results differ from run to run: {join_names(found)}; export it "
            "for inference (model.eval(), training=TrainingMode.EVAL) if they are of training"
        )
        notify(Notice("warning", "model", text))
    if found := training_operators(model):
        text = (
            "the model normalizes by the batch as in training, so that a sample's result depends on the others: "
            f"{join_names(found)}; export it for inference (model.eval(), training=TrainingMode.EVAL)"
        )
        notify(Notice("warning", "model", text))


def _titles(model: ir.Model, is_meant: Callable[[ir.Node], bool]) -> list[str]:
    return [f"{node.name or node.outputs[0].name} ({node.op_type})" for node in all_nodes(model) if is_meant(node)]


def _is_of_training(node: ir.Node) -> bool:
    """Before opset 14 BatchNormalization of training is told by its further outputs."""
    if node.domain not in ("", "ai.onnx") or node.op_type != "BatchNormalization":
        return False
    return bool(node.attributes.get_int("training_mode", 0)) or sum(bool(value.name) for value in node.outputs) > 1


def _is_random(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type != "Dropout":
        return node.op_type in _RANDOM
    mode = node.inputs[_TRAINING_INPUT] if len(node.inputs) > _TRAINING_INPUT else None
    if mode is None:
        return False
    tensor = ir.convenience.get_const_tensor(mode)
    return tensor is None or bool(np.any(tensor.numpy()))
