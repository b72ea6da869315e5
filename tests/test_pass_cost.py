"""What a pass costs, of models whose batch is fixed or not the first dimension."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from quantkit.datasets.open import open_samples
from quantkit.graph.float_model import FloatModel
from quantkit.pass_cost import measure_pass
from quantkit.types.options import ImageOptions
from tests.graph.builder import Builder
from tests.graph.quantizing import write


@dataclass
class Counted:
    """A data set that counts what is read of it."""

    dataset: object
    read: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> object:
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> object:
        self.read.append(index)
        return self.dataset[index]


def opened(folder, shape, sample, said=None):
    """A model of that input, x → MatMul, and 12 samples."""
    g = Builder(batch=shape[0])
    y = g.op("MatMul", g.input("x", *shape[1:]), g.weight(4, 8))
    model = FloatModel(write(g.model(y), folder / "net.onnx"))
    np.save(folder / "x.npy", np.ones((12, *sample), np.float32))
    dataset = open_samples(model.inputs, folder / "x.npy", said, None, num_samples=None, seed=0, order="given")
    return model, dataset


@pytest.mark.parametrize(
    ("shape", "sample", "axis"),
    [
        (["N", 6, 4], (6, 4), None),
        ([8, 6, 4], (6, 4), None),
        ([6, "N", 4], (6, 4), 1),
        ([6, 8, 4], (6, 4), 1),
    ],
)
def test_activations_are_those_of_one_sample(tmp_path, shape, sample, axis):
    said = None if axis is None else ImageOptions(batch_axis={"x": axis})
    cost = measure_pass(*opened(tmp_path, shape, sample, said))
    assert cost.activation_bytes == 6 * 8 * 4  # the output, [6, 8] in float32


def test_no_more_samples_are_read_than_are_timed(tmp_path):
    model, dataset = opened(tmp_path, ["N", 6, 4], (6, 4))
    counted = Counted(dataset)
    measure_pass(model, counted)
    assert counted.read == [0, 1, 2, 3]
