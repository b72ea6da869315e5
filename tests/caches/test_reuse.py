import dataclasses

import pytest

from quantkit.caches.reuse import check_table
from quantkit.errors import StaleTableError
from quantkit.graph.float_model import FloatModel
from quantkit.types import CalibrationTable, TensorRange
from tests.cli.conftest import conv_model


def test_a_table_of_another_model_is_refused_with_both_hashes(tmp_path):
    model = FloatModel(conv_model(tmp_path / "net.onnx"))
    table = CalibrationTable(
        {"x": TensorRange(1.0, 0.0, 1.0)},
        model_hash=model.hash,
        model_name="renamed.onnx",
        dataset_fingerprint="b" * 64,
        num_samples=1,
        settings={},
    )
    check_table(table, model)
    with pytest.raises(StaleTableError, match=f"a{{12}} → {model.hash[:12]}: calibrate 'net.onnx' again") as error:
        check_table(dataclasses.replace(table, model_hash="a" * 64), model)
    assert error.value.exit_code == 4
