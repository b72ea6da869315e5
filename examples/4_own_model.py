"""Quantizes a model of your own, with custom preprocessing and with layers excluded from quantization.

The model is a small MobileNet with random weights, in place of yours. Its accuracy is therefore at chance level; the
report shows how closely the INT8 outputs follow the FP32 outputs, and the latency.

Run: python examples/4_own_model.py [--out FOLDER]     Needs: torch (for the export only).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import onnx
import torch
from torch import nn

import quantkit
from quantkit.types import Preprocessing

DIGITS = Path(__file__).parent.parent / "calib_data" / "digits"

# As in training: resize the shorter side to 36 pixels, center crop to 32x32, ImageNet's mean and std.
PREPROCESSING = Preprocessing(
    size=(32, 32),
    resize="crop",
    shorter_side=36,
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for both models (default: a new temporary folder)")
    out = parser.parse_args().out or Path(tempfile.mkdtemp(prefix="quantkit-"))
    out.mkdir(parents=True, exist_ok=True)

    model = export(out / "own.onnx")
    # Exclude the first and the last layer: they take little of the time and often cause much of the error.
    nodes = onnx.load(model).graph.node
    exclude = [nodes[0].name, nodes[-1].name]

    table = quantkit.calibrate(model, DIGITS / "calib", preprocess=PREPROCESSING)
    int8_model = quantkit.quantize(model, table, out / "own.int8.onnx", exclude=exclude)
    report = quantkit.evaluate(model, DIGITS / "val", table=table, exclude=exclude)

    print(f"{model}: {model.stat().st_size} bytes; {int8_model.path}: {int8_model.path.stat().st_size} bytes")
    for name, reason in report.skipped.items():
        print(f"in float: {name} ({reason})")
    for evaluation in report.evaluations:
        print(evaluation.name, {metric: round(value, 4) for metric, value in evaluation.metrics.items()})


def export(path: Path) -> Path:
    """Exports the example model as one ONNX file with a dynamic batch dimension."""
    torch.manual_seed(0)
    network = nn.Sequential(
        _convolution(3, 16, stride=2),
        *_separable(16, 32),
        *_separable(32, 64, stride=2),
        *_separable(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # keeps the variance of activations in untrained layers
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, 32, 32),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return path


def _separable(inputs: int, outputs: int, *, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A depthwise 3x3 and a pointwise 1x1 convolution."""
    return _convolution(inputs, inputs, stride=stride, groups=inputs), _convolution(inputs, outputs, kernel=1)


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


if __name__ == "__main__":
    main()
