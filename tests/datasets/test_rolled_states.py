"""States that the float model makes over sequences, step after step."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import quantkit
from quantkit.cli import main
from quantkit.datasets.batching import iterate_batches
from quantkit.datasets.open import open_samples
from quantkit.datasets.rolled_states import RunnableModel
from quantkit.errors import DatasetError
from quantkit.types import TensorSpec
from quantkit.types.options import ImageOptions

X = TensorSpec("x", np.dtype(np.float32), ("n", 2))
H = TensorSpec("h", np.dtype(np.float32), (1, "n", 2))
SAID = ImageOptions(state={"h": "hn"}, batch_axis={"h": 1})


class Adds:
    """hn = h + x; with a fixed batch, other rows of it are wrong on purpose."""

    def __init__(self, *outputs):
        self.inputs, self.outputs = (X, H), [TensorSpec(name, X.dtype, ()) for name in outputs or ("y", "hn")]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def run(self, inputs):
        return {"y": inputs["x"], "hn": inputs["h"] + inputs["x"]}


def save(folder, **sequences):
    folder.mkdir(exist_ok=True)
    for name, arrays in sequences.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def open_steps(data, said=SAID, model=Adds, inputs=(X, H)):
    return open_samples(RunnableModel(inputs, model), data, said, None, num_samples=None, seed=0, order="given")


def ramp(length):
    return {"x": np.arange(1, 2 * length + 1, dtype=np.float32).reshape(length, 2)}


def test_each_sequence_starts_from_zeros(tmp_path):
    steps = open_steps(save(tmp_path / "d", a=ramp(3), b=ramp(1)))
    assert list(steps.ids) == ["a.npz step 0", "a.npz step 1", "a.npz step 2", "b.npz step 0"]
    assert [steps[i].inputs["x"].tolist() for i in range(4)] == [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert [steps[i].inputs["h"].tolist() for i in range(4)] == [[[0, 0]], [[1, 2]], [[4, 6]], [[0, 0]]]
    assert steps[0].axes == {"h": 1}


def test_steps_are_named_by_sequence_and_model_alone(tmp_path):
    class Other(Adds):
        def __init__(self):
            super().__init__("hn", "other")

        def run(self, inputs):
            return {"hn": inputs["h"] + 1, "other": inputs["h"]}

    data = save(tmp_path / "d", a=ramp(2))
    first = open_steps(data).fingerprint
    assert first == open_steps(data, model=Other).fingerprint
    assert first != open_steps(data, ImageOptions(state={"h": "other"}, batch_axis={"h": 1}), Other).fingerprint
    assert first != open_steps(save(tmp_path / "d", a=ramp(3))).fingerprint


def test_labels_are_those_of_the_sequences(tmp_path):
    data = save(tmp_path / "d", a=ramp(2) | {"label": np.array(1)}, b=ramp(1) | {"label": np.array(0)})
    assert list(open_steps(data).targets) == [1, 1, 0]


def test_a_sequence_that_cannot_be_read_counts_as_one_sample(tmp_path):
    bad = {"x": np.full((3, 2), np.nan, np.float32), "label": np.array(1)}
    steps = open_steps(
        save(tmp_path / "d", a=ramp(2) | {"label": np.array(0)}, b=bad, c=ramp(1) | {"label": np.array(1)})
    )
    assert list(steps.ids) == ["a.npz step 0", "a.npz step 1", "b.npz", "c.npz step 0"]
    assert list(steps.targets) == [0, 0, 1, 1]
    assert steps[3].inputs["h"].tolist() == [[0, 0]]
    assert "3 steps of 2 sequences" in steps.remarks[-1]
    with pytest.raises(DatasetError, match="NaN"):
        steps[2]
    skipped = []
    (batch,) = iterate_batches(steps, 4, on_skip=lambda name, reason: skipped.append(name))
    assert (len(batch.ids), skipped) == (3, ["b.npz"])


def test_a_fixed_batch_is_filled(tmp_path):
    fixed = (TensorSpec("x", X.dtype, (3, 2)), TensorSpec("h", X.dtype, (1, 3, 2)))

    class Fixed(Adds):
        def __init__(self):
            super().__init__()
            self.inputs = fixed

        def run(self, inputs):
            assert inputs["x"].shape == (3, 2)
            return super().run(inputs)

    steps = open_steps(save(tmp_path / "d", a=ramp(2)), model=Fixed, inputs=fixed)
    assert steps[1].inputs["h"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"z": "hn"}, "--state z=hn: the model has no such input; it has x, h"),
        ({"h": "z"}, "--state: the model has no output 'z'; it has y, hn"),
        ({"h": "y"}, r"input 'h' takes \[1, 2\] for a sample, its output has \[1\]"),
    ],
)
def test_states_that_do_not_fit(tmp_path, said, message):
    with pytest.raises(DatasetError, match=message):
        open_steps(save(tmp_path / "d", a=ramp(1)), ImageOptions(state=said, batch_axis={"h": 1}))


def test_sequences_have_to_give_an_input(tmp_path):
    data = save(tmp_path / "d", a={"h": np.zeros((3, 2), np.float32)})
    with pytest.raises(DatasetError, match="every input of the model is a state"):
        open_steps(data, inputs=(H,))


def test_data_that_are_no_sequences(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2), np.float32))
    with pytest.raises(DatasetError, match=r"--state needs a folder of \.npz files"):
        open_steps(tmp_path / "x.npy")
    two = (X, TensorSpec("z", X.dtype, ("n",)), H)
    data = save(tmp_path / "d", a=ramp(3) | {"z": np.zeros(2, np.float32)})
    with pytest.raises(DatasetError, match=r"'a\.npz' differ in their number of steps: x 3, z 2"):
        open_steps(data, inputs=two)
    free = (X, TensorSpec("h", X.dtype, (1, "n", "size")))
    with pytest.raises(DatasetError, match="--state h=hn: the size of input 'h'"):
        open_steps(save(tmp_path / "e", a=ramp(1)), inputs=free)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "h"], ["s"]),
        helper.make_node("Tanh", ["s"], ["hn"]),
        helper.make_node("MatMul", ["hn", "w"], ["y"]),
    ]
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in ("x", "h", "y", "hn")}
    weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32) * 0.9, "w")
    graph = helper.make_graph(nodes, "g", [values["x"], values["h"]], [values["y"], values["hn"]], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "m.onnx")
    random = np.random.default_rng(0)
    save(tmp_path / "d", **{f"s{i}": {"x": random.normal(size=(6 + i, 8)).astype(np.float32)} for i in range(3)})
    words = ["m.onnx", "--data", "d"]
    with pytest.raises(SystemExit, match="0"):
        main(["calibrate", *words, "--state", "h=hn", "--dry-run"])
    assert "d: 21 of 21 samples" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["calibrate", *words, "--state", "h=hn", "--accuracy", "fast"])
    assert "21 steps of 3 sequences" in capsys.readouterr().err
    assert json.loads((tmp_path / "m.calib.json").read_text())["settings"]["state"] == "h=hn"
    assert quantkit.load_table("m.calib.json").tensors["hn"].amax > 0.5
    for more in (["--dry-run"], []):
        with pytest.raises(SystemExit, match="0"):  # the table says what the state is
            main(["evaluate", *words, "--task", "none", "--variants", "fp32,int8", "--latency-s", "0", *more])
    with pytest.raises(SystemExit, match="1"):
        main(["evaluate", *words, "--state", "h=y"])
    assert "--state h=y: the table was calibrated with h=hn" in capsys.readouterr().err
