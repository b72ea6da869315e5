"""Small models with samples, as refinement sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from quantkit.calibration.statistics import new_statistics, update
from quantkit.graph.float_model import FloatModel
from quantkit.graph.passes.expose import expose
from quantkit.graph.placement.tensorrt import plan_tensorrt
from quantkit.refinement.quantized_run import run_model
from quantkit.refinement.samples import SampleBatches
from quantkit.types import Array, QdqPlan, TensorRange, TensorStatistics

from ..graph.builder import Builder


@dataclass(frozen=True)
class Net:
    """A float model with samples, and what one pass over them sees."""

    model: FloatModel
    samples: SampleBatches

    @property
    def plan(self) -> QdqPlan:
        return plan_tensorrt(self.model.prepared())

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(str(value.name) for value in self.model.prepared().graph.outputs)

    def inner(self, names: tuple[str, ...]) -> list[dict[str, Array]]:
        """Inner tensors of the whole float model, batch by batch; inputs too."""
        graph = self.model.prepared()
        made = [name for name in names if name not in self.samples.batches[0]]
        found = run_model(expose(graph, made), self.samples.batches, outputs=made) if made else [{}] * 99
        return [{**batch, **values} for batch, values in zip(self.samples.batches, found, strict=False)]

    def statistics(self) -> dict[str, TensorStatistics]:
        names = tuple(dict.fromkeys(edge.tensor for edge in self.plan.activations))
        found = {name: new_statistics("exact") for name in names}
        for values in self.inner(names):
            for name in names:
                update(found[name], np.asarray(values[name], np.float32))
        return found

    def ranges(self) -> dict[str, TensorRange]:
        """The largest magnitudes."""
        return {name: TensorRange(s.amax, s.minimum, s.maximum) for name, s in self.statistics().items()}


def net(proto: onnx.ModelProto, values: Mapping[str, np.ndarray], *, size: int = 8) -> Net:
    count = len(next(iter(values.values())))
    batches = tuple({n: v[i : i + size] for n, v in values.items()} for i in range(0, count, size))
    return Net(FloatModel(proto.SerializeToString()), SampleBatches(batches))


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Neighbors alike, and each channel of its own size, as activations are."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, *shape))
    for axis in range(2, x.ndim):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return np.asarray(x * random.uniform(0.2, 2, (1, shape[0], *(1,) * (len(shape) - 1))), np.float32)


def small_net(count: int = 32) -> Net:
    """Convolutions with a residual, a depthwise one, one without bias, and a classifier."""
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 3, 8, 8), 3, 16))
    y = g.op("Relu", g.conv(x, 16, 16, groups=16))
    x = g.op("Add", g.conv(y, 16, 16, 1, bias=False), x)
    y = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.conv(x, 16, 12))))
    return net(g.model(g.gemm(y, 12, 8)), {"x": images(count, 3, 8, 8)})


def token_net(count: int = 24) -> Net:
    """Linear layers behind a normalization, the last without a bias."""
    g = Builder()
    x = g.input("x", 6, 16)
    y = g.op("Relu", g.linear(g.norm(x, 16), 16, 24))
    y = g.op("Add", g.linear(y, 24, 16), x)
    last = g.op("MatMul", y, g.constant(g.random.standard_normal((16, 4)) / 4))
    return net(g.model(last), {"x": images(count, 6, 16)})
