"""Small forms of the networks that people quantize, by name: the blocks of each as exporters write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from .builder import Builder

BACKBONES: dict[str, Callable[[], onnx.ModelProto]] = {}

SIDE = 64
"""Height and width of the images."""


def backbone(build: Callable[[_Net], Sequence[str] | str]) -> Callable[[_Net], Sequence[str] | str]:
    """Registers a network that is made by adding operators to a `_Net`, of which it returns the outputs."""

    def make() -> onnx.ModelProto:
        net = _Net(opset=17, batch=4)
        outputs = build(net)
        return net.model(*([outputs] if isinstance(outputs, str) else outputs))

    BACKBONES[build.__name__] = make
    return build


class _Net(Builder):
    """Blocks. Batch normalization is folded into convolutions, as exporters do."""

    def image(self, channels: int = 3) -> str:
        return self.input("image", channels, SIDE, SIDE)

    def act(self, x: str, kind: str) -> str:
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "relu6":
            return self.clip(x, 0.0, 6.0)
        if kind == "gelu":
            erf = self.op("Erf", self.op("Div", x, self.constant(2**0.5)))
            return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.constant(1.0))), self.constant(0.5))
        return self.op(kind, x)

    def cba(self, x: str, channels_in: int, channels: int, kernel: int = 3, *, act: str = "Relu", **options) -> str:
        """Convolution and activation."""
        return self.act(self.conv(x, channels_in, channels, kernel, **options), act)

    def pool(self, x: str, kernel: int = 3, stride: int = 2) -> str:
        return self.op("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[(kernel - 1) // 2] * 4)

    def up(self, x: str, mode: str = "nearest") -> str:
        scales = self._fresh("scales")
        self.initializers.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), scales))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.op("Resize", x, "", scales, mode=mode, **(how if mode == "nearest" else {}))

    def split(self, x: str, *sizes: int, axis: int = 1) -> tuple[str, ...]:
        first = self.op("Split", x, self.constant(np.array(sizes)), outputs=len(sizes), axis=axis)
        return (first, *(f"{first}{i}" for i in range(1, len(sizes))))

    def concat(self, *values: str, axis: int = 1) -> str:
        return self.op("Concat", *values, axis=axis)

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.constant(np.array(shape)))

    def classify(self, x: str, channels: int, classes: int = 32) -> str:
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), channels, classes)

    def squeeze_excite(self, x: str, channels: int, act: str = "Relu", gate: str = "Sigmoid") -> str:
        s = self.op("GlobalAveragePool", x)
        s = self.cba(s, channels, max(channels // 4, 8), 1, act=act)
        return self.op("Mul", x, self.op(gate, self.conv(s, max(channels // 4, 8), channels, 1)))

    def attention(
        self, x: str, width: int, tokens: int, *, memory: str = "", memory_tokens: int = 0, mask: str = ""
    ) -> str:
        """Two heads with separate projections."""
        heads = 2
        source, source_tokens = memory or x, memory_tokens or tokens
        q = self.reshape(self.linear(x, width, width), 0, tokens, heads, width // heads)
        k, v = (
            self.reshape(self.linear(source, width, width), 0, source_tokens, heads, width // heads) for _ in range(2)
        )
        q, v = (self.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        k = self.op("Transpose", k, perm=[0, 2, 3, 1])
        scores = self.op("Mul", self.op("MatMul", q, k), self.constant((width // heads) ** -0.5))
        if mask:
            scores = self.op("Add", scores, mask)
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        y = self.reshape(self.op("Transpose", y, perm=[0, 2, 1, 3]), 0, tokens, width)
        return self.linear(y, width, width)

    def fused_attention(self, x: str, width: int, tokens: int, bias: str = "") -> str:
        """Two heads; one projection for query, key and value, as timm has it."""
        heads = 2
        y = self.reshape(self.linear(x, width, 3 * width), -1, tokens, 3, heads, width // heads)
        parts = self.split(self.op("Transpose", y, perm=[2, 0, 3, 1, 4]), 1, 1, 1, axis=0)
        q, k, v = (self.op("Squeeze", t, self.constant(np.array([0]))) for t in parts)
        q = self.op("Mul", q, self.constant((width // heads) ** -0.5))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        if bias:
            scores = self.op("Add", scores, bias)
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.linear(self.reshape(self.op("Transpose", y, perm=[0, 2, 1, 3]), -1, tokens, width), width, width)

    def mlp(self, x: str, width: int, act: str = "gelu", factor: int = 4) -> str:
        return self.linear(self.act(self.linear(x, width, factor * width), act), factor * width, width)

    def patches(self, width: int, size: int = 8) -> str:
        """An image as tokens [N, (SIDE / size)², width]."""
        x = self.op(
            "Conv",
            self.image(),
            self.weight(width, 3, size, size),
            self.constant(np.zeros(width)),
            kernel_shape=[size] * 2,
            strides=[size] * 2,
        )
        return self.op("Transpose", self.reshape(x, 0, width, (SIDE // size) ** 2), perm=[0, 2, 1])

    def bottleneck(self, x: str, channels: int, *, act: str = "silu", add: bool = True, kernels=(3, 3)) -> str:
        """The residual block of YOLO: the activation stands before the Add."""
        y = self.cba(self.cba(x, channels, channels, kernels[0], act=act), channels, channels, kernels[1], act=act)
        return self.op("Add", x, y) if add else y

    def c3(self, x: str, channels_in: int, channels: int, *, blocks: int = 1, add: bool = True) -> str:
        half = channels // 2
        y = self.cba(x, channels_in, half, 1, act="silu")
        for _ in range(blocks):
            y = self.bottleneck(y, half, kernels=(1, 3), add=add)
        both = self.concat(y, self.cba(x, channels_in, half, 1, act="silu"))
        return self.cba(both, channels, channels, 1, act="silu")

    def c2f(self, x: str, channels_in: int, channels: int, *, blocks: int = 1, add: bool = True) -> str:
        half = channels // 2
        parts = list(self.split(self.cba(x, channels_in, channels, 1, act="silu"), half, half))
        for _ in range(blocks):
            parts.append(self.bottleneck(parts[-1], half, add=add))
        return self.cba(self.concat(*parts), half * len(parts), channels, 1, act="silu")

    def c3k2(self, x: str, channels_in: int, channels: int) -> str:
        half = channels // 2
        first, second = self.split(self.cba(x, channels_in, channels, 1, act="silu"), half, half)
        third = self.c3(second, half, half, blocks=2)
        return self.cba(self.concat(first, second, third), 3 * half, channels, 1, act="silu")

    def spatial_pyramid(self, x: str, channels: int) -> str:
        """SPPF."""
        parts = [self.cba(x, channels, channels // 2, 1, act="silu")]
        for _ in range(3):
            parts.append(self.pool(parts[-1], 5, 1))
        return self.cba(self.concat(*parts), 2 * channels, channels, 1, act="silu")

    def pan(self, levels: Sequence[str], widths: Sequence[int], block) -> list[str]:
        """YOLO's neck for three levels, finest first."""
        (a, b, c), (wa, wb, wc) = levels, widths
        b1 = block(self.concat(self.up(c), b), wc + wb, wb)
        a1 = block(self.concat(self.up(b1), a), wb + wa, wa)
        b2 = block(self.concat(self.cba(a1, wa, wa, stride=2, act="silu"), b1), wa + wb, wb)
        c2 = block(self.concat(self.cba(b2, wb, wb, stride=2, act="silu"), c), wb + wc, wc)
        return [a1, b2, c2]

    def detect(self, levels: Sequence[str], widths: Sequence[int], *, depthwise: bool = False) -> list[str]:
        """YOLOv8's head: boxes as distributions, classes, for each level; joined and decoded."""
        classes, bins, joined = 16, 8, []
        for x, width, cells in zip(levels, widths, (64, 16, 4), strict=True):
            box = self.cba(self.cba(x, width, 32, act="silu"), 32, 32, act="silu")
            if depthwise:
                y = self.cba(self.cba(x, width, width, groups=width, act="silu"), width, 32, 1, act="silu")
                y = self.cba(self.cba(y, 32, 32, groups=32, act="silu"), 32, 32, 1, act="silu")
            else:
                y = self.cba(self.cba(x, width, 32, act="silu"), 32, 32, act="silu")
            both = self.concat(self.conv(box, 32, 4 * bins, 1), self.conv(y, 32, classes, 1))
            joined.append(self.reshape(both, 0, 4 * bins + classes, cells))
        box, scores = self.split(self.concat(*joined, axis=2), 4 * bins, classes)
        box = self.op("Transpose", self.reshape(box, 0, 4, bins, 84), perm=[0, 2, 1, 3])
        weight = self.constant(np.arange(bins, dtype=np.float64).reshape(1, bins, 1, 1))
        box = self.reshape(self.op("Conv", self.op("Softmax", box, axis=1), weight, kernel_shape=[1, 1]), 0, 4, 84)
        return [self.concat(box, self.op("Sigmoid", scores))]


