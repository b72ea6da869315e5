"""Operators that INT8 does not speed up, and that therefore stay in float unless asked for.

1. Squeeze-and-excitation works on maps of one position: a Q in front of each of its products is a kernel of its own.
   In plans of TensorRT-RTX each product that stays in float is one kernel less (`benchmarks/placement_plans.py`).
2. A product of a matrix with a single vector has nothing for the matrix units to do. In float TensorRT-RTX computes it
   in the kernel of the operator before it (plans: 2 kernels, 3 with INT8), and NVIDIA ModelOpt leaves it in float. A
   large one is bound by reading its weights, and stays INT8.
3. Kernels pad channels: to 16 or 32 for INT8, to 8 for FP16. A convolution with fewer than 16 on both sides moves as
   many bytes in INT8 and multiplies as long, and its result takes a kernel of its own more often (plans of YOLO11: 9
   kernels more for 12 such convolutions). ModelOpt leaves them in float too.
4. The Q of an input is part of the kernel that computes it, and the DQ of a result of the one that reads it. Averages,
   global maxima and running sums take neither in: Q or DQ is then a kernel of its own (plans: one more on each such
   side, for other operators none), which reads and writes the whole tensor. Between such operators a product stays in
   float where that moves more bytes than its smaller operands and its faster multiplication save, counted on the GPU
   with the fewest multiply-adds per byte among NVIDIA's for inference: nowhere else could INT8 pay either.

Together they are at most 0.4% of the multiply-adds, the smallest first: the rest of what may stay in float is for
calibration to choose, for the sake of accuracy. With 2% an EfficientNet lost 1.3 dB. Convolutions with few channels may
be up to 10% more, and leave calibration its share.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.passes.edits import name_of
from quantkit.graph.passes.prepare import LAYOUT_OPS, constant_of, is_standard
from quantkit.graph.share import estimated_work, is_product
from quantkit.notices import Notice, Notify, join_names

_MOST_WORK = 0.004
_MOST_PADDED_WORK = 0.1
_LARGE_WEIGHT = 2**20
"""Elements; fewer are in a GPU's cache."""

_FEW_COLUMNS = 8
"""Or rows of the weight of a matrix product: FP16 pads to as many."""

_ENOUGH_CHANNELS = 16
"""On one side of a convolution, which then uses its units whatever is on the other side."""

GATE = "squeeze-and-excitation on maps of one position: 8 bits would take more kernels than float"
VECTOR = "product of a matrix and one vector: 8 bits would not be faster"
CHANNELS = "few channels: 8 bits would compute on padding"
NARROW = "few rows or columns: 8 bits would compute on padding"

ISLAND = "between float operators that Q and DQ do not fuse with: 8 bits would move more bytes than they save"

_ALONE_BEFORE_Q = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "CumSum")
_ALONE_BEHIND_DQ = ("AveragePool", "LpPool", "CumSum")

_MULTIPLY_ADDS_PER_BYTE = 76
"""In FP16, while a byte is moved: A100, 312 TFLOPS and 2,039 GB/s (NVIDIA's data sheet). INT8 does twice as many."""

