"""The sums that second moments of a layer's inputs are made of, as a model: for runtimes of a GPU."""

from __future__ import annotations

import onnx

_MODEL = """
<ir_version: 8, opset_import: ["": 17]>
moments (float[G, K, P] x, float[G, K, P] quantized, float[P] counts, double[A, B, C] sum_q, double[A, B, C] sum_d,
         double[A, B, C] sum_qq, double[A, B, C] sum_dq, double[A, B, C] sum_dd)
    => (double[G, K, 1] new_q, double[G, K, 1] new_d,
        double[G, K, K] new_qq, double[G, K, K] new_dq, double[G, K, K] new_dd)
{
    d = Sub(x, quantized)
    counted_q = Mul(quantized, counts)
    counted_d = Mul(d, counts)
    axis = Constant<value_ints = [2]>()
    precise_q = Cast<to = 11>(counted_q)
    precise_d = Cast<to = 11>(counted_d)
    of_q = ReduceSum<keepdims = 1>(precise_q, axis)
    of_d = ReduceSum<keepdims = 1>(precise_d, axis)
    new_q = Add(sum_q, of_q)
    new_d = Add(sum_d, of_d)
    transposed_q = Transpose<perm = [0, 2, 1]>(quantized)
    transposed_d = Transpose<perm = [0, 2, 1]>(d)
    qq = MatMul(counted_q, transposed_q)
    dq = MatMul(counted_d, transposed_q)
    dd = MatMul(counted_d, transposed_d)
    precise_qq = Cast<to = 11>(qq)
    precise_dq = Cast<to = 11>(dq)
    precise_dd = Cast<to = 11>(dd)
    new_qq = Add(sum_qq, precise_qq)
    new_dq = Add(sum_dq, precise_dq)
    new_dd = Add(sum_dd, precise_dd)
}
"""


def moments_model(*, with_error: bool) -> bytes:
    """Adds columns to sums as `quantkit.refinement.moment_sums.HostSums` does; these may be [1, 1, 1] at first.

    Args:
        with_error: whether the sum of d d^T is among them, d being what the quantized inputs differ by.
    """
    model = onnx.parser.parse_model(_MODEL)
    if not with_error:
        for values in (model.graph.input, model.graph.output):
            values.remove(next(value for value in values if value.name.endswith("_dd")))
        for node in [node for node in model.graph.node if node.output[0].endswith(("dd", "transposed_d"))]:
            model.graph.node.remove(node)
    return bytes(model.SerializeToString())
