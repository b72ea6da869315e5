"""Matches the tensors of two graphs that differ in names only. The result is a proposal for the user to confirm."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import onnx_ir as ir

from quantkit.graph.passes.prepare import constant_of


def match_by_structure(old: ir.Model, new: ir.Model) -> dict[str, str]:
    """Old name → new name of activations that are computed identically under different names.

    First by operators, attributes and weights from the inputs on. Tensors that remain ambiguous, or whose weights
    differ (retrained models), are matched by operators and weight shapes, from the inputs on and to the outputs.
    Ambiguous tensors are left out.

    Args:
        old: prepared.
        new: prepared.
    """
    mapping: dict[str, str] = {}
    for signatures in (_by_weights, _by_shapes):
        ours, theirs = _unique(signatures(old)), _unique(signatures(new))
        taken = set(mapping.values())
        for signature, name in ours.items():
            other = theirs.get(signature)
            if other is not None and name not in mapping and other not in taken:
                mapping[name] = other
    return {name: other for name, other in mapping.items() if name != other}


def match_by_order(old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """Old name → new name where names in network order leave no choice: as many unknown ones between two known ones.

    Weaker evidence than structure; it needs a cache that lists every tensor, as TensorRT's does.
    """
    known = set(old) & set(new)
    anchors = [name for name in old if name in known]
    if anchors != [name for name in new if name in known]:
        return {}
    mapping: dict[str, str] = {}
    for one, other in zip(_gaps(old, known), _gaps(new, known), strict=True):
        if len(one) == len(other):
            mapping |= dict(zip(one, other, strict=True))
    return mapping


def _gaps(names: Sequence[str], known: set[str]) -> list[list[str]]:
    gaps: list[list[str]] = [[]]
    for name in names:
        if name in known:
            gaps.append([])
        else:
            gaps[-1].append(name)
    return gaps


def _unique(signatures: dict[str, str]) -> dict[str, str]:
    """Name by signature, of those that only one tensor has."""
    names: dict[str, list[str]] = {}
    for name, signature in signatures.items():
        names.setdefault(signature, []).append(name)
    return {signature: found[0] for signature, found in names.items() if len(found) == 1}


def _by_weights(model: ir.Model) -> dict[str, str]:
    return _forward(model, lambda tensor: hashlib.sha256(tensor.tobytes()).hexdigest())


def _by_shapes(model: ir.Model) -> dict[str, str]:
    forward = _forward(model, lambda tensor: "")
    backward: dict[str, str] = {}
    outputs = {v.name: i for i, v in enumerate(model.graph.outputs)}
    activations = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs if v.name)]
    for value in reversed([v for v in activations if v.name in forward]):
        users = sorted(
            _digest(user.op_type, index, *(backward.get(str(v.name), "") for v in user.outputs))
            for user, index in value.uses()
        )
        backward[str(value.name)] = _digest(outputs.get(value.name, ""), *users)
    return {name: forward[name] + backward[name] for name in forward}


def _forward(model: ir.Model, content: Callable[[ir.TensorProtocol], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    for position, value in enumerate(inputs):
        found[str(value.name)] = _digest("input", position, value.dtype, len(value.shape or ()))
    for node in model.graph:
        if constant_of(node.outputs[0]) is not None:
            continue
        words: list[object] = [node.domain, node.op_type]
        for key, attribute in sorted(node.attributes.items()):
            words += [key, "" if attribute.type is ir.AttributeType.GRAPH else attribute.value]
        for read in node.inputs:
            tensor = constant_of(read)
            if tensor is not None:
                words += [tensor.dtype, str(tensor.shape), content(tensor)]
            else:
                words.append("" if read is None else found.get(str(read.name), "outside"))
        for index, written in enumerate(node.outputs):
            if written.name:
                found[str(written.name)] = _digest(*words, index)
    return found


def _digest(*words: object) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update(repr(word).encode() + b"\x00")
    return digest.hexdigest()