@backbone
def resnet(g: _Net) -> str:
    x = g.pool(g.cba(g.image(), 3, 32, 7, stride=2))
    for width_in, width, stride in ((32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        y = g.conv(g.cba(x, width_in, width, stride=stride), width, width)
        skip = x if stride == 1 else g.conv(x, width_in, width, 1, stride=stride)
        x = g.op("Relu", g.op("Add", y, skip))
    return g.classify(x, 64)


@backbone
def resnet_bottleneck(g: _Net) -> str:
    x = g.pool(g.cba(g.image(), 3, 32, 7, stride=2))
    for width_in, width, stride in ((32, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
        y = g.cba(g.cba(x, width_in, width // 2, 1), width // 2, width // 2, stride=stride)
        y = g.conv(y, width // 2, width, 1)
        skip = x if width_in == width else g.conv(x, width_in, width, 1, stride=stride)
        x = g.op("Relu", g.op("Add", y, skip))
    return g.classify(x, 128)


@backbone
def resnet_preactivation(g: _Net) -> str:
    x = g.conv(g.image(), 3, 32)
    for _ in range(3):
        y = g.cba(g.op("Relu", g.batch_norm(x, 32)), 32, 32)
        x = g.op("Add", x, g.conv(y, 32, 32))
    return g.classify(g.op("Relu", g.batch_norm(x, 32)), 32)


@backbone
def vgg(g: _Net) -> str:
    x = g.image()
    for width_in, width in ((3, 32), (32, 64), (64, 64)):
        x = g.pool(g.cba(g.cba(x, width_in, width), width, width), 2)
    x = g.op("Relu", g.gemm(g.op("Flatten", x), 64 * 8 * 8, 128))
    return g.gemm(x, 128, 32)


@backbone
def mobilenetv2(g: _Net) -> str:
    x = g.cba(g.image(), 3, 32, stride=2, act="relu6")
    for width_in, width, stride in ((32, 32, 1), (32, 48, 2), (48, 48, 1), (48, 48, 1), (48, 64, 2), (64, 64, 1)):
        y = g.cba(x, width_in, 4 * width_in, 1, act="relu6")
        y = g.cba(y, 4 * width_in, 4 * width_in, stride=stride, groups=4 * width_in, act="relu6")
        y = g.conv(y, 4 * width_in, width, 1)
        x = g.op("Add", x, y) if (width_in, stride) == (width, 1) else y
    return g.classify(g.cba(x, 64, 128, 1, act="relu6"), 128)


@backbone
def mobilenetv3(g: _Net) -> str:
    x = g.cba(g.image(), 3, 16, stride=2, act="HardSwish")
    for width_in, width, stride, act, se in (
        (16, 16, 1, "Relu", True),
        (16, 32, 2, "Relu", False),
        (32, 32, 1, "HardSwish", True),
        (32, 64, 2, "HardSwish", True),
        (64, 64, 1, "HardSwish", True),
    ):
        y = g.cba(x, width_in, 4 * width_in, 1, act=act)
        y = g.cba(y, 4 * width_in, 4 * width_in, 5, stride=stride, groups=4 * width_in, act=act)
        if se:
            y = g.squeeze_excite(y, 4 * width_in, gate="HardSigmoid")
        y = g.conv(y, 4 * width_in, width, 1)
        x = g.op("Add", x, y) if (width_in, stride) == (width, 1) else y
    x = g.op("Flatten", g.op("GlobalAveragePool", g.cba(x, 64, 256, 1, act="HardSwish")))
    return g.gemm(g.op("HardSwish", g.gemm(x, 256, 128)), 128, 32)


@backbone
def efficientnet(g: _Net) -> str:
    x = g.cba(g.image(), 3, 32, stride=2, act="silu")
    for width_in, width, stride in ((32, 32, 1), (32, 48, 2), (48, 48, 1), (48, 64, 2), (64, 64, 1)):
        y = g.cba(x, width_in, 4 * width_in, 1, act="silu")
        y = g.cba(y, 4 * width_in, 4 * width_in, stride=stride, groups=4 * width_in, act="silu")
        y = g.conv(g.squeeze_excite(y, 4 * width_in, act="silu"), 4 * width_in, width, 1)
        x = g.op("Add", y, x) if (width_in, stride) == (width, 1) else y
    return g.classify(g.cba(x, 64, 128, 1, act="silu"), 128)


@backbone
def senet(g: _Net) -> str:
    x = g.pool(g.cba(g.image(), 3, 64, 7, stride=2))
    for _ in range(3):
        y = g.squeeze_excite(g.conv(g.cba(x, 64, 64), 64, 64), 64)
        x = g.op("Relu", g.op("Add", y, x))
    return g.classify(x, 64)


@backbone
def convnext(g: _Net) -> str:
    x = g.op("Conv", g.image(), g.weight(32, 3, 4, 4), g.constant(np.zeros(32)), kernel_shape=[4] * 2, strides=[4] * 2)

    def channels_last_norm(x: str, width: int) -> str:
        y = g.norm(g.op("Transpose", x, perm=[0, 2, 3, 1]), width)
        return g.op("Transpose", y, perm=[0, 3, 1, 2])

    def block(x: str, width: int) -> str:
        y = g.op("Transpose", g.conv(x, width, width, 7, groups=width), perm=[0, 2, 3, 1])
        y = g.op("Mul", g.mlp(g.norm(y, width), width), g.constant(g.random.standard_normal(width)))
        return g.op("Add", x, g.op("Transpose", y, perm=[0, 3, 1, 2]))

    x = block(block(channels_last_norm(x, 32), 32), 32)
    x = g.op(
        "Conv",
        channels_last_norm(x, 32),
        g.weight(64, 32, 2, 2),
        g.constant(np.zeros(64)),
        kernel_shape=[2] * 2,
        strides=[2] * 2,
    )
    x = block(block(x, 64), 64)
    return g.gemm(g.norm(g.op("Flatten", g.op("GlobalAveragePool", x)), 64), 64, 32)


@backbone
def repvgg_branches(g: _Net) -> str:
    x = g.op("Relu", g.op("Add", g.conv(g.image(), 3, 32, stride=2), g.conv("image", 3, 32, 1, stride=2)))
    for _ in range(2):
        y = g.op("Add", g.conv(x, 32, 32), g.conv(x, 32, 32, 1))
        x = g.op("Relu", g.op("Add", y, g.batch_norm(x, 32)))
    x = g.op("Relu", g.op("Add", g.conv(x, 32, 64, stride=2), g.conv(x, 32, 64, 1, stride=2)))
    return g.classify(x, 64)


@backbone
def repvgg_fused(g: _Net) -> str:
    x = g.cba(g.image(), 3, 32, stride=2)
    for width_in, width, stride in ((32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        x = g.cba(x, width_in, width, stride=stride)
    return g.classify(x, 64)


def _three_levels(g: _Net, block, act: str = "silu") -> tuple[list[str], tuple[int, int, int]]:
    """A stem and three levels of `block`, at strides 8, 16 and 32."""
    x = g.cba(g.cba(g.image(), 3, 16, stride=2, act=act), 16, 32, stride=2, act=act)
    x = block(x, 32, 32)
    levels, width_in = [], 32
    for width in (32, 64, 64):
        x = block(g.cba(x, width_in, width, stride=2, act=act), width, width)
        levels.append(x)
        width_in = width
    return levels, (32, 64, 64)


@backbone
def yolov3(g: _Net) -> list[str]:
    def block(x: str, _: int, width: int) -> str:
        y = g.cba(g.cba(x, width, width // 2, 1, act="LeakyRelu"), width // 2, width, act="LeakyRelu")
        return g.op("Add", x, y)

    levels, widths = _three_levels(g, block, "LeakyRelu")
    fine = g.concat(g.up(g.cba(levels[2], 64, 32, 1, act="LeakyRelu")), levels[1])
    fine = g.cba(fine, 32 + widths[1], 64, act="LeakyRelu")
    return [g.conv(levels[2], 64, 48, 1), g.conv(fine, 64, 48, 1)]


@backbone
def yolov5(g: _Net) -> list[str]:
    levels, widths = _three_levels(g, g.c3)
    levels[2] = g.spatial_pyramid(levels[2], 64)
    levels = g.pan(levels, widths, lambda x, i, o: g.c3(x, i, o, add=False))
    outputs = []
    for x, width, side in zip(levels, widths, (8, 4, 2), strict=True):
        y = g.reshape(g.conv(x, width, 48, 1), 0, 3, 16, side, side)
        y = g.op("Sigmoid", g.op("Transpose", y, perm=[0, 1, 3, 4, 2]))
        outputs.append(g.reshape(y, 0, 3 * side * side, 16))
    return [g.concat(*outputs)]


@backbone
def yolov8(g: _Net) -> list[str]:
    levels, widths = _three_levels(g, g.c2f)
    levels[2] = g.spatial_pyramid(levels[2], 64)
    return g.detect(g.pan(levels, widths, lambda x, i, o: g.c2f(x, i, o, add=False)), widths)


@backbone
def yolov11(g: _Net) -> list[str]:
    levels, widths = _three_levels(g, g.c3k2)
    x = g.spatial_pyramid(levels[2], 64)
    first, second = g.split(g.cba(x, 64, 64, 1, act="silu"), 32, 32)  # C2PSA: attention over positions
    q, k, v = g.split(g.reshape(g.conv(second, 32, 64, 1), 0, 1, 64, 4), 16, 16, 32, axis=2)
    scores = g.op("Mul", g.op("MatMul", g.op("Transpose", q, perm=[0, 1, 3, 2]), k), g.constant(0.25))
    y = g.op("MatMul", v, g.op("Transpose", g.op("Softmax", scores, axis=-1), perm=[0, 1, 3, 2]))
    y = g.op("Add", g.reshape(y, 0, 32, 2, 2), g.conv(g.reshape(v, 0, 32, 2, 2), 32, 32, groups=32))
    second = g.op("Add", second, g.conv(y, 32, 32, 1))
    second = g.op("Add", second, g.conv(g.cba(second, 32, 64, 1, act="silu"), 64, 32, 1))
    levels[2] = g.cba(g.concat(first, second), 64, 64, 1, act="silu")
    return g.detect(g.pan(levels, widths, g.c3k2), widths, depthwise=True)


@backbone
def sppf(g: _Net) -> str:
    x = g.cba(g.cba(g.image(), 3, 32, stride=2, act="silu"), 32, 64, stride=2, act="silu")
    return g.conv(g.spatial_pyramid(x, 64), 64, 32, 1)


@backbone
def fpn(g: _Net) -> list[str]:
    x, levels = g.cba(g.image(), 3, 32, stride=2), []
    for width_in, width in ((32, 32), (32, 64), (64, 128)):
        x = g.cba(x, width_in, width, stride=2)
        x = g.op("Relu", g.op("Add", g.conv(g.cba(x, width, width), width, width), x))
        levels.append(g.conv(x, width, 64, 1))
    outputs, top = [], levels[-1]
    for level in (*reversed(levels[:-1]), ""):
        outputs.append(g.conv(g.cba(g.conv(top, 64, 64), 64, 64), 64, 32, 1))
        top = g.op("Add", level, g.up(top)) if level else top
    return outputs


@backbone
def unet(g: _Net) -> str:
    def double(x: str, width_in: int, width: int) -> str:
        return g.cba(g.cba(x, width_in, width), width, width)

    a = double(g.image(), 3, 32)
    b = double(g.pool(a, 2), 32, 64)
    c = double(g.pool(b, 2), 64, 64)
    b = double(g.concat(b, g.up(c)), 128, 64)
    a = double(g.concat(a, g.up(b)), 96, 32)
    return g.conv(a, 32, 16, 1)


@backbone
def unet_transposed(g: _Net) -> str:
    def double(x: str, width_in: int, width: int) -> str:
        return g.cba(g.cba(x, width_in, width), width, width)

    a = double(g.image(), 3, 32)
    b = double(g.pool(a, 2), 32, 64)
    up = g.op(
        "ConvTranspose", b, g.weight(64, 32, 2, 2), g.constant(np.zeros(32)), kernel_shape=[2] * 2, strides=[2] * 2
    )
    return g.conv(double(g.concat(a, up), 64, 32), 32, 16, 1)


@backbone
def densenet(g: _Net) -> str:
    """Every layer joins all features before it, as torchvision's does."""
    x, width = g.pool(g.cba(g.image(), 3, 32, 7, stride=2)), 32
    for stage in range(2):
        features, first = [x], width
        for _ in range(3):
            joined = g.concat(*features) if len(features) > 1 else x
            y = g.cba(g.op("Relu", g.batch_norm(joined, width)), width, 64, 1)
            features.append(g.conv(y, 64, 16))
            width = first + 16 * (len(features) - 1)
        x = g.op("Relu", g.batch_norm(g.concat(*features), width))
        if stage == 0:
            x = g.op("AveragePool", g.conv(x, width, 40, 1), kernel_shape=[2] * 2, strides=[2] * 2)
            width = 40
    return g.classify(x, width)


@backbone
def densenet_chain(g: _Net) -> str:
    """Every layer joins its features to what the layer before joined."""
    x, width = g.pool(g.cba(g.image(), 3, 32, 7, stride=2)), 32
    for _ in range(3):
        y = g.cba(g.op("Relu", g.batch_norm(x, width)), width, 64, 1)
        x, width = g.concat(x, g.conv(y, 64, 16)), width + 16
    return g.classify(g.op("Relu", g.batch_norm(x, width)), width)


@backbone
def shufflenet(g: _Net) -> str:
    x, side = g.pool(g.cba(g.image(), 3, 32, stride=2)), 16

    def shuffle(*parts: str) -> str:
        y = g.reshape(g.concat(*parts), 0, 2, 32, side, side)
        return g.reshape(g.op("Transpose", y, perm=[0, 2, 1, 3, 4]), 0, 64, side, side)

    side = 8
    left = g.cba(g.conv(x, 32, 32, stride=2, groups=32), 32, 32, 1)
    right = g.cba(g.conv(g.cba(x, 32, 32, 1), 32, 32, stride=2, groups=32), 32, 32, 1)
    x = shuffle(left, right)
    for _ in range(2):
        left, right = g.split(x, 32, 32)
        right = g.cba(g.conv(g.cba(right, 32, 32, 1), 32, 32, groups=32), 32, 32, 1)
        x = shuffle(left, right)
    return g.classify(g.cba(x, 64, 64, 1), 64)


@backbone
def inception(g: _Net) -> str:
    x = g.pool(g.cba(g.image(), 3, 32, stride=2))
    for width_in in (32, 128):
        branches = [
            g.cba(x, width_in, 32, 1),
            g.cba(g.cba(x, width_in, 32, 1), 32, 32),
            g.cba(g.cba(x, width_in, 32, 1), 32, 32, 5),
            g.cba(g.pool(x, 3, 1), width_in, 32, 1),
        ]
        x = g.concat(*branches)
    return g.classify(x, 128)


@backbone
def hrnet(g: _Net) -> str:
    def block(x: str, width: int) -> str:
        return g.op("Relu", g.op("Add", g.conv(g.cba(x, width, width), width, width), x))

    x = g.cba(g.cba(g.image(), 3, 32, stride=2), 32, 32, stride=2)
    fine, coarse = block(x, 32), block(g.cba(x, 32, 64, stride=2), 64)
    for _ in range(2):
        joined = g.op("Relu", g.op("Add", fine, g.up(g.conv(coarse, 64, 32, 1))))
        coarse = block(g.op("Relu", g.op("Add", g.conv(fine, 32, 64, stride=2), coarse)), 64)
        fine = block(joined, 32)
    return g.conv(g.cba(g.concat(fine, g.up(coarse)), 96, 64, 1), 64, 16, 1)


@backbone
def deeplab(g: _Net) -> str:
    x = g.cba(g.cba(g.image(), 3, 32, stride=2), 32, 64, stride=2)
    pooled = g.cba(g.op("GlobalAveragePool", x), 64, 32, 1)
    pooled = g.op("Expand", pooled, g.constant(np.array([4, 32, 16, 16])))
    x = g.concat(g.cba(x, 64, 32, 1), g.cba(x, 64, 32), g.cba(x, 64, 32, 5), pooled)
    return g.up(g.conv(g.cba(x, 128, 64, 1), 64, 16, 1), "linear")


@backbone
def super_resolution(g: _Net) -> str:
    first = x = g.conv(g.image(), 3, 32)
    for _ in range(3):
        x = g.op("Add", x, g.conv(g.cba(x, 32, 32), 32, 32))
    x = g.op("Add", first, g.conv(x, 32, 32))
    return g.conv(g.op("DepthToSpace", g.conv(x, 32, 128), blocksize=2), 32, 3)


def _transformer(g: _Net, x: str, width: int, attention: Callable[[str], str], *, blocks: int = 2) -> str:
    """Blocks that normalize first."""
    for _ in range(blocks):
        x = g.op("Add", x, attention(g.norm(x, width)))
        x = g.op("Add", x, g.mlp(g.norm(x, width), width))
    return g.norm(x, width)


@backbone
def vit(g: _Net) -> str:
    x = g.op("Add", g.patches(64), g.constant(g.random.standard_normal((1, 64, 64))))
    x = _transformer(g, x, 64, lambda y: g.attention(y, 64, 64))
    return g.gemm(g.op("Gather", x, g.constant(np.array(0)), axis=1), 64, 32)


@backbone
def vit_fused(g: _Net) -> str:
    x = g.op("Add", g.patches(64), g.constant(g.random.standard_normal((1, 64, 64))))
    x = _transformer(g, x, 64, lambda y: g.fused_attention(y, 64, 64))
    return g.gemm(g.op("Gather", x, g.constant(np.array(0)), axis=1), 64, 32)


@backbone
def swin(g: _Net) -> str:
    """Windows of 4 x 4 tokens, shifted in every second block; then four tokens are merged."""
    x = g.patches(32, 4)

    def windows(y: str, width: int, side: int, shift: int) -> str:
        def rolled(y: str, shift: int) -> str:
            for axis in (1, 2):
                y = g.concat(*reversed(g.split(y, shift, side - shift, axis=axis)), axis=axis)
            return y

        y = g.reshape(y, 4, side, side, width)
        y = rolled(y, shift) if shift else y
        y = g.reshape(y, 4, side // 4, 4, side // 4, 4, width)
        y = g.reshape(g.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, 16, width)
        y = g.fused_attention(y, width, 16, g.constant(g.random.standard_normal((1, 2, 16, 16))))
        y = g.reshape(y, 4, side // 4, side // 4, 4, 4, width)
        y = g.reshape(g.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), 4, side, side, width)
        return g.reshape(rolled(y, side - shift) if shift else y, 4, side * side, width)

    def block(x: str, width: int, side: int, shift: int) -> str:
        x = g.op("Add", x, windows(g.norm(x, width), width, side, shift))
        return g.op("Add", x, g.mlp(g.norm(x, width), width))

    x = block(block(x, 32, 16, 0), 32, 16, 2)
    y = g.reshape(x, 4, 8, 2, 8, 2, 32)
    y = g.reshape(g.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), 4, 64, 128)
    weight = g.constant(g.random.standard_normal((128, 64)) * 0.1)
    x = block(g.op("MatMul", g.norm(y, 128), weight), 64, 8, 0)
    return g.gemm(g.op("ReduceMean", g.norm(x, 64), axes=[1], keepdims=0), 64, 32)


@backbone
def bert(g: _Net) -> str:
    """Blocks that normalize last, and a mask."""
    x = g.norm(g.input("embeddings", 32, 64), 64)
    mask = g.input("mask", 1, 1, 32)
    for _ in range(2):
        x = g.norm(g.op("Add", x, g.attention(x, 64, 32, mask=mask)), 64)
        x = g.norm(g.op("Add", x, g.mlp(x, 64)), 64)
    return g.linear(x, 64, 32)


@backbone
def gpt(g: _Net) -> str:
    x = g.input("embeddings", 32, 64)
    mask = g.constant(np.triu(np.full((1, 1, 32, 32), -1e4), 1))
    x = _transformer(g, x, 64, lambda y: g.attention(y, 64, 32, mask=mask))
    return g.linear(x, 64, 128)


@backbone
def mixer(g: _Net) -> str:
    x = g.patches(64)
    for _ in range(2):
        y = g.op("Transpose", g.norm(x, 64), perm=[0, 2, 1])
        x = g.op("Add", x, g.op("Transpose", g.mlp(y, 64, factor=1), perm=[0, 2, 1]))
        x = g.op("Add", x, g.mlp(g.norm(x, 64), 64))
    return g.gemm(g.op("ReduceMean", g.norm(x, 64), axes=[1], keepdims=0), 64, 32)


@backbone
def detr_decoder(g: _Net) -> list[str]:
    x, memory = g.input("queries", 16, 64), g.input("memory", 64, 64)
    place, where = (g.constant(g.random.standard_normal((1, n, 64))) for n in (16, 64))
    for _ in range(2):
        x = g.norm(g.op("Add", x, g.attention(g.op("Add", x, place), 64, 16)), 64)
        y = g.attention(g.op("Add", x, place), 64, 16, memory=g.op("Add", memory, where), memory_tokens=64)
        x = g.norm(g.op("Add", x, y), 64)
        x = g.norm(g.op("Add", x, g.mlp(x, 64, "Relu")), 64)
    box = g.act(g.linear(g.act(g.linear(x, 64, 64), "Relu"), 64, 64), "Relu")
    return [g.linear(x, 64, 32), g.op("Sigmoid", g.linear(box, 64, 4))]


@backbone
def gru(g: _Net) -> str:
    """Convolutions over spectra, a recurrent layer, a classifier of every step."""
    x = g.cba(g.input("spectra", 1, 32, 32), 1, 32, stride=2)
    x = g.op("Transpose", g.cba(x, 32, 32), perm=[3, 0, 1, 2])
    x = g.reshape(x, 16, 4, 512)
    w, r, b = (g.constant(g.random.standard_normal(s) * 0.05) for s in ((1, 192, 512), (1, 192, 64), (1, 384)))
    x = g.op("Squeeze", g.op("GRU", x, w, r, b, hidden_size=64), g.constant(np.array([1])))
    return g.linear(g.act(g.linear(x, 64, 64), "Relu"), 64, 32)
