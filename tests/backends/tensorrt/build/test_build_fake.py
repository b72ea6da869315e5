"""What a build asks of TensorRT 8.6, 10 and 11: NVIDIA's own bindings over a fake library, whose engine is the answer.

This shows that the calls exist in each version and carry what they should. What TensorRT makes of them it cannot show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import quantkit
from quantkit.caches.formats.tensorrt_cache import cache_text
from quantkit.calibration.table import save_table
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import save_model
from quantkit.graph.model_hash import model_hash
from quantkit.graph.passes.prepare import prepare
from quantkit.graph.placement.tensorrt import float_activations
from quantkit.types import CalibrationTable, TensorRange

from ....fake_trt.processes import running_bindings
from ....fake_trt.releases import DEFAULT, RELEASES
from ....graph.builder import Builder
from ....graph.models import MODELS
from ....graph.quantizing import quantize
from .. import asked

IMPLICIT = [name for name, release in RELEASES.items() if release.major <= 10]
STRONG = [name for name, release in RELEASES.items() if release.major >= 10]
VERSIONS = {release.name: release.version for release in (*DEFAULT, *RELEASES.values())}


def is_8(release):
    return RELEASES[release].major == 8


HALF, FLOAT = 1, 0  # trt.DataType, the same in every version


@pytest.fixture(scope="module")
def process():
    """A process for each release, made when it is first asked for; skips where the bindings cannot be had."""
    with running_bindings() as of:
        yield of


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> dict[str, Path]:
    """A float model, its calibration table over all tensors, and its INT8 model."""
    folder = tmp_path_factory.mktemp("model")
    paths = {name: folder / f"{name}.onnx" for name in ("net", "qdq", "other", "half")}
    float_model = MODELS["residual_identity"]()
    onnx.save(float_model, paths["net"])
    onnx.save(MODELS["conv_relu"](), paths["other"])
    save_model(quantize(float_model).graph, paths["qdq"])
    save_model(quantize(float_model, high_precision="fp16").graph, paths["half"])
    graph = FloatModel(paths["net"]).graph
    identity = model_hash(graph)
    names = float_activations(prepare(graph, name="net"))
    ranges = {name: TensorRange(1.0 + i, -1.0, 1.0 + i) for i, name in enumerate(names)}
    table = CalibrationTable(
        tensors=ranges,
        model_hash=identity,
        model_name="net.onnx",
        dataset_fingerprint="f" * 64,
        num_samples=4,
        settings={"method": "minmax", "histogram": "exact"},
    )
    paths["table"] = save_table(table, folder / "net.calib.json")
    for release in (name for name, version in VERSIONS.items() if not version.startswith("11.")):
        text = cache_text({n: r.amax for n, r in ranges.items()}, tensorrt_version=VERSIONS[release])
        paths[release] = folder / f"{release}.calib"
        paths[release].write_text(text)
    return paths


@pytest.fixture
def ask(process, tmp_path):
    """Builds with a release; the model's path goes first."""

    def build(release, model, *, options=None, **arguments):
        arguments = {name: str(v) if isinstance(v, Path) else v for name, v in arguments.items()}
        arguments.setdefault("output", str(tmp_path / "net.engine"))
        return process(release).call(asked.build_engine, str(model), arguments, options or {})

    return build


@pytest.fixture
def engine_of(ask):
    def build(*arguments, **words):
        answer = ask(*arguments, **words)
        assert "engine" in answer, answer
        return answer["engine"]

    return build


@pytest.fixture
def error_of(ask):
    def build(*arguments, **words):
        answer = ask(*arguments, **words)
        assert "error" in answer, answer
        return f"{answer['error']}: {answer['message']}"

    return build


@pytest.mark.parametrize("release", RELEASES)
def test_fp32_sets_no_precision_flag(engine_of, material, release):
    engine = engine_of(release, material["net"])
    assert engine["flags"] == ["TF32"]
    assert engine["network_flags"] == {8: 1, 10: 3, 11: 1}[RELEASES[release].major]
    assert engine["profiles"] == [{"x": [[1, 32, 16, 16], [8, 32, 16, 16], [32, 32, 16, 16]]}]
    assert engine["dynamic_ranges"] == {}


@pytest.mark.parametrize("release", RELEASES)
def test_fp16_is_typed_by_the_model_or_a_flag(engine_of, material, release):
    engine = engine_of(release, material["net"], precision="fp16")
    # In a strongly typed network the types come from the ONNX: inputs and outputs stay FP32 through a Cast.
    assert engine["flags"] == (["FP16", "TF32"] if is_8(release) else ["TF32"])
    assert engine["network_flags"] == {8: 1, 10: 3, 11: 1}[RELEASES[release].major]


