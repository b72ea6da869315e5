"""The default calibration, beyond ranges: on models and data of every kind, twice the same, and reused as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import quantkit
from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.calibration.refinement_file import load_refinement, refinement_path, save_refinement
from quantkit.calibration.table import load_table, table_checksum, table_json
from quantkit.commands.calibrate import calibrate
from quantkit.errors import StaleTableError
from quantkit.notices import Notice
from quantkit.types import Array, CalibrationTable, Refinement
from quantkit.types.options import ImageOptions

from ..cli.conftest import conv_model, write_images
from ..graph.builder import Builder
from ..graph.models import MODELS
from ..graph.quantizing import load, run, sqnr_db, write


def normal(path: Path, *shape: int, seed: int = 0) -> Path:
    np.save(path, np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    return path


def refine(model: Path, data: Path, **options) -> CalibrationTable:
    return calibrate(model, data, progress=False, **options)


def same(a: Refinement | None, b: Refinement | None, folder: Path) -> bool:
    """Whether two refinements hold the same bits."""
    assert a is not None
    assert b is not None
    paths = [save_refinement(r, folder / f"{i}.weights", table="t") for i, r in enumerate((a, b))]
    return paths[0].read_bytes() == paths[1].read_bytes()


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("residual")
    model = write(MODELS["residual_identity"](), folder / "model.onnx")
    return model, normal(folder / "data.npy", 24, 32, 16, 16)


@pytest.fixture(scope="module")
def refined(residual: tuple[Path, Path]) -> CalibrationTable:
    """Of that model; its files are beside it."""
    return refine(*residual, table_path=residual[0].with_suffix(".calib.json"))


def test_a_second_run_gives_the_same_bytes(residual, refined, tmp_path: Path) -> None:
    paths = [residual[0].with_suffix(".calib.json"), tmp_path / "model.calib.json"]
    refine(*residual, table_path=paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert refinement_path(paths[0]).read_bytes() == refinement_path(paths[1]).read_bytes()


@pytest.mark.parametrize("options", [{"order": "given"}, {"workers": 3}, {"seed": 5, "num_samples": 24}])
def test_neither_order_nor_threads_change_a_bit(residual, refined, tmp_path: Path, options: dict) -> None:
    second = refine(*residual, **options)
    assert refined.tensors == second.tensors
    assert refined.float_tensors == second.float_tensors
    assert refined.quality == second.quality
    assert same(refined.refinement, second.refinement, tmp_path)


def test_the_batch_size_changes_no_choice(residual, refined) -> None:
    """The runtime adds up in another order for another batch size: the last bits of what was seen may differ."""
    second = refine(*residual, batch_size=5)
    assert refined.tensors.keys() == second.tensors.keys()
    for name, value in refined.tensors.items():
        assert second.tensors[name].method == value.method
        assert second.tensors[name].amax == pytest.approx(value.amax, rel=1e-3)
    assert refined.float_tensors.keys() == second.float_tensors.keys()


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_few_samples(tmp_path: Path, samples: int, batch: str | int) -> None:
    model = write(MODELS["average_pool_classifier"](batch=batch), tmp_path / "model.onnx")
    table = refine(model, normal(tmp_path / "data.npy", samples, 32, 16, 16))
    assert table.num_samples == samples
    assert table.refinement is not None
    assert table.quality["num_samples"] >= 1
    assert table.quality["sqnr_db"] > 15
    made = quantkit.quantize(model, table, tmp_path / "int8.onnx", quantize_all=True)  # with a head of one row too
    assert made.num_quantized + len(table.float_tensors) == 4
    assert made.num_quantized >= 3


KINDS = (
    *("attention_one_projection", "conv1d", "conv_transpose", "dense_concat", "gemm_plain", "inverted_residual"),
    *("matmul_batched_constant", "matmul_constant_left", "residual_preactivation", "shared_weight", "squeeze_excite"),
    *("tied_embedding", "weight_through_transpose"),
)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model(tmp_path: Path, name: str) -> None:
    """Files make the model that Python makes of the table in memory, and it is close to the float one."""
    proto = MODELS[name]()
    model = write(proto, tmp_path / "model.onnx")
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    data = normal(tmp_path / "data.npy", 12, *shape)
    table = refine(model, data, table_path=tmp_path / "model.calib.json")
    quantkit.quantize(model, table, tmp_path / "memory.onnx")
    quantkit.quantize(model, tmp_path / "model.calib.json", tmp_path / "files.onnx")
    assert (tmp_path / "memory.onnx").read_bytes() == (tmp_path / "files.onnx").read_bytes()
    x = {proto.graph.input[0].name: np.load(data)}
    exact, got = run(load(proto), x), run(onnx.load(tmp_path / "files.onnx"), x)
    for output, values in exact.items():
        assert sqnr_db(values, got[output]) > 20, output


def test_tokens(tmp_path: Path) -> None:
    g = Builder()
    ids = g.input("ids", 6, dtype=np.int64)
    x = g.op("Gather", g.constant(g.random.standard_normal((50, 32))), ids)
    hidden = g.op("Relu", g.linear(x, 32, 64))
    model = write(g.model(g.linear(hidden, 64, 8)), tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(0, 50, (20, 6)))
    table = refine(model, tmp_path / "data.npy")
    assert table.tensors.keys() > {x, hidden}
    assert "ids" not in table.tensors
    assert table.quality["sqnr_db"] > 25


def test_a_branch(tmp_path: Path) -> None:
    """The condition is one value for the whole batch, which every sample carries."""
    g = Builder(batch=1)
    y = g.op("Relu", g.conv(g.input("x", 8, 8, 8), 8, 8))
    total = g.op("ReduceSum", y, keepdims=0)
    condition = g.op("Greater", total, g.constant(0.0))
    kind = onnx.TensorProto.FLOAT
    branches = {
        "then_branch": onnx.helper.make_node("Neg", [y], ["then"]),
        "else_branch": onnx.helper.make_node("Identity", [y], ["else"]),
    }
    graphs = {
        name: onnx.helper.make_graph([node], name, [], [onnx.helper.make_tensor_value_info(node.output[0], kind, None)])
        for name, node in branches.items()
    }
    chosen = g.op("If", condition, **graphs)
    model = write(g.model(g.conv(chosen, 8, 4)), tmp_path / "model.onnx")
    table = refine(model, normal(tmp_path / "data.npy", 9, 8, 8, 8))
    assert table.tensors.keys() >= {chosen}
    assert table.quality["sqnr_db"] > 20


def test_shapes_that_differ_from_sample_to_sample_need_a_batch_of_one(tmp_path: Path) -> None:
    g = Builder()
    x = g.op("Relu", g.conv(g.input("x", 3, "H", "W"), 3, 8))
    model = write(g.model(g.op("GlobalAveragePool", g.conv(x, 8, 8))), tmp_path / "model.onnx")
    images = write_images(tmp_path / "images", 6, size=(12, 10))
    table = refine(model, images, batch_size=1, preprocess=ImageOptions("unit", size=(10, 12)))
    assert table.quality["sqnr_db"] > 20


def test_half_models_are_calibrated_as_far_as_float_ones(tmp_path: Path) -> None:
    model = write(MODELS["conv_relu"](dtype=np.float16), tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((8, 32, 16, 16)).astype(np.float16))
    table = refine(model, tmp_path / "data.npy")
    assert table.refinement is not None
    assert table.quality["sqnr_db"] > 20


# ------------------------------------------------------------------------------------------------ files


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., tuple[CalibrationTable, list[str]]]:
    """Calibrates over the files of the last time; returns the table and what was said."""
    model, data = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "images", 10)

    def again(**options) -> tuple[CalibrationTable, list[str]]:
        said: list[Notice] = []
        table = refine(model, data, table_path=tmp_path / "net.calib.json", notify=said.append, **options)
        return table, [notice.text for notice in said]

    return again


def test_the_whole_set_is_reused(kept, tmp_path: Path) -> None:
    first, _ = kept()
    second, said = kept()
    assert any(text.startswith("Reusing") for text in said)
    assert second == first
    assert same(first.refinement, second.refinement, tmp_path)


@pytest.mark.parametrize("damage", [None, b"", b"quantkit weights 1 3 00\n{}", "other"])
def test_weights_that_cannot_be_used_are_made_again(kept, tmp_path: Path, damage: bytes | str | None) -> None:
    kept()
    table, weights = tmp_path / "net.calib.json", tmp_path / "net.calib.weights"
    before = table.read_bytes(), weights.read_bytes()
    if damage == "other":
        save_refinement(Refinement(biases={"fc": np.ones(5, np.float32)}), weights, table="0" * 64)
    elif damage is None:
        weights.unlink()
    else:
        weights.write_bytes(damage)
    assert load_table(table).refinement is None
    with pytest.raises(StaleTableError, match=r"net\.calib\.weights is not beside net\.calib\.json"):
        kept(reuse_only=True)
    _, said = kept()
    assert any(text.startswith("Recalibrating: net.calib.weights is not beside") for text in said)
    assert (table.read_bytes(), weights.read_bytes()) == before


def test_a_fast_calibration_removes_the_weights_of_another(kept, tmp_path: Path) -> None:
    kept()
    table, said = kept(accuracy="fast")
    assert any("accuracy: balanced → none" in text for text in said)
    assert table.refinement is None
    assert not (tmp_path / "net.calib.weights").exists()
    assert table.quality
    assert "accuracy" not in table.settings


def test_rounding_to_nearest_is_another_table(kept, tmp_path: Path) -> None:
    kept()
    table, said = kept(rounding="nearest")
    assert any("rounding: feedback → nearest" in text for text in said)
    assert table.refinement is not None
    assert not table.refinement.weights
    assert not table.refinement.biases
    _, said = kept(rounding="nearest")
    assert any(text.startswith("Reusing") for text in said)


def test_a_table_that_lost_its_weights_is_told_where_a_model_is_made(kept, tmp_path: Path) -> None:
    kept()
    (tmp_path / "net.calib.weights").unlink()
    said: list[Notice] = []
    quantkit.quantize(tmp_path / "net.onnx", tmp_path / "net.calib.json", tmp_path / "m.onnx", notify=said.append)
    (warning,) = [notice for notice in said if notice.topic == "weights"]
    assert warning.kind == "warning"
    assert "net.calib.weights" in warning.text


def test_kept_statistics_serve_every_accuracy(kept, tmp_path: Path) -> None:
    kept(keep_statistics=True, accuracy="fast")
    _, said = kept()
    assert any("the model does not have to run" in text for text in said)
    refined = table_json(load_table(tmp_path / "net.calib.json"))
    kept(force=True)
    assert table_json(load_table(tmp_path / "net.calib.json")) == refined


def test_the_weights_name_their_table(kept, tmp_path: Path) -> None:
    table, _ = kept()
    checksum = json.loads((tmp_path / "net.calib.json").read_text())["checksum"]
    assert checksum == table_checksum(table)
    assert same(load_refinement(tmp_path / "net.calib.weights", table=checksum), table.refinement, tmp_path)


def test_an_output_that_int8_ruins_is_told(tmp_path: Path) -> None:
    """One huge feature decides the range, and the answer lies in the others: nothing that is tried can save it."""
    g = Builder()
    x = g.input("x", 16)
    weight = np.ones((16, 4))
    weight[0] = 0
    model = write(g.model(g.op("Mul", g.op("MatMul", x, g.constant(weight)), g.constant(2.0))), tmp_path / "m.onnx")
    values = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32) * 1e-3
    values[:, 0] = 100
    np.save(tmp_path / "data.npy", values)
    said: list[Notice] = []
    table = refine(model, tmp_path / "data.npy", method="minmax", notify=said.append)
    assert table.quality["sqnr_db"] < 12
    (warning,) = [notice for notice in said if notice.topic == "accuracy"]
    assert warning.kind == "warning"
    assert "SQNR" in warning.text


def test_a_model_whose_pieces_do_not_run_gets_ranges_from_statistics(tmp_path: Path) -> None:
    """A value that is a sequence of tensors is no output that can be observed."""
    g = Builder()
    x = g.linear(g.input("x", 8), 8, 8)
    parts = g.op("SplitToSequence", x, g.constant(np.array(4)), axis=1)
    y = g.op("ConcatFromSequence", parts, axis=1)
    model = write(g.model(g.linear(y, 8, 4)), tmp_path / "model.onnx")
    notices: list[Notice] = []
    table = refine(
        model, normal(tmp_path / "x.npy", 32, 8), table_path=tmp_path / "t.calib.json", notify=notices.append
    )
    assert set(table.tensors)
    assert any(n.kind == "warning" and "from statistics alone" in n.text for n in notices)
    again: list[Notice] = []
    refine(model, tmp_path / "x.npy", table_path=tmp_path / "t.calib.json", notify=again.append)
    assert any(n.topic == "reuse" and n.text.startswith("Reusing") for n in again)


def test_want_of_memory_ends_a_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lesser table, kept and reused later, would outlast the shortage."""
    g = Builder()
    model = write(g.model(g.linear(g.linear(g.input("x", 8), 8, 8), 8, 4)), tmp_path / "model.onnx")
    run, left = OnnxRuntimeRunner.run, [2]

    class Session:
        def run(self, *_: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")

    def failing(runner: OnnxRuntimeRunner, inputs: Mapping[str, Array]) -> dict[str, Array]:
        left[0] -= 1
        if left[0] < 0:
            runner._session = Session()
        return run(runner, inputs)

    monkeypatch.setattr(OnnxRuntimeRunner, "run", failing)
    with pytest.raises(MemoryError, match="bad_alloc"):
        refine(model, normal(tmp_path / "x.npy", 32, 8), table_path=tmp_path / "t.calib.json")
    assert left[0] < 0
    assert not (tmp_path / "t.calib.json").exists()
