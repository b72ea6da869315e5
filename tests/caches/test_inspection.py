"""What `cache show` says of each tensor of a table: which method chose its range, and what stays in float."""

from quantkit.caches.inspection import rows_from_ranges
from quantkit.types import CalibrationTable, TensorRange


def test_rows_of_a_table_tell_method_and_reason():
    ranges = {
        "a": TensorRange(1.0, -1.0, 1.0, note="seen to 2", method="percentile 99.9"),
        "b": TensorRange(2.0, 0.0, 2.0, method="mse"),
        "c": TensorRange(3.0, 0.0, 3.0),
    }
    table = CalibrationTable(
        tensors=ranges,
        model_hash="0" * 64,
        dataset_fingerprint="",
        num_samples=8,
        settings={"method": "auto"},
        float_tensors={"b": "more accurate in float"},
    )
    flags = {row.name: row.flag for row in rows_from_ranges(ranges, table)}
    assert flags == {"a": "percentile 99.9, seen to 2", "b": "mse, stays in float: more accurate in float", "c": ""}
    assert [row.flag for row in rows_from_ranges(ranges)] == ["seen to 2", "", ""]