@pytest.mark.parametrize("release", RELEASES)
def test_int8_from_a_table_is_explicit(ask, material, release):
    answer = ask(release, material["net"], precision="int8", table=material["table"])
    engine = answer["engine"]
    assert engine["qdq"] > 4
    assert engine["dynamic_ranges"] == {}
    assert "calibration" not in engine
    assert engine["precisions"] == {}
    assert set(engine["flags"]) == ({"INT8", "FP16", "TF32"} if is_8(release) else {"TF32"})
    assert answer["manifest"]["mode"] == "explicit"
    assert answer["manifest"]["library_version"] == VERSIONS[release]
    assert answer["manifest"]["table"]["num_samples"] == 4


@pytest.mark.parametrize("release", RELEASES)
def test_qdq_model_is_built_unchanged(engine_of, material, release):
    engine = engine_of(release, material["qdq"], precision="int8")
    assert engine["qdq"] > 4
    assert set(engine["flags"]) == ({"INT8", "FP16", "TF32"} if is_8(release) else {"TF32"})


def test_fp32_beside_int8_has_no_fp16_flag(engine_of, material):
    words = {"precision": "int8", "table": material["table"], "high_precision": "fp32"}
    assert set(engine_of("8.6", material["net"], **words)["flags"]) == {"INT8", "TF32"}
    assert set(engine_of("10.16", material["net"], mode="implicit", **words)["flags"]) == {"INT8", "TF32"}


def test_tensorrt_8_refuses_the_qdq_that_it_misreads(ask, error_of, material):
    assert "FP16 scales: TensorRT 8.6 reads them as FP32" in error_of("8.6", material["half"], precision="int8")
    assert "engine" in ask("10.0", material["half"], precision="int8")


@pytest.mark.parametrize("release", IMPLICIT)
def test_implicit_int8_gives_every_float_tensor_its_range(ask, material, release):
    answer = ask(release, material["net"], precision="int8", table=material["table"], mode="implicit")
    engine = answer["engine"]
    assert {"INT8", "FP16"} <= set(engine["flags"])
    assert engine["network_flags"] == 1
    assert engine["qdq"] == 0
    names = float_activations(prepare(FloatModel(material["net"]).graph, name="net"))
    assert engine["dynamic_ranges"] == {name: [-(1.0 + i), 1.0 + i] for i, name in enumerate(names)}
    assert not any("have a range" in line for line in answer["told"])
    assert answer["manifest"]["mode"] == "implicit"


@pytest.mark.parametrize("release", IMPLICIT)
def test_tensors_without_a_range_are_counted(ask, material, release, tmp_path):
    from quantkit.calibration.table import load_table

    whole = load_table(material["table"])
    kept = dict(list(whole.tensors.items())[:2])
    few = save_table(
        CalibrationTable(kept, whole.model_hash, whole.dataset_fingerprint, 4, whole.settings), tmp_path / "few.json"
    )
    answer = ask(release, material["net"], precision="int8", table=few, mode="implicit")
    assert len(answer["engine"]["dynamic_ranges"]) == 2
    assert any(f"2 of {len(whole.tensors)} tensors have a range" in line for line in answer["told"])


@pytest.mark.parametrize("how", ["obey", "prefer"])
@pytest.mark.parametrize("release", IMPLICIT)
def test_excluded_layers_are_constrained_to_float(ask, material, release, how):
    convs = [n.name for n in onnx.load(material["net"]).graph.node if n.op_type == "Conv"]
    answer = ask(
        release, material["net"], precision="int8", table=material["table"], mode="implicit",
        exclude=[convs[0]], options={"precision_constraints": how},
    )  # fmt: skip
    engine = answer["engine"]
    assert engine["precisions"] == {convs[0]: HALF}
    assert engine["output_types"] == {convs[0]: {"0": HALF}}
    assert f"{how.upper()}_PRECISION_CONSTRAINTS" in engine["flags"]
    assert sum("PRECISION_CONSTRAINTS" in flag for flag in engine["flags"]) == 1
    assert any("1 layers are kept in FP16" in line for line in answer["told"])
    assert answer["manifest"]["options"]["precision_constraints"] == how


@pytest.mark.parametrize("release", STRONG)
def test_excluded_layers_have_no_qdq_in_an_explicit_build(engine_of, material, release):
    words = {"precision": "int8", "table": material["table"]}
    fewer = engine_of(release, material["net"], exclude=[_first_conv(material)], **words)
    assert fewer["precisions"] == {}
    assert fewer["qdq"] < engine_of(release, material["net"], **words, force=True)["qdq"]


