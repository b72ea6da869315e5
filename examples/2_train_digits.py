"""Trains the demo model, a small residual network, and exports it as examples/digits.onnx.

Run: python examples/2_train_digits.py [--out FILE]     Needs: torch, scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

EPOCHS = 20
BATCH_SIZE = 50
LEARNING_RATE = 4e-3
OPSET = 18


class ConvBn(nn.Module):
    """Convolution and batch normalization; `fold` merges them into one convolution."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H / stride, W / stride]."""
        return self.norm(self.conv(x))

    def fold(self) -> None:
        """Folds the batch normalization into the weights of the convolution; in eval mode only."""
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvBn(inputs, outputs, stride=stride)
        self.second = ConvBn(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvBn(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H / stride, W / stride]."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class DigitsNet(nn.Module):
    """[N, 1, 8, 8] pixels from 0 to 1 → [N, 10] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBn(1, 32)
        self.blocks = nn.Sequential(Residual(32, 32), Residual(32, 64), Residual(64, 128, stride=2))
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 1, 8, 8] → [N, 10]."""
        features = self.blocks(functional.relu(self.stem(image)))
        return self.head(functional.adaptive_avg_pool2d(features, 1).flatten(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits.onnx")
    out = parser.parse_args().out
    torch.manual_seed(digits.SEED)
    torch.use_deterministic_algorithms(True)

    data = digits.load()
    images = torch.from_numpy(data.pixels[:, None].astype(np.float32) / 255)
    classes = torch.from_numpy(data.classes)
    model = DigitsNet()
    train(model, images[data.train], classes[data.train])

    model.eval()
    for module in list(model.modules()):
        if isinstance(module, ConvBn):
            module.fold()
    with torch.no_grad():
        correct = int((model(images[data.val]).argmax(1) == classes[data.val]).sum())
    export(model, out)
    print(f"val accuracy {correct / len(data.val):.4f} ({correct} of {len(data.val)})")
    print(f"{out}: {out.stat().st_size} bytes")


def train(model: nn.Module, images: Tensor, classes: Tensor) -> None:
    """Trains with AdamW and a one-cycle learning rate; each image is randomly shifted by up to one pixel."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = EPOCHS * (len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        total_loss = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(shift(images[chosen])), classes[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(chosen)
        print(f"epoch {epoch + 1:2d} of {EPOCHS}  loss {total_loss / len(images):.3f}", flush=True)


def shift(images: Tensor) -> Tensor:
    """Shifts each image by -1, 0 or 1 pixel in x and in y. [N, 1, 8, 8] → the same shape."""
    count = len(images)
    padded = functional.pad(images, (1, 1, 1, 1))[:, 0]
    rows = torch.randint(0, 3, (count, 1)) + torch.arange(8)
    columns = torch.randint(0, 3, (count, 1)) + torch.arange(8)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]


def export(model: nn.Module, path: Path) -> None:
    """Writes one self-contained ONNX file: input image [batch, 1, 8, 8], output logits [batch, 10]."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    # The exporter stores file paths and stack traces of this machine in the graph; remove them.
    for item in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del item.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


if __name__ == "__main__":
    main()
