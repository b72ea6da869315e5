"""What an ONNX model holds: operators, weights, precision, and where TensorRT does not do what its Q/DQ say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quantkit.errors import ModelError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import OLDEST_OPSET, float_precision
from quantkit.graph.passes.prepare import quantized_formats
from quantkit.graph.qdq_lint import lint_qdq, planned_operators, quantized_operators

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.graph.qdq_lint import Operator, QdqFinding


@dataclass(frozen=True)
class Port:
    """Input or output of a model: element type and shape as the file states them."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class ModelInspection:
    """An ONNX model.

    Attributes:
        formats: that it is quantized to: int4, int8, fp8; none of a float model.
        form: "float", or "qdq" for one that holds Q/DQ or integer operators.
        precision: of most float weights, "fp32" or "fp16".
        weight_types: bytes of weights by element type.
        operators: every node of the graph; without Q and DQ in a quantized model.
        findings: where TensorRT does not do what the Q/DQ say; empty for a float model.
        notes: one sentence each.
    """

    path: Path
    form: Literal["float", "qdq"]
    precision: str
    opset: int
    ir_version: int
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    size_bytes: int
    weight_types: Mapping[str, int]
    operators: tuple[Operator, ...]
    findings: tuple[QdqFinding, ...] = ()
    notes: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()

    @property
    def num_weighted(self) -> int:
        """Convolutions and matrix products."""
        return sum(o.is_weighted for o in self.operators)

    @property
    def num_quantized(self) -> int:
        """Those of them that are quantized, or that quantkit would make so."""
        return sum(o.is_weighted and o.is_quantized for o in self.operators)

    @property
    def left_in_float(self) -> tuple[Operator, ...]:
        """Weighted operators, and others with a reason, that are not INT8."""
        return tuple(o for o in self.operators if not o.is_quantized and (o.is_weighted or o.reason))


def inspect_model(model: FloatModel) -> ModelInspection:
    """What a model holds.

    Raises:
        ModelError: ONNX Runtime or TensorRT could not take it.
    """
    graph = model.graph.graph
    weights: Counter[str] = Counter()
    for value in graph.initializers.values():
        if value.const_value is not None:
            weights[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    notes: list[str] = []
    findings: tuple[QdqFinding, ...] = ()
    if model.is_quantized:
        # The oldest opset: what is inspected is the model as it is, not as it would be converted.
        prepared = model.prepared(OLDEST_OPSET)
        operators, findings = quantized_operators(prepared), lint_qdq(prepared)
    else:
        prepared = model.prepared()
        try:
            operators = planned_operators(prepared)
        except ModelError as error:
            notes.append(str(error))
            operators = ()
    return ModelInspection(
        path=model.path,
        form="qdq" if model.is_quantized else "float",
        precision=float_precision(model.graph),
        opset=model.graph.opset_imports[""],
        ir_version=model.graph.ir_version or 0,
        producer=" ".join(word for word in (model.graph.producer_name, model.graph.producer_version) if word),
        inputs=_ports(v for v in graph.inputs if v.name not in graph.initializers),
        outputs=_ports(graph.outputs),
        size_bytes=model.size_bytes,
        weight_types=dict(weights.most_common()),
        operators=operators,
        findings=findings,
        notes=tuple(notes),
        formats=quantized_formats(model.graph),
    )


def _ports(values: Iterable[ir.Value]) -> tuple[Port, ...]:
    ports = []
    for value in values:
        shape = None
        if value.shape is not None:
            shape = tuple(d if isinstance(d, int) else d.value for d in value.shape)
        ports.append(Port(value.name or "", value.dtype.name.lower() if value.dtype else str(value.type), shape))
    return tuple(ports)
