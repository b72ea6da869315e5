"""Options: sizes and targets as users write them, what is refused, and what TensorRT-RTX has no use for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.tensorrt.build.build_options import BuildOptions, parse_size, parse_target
from quantkit.backends.tensorrt.build.build_progress import Phases
from quantkit.backends.tensorrt.build.builder import ImplicitQuantization
from quantkit.backends.tensorrt.build.configuration import check_options, default_targets
from quantkit.backends.tensorrt.build.precision import Typing, choose_typing
from quantkit.backends.tensorrt.build.profiles import OptimizationProfile, ShapeRange
from quantkit.backends.tensorrt.gpu import Gpu, find_gpu
from quantkit.backends.tensorrt.library import Library, load_library
from quantkit.errors import BackendError

ADA = Gpu("NVIDIA GeForce RTX 4090", "8.9")


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return load_library("tensorrt-rtx")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 << 20),
        ("512M", 512 << 20),
        ("4G", 4 << 30),
        ("1.5GiB", 3 << 29),
        ("64k", 64 << 10),
        ("7B", 7),
        (" 2 gb ", 2 << 30),
    ],
)
def test_sizes_are_parsed(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1T", "1GG", "1,5G", "4 G B", "inf"])
def test_invalid_size_is_refused(text):
    with pytest.raises(BackendError, match="--workspace"):
        parse_size(text)


@given(st.sampled_from(["sm{}", "SM{}", "sm_{}", "{}", " sm{} "]), st.sampled_from([80, 86, 89, 120, 121]))
def test_target_spellings_are_accepted(form, number):
    assert parse_target(form.format(number)) == f"sm{number}"
    assert parse_target(f"{number // 10}.{number % 10}") == f"sm{number}"


@pytest.mark.parametrize("text", ["", "sm", "ada", "sm8", "8", "8.6.1", "sm1234"])
def test_invalid_target_is_refused(text):
    with pytest.raises(BackendError, match="--target"):
        parse_target(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"workspace_bytes": 0}, "--workspace"),
        ({"builder_optimization_level": 6}, "from 0 to 5"),
        ({"builder_optimization_level": -1}, "from 0 to 5"),
        ({"dla_core": -1}, "--dla-core"),
        ({"allow_gpu_fallback": True}, "--allow-gpu-fallback goes with --dla-core"),
        ({"targets": ("sm86", "8.6")}, "--target sm86 is given twice"),
        ({"targets": ("sm86", "sm75")}, "in float"),
        ({"hardware_compatibility": "hopper"}, "hardware_compatibility 'hopper'"),
        ({"precision_constraints": "wish"}, "precision_constraints 'wish'"),
    ],
)
def test_invalid_options_are_refused(words, message):
    with pytest.raises(BackendError, match=message):
        BuildOptions(**words)


def test_facts_list_only_chosen_options():
    assert BuildOptions().facts() == {}
    shapes = OptimizationProfile({"x": ShapeRange((1, 3), (2, 3), (4, 3))})
    options = BuildOptions(
        profiles=(shapes,), workspace_bytes=5, tf32=False, targets=("8.6",), timing_cache=Path("t"), refit=True
    )
    assert options.facts() == {
        "profiles": [{"x": "1x3 / 2x3 / 4x3"}],
        "workspace_bytes": 5,
        "tf32": False,
        "targets": ["sm86"],
        "refit": True,
    }
    assert BuildOptions(builder_optimization_level=0, dla_core=0).facts() == {
        "builder_optimization_level": 0,
        "dla_core": 0,
    }


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ({"builder_optimization_level": 3}, "--builder-optimization-level"),
        ({"timing_cache": Path("t")}, "--timing-cache"),
        ({"hardware_compatibility": "ampere-plus"}, "--hardware-compatibility"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"dla_core": 0}, "--dla-core"),
        ({"refit": True}, "--refit"),
        ({"strip_weights": True}, "--strip-weights"),
        ({"targets": ("sm90",)}, "--target sm90: TensorRT-RTX .* builds for sm80"),
    ],
)
def test_options_unsupported_by_rtx_are_refused(rtx, words, option):
    with pytest.raises(BackendError, match=option):
        check_options(rtx, BuildOptions(**words))


def test_rtx_refit_needs_a_gpu(rtx):
    check_options(rtx, BuildOptions(refit=True, strip_weights=True), gpu=ADA)
    check_options(rtx, BuildOptions(workspace_bytes=1 << 30, sparsity=True, tf32=False, targets=("sm89", "sm120")))


def test_rtx_builds_for_the_installed_gpu(rtx):
    assert default_targets(rtx, ADA) == ("sm89",)
    assert default_targets(rtx, None) == ()
    assert default_targets(rtx, Gpu("NVIDIA H100", "9.0")) == ()
    with pytest.raises(BackendError, match=r"RTX 2080 \(sm75\) is too old"):
        default_targets(rtx, Gpu("RTX 2080", "7.5"))


def library_with(*flags, strong):
    """A library that has these builder flags, and strong typing or not."""
    creation = SimpleNamespace(**({"STRONGLY_TYPED": 1} if strong else {}))
    module = SimpleNamespace(
        BuilderFlag=SimpleNamespace(**dict.fromkeys(flags, 0)), NetworkDefinitionCreationFlag=creation
    )
    return Library(module=module, name="tensorrt", version=(10, 0, 0))


OLD = library_with("INT8", "FP16", strong=False)
BOTH = library_with("INT8", "FP16", strong=True)
NEW = library_with(strong=True)


@pytest.mark.parametrize(
    ("library", "precision", "words", "typing"),
    [
        (OLD, "fp32", {}, Typing("fp32", "explicit", strong=False, flags=())),
        (OLD, "fp16", {}, Typing("fp16", "explicit", strong=False, flags=("FP16",))),
        (OLD, "int8", {}, Typing("int8", "explicit", strong=False, flags=("INT8", "FP16"))),
        (OLD, "int8", {"high_precision": "fp32"}, Typing("int8", "explicit", strong=False, flags=("INT8",))),
        (BOTH, "int8", {}, Typing("int8", "explicit", strong=True, flags=())),
        (BOTH, "int8", {"mode": "implicit"}, Typing("int8", "implicit", strong=False, flags=("INT8", "FP16"))),
        (BOTH, "int8", {"dla": True}, Typing("int8", "implicit", strong=False, flags=("INT8", "FP16"))),
        (BOTH, "fp16", {"dla": True}, Typing("fp16", "implicit", strong=False, flags=("FP16",))),
        (BOTH, "int8", {"dla": True, "mode": "explicit"}, Typing("int8", "explicit", strong=True, flags=())),
        (NEW, "fp16", {}, Typing("fp16", "explicit", strong=True, flags=())),
        (NEW, "int8", {"dla": True}, Typing("int8", "explicit", strong=True, flags=())),
    ],
)
def test_precision_flags_apply_only_without_strong_typing(library, precision, words, typing):
    assert choose_typing(library, precision, **words) == typing


def test_gpu_detection_never_fails():
    gpu = find_gpu()
    assert gpu is None or parse_target(gpu.compute_capability) == gpu.target


def test_nested_phases_make_one_share_that_never_falls():
    phases = Phases()
    shares = [phases.share]
    phases.start("build", 2)
    phases.start("time", 4)
    for step in range(4):
        phases.step("time", step)
        shares.append(phases.share)
    phases.finish("time")
    phases.step("build", 0)
    shares.append(phases.share)
    phases.start("time", 2)  # the same name again, below the second step
    phases.step("time", 0)
    shares.append(phases.share)
    phases.step("unknown", 7)
    phases.step("build", 1)
    shares.append(phases.share)
    assert shares == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("words", [{}, {"float_nodes": ("conv",)}, {"ranges": {"x": 1.0}, "calibrator": object()}])
def test_implicit_quantization_needs_one_source_of_ranges(words):
    with pytest.raises(BackendError, match="ranges or a calibrator, not both"):
        ImplicitQuantization(**words)