@pytest.mark.parametrize("release", IMPLICIT)
def test_cache_is_passed_by_a_calibrator(ask, material, release):
    answer = ask(release, material["net"], precision="int8", calibration_cache=material[release])
    engine = answer["engine"]
    assert engine["calibration"]["cache_used"]
    assert engine["calibration"]["batches"] == 0
    assert engine["calibration"]["algorithm"] == "EntropyCalibration2"
    assert engine["dynamic_ranges"] == {}
    assert {"INT8", "FP16"} <= set(engine["flags"])
    assert answer["manifest"]["mode"] == "implicit"


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """A network whose second convolution reads 1e5, in FP32 only; data, and a table that says so."""
    folder = tmp_path_factory.mktemp("overflow")
    g = Builder()
    x = g.conv(g.input("x", 3, 8, 8), 3, 4)
    large = g.op("Mul", x, g.constant(30_000.0), name="large")
    onnx.save(g.model(g.op("Mul", g.conv(large, 4, 4), g.constant(1e-4))), folder / "net.onnx")
    np.save(folder / "x.npy", np.full((8, 3, 8, 8), 4.0, np.float32))
    quantkit.calibrate(
        folder / "net.onnx", folder / "x.npy", method="minmax", table_path=folder / "net.calib.json", progress=False
    )
    return folder


@pytest.mark.parametrize("source", [{"table": "net.calib.json"}, {"data": "x.npy"}])
@pytest.mark.parametrize("release", ["8.6", "10.16"])
def test_what_overflows_in_fp16_is_built_in_fp32_and_named(ask, overflowing, release, source):
    """By constraints where flags decide, by the types of the model elsewhere."""
    words = {name: str(overflowing / file) for name, file in source.items()}
    answer = ask(release, overflowing / "net.onnx", precision="fp16", **words)
    assert "engine" in answer, answer
    (said,) = [line for line in answer["told"] if "beyond what FP16 holds" in line]
    assert "large (" in said
    assert "large" in answer["manifest"]["options"]["fp32_nodes"]
    constrained = answer["engine"]["precisions"]
    assert set(constrained) >= {"large"} if release == "8.6" else constrained == {}


def test_samples_show_overflow_wherever_their_batch_is(ask, tmp_path):
    """Batch in the second dimension: no row of it may be cut from the first; a constant input is fed."""
    g = Builder(batch=2)
    x = g.input("x", "N", 4)
    g.batch = 1
    x = g.op("Mul", x, g.input("gain"), name="large")
    onnx.save(g.model(g.op("Mul", x, g.constant(1e-6))), tmp_path / "net.onnx")
    np.save(tmp_path / "x.npy", np.full((5, 2, 4), 10.0, np.float32))
    words = {"precision": "fp16", "data": str(tmp_path / "x.npy")}
    placed = {"batch_axis": {"x": 1}, "constant": {"gain": 1e5}}
    answer = ask("10.16", tmp_path / "net.onnx", **words, **placed)
    assert "engine" in answer, answer
    assert "large" in answer["manifest"]["options"]["fp32_nodes"]
    assert answer["engine"]["profiles"] == [{"x": [[2, 1, 4], [2, 8, 4], [2, 32, 4]]}]


def test_int8_beside_fp16_keeps_fp32_where_fp16_overflows(ask, overflowing):
    words = {"precision": "int8", "table": str(overflowing / "net.calib.json")}
    for release in ("8.6", "10.16"):
        answer = ask(release, overflowing / "net.onnx", **words, force=True)
        assert any("beyond what FP16 holds" in line for line in answer["told"]), answer
        assert ("large" in answer["engine"]["precisions"]) == (release == "8.6")


def test_fp16_says_where_overflow_is_not_known(ask, overflowing):
    told = ask("10.16", overflowing / "net.onnx", precision="fp16")["told"]
    assert any("where FP16 overflows is not known" in line for line in told)


def test_what_a_cache_lacks_is_counted_and_named(ask, error_of, material, tmp_path):
    whole = material["10.16"].read_text()
    lines = whole.splitlines(keepends=True)
    poor = tmp_path / "poor.calib"
    poor.write_text("".join(lines[:-1]))
    left_out = lines[-1].rpartition(": ")[0]
    words = {"precision": "int8", "calibration_cache": poor}
    told = ask("10.16", material["net"], **words, output=str(tmp_path / "a.engine"))["told"]
    count = len(lines) - 1
    (said,) = [line for line in told if line.startswith("poor.calib has")]
    assert f"scales for {count - 1} of the {count} activations" in said
    assert f"without one are {left_out}, and " in said
    assert "layers fall back to float: " in said
    refused = error_of("10.16", material["net"], **words, min_coverage=0.99)
    assert refused.startswith("IncompleteCacheError: poor.calib has scales for")
    assert "--min-coverage is 99.0%" in refused


