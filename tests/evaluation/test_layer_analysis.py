"""A look into variants that quantkit, ONNX Runtime's own quantizer and fakes of TensorRT made, against numpy."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from quantkit.backends.onnxruntime import OnnxRuntimeRunner
from quantkit.backends.tensorrt.inspection.inspector import parse_inspector
from quantkit.commands.calibrate import calibrate
from quantkit.commands.quantize import quantize
from quantkit.datasets import open_dataset
from quantkit.datasets.batching import iterate_batches
from quantkit.evaluation import evaluate
from quantkit.evaluation import layer_analysis as module
from quantkit.evaluation.engines import open_timed_engine
from quantkit.evaluation.layer_analysis import analyze_layers, placements_of_engine
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs
from quantkit.processor import products_saturate
from quantkit.types.options import EvaluationOptions

from ..graph.builder import Builder
from ..graph.models import MODELS
from .test_engines import INT8_LAYERS, engines, gpu  # noqa: F401

QUIET = EvaluationOptions(progress=False)

ROUNDING_DB = 0.005
"""What is exposed decides what ONNX Runtime fuses: a sum rounded otherwise now and then gets the next code."""


def data_for(model: Path, count: int = 24) -> Path:
    """Random arrays for every input, next to the model."""
    random = np.random.default_rng(5)
    arrays = {
        spec.name: random.standard_normal((count, *spec.shape[1:])).astype(spec.dtype)
        for spec in input_specs(FloatModel(model).graph)
    }
    np.savez(model.with_suffix(".npz"), **arrays)
    return model.with_suffix(".npz")


def make(folder: Path, proto: onnx.ModelProto, target: str = "tensorrt", **options):
    """A model, its data set, and its INT8 form."""
    model = folder / "model.onnx"
    onnx.save(proto, model)
    data = data_for(model)
    table = calibrate(model, data, method="minmax", progress=False)
    made = quantize(model, table, folder / f"{target}.onnx", target=target, **options)
    return model, open_dataset(data, input_specs(FloatModel(model).graph)), made


def sqnr_db(x, xq) -> float:
    x, xq = np.asarray(x, np.float64), np.asarray(xq, np.float64)
    return 10 * math.log10((x**2).sum() / ((x - xq) ** 2).sum())


def through_int8(x, amax):
    scale = np.float32(amax / 127)
    return np.clip(np.rint(x / scale), -128, 127) * scale


def two_convolutions(*outputs: str) -> onnx.ModelProto:
    """1 x 1 convolutions: matrix products of channels. "first" and "second" are their outputs."""
    g = Builder()
    random = np.random.default_rng(0)
    first = g.constant(random.standard_normal((6, 4, 1, 1)), "w1")
    second = g.constant(random.standard_normal((5, 6, 1, 1)), "w2")
    y = g.op("Conv", g.input("x", 4, 8, 8), first, g.constant(random.standard_normal(6), "b1"), name="first")
    z = g.op("Conv", g.op("Relu", y, name="relu") if not outputs else y, second, name="second")
    return g.model(*(outputs or (z,)))


def test_error_of_two_convolutions_worked_example(tmp_path) -> None:
    model, dataset, made = make(tmp_path, two_convolutions())
    insight = analyze_layers(model, dataset, QUIET, variants={"fp32": model, "int8": made})
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    w1, b1 = constants["w1"][:, :, 0, 0], constants["b1"].reshape(1, -1, 1, 1)
    x = np.load(tmp_path / "model.npz")["x"]

    def relu(x, w):
        return np.maximum(np.einsum("oc,nchw->nohw", w, x) + b1, 0)

    w1q = np.stack([through_int8(row, np.abs(row).max()) for row in w1])
    expected, changed = relu(x, w1), relu(through_int8(x, np.abs(x).max()), w1q)
    data, hidden = insight.tensors
    assert (data.variant, data.tensor, data.producer, data.sqnr_db) == ("int8", "x", "input", None)
    assert data.own_sqnr_db == pytest.approx(sqnr_db(x, through_int8(x, np.abs(x).max())), abs=1e-4)
    assert (hidden.tensor, hidden.producer) == ("relu_out", "Relu relu")
    assert hidden.sqnr_db == pytest.approx(sqnr_db(expected, changed), abs=1e-3)
    assert hidden.own_sqnr_db == pytest.approx(sqnr_db(expected, through_int8(expected, expected.max())), abs=1e-2)
    assert hidden.amax == pytest.approx(expected.max(), rel=1e-5)
    assert hidden.maximum == pytest.approx(expected.max(), rel=1e-5)
    assert (hidden.minimum, hidden.clipped) == (0, 0)
    assert sum(hidden.histogram) == expected.size
    assert [(p.node, p.op_type, p.is_int8, p.reason) for p in insight.layers] == [
        ("first", "Conv", True, ""),
        ("second", "Conv", True, ""),
    ]
    assert insight.warnings == ()


def uneven_channels(activation: str) -> onnx.ModelProto:
    """Convolutions with padding between activations whose channels differ 60 times in range: "act1" and "act2"."""
    g = Builder()
    random = np.random.default_rng(3)
    spread = np.geomspace(0.05, 3, 8)
    bounds = [g.constant(np.float32(b), f"bound{b}") for b in (0, 6)] if activation == "Clip" else []
    first = g.constant(random.standard_normal((8, 4, 1, 1)) * spread.reshape(8, 1, 1, 1), "w1")
    bias = g.constant(np.abs(random.standard_normal(8)) * spread, "b1")
    y = g.op(activation, g.op("Conv", g.input("x", 4, 8, 8), first, bias), *bounds, name="act1")
    y = g.op("Conv", y, g.constant(random.standard_normal((8, 1, 3, 3)), "w2"), group=8, pads=[1, 1, 1, 1])
    y = g.op(activation, y, *bounds, name="act2")
    return g.model(g.op("Conv", y, g.constant(random.standard_normal((5, 8, 1, 1)), "w3")))


def through_ort(path: Path, tensor: str, inputs: dict) -> np.ndarray:
    """The value of any tensor."""
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run([tensor], inputs)[0]


@pytest.mark.parametrize(("activation", "is_folded"), [("Clip", False), ("Relu", True)])
def test_activations_that_calibration_shifts_and_scales(activation, is_folded, tmp_path) -> None:
    """Factors go into a Mul behind a Clip, and into the weights before a Relu, which keeps the name."""
    model = tmp_path / "model.onnx"
    onnx.save(uneven_channels(activation), model)
    data = data_for(model)
    table = calibrate(model, data, progress=False)
    found = table.refinement
    assert found.shifts.keys() == {"act1_out", "act2_out"}
    assert "act1_out" in found.channel_scales
    made = quantize(model, table, tmp_path / "int8.onnx")
    dataset = open_dataset(data, input_specs(FloatModel(model).graph))
    insight = analyze_layers(model, dataset, QUIET, variants={"int8": made.path})
    assert insight.warnings == ()
    assert [q.tensor for q in insight.tensors] == ["x", "act1_out", "act2_out"]
    assert [q.transform for q in insight.tensors][:2] == ["", "shifted, scaled"]

    quantized = {n.input[0]: n.input[1] for n in onnx.load(made.path).graph.node if n.op_type == "QuantizeLinear"}
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(made.path).graph.initializer}
    inputs = {"x": np.load(data)["x"]}
    for quality in insight.tensors[1:]:
        (name,) = [n for n in quantized if n.startswith(quality.tensor)]
        assert name.endswith("shifted" if is_folded or quality.tensor == "act2_out" else "scaled")
        shift = found.shifts[quality.tensor].reshape(-1, 1, 1)
        scale = found.channel_scales.get(quality.tensor, np.ones(8, np.float32)).reshape(-1, 1, 1)
        x, y = through_ort(model, quality.tensor, inputs), through_ort(made.path, name, inputs)
        y = y[:, :, 1:-1, 1:-1] if y.shape != x.shape else y
        moved, step = (x - shift) * scale, kept[quantized[name]]
        assert quality.sqnr_db == pytest.approx(sqnr_db(x, y / scale + shift), abs=0.05)
        own = np.clip(np.rint(moved / step), -128, 127) * step / scale + shift
        assert quality.own_sqnr_db == pytest.approx(sqnr_db(x, own), abs=0.05)
        assert (quality.minimum, quality.maximum) == pytest.approx((moved.min(), moved.max()), rel=1e-5)
        assert quality.amax == pytest.approx(127 * step)


@pytest.mark.parametrize("folded", ["[", "[1]", '{"act1_out": 3}', '{"act1_out": {"axis": -3, "factors": [0, -1]}}'])
def test_unusable_factors_in_the_metadata_are_no_error(folded, tmp_path) -> None:
    model, dataset, made = make(tmp_path, uneven_channels("Relu"))
    changed = onnx.load(made.path)
    onnx.helper.set_model_props(changed, {"quantkit.folded_channel_scales": folded})
    onnx.save(changed, tmp_path / "changed.onnx")
    found = analyze_layers(model, dataset, QUIET, variants={"int8": tmp_path / "changed.onnx"})
    assert [q.tensor for q in found.tensors] == ["x", "act1_out", "act2_out"]


def test_factors_of_other_channels_are_a_warning(tmp_path) -> None:
    model, dataset, made = make(tmp_path, uneven_channels("Relu"))
    changed = onnx.load(made.path)
    factors = '{"act1_out": {"axis": -3, "factors": [2, 3]}}'
    onnx.helper.set_model_props(changed, {"quantkit.folded_channel_scales": factors})
    onnx.save(changed, tmp_path / "changed.onnx")
    found = analyze_layers(model, dataset, QUIET, variants={"int8": tmp_path / "changed.onnx"})
    assert [q.tensor for q in found.tensors] == ["x", "act2_out"]
    assert found.warnings == (
        "int8: activation 'act1_out' is not shown: it is shifted or scaled by another number of channels than it has",
    )


def test_an_output_has_the_sqnr_that_evaluate_reports(tmp_path) -> None:
    model, dataset, made = make(tmp_path, two_convolutions("first_out", "second_out"))
    insight = analyze_layers(model, dataset, QUIET, variants={"int8": made})
    with OnnxRuntimeRunner(model) as baseline, OnnxRuntimeRunner(made.path) as int8:
        runners = {"fp32": baseline, "int8": int8}
        metrics = evaluate(runners, iterate_batches(dataset, 8), baseline="fp32").metrics["int8"]
    assert insight.tensors[-1].tensor == "first_out"
    assert insight.tensors[-1].sqnr_db == pytest.approx(metrics["sqnr_db[first_out]"], abs=ROUNDING_DB)


@pytest.mark.processor
def test_folded_layers_and_reasons_in_models_for_the_cpu(tmp_path) -> None:
    g = Builder()
    y = g.op("Relu", g.conv(g.batch_norm(g.conv(g.input("x", 8, 8, 8), 8, 8), 8), 8, 8), name="r")
    proto = g.model(g.gemm(g.op("Flatten", g.op("GlobalAveragePool", g.conv(y, 8, 8), name="pool")), 8, 4))
    model, dataset, made = make(tmp_path, proto, "cpu", exclude=("Gemm",))
    insight = analyze_layers(
        model, dataset, replace(QUIET, layer_samples=8), variants={"int8-cpu": made}, skipped={"int8-cpu": made.skipped}
    )
    assert insight.warnings == ()
    assert insight.tensors[0].producer == "input"
    # The convolution went into the BatchNormalization, whose output still has its name.
    assert [q.producer.split()[0] for q in insight.tensors] == ["input", "BatchNormalization", "Relu", "Conv"]
    assert all(q.sqnr_db > 25 and q.own_sqnr_db > 30 for q in insight.tensors[1:])
    assert [p.is_int8 for p in insight.layers] == [True, True, True, False]
    left = [p for p in insight.layers if not p.is_int8]
    assert [(p.op_type, p.reason) for p in left] == [("Gemm", "excluded by 'Gemm'")]
    # The graph alone tells it too, in other words.
    given = analyze_layers(model, dataset, replace(QUIET, layer_samples=1), variants={"v": made})
    (found,) = [p for p in given.layers if not p.is_int8]
    assert (found.node, found.variant) == (left[0].node, "v")
    assert found.reason


def test_samples_are_spread_over_the_data(tmp_path) -> None:
    model, dataset, made = make(tmp_path, two_convolutions())
    insight = analyze_layers(model, dataset, replace(QUIET, layer_samples=4), variants={"int8": made})
    x = np.load(tmp_path / "model.npz")["x"][[0, 6, 12, 18]]
    assert (insight.tensors[0].minimum, insight.tensors[0].maximum) == (x.min(), x.max())
    assert analyze_layers(model, dataset, replace(QUIET, layer_samples=0), variants={"int8": made}).tensors == ()


@pytest.mark.parametrize("batch", ["N", 1, 5])
def test_memory_limits_and_fixed_batches_change_nothing(batch, tmp_path, monkeypatch) -> None:
    model, dataset, made = make(tmp_path, MODELS["residual_identity"](batch=batch))
    whole = analyze_layers(model, dataset, QUIET, variants={"int8": made}).tensors
    monkeypatch.setattr(module, "_BUDGET_BYTES", 1 << 15)
    pieces = analyze_layers(model, dataset, QUIET, variants={"int8": made}).tensors
    assert [q.tensor for q in pieces] == [q.tensor for q in whole]
    assert len(whole) > 3
    for piece, all_at_once in zip(pieces, whole, strict=True):
        assert replace(piece, sqnr_db=None, own_sqnr_db=None) == replace(all_at_once, sqnr_db=None, own_sqnr_db=None)
        assert (piece.sqnr_db, piece.own_sqnr_db) == pytest.approx(
            (all_at_once.sqnr_db, all_at_once.own_sqnr_db), abs=ROUNDING_DB
        )


def test_half_precision_around_int8(tmp_path) -> None:
    model, dataset, made = make(tmp_path, MODELS["residual_identity"](), high_precision="fp16")
    half = analyze_layers(model, dataset, QUIET, variants={"half": made})
    model, dataset, made = make(tmp_path, MODELS["residual_identity"]())
    whole = analyze_layers(model, dataset, QUIET, variants={"int8": made})
    assert [q.tensor for q in half.tensors] == [q.tensor for q in whole.tensors]
    assert half.tensors[0].sqnr_db is None
    # FP16 sums of a residual cost up to 10 dB with older versions of ONNX Runtime and NumPy, and less than 6 since.
    for one, other in zip(half.tensors[1:], whole.tensors[1:], strict=True):
        assert one.sqnr_db == pytest.approx(other.sqnr_db, abs=10)
    assert [p.node for p in half.layers] == [p.node for p in whole.layers]


class Reader(CalibrationDataReader):
    def __init__(self, path: Path) -> None:
        arrays = np.load(path)
        self._batches = iter([{name: arrays[name] for name in arrays.files}])

    def get_next(self):
        return next(self._batches, None)


@pytest.mark.processor
@pytest.mark.parametrize("kind", [QuantType.QUInt8, QuantType.QInt8])
def test_onnxruntimes_quantizer_leaves_out_relu_and_renames_outputs(kind, tmp_path) -> None:
    model, dataset, made = make(tmp_path, MODELS["conv_relu"](), "cpu")
    path = tmp_path / "theirs.onnx"
    quantize_static(
        model,
        path,
        Reader(tmp_path / "model.npz"),
        activation_type=kind,
        per_channel=True,
        reduce_range=products_saturate(),
    )
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "Relu" not in kinds
    insight = analyze_layers(model, dataset, QUIET, variants={"ours": made, "theirs": path})
    ours = {q.tensor: q.sqnr_db for q in insight.tensors if q.variant == "ours"}
    theirs = {q.tensor: q.sqnr_db for q in insight.tensors if q.variant == "theirs"}
    output = onnx.load(model).graph.output[0].name
    assert theirs.keys() == {"x", "Relu_4_out", output}
    for tensor in ours.keys() & theirs.keys() - {"x"}:
        assert theirs[tensor] == pytest.approx(ours[tensor], abs=1.5)
    assert theirs[output] > 30
    assert all(p.is_int8 for p in insight.layers)


@pytest.mark.processor
def test_integer_operators_are_counted_under_the_names_of_the_model(tmp_path) -> None:
    model, dataset, _ = make(tmp_path, MODELS["conv_relu"]())
    path = tmp_path / "theirs.onnx"
    quantize_static(model, path, Reader(tmp_path / "model.npz"), quant_format=QuantFormat.QOperator)
    insight = analyze_layers(model, dataset, QUIET, variants={"theirs": path})
    convolutions = [node.name for node in onnx.load(model).graph.node if node.op_type == "Conv"]
    assert [(p.node, p.op_type, p.is_int8) for p in insight.layers] == [(name, "Conv", True) for name in convolutions]
    assert [q.producer for q in insight.tensors] == ["input"]
    assert len(insight.warnings) == 1
    assert "QLinearConv is not Q/DQ" in insight.warnings[0]


def test_unobservable_tensors_are_a_warning(tmp_path) -> None:
    model, dataset, made = make(tmp_path, two_convolutions())
    renamed = onnx.load(made.path)
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            names[:] = [{"relu_out": "elsewhere"}.get(name, name) for name in names]
    onnx.save(renamed, tmp_path / "renamed.onnx")
    insight = analyze_layers(
        model,
        dataset,
        QUIET,
        variants={"gone": tmp_path / "gone.onnx", "renamed": tmp_path / "renamed.onnx", "int8": made},
    )
    assert [(q.variant, q.tensor) for q in insight.tensors] == [("renamed", "x"), ("int8", "x"), ("int8", "relu_out")]
    gone, other = insight.warnings
    assert "gone.onnx: no such model file" in gone
    assert "1 of its 2 quantized activations" in other
    assert "elsewhere" in other
    assert analyze_layers(tmp_path / "gone.onnx", dataset, QUIET, variants={"int8": made}).warnings
    stopped = analyze_layers(model, dataset, QUIET, variants={"int8": made}, should_stop=lambda: True)
    assert (stopped.tensors, stopped.warnings) == ((), ())
    assert len(stopped.layers) == 2


def test_unexpected_exceptions_are_raised(tmp_path) -> None:
    model, _, made = make(tmp_path, two_convolutions())
    with pytest.raises(TypeError):
        analyze_layers(model, None, QUIET, variants={"int8": made})


A100 = "pytorch__resnet__A100__"


@pytest.mark.parametrize(
    ("name", "weighted", "int8"),
    [(f"{A100}qat-residual__resnet-qat-residual.onnx", 21, 21), (f"{A100}fp16__resnet.onnx", 21, 0)],
)
def test_layers_of_real_engines(shared, name, weighted, int8) -> None:
    engine_layers = parse_inspector((shared / "tensorrt" / "inspector" / f"{name}.engine.graph.json").read_bytes())
    found = placements_of_engine(engine_layers, "trt")
    assert (len(found), sum(p.is_int8 for p in found)) == (weighted, int8)
    assert all(bool(p.reason) == (not p.is_int8) for p in found)
    assert len({p.node for p in found}) == len(found)
    assert all("Conv" in p.node or "Gemm" in p.node for p in found)
    assert not any("Quantize" in p.node for p in found)
    node = next(node for node in engine_layers.weighted[0].onnx_nodes if node.startswith("Conv"))
    first = placements_of_engine(engine_layers, "trt", weighted={node: "Conv"})[0]
    assert (first.variant, first.node, first.op_type) == ("trt", node, "Conv")


def test_layer_names_without_details_are_not_used() -> None:
    engine_layers = parse_inspector(json.dumps({"Layers": ["conv1 + relu1"], "Bindings": ["x"]}))
    assert placements_of_engine(engine_layers, "trt") == ()


def test_engines_list_int8_layers(gpu, engines, tmp_path) -> None:  # noqa: F811
    assert "CaskConvolution" in INT8_LAYERS
    model, dataset, _ = make(tmp_path, two_convolutions())
    opened = {name: open_timed_engine(path, name=name, cuda_graph=False) for name, path in engines.items()}
    insight = analyze_layers(model, dataset, QUIET, variants={}, engines=opened)
    assert [(p.variant, p.node, p.is_int8) for p in insight.layers] == [("trt-int8", "c", True)]
    for engine in opened.values():
        engine.runner.close()
    closed = analyze_layers(model, dataset, QUIET, variants={}, engines=opened)
    assert closed.layers == ()
    assert len(closed.warnings) == len(opened)
