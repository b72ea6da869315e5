from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from quantkit.errors import BackendUnavailableError
from quantkit.types import CalibrationTable, TensorRange
from tests.reporting.reports import HOSTILE, make_hostile, make_report, make_unlabeled


def make_table(count: int = 3) -> CalibrationTable:
    ranges = {f"t{i}": TensorRange(1.5 + i, -1.0, 1.5 + i, method="mse" if i else "") for i in range(count)}
    return CalibrationTable(
        tensors=ranges,
        model_hash="0",
        dataset_fingerprint="0",
        num_samples=1200,
        settings={"method": "auto"},
        float_tensors={"t1": "more accurate in float"},
        model_name="net.onnx",
    )


def test_a_report_is_a_few_lines():
    lines = repr(make_report()).splitlines()
    assert lines[0] == "Report of resnet20.onnx: 10,000 samples, task classify"
    assert lines[1].split() == [
        "variant",
        "precision",
        "top1",
        "agreement",
        "sqnr_db",
        "median_ms",
        "speedup",
        "size_mb",
    ]
    assert lines[4].split() == ["int8", "int8", "0.8093", "0.9748", "24.87", "0.245", "2.041", "0.331"]
    assert "top1" not in repr(make_unlabeled())


def test_a_table_names_its_tensors_and_what_stays_in_float():
    lines = repr(make_table()).splitlines()
    assert lines[0] == "Calibration table of net.onnx: auto, 1,200 samples"
    assert lines[2].split() == ["t0", "1.5", "-1", "1.5", "auto", "-"]
    assert lines[3].endswith("more accurate in float")
    assert repr(make_table(25)).splitlines()[-1] == "and 5 more"


def test_html_holds_the_same_and_no_markup_from_files():
    assert make_table(25)._repr_html_().count("<tr>") == 21
    shown = make_hostile()._repr_html_() + replace(make_table(), model_name=HOSTILE)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_pandas_gets_every_row_with_numbers(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: rows))
    assert len(make_table(25).to_pandas()) == 25
    assert make_report().to_pandas()[2]["speedup"] == pytest.approx(0.5 / 0.245)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BackendUnavailableError, match="pip install pandas"):
        make_report().to_pandas()