def test_a_cache_of_another_version_or_model_is_refused(error_of, material, tmp_path):
    said = error_of("10.16", material["net"], precision="int8", calibration_cache=material["8.6"])
    assert "TRT-8601-EntropyCalibration2, and TensorRT 10.16.1 takes TRT-101601-EntropyCalibration2 only" in said
    assert "quantkit cache convert 8.6.calib --to tensorrt --tensorrt-version 10.16.1" in said
    foreign = tmp_path / "foreign.calib"
    foreign.write_text(cache_text({"elsewhere": 1.0}, tensorrt_version="10.16.1"))
    said = error_of("10.16", material["net"], precision="int8", calibration_cache=foreign)
    assert "belongs to another model" in said
    legacy = tmp_path / "legacy.calib"
    legacy.write_text(cache_text({"x": 1.0}, tensorrt_version="10.16.1", algorithm="LegacyCalibration"))
    said = error_of("10.16", material["net"], precision="int8", calibration_cache=legacy)
    assert "is not the header of a calibration cache of EntropyCalibration2 or MinMaxCalibration" in said


def test_tensorrt_11_has_no_implicit_int8(error_of, material):
    words = {"precision": "int8", "table": material["table"], "mode": "implicit"}
    assert "TensorRT 11.4.0 has no calibrators and no INT8 flag" in error_of("11.4", material["net"], **words)
    said = error_of("11.4", material["net"], precision="int8", calibration_cache=material["10.16"])
    assert "--calib: TensorRT 11.4.0 takes no calibration cache; its scales can be kept" in said
    assert "--to table --model net.onnx -o kept.calib.json, and --table kept.calib.json" in said


@pytest.mark.parametrize("release", RELEASES)
def test_contradicting_options_are_refused(error_of, material, release):
    assert "INT8 needs the ranges of net.onnx" in error_of(release, material["net"], precision="int8")
    said = error_of(release, material["qdq"], precision="int8", table=material["table"])
    assert "contains Q/DQ, which define everything: omit --table" in said
    assert "contains Q/DQ: use --precision int8" in error_of(release, material["qdq"], precision="fp16")
    said = error_of(release, material["other"], precision="int8", table=material["table"])
    assert said.startswith("StaleTableError: the calibration table of 'net.onnx' was made from different inputs")
    said = error_of(release, material["net"], precision="fp32", table=material["table"])
    assert "--table is for quantized engines, such as --precision int8, not for fp32" in said
    assert "--target is for TensorRT-RTX" in error_of(release, material["net"], options={"targets": ["sm86"]})


@pytest.mark.parametrize("release", IMPLICIT)
def test_implicit_mode_refuses_qdq_models(error_of, material, release):
    said = error_of(release, material["qdq"], precision="int8", mode="implicit")
    assert "contains Q/DQ, which implicit INT8 ignores" in said


@pytest.mark.parametrize("release", RELEASES)
def test_every_option_reaches_tensorrt(ask, material, release, tmp_path):
    shapes = [[1, 32, 16, 16], [2, 32, 16, 16], [4, 32, 16, 16]]
    single = [[64, 32, 16, 16]] * 3
    cache = tmp_path / "timing.cache"
    options = {
        "profiles": [{"x": shapes}, {"x": single}],
        "workspace_bytes": 3 << 30,
        "builder_optimization_level": 5,
        "hardware_compatibility": "ampere-plus",
        "version_compatible": True,
        "refit": True,
        "sparsity": True,
        "tf32": False,
        "timing_cache": str(cache),
    }
    answer = ask(release, material["net"], options=options)
    engine = answer["engine"]
    assert engine["profiles"] == [{"x": shapes}, {"x": single}]
    assert engine["pools"] == {"0": 3 << 30}
    assert engine["properties"]["BuilderOptimizationLevel"] == 5
    assert engine["properties"]["HardwareCompatibilityLevel"] == 1
    assert engine["properties"]["ProfilingVerbosity"] == 2
    assert set(engine["flags"]) == {"VERSION_COMPATIBLE", "REFIT", "SPARSE_WEIGHTS"}
    assert cache.read_bytes()
    facts = answer["manifest"]["options"]
    assert facts["profiles"] == [{"x": "1x32x16x16 / 2x32x16x16 / 4x32x16x16"}, {"x": "64x32x16x16"}]
    assert facts["tf32"] is False
    assert "timing_cache" not in facts


