import subprocess
import sys

import pytest

import quantkit


def test_every_public_name_exists_and_is_listed():
    for name in quantkit.__all__:
        assert getattr(quantkit, name) is not None
    assert set(quantkit.__all__) <= set(dir(quantkit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = quantkit.nothing


def test_import_is_light():
    code = (
        "import sys, quantkit; print(sorted({'numpy', 'onnx', 'onnxruntime', 'onnx_ir', 'typer'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
