"""A published model in INT8 as another tool makes it; runs in an environment of that tool, which quantkit is not in.

python benchmarks/published_peers.py onnxruntime|nncf MODEL.onnx SAMPLES.npz INT8.onnx

SAMPLES.npz holds the inputs of every sample as NUMBER/INPUT. `published_models.py --peers PYTHON` writes it, calls this
and scores the result.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter


def quantize_by_onnxruntime(model: str, samples: list[dict[str, np.ndarray]], target: str) -> None:
    """QDQ, symmetric, ranges by min-max, a weight scale for each channel: what TensorRT takes.

    Its scales of channels need opset 13; below, it writes a model that it cannot load.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.samples, None)

    with tempfile.TemporaryDirectory() as folder:
        converted, prepared = str(Path(folder) / "converted.onnx"), str(Path(folder) / "prepared.onnx")
        loaded = onnx.load(model)
        opset = max(entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx"))
        onnx.save(onnx.version_converter.convert_version(loaded, 13) if opset < 13 else loaded, converted)
        # Without symbolic shapes, which a model of any height and width does not have.
        quant_pre_process(converted, prepared, skip_symbolic_shape=has_free_sizes(loaded))
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )


def quantize_by_nncf(model: str, samples: list[dict[str, np.ndarray]], target: str) -> None:
    """As NNCF does by default."""
    import nncf

    onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(samples), subset_size=len(samples)), target)


def has_free_sizes(model: onnx.ModelProto) -> bool:
    """Whether an input has a size, behind the first, that is not known."""
    shapes = [value.type.tensor_type.shape.dim for value in model.graph.input]
    return any(not size.HasField("dim_value") for shape in shapes for size in shape[1:])


TOOLS = {"onnxruntime": quantize_by_onnxruntime, "nncf": quantize_by_nncf}


def main(tool: str, model: str, stored: str, target: str) -> None:
    samples: defaultdict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, array in np.load(stored).items():
        number, name = key.split("/", 1)
        samples[number][name] = array
    TOOLS[tool](model, list(samples.values()), target)
    if not any(node.op_type == "QuantizeLinear" for node in onnx.load(target).graph.node):
        raise SystemExit("nothing in INT8")


if __name__ == "__main__":
    main(*sys.argv[1:])