def test_an_option_that_the_version_lacks_is_an_error(ask, error_of, material):
    stripped = {"strip_weights": True}
    assert "--strip-weights needs TensorRT 10, this is TensorRT 8.6.1" in error_of(
        "8.6", material["net"], options=stripped
    )
    assert "STRIP_PLAN" in ask("10.0", material["net"], options=stripped)["engine"]["flags"]
    same = {"hardware_compatibility": "same-compute-capability"}
    said = error_of("10.0", material["net"], options=same)
    assert "TensorRT 10.0.1 takes none or ampere-plus" in said
    assert ask("10.16", material["net"], options=same)["engine"]["properties"]["HardwareCompatibilityLevel"] == 2


@pytest.mark.parametrize("release", RELEASES)
def test_engines_for_other_versions_or_gpus_take_no_normalization_plugin(ask, material, release):
    """Of 8.6; from 10 on the parser's own normalization is the default."""
    for options in ({"version_compatible": True}, {"hardware_compatibility": "ampere-plus"}, {}):
        answer = ask(release, material["net"], options=options, force=True)
        wanted = ["NATIVE_INSTANCENORM"] if is_8(release) and options else []
        assert answer["engine"]["parser_flags"] == wanted
        assert any("load only those of people you trust" in line for line in answer["told"]) == (
            "version_compatible" in options
        )


@pytest.mark.parametrize("release", RELEASES)
def test_missing_dla_is_refused(error_of, material, release):
    said = error_of(release, material["net"], precision="fp16", options={"dla_core": 0, "allow_gpu_fallback": True})
    has_none = f"TensorRT {VERSIONS[release]} has no DLA" in said  # 10.8 to 11.4.0
    assert (
        has_none
        if 100800 <= RELEASES[release].library_version < 110401
        else "--dla-core 0: this machine has no DLA core" in said
    )
    assert "a DLA has no FP32" in error_of(release, material["net"], options={"dla_core": 0})


@pytest.mark.parametrize("release", RELEASES)
def test_mismatched_profiles_are_refused(error_of, material, release):
    def profile(name, *three):
        return {"options": {"profiles": [{name: three}]}}

    assert "no input 'y'" in error_of(release, material["net"], **profile("y", *[[1, 32, 16, 16]] * 3))
    wide = [[1, 32, 16, 16], [1, 33, 16, 16], [1, 33, 16, 16]]
    assert "dimension 1 is fixed to 32" in error_of(release, material["net"], **profile("x", *wide))


@pytest.mark.parametrize("release", RELEASES)
def test_an_up_to_date_engine_is_reused(ask, material, release, tmp_path):
    words = {"precision": "int8", "table": material["table"]}
    assert not ask(release, material["net"], **words)["reused"]
    again = ask(release, material["net"], **words)
    assert again["reused"]
    assert any(line.startswith("Reusing") for line in again["told"])
    changed = ask(release, material["net"], options={"workspace_bytes": 1 << 20}, **words)
    assert not changed["reused"]
    assert any("options workspace bytes: none → 1048576" in line for line in changed["told"])
    (tmp_path / "net.engine").write_bytes(b"something else")
    replaced = ask(release, material["net"], options={"workspace_bytes": 1 << 20}, **words)
    assert not replaced["reused"]
    assert any("is not the file that its manifest describes" in line for line in replaced["told"])
    assert not ask(release, material["net"], force=True, options={"workspace_bytes": 1 << 20}, **words)["reused"]


@pytest.mark.parametrize("release", IMPLICIT)
def test_deprecated_calls_do_not_warn_the_user(process, material, release, tmp_path):
    paths = (material["net"], material["table"], material[release], tmp_path / "net.engine")
    assert process(release).call(asked.warnings_of_implicit_builds, *map(str, paths)) == []


def test_ctrl_c_in_a_callback_ends_the_build_and_leaves_no_engine(process, material, tmp_path):
    paths = (material["net"], material["10.16"], tmp_path / "net.engine")
    assert process("10.16").call(asked.interrupt_a_build, *map(str, paths)) == "KeyboardInterrupt"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("release", RELEASES)
def test_unparsable_model_is_refused(error_of, release, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    assert error_of(release, broken).startswith("ModelError")


def _first_conv(material) -> str:
    return next(n.name for n in onnx.load(material["net"]).graph.node if n.op_type == "Conv")
