from __future__ import annotations

from dataclasses import replace

from quantkit.reporting.coverage import coverage_title, coverages, left_in_float

from .samples import make_classification


def test_operators_are_counted_by_type_and_in_all():
    found = coverages(make_classification())[0]
    assert found.variant == "int8"
    assert [(row.op_type, row.num_quantized, row.num_all) for row in found.rows] == [
        ("Conv", 19, 21),
        ("Gemm", 1, 1),
        ("MatMul", 1, 2),
        ("", 21, 24),
    ]
    assert found.sentence == "21 of 24 weighted operators run in INT8"


def test_what_is_in_float_is_grouped_by_reason_the_largest_first():
    first, second = coverages(make_classification())[0].groups
    assert (first.reason_count, first.reason) == ("2", "depthwise: INT8 gains no time here")
    assert second.names == ("MatMul /attention/MatMul",)


def test_reasons_that_differ_in_a_figure_are_one_group():
    report = make_classification()
    layers = [
        replace(x, is_int8=False, reason=f"more accurate in float (alone in INT8: KL {i})") if i < 3 else x
        for i, x in enumerate(report.layers)
    ]
    first, *_ = coverages(replace(report, layers=tuple(layers)))[0].groups
    assert (first.reason_count, first.reason) == ("3", "more accurate in float")
    assert first.names[0].endswith(" (alone in INT8: KL 0)")


def test_the_format_of_the_variant_is_named():
    report = make_classification()
    assert coverage_title(report) == "INT8 coverage"
    fp8 = tuple(replace(e, precision="fp8") if e.precision == "int8" else e for e in report.evaluations)
    report = replace(report, evaluations=fp8)
    assert coverages(report)[0].sentence == "21 of 24 weighted operators run in FP8"
    assert coverage_title(report) == "FP8 coverage"


def test_a_node_is_not_named_twice():
    report = make_classification()
    names = [name for group in left_in_float(report) for name in group.names]
    assert names == ["/Softmax_output_0", "/LayerNorm_output_0"]
    assert "/attention/MatMul" in [n for g in left_in_float(replace(report, layers=())) for n in g.names]


def test_a_layer_without_a_reason_is_still_listed():
    report = make_classification()
    layers = tuple(replace(x, reason="") for x in report.layers)
    assert [g.reason for g in coverages(replace(report, layers=layers))[0].groups] == ["unknown reason"]