_ACTIVATIONS = ("Relu", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Clip", "Tanh", "Gelu", "Erf")


@dataclass(frozen=True)
class Unprofitable:
    """What INT8 does not speed up.

    Attributes:
        in_float: name of each product that stays in float for it → the reason.
        too_much: the same of those that are INT8 nevertheless, because they are too much of the model.
    """

    in_float: dict[str, str]
    too_much: dict[str, str]


def find_unprofitable(model: ir.Model) -> Unprofitable:
    """Products that INT8 does not speed up, as far as shapes tell.

    Args:
        model: prepared.
    """
    products = [node for node in model.graph if is_product(node)]
    found = {node: reason for node in products if (reason := _reason(node))}
    if not found:
        return Unprofitable({}, {})
    work = {node: estimated_work(node) for node in products}
    all_work = sum(work.values())
    padded = [node for node, reason in found.items() if reason == CHANNELS]
    others = [node for node, reason in found.items() if reason != CHANNELS]
    kept = [*_smallest(others, work, _MOST_WORK * all_work), *_smallest(padded, work, _MOST_PADDED_WORK * all_work)]
    in_float = {name_of(node): found[node] for node in kept}
    too_much = {name_of(node): reason for node, reason in found.items() if name_of(node) not in in_float}
    return Unprofitable(in_float, too_much)


def _smallest(nodes: Sequence[ir.Node], work: Mapping[ir.Node, int], most: float) -> list[ir.Node]:
    """Those with the least work, together at most `most`; equals, such as both products of a block, go together."""
    sizes: defaultdict[int, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        sizes[work[node]].append(node)
    taken: list[ir.Node] = []
    for size, equal in sorted(sizes.items()):
        most -= size * len(equal)
        if most < 0:
            break
        taken += equal
    return taken


def tell_unprofitable(found: Unprofitable, quantized: Collection[str], title: str, notify: Notify) -> None:
    """Says what of a model stays in float, and what would if it were less, with the reason of each.

    Args:
        found: in the model.
        quantized: names of the operators that are quantized.
        title: of their format.
        notify: hears it.
    """
    too_much = {name: reason for name, reason in found.too_much.items() if name in quantized}
    for names, what in (
        (found.in_float, "left in float (--quantize-all overrides)"),
        (too_much, f"quantized although {title} gains little there, because too much of the model would be in float"),
    ):
        for reason in dict.fromkeys(names.values()):
            these = [name for name in names if names[name] == reason]
            count = "1 operator" if len(these) == 1 else f"{len(these)} operators"
            notify(Notice("info", "excluded", f"{count} {what}: {reason}: {join_names(these)}"))


def _reason(node: ir.Node) -> str:
    tensor = constant_of(node.inputs[1]) if is_standard(node, "Conv", "Gemm", "MatMul") else None
    if tensor is None:
        return ""
    weight = tensor.shape.numpy()
    if is_standard(node, "Conv"):
        if _is_single(node.outputs[0]) and _ends_in_gate(node.outputs[0]):
            return GATE
        return CHANNELS if _has_few_channels(node, weight) else ISLAND if _is_island(node, weight) else ""
    if len(weight) != 2:
        return ""
    transposed = is_standard(node, "Gemm") and node.attributes.get_int("transB", 0) == 1
    inner, outer = reversed(weight) if transposed else weight
    if (outer == 1 or _num_rows(node) == 1) and inner * outer < _LARGE_WEIGHT:
        return VECTOR
    if min(inner, outer) < _FEW_COLUMNS:
        return NARROW
    return ISLAND if _is_island(node, weight) else ""


def _is_island(node: ir.Node, weight: Sequence[int]) -> bool:
    """Whether Q and DQ around a product move more bytes than INT8 saves; False where sizes are not known."""
    data, result = node.inputs[0], node.outputs[0]
    num_read, num_written = _num_elements(data), _num_elements(result)
    if data is None or num_read is None or num_written is None:
        return False
    producer, is_alone = data.producer(), len(data.uses()) == 1 and not data.is_graph_output()
    has_own_q = is_alone and producer is not None and is_standard(producer, *_ALONE_BEFORE_Q)
    readers = [user for user, _ in result.uses()]
    has_own_dq = (
        bool(readers) and not result.is_graph_output() and all(is_standard(user, *_ALONE_BEHIND_DQ) for user in readers)
    )
    if not has_own_q and not has_own_dq:
        return False
    # FP16 reads 2 bytes of the input and writes 2 of the result. A Q of its own reads 2 and writes 1, which is then
    # read; one in the kernel before saves 1 there and 1 here. A DQ of its own reads 2 and writes 2 more.
    moved = (2 if has_own_q else -2 if is_alone else 0) * num_read + (4 if has_own_dq else 0) * num_written
    num_weights = math.prod(weight)
    per_result = num_weights // (weight[0] if is_standard(node, "Conv") else max(_sizes(result)[-1] or 1, 1))
    return moved > num_weights + num_written * per_result / (2 * _MULTIPLY_ADDS_PER_BYTE)


def _has_few_channels(node: ir.Node, weight: Sequence[int]) -> bool:
    """Fewer than 16 on both sides. The first layer, of images, has kernels of its own."""
    data = node.inputs[0]
    if node.attributes.get_int("group", 1) != 1 or data is None or data.producer() is None:
        return False
    return max(weight[:2]) < _ENOUGH_CHANNELS


def _num_rows(node: ir.Node) -> int | None:
    """Rows of the left operand, over all leading dimensions; None where one is not known."""
    sizes = _sizes(node.inputs[0])
    if is_standard(node, "Gemm") and node.attributes.get_int("transA", 0) == 1:
        sizes = sizes[::-1]
    rows = 1
    for size in sizes[:-1]:
        if size is None:
            return None
        rows *= size
    return rows if sizes else None


def _is_single(value: ir.Value) -> bool:
    """Whether a map [N, C, 1, 1] has one position."""
    sizes = _sizes(value)
    return len(sizes) > 2 and all(size == 1 for size in sizes[2:])


def _ends_in_gate(value: ir.Value) -> bool:
    """Whether all that is computed of a map of one position scales the channels of a larger one."""
    uses = list(value.uses())
    return not value.is_graph_output() and bool(uses) and all(_is_gate(user) for user, _ in uses)


def _is_gate(node: ir.Node) -> bool:
    result = node.outputs[0]
    if is_standard(node, "Mul") and not _is_single(result):
        return True
    is_inner = is_standard(node, "Conv", "Mul", "Add", "Div", "BatchNormalization", *_ACTIVATIONS, *LAYOUT_OPS)
    return is_inner and _is_single(result) and _ends_in_gate(result)


def _num_elements(value: ir.Value | None) -> int | None:
    """Number of elements of one sample; None where a dimension behind the first is not known."""
    first, *rest = _sizes(value) or [None, None]
    return None if None in rest else math.prod(size for size in (first or 1, *rest) if size is not None)


def _sizes(value: ir.Value | None) -> list[int | None]:
    """Dimensions; None for one that is dynamic, none where the rank is not known."""
    if value is None or value.shape is None:
        return []
    return [size if isinstance(size, int) else None for size in value.shape]
