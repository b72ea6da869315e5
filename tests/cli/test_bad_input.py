"""What a user mistypes or lacks: one line that names the thing and the fix, the exit code, nothing half-written."""

import resource
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tests.cli.conftest import CALIB, DIGITS, VAL, conv_model, write_images


def assert_refused(outcome, code, *words, folder=None, kept=()):
    """One error line that holds `words`, and no new file in `folder`."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("quantkit: error:")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.code == code
    for word in words:
        assert str(word) in lines[0], lines[0]
    if folder is not None:
        assert sorted(p.name for p in folder.iterdir()) == sorted(kept)


def assert_usage(outcome, *words):
    assert outcome.code == 2
    lines = outcome.err.splitlines()
    assert [line.startswith("quantkit: error:") for line in lines].count(True) == 1, outcome.err
    assert lines[-1].startswith("quantkit: error:"), outcome.err
    text = " ".join(outcome.err.replace("│", " ").split())
    for word in words:
        assert word in text, text


# -------------------------------------------------------------------------------------------------------------- data


def test_missing_data_folder_is_named(quantkit, digits, tmp_path):
    outcome = quantkit("calibrate", "--data", tmp_path / "imgs", digits)
    assert_refused(outcome, 1, tmp_path / "imgs", "does not exist", folder=tmp_path, kept=["digits.onnx"])


def test_empty_folder_is_refused(quantkit, digits, tmp_path):
    (tmp_path / "imgs").mkdir()
    outcome = quantkit("calibrate", "--data", tmp_path / "imgs", digits)
    assert_refused(outcome, 1, tmp_path / "imgs", "image", folder=tmp_path, kept=["digits.onnx", "imgs"])


def test_folder_without_images_is_refused(quantkit, digits, tmp_path):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "notes.md").write_text("no image")
    assert_refused(quantkit("calibrate", "--data", tmp_path / "imgs", digits), 1, "imgs", ".md")


def test_folder_without_readable_images_is_refused(quantkit, digits, tmp_path):
    (tmp_path / "imgs").mkdir()
    for i in range(3):
        (tmp_path / "imgs" / f"{i}.png").write_bytes(b"not an image")
    outcome = quantkit("calibrate", "--data", tmp_path / "imgs", digits)
    assert_refused(outcome, 1, "no readable image among 3", ".png", folder=tmp_path, kept=["digits.onnx", "imgs"])


def spoil(folder):
    """One text, one truncated and one empty image file."""
    (folder / "a_text.png").write_text("no image")
    whole = (folder / "000.png").read_bytes()
    (folder / "b_truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "c_empty.png").write_bytes(b"")


def test_corrupt_images_are_skipped_counted_and_listed(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    spoil(write_images(tmp_path / "imgs", 20, size=(40, 40)))
    outcome = quantkit("calibrate", "--data", tmp_path / "imgs", model, "--min-readable", "0.8")
    assert outcome.code == 0
    warning = next(line for line in outcome.err.splitlines() if "unreadable" in line)
    assert "3 unreadable" in warning
    for name in ("a_text.png", "b_truncated.png", "c_empty.png"):
        assert name in warning
    assert "samples                 20" in outcome.out


def test_strict_fails_on_a_corrupt_image(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    spoil(write_images(tmp_path / "imgs", 20, size=(40, 40)))
    outcome = quantkit("calibrate", "--data", tmp_path / "imgs", model, "--strict")
    assert_refused(outcome, 1, ".png", folder=tmp_path, kept=["imgs", "net.onnx"])


def test_decompression_bomb_is_skipped(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    folder = write_images(tmp_path / "imgs", 3)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    outcome = quantkit("calibrate", "--data", folder, model, "--min-readable", "0.7")
    assert outcome.code == 0
    assert "bomb.png" in outcome.err


def test_decompression_bomb_fails_when_strict(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    folder = write_images(tmp_path / "imgs", 3)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    assert_refused(quantkit("calibrate", "--data", folder, model, "--strict"), 1, "bomb.png")


# ------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["net.onnx", "not an ONNX model"]),
        (b"\x00\x01rubbish", ["not an ONNX"]),
        (b"PK\x03\x04zip", ["not an ONNX"]),
    ],
)
def test_file_that_is_not_onnx_is_refused(quantkit, tmp_path, content, words):
    model = tmp_path / "net.onnx"
    model.write_bytes(content)
    assert_refused(quantkit("calibrate", "--data", CALIB, model), 1, *words, folder=tmp_path, kept=["net.onnx"])


@pytest.mark.parametrize("name", ["yolov8n.pt", "net.PTH"])
def test_a_model_of_pytorch_is_to_be_exported(quantkit, tmp_path, name):
    model = tmp_path / name
    model.write_bytes(b"PK\x03\x04zip")
    said = f"{model} is not an ONNX model: export it first (torch.onnx.export, `yolo export format=onnx`)"
    assert_refused(quantkit("calibrate", "--data", CALIB, model), 1, said, folder=tmp_path, kept=[name])


def test_missing_model_and_folder_as_model_are_refused(quantkit, tmp_path):
    assert_refused(quantkit("calibrate", "--data", CALIB, tmp_path / "net.onnx"), 1, "net.onnx", "no such")
    assert_refused(quantkit("calibrate", "--data", CALIB, tmp_path), 1, tmp_path, "folder")


def test_unsupported_opset_is_refused(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx", opset=6)
    assert_refused(quantkit("calibrate", "--data", CALIB, model), 1, "net.onnx", "opset 6", "export")


def test_model_without_quantizable_nodes_is_refused(quantkit, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 8, 8])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    outcome = quantkit("calibrate", "--data", CALIB, tmp_path / "net.onnx")
    assert_refused(outcome, 1, "no node to quantize", folder=tmp_path, kept=["net.onnx"])


@pytest.mark.usefixtures("calibrated")
def test_quantized_model_is_refused(quantkit, digits, tmp_path):
    outcome = quantkit("calibrate", "--data", CALIB, tmp_path / "digits.int8.onnx")
    assert_refused(outcome, 1, "digits.int8.onnx", "already quantized")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("n", 4, 8, 8), ["'x'", "npz"]),
        (("n", 3, "h", "w"), ["'x'", "--size"]),
        (("n", 3), ["'x'", "npz"]),
    ],
)
def test_non_image_model_input_is_refused(quantkit, tmp_path, shape, words):
    weight = np.ones((8, 4, 3, 3), np.float32) if shape[1] == 4 else None
    model = conv_model(tmp_path / "net.onnx", shape=shape, weight=weight)
    folder = write_images(tmp_path / "imgs")
    assert_refused(quantkit("calibrate", "--data", folder, model), 1, *words)


def test_size_option_completes_a_dynamic_model(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx", shape=("n", 3, "h", "w"))
    outcome = quantkit("calibrate", "--data", write_images(tmp_path / "imgs"), model, "--size", "8x16")
    assert outcome.code == 0, outcome.err
    assert "8x16" in outcome.err


def test_size_that_contradicts_the_model_is_refused(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    folder = write_images(tmp_path / "imgs")
    assert_refused(quantkit("calibrate", "--data", folder, model, "--size", "16"), 1, "--size")


def test_several_inputs_require_npz(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx", extra_input=True)
    assert_refused(quantkit("calibrate", "--data", write_images(tmp_path / "imgs"), model), 1, "x0", "x1", ".npz")
    rng = np.random.default_rng(0)
    arrays = {f"x{i}": rng.standard_normal((30, 3, 8, 8)).astype(np.float32) for i in (0, 1)}
    np.savez(tmp_path / "data.npz", **arrays)
    outcome = quantkit("calibrate", "--data", tmp_path / "data.npz", model)
    assert outcome.code == 0, outcome.err
    np.savez(tmp_path / "data.npz", x0=arrays["x0"])
    assert_refused(quantkit("calibrate", "--data", tmp_path / "data.npz", model), 1, "x1")


def test_non_finite_activations_name_tensor_and_image(quantkit, tmp_path):
    weight = np.full((8, 3, 3, 3), 3e38, np.float32)
    model = conv_model(tmp_path / "net.onnx", weight=weight)
    folder = write_images(tmp_path / "imgs")
    outcome = quantkit("calibrate", "--data", folder, model, "--preprocess", "unit")
    assert_refused(outcome, 1, "NaN or infinite", ".png", "tensor", folder=tmp_path, kept=["imgs", "net.onnx"])


# ----------------------------------------------------------------------------------------------------- table, output


@pytest.mark.usefixtures("calibrated")
def test_table_of_another_model_is_refused(quantkit, digits, tmp_path):
    other = conv_model(tmp_path / "other.onnx", shape=("n", 1, 8, 8))
    table = tmp_path / "digits.calib.json"
    outcome = quantkit("quantize", other, "--table", table)
    assert_refused(outcome, 4, "digits.onnx", "other.onnx")
    assert not (tmp_path / "other.int8.onnx").exists()
    assert_refused(quantkit("evaluate", "--data", VAL, other, "--table", table), 4, "other.onnx")


def test_invalid_table_is_refused(quantkit, digits, tmp_path):
    assert_refused(quantkit("quantize", digits, "--table", tmp_path / "no.json"), 1, "no.json")
    (tmp_path / "t.json").write_text("{}")
    assert_refused(quantkit("quantize", digits, "--table", tmp_path / "t.json"), 1, "t.json", "not a calibration table")


@pytest.mark.usefixtures("calibrated")
def test_damaged_table_is_recalibrated(quantkit, digits, tmp_path):
    table = tmp_path / "digits.calib.json"
    whole = table.read_text()
    table.write_text(whole[:-40])
    outcome = quantkit("calibrate", "--method", "entropy", "--data", CALIB, digits)
    assert outcome.code == 0
    assert "warning" in outcome.err
    assert "digits.calib.json is cut short after" in outcome.err
    assert table.read_text() == whole


def test_reuse_only_exits_with_stale_code(quantkit, digits, tmp_path):
    assert_refused(quantkit("calibrate", "--data", CALIB, digits, "--reuse-only"), 4, "digits.calib.json", "no")
    words = ("calibrate", "--data", CALIB, digits, "--num-samples", "32")
    assert quantkit(*words, "--method", "entropy").code == 0
    assert quantkit(*words, "--method", "entropy", "--reuse-only").code == 0
    outcome = quantkit(*words, "--method", "mse", "--reuse-only")
    assert_refused(outcome, 4, "method: entropy → mse")


def test_output_folder_that_is_a_file_is_refused(quantkit, digits, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert_refused(quantkit("calibrate", "--data", CALIB, digits, "-o", tmp_path / "out"), 1, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.usefixtures("ordinary_rights")
def test_read_only_output_folder_is_refused(quantkit, digits, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir(mode=0o500)
    assert_refused(quantkit("calibrate", "--data", CALIB, digits, "-o", folder), 1, folder)


@pytest.mark.usefixtures("calibrated")
def test_full_disk_keeps_existing_files(quantkit, digits, tmp_path):
    """A limit on the size of files stands for a full disk: write fails in the middle."""
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    import signal

    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        outcome = quantkit("quantize", digits, "--table", tmp_path / "digits.calib.json", "--exclude", "Gemm")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert_refused(outcome, 1, "digits.int8.onnx", "cannot write")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# ----------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preprocess", "imagnet"], ["imagnet", "imagenet"]),
        (["--percentile", "99"], ["--percentile", "'auto'"]),
        (["--method", "percentile", "--percentile", "0"], ["--percentile", "above 0"]),
        (["--num-samples", "0"], ["--num-samples"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--workers", "0"], ["--workers"]),
        (["--seed", "-1"], ["--seed"]),
        (["--exclude", "nothing*"], ["--exclude", "nothing*"]),
        (["--tensorrt-version", "eight"], ["--tensorrt-version", "eight"]),
        (["--tensorrt-version", "11.0.0"], ["11.0.0", "Q/DQ"]),
        (["--tensorrt-version", "8.6"], ["8.6", "8.6.1"]),
        (["--target", "cpu", "--high-precision", "fp16"], ["--high-precision"]),
        (["--std", "0"], ["std"]),
        (["--mean", "1,2"], ["mean"]),
        (["--reuse-only", "--force"], ["--reuse-only", "--force"]),
    ],
)
def test_invalid_option_values_are_refused(quantkit, digits, tmp_path, words, expected):
    outcome = quantkit("calibrate", "--data", CALIB, digits, *words)
    code = 4 if "--reuse-only" in words else 1
    assert_refused(outcome, code, *expected, folder=tmp_path, kept=["digits.onnx"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "magic"], ["--method", "magic", "minmax"]),
        (["--size", "big"], ["--size", "224"]),
        (["--scale", "1/0"], ["--scale"]),
        (["--mean", "a,b"], ["--mean"]),
        (["--nonsense"], ["--nonsense"]),
        (["--classes", "/no/such/file"], ["--classes"]),
    ],
)
def test_usage_errors_are_one_line(quantkit, digits, words, expected):
    assert_usage(quantkit("calibrate", "--data", CALIB, digits, *words), *expected)


def test_missing_data_option_is_a_usage_error(quantkit, digits):
    assert_usage(quantkit("calibrate", digits), "--data")


def test_evaluate_refuses_invalid_options(quantkit, digits, tmp_path):
    assert_refused(quantkit("evaluate", "--data", VAL, digits, "--variants", "fp32,int3"), 1, "int3", "int8")
    assert_refused(quantkit("evaluate", "--data", VAL, digits, "--variants", "int8"), 1, "--table")
    assert_usage(quantkit("evaluate", "--data", VAL, digits, "--variant", "x"), "--variant", "NAME=PATH")
    assert_refused(quantkit("evaluate", "--data", VAL, digits, "--variant", f"x={tmp_path / 'no.onnx'}"), 1, "no.onnx")
    assert_refused(quantkit("evaluate", "--data", VAL, digits, "--variant", f"fp32={DIGITS}"), 1, "fp32", "taken")


def test_labels_beyond_the_model_classes_are_refused(quantkit, tmp_path):
    model = conv_model(tmp_path / "net.onnx", shape=("n", 1, 8, 8))
    outcome = quantkit("evaluate", "--data", VAL, model, "--latency-s", "0")
    assert_refused(outcome, 1, "--classes")


def test_variant_of_another_model_is_refused(quantkit, digits, tmp_path):
    shutil.copy(DIGITS, tmp_path / "copy.onnx")
    other = conv_model(tmp_path / "other.onnx", shape=("n", 1, 8, 8))
    outcome = quantkit("evaluate", "--data", VAL, digits, "--variant", f"other={other}", "--latency-s", "0")
    assert_refused(outcome, 1, "other")


# --------------------------------------------------------------------------------------------- the user's own files


@pytest.mark.usefixtures("calibrated")
def test_inputs_are_never_overwritten(quantkit, digits, tmp_path):
    table, model = tmp_path / "digits.calib.json", digits.read_bytes()
    kept = table.read_bytes()
    for output, code in ((digits, 1), (table, 2)):  # a name that ends in .json is no model
        outcome = quantkit("quantize", digits, "--table", table, "-o", output)
        assert_refused(outcome, code, output.name, "-o")
    rtx = pytest.importorskip("tensorrt_rtx")
    assert rtx
    for output in (digits, table):
        outcome = quantkit("build", digits, "--precision", "int8", "--target", "sm89", "--table", table, "-o", output)
        assert_refused(outcome, 2, output.name, "-o")
    assert digits.read_bytes() == model
    assert table.read_bytes() == kept


def test_names_with_line_breaks_stay_on_one_line(quantkit, digits, tmp_path):
    (tmp_path / "imgs").mkdir()
    (tmp_path / "imgs" / "a\nb.png").write_bytes(b"no image")
    outcome = quantkit("calibrate", "--data", tmp_path / "imgs", digits, "--strict")
    assert_refused(outcome, 1, r"a\nb.png")


def test_output_path_that_is_a_folder_is_refused(quantkit, digits, tmp_path):
    (tmp_path / "digits.int8.onnx").mkdir()
    outcome = quantkit("calibrate", "--data", CALIB, digits)
    assert_refused(outcome, 1, "digits.int8.onnx", folder=tmp_path, kept=["digits.int8.onnx", "digits.onnx"])


def test_an_output_of_another_kind_is_refused(quantkit, digits, tmp_path):
    words = ("calibrate", "--data", CALIB, digits, "-o", tmp_path / "new.engine")
    assert_usage(quantkit(*words), "--output", "new.engine is neither a .onnx file nor a folder")


def test_an_option_is_no_value_of_the_option_before_it(quantkit, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (
        ("report", "report.json", "--chart", "--json"),
        ("calibrate", digits, "--data", CALIB, "-o", "--dry-run"),
        ("evaluate", digits, "--data", VAL, "--variant", "--no_thumbnails"),
    ):
        assert_usage(quantkit(*words), words[-2], f"{words[-1]} is an option: give a value before it")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]


@pytest.mark.parametrize(
    "words", [f"init --data {CALIB} -o x.onnx", "export triton -o x.onnx", "export deepstream -o x.json"]
)
def test_a_file_name_of_another_kind_becomes_no_folder(quantkit, digits, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert_usage(quantkit(*words.split(), "digits.onnx"), "--output", "neither a")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]


@pytest.mark.usefixtures("calibrated")
def test_evaluating_a_quantized_model_is_refused(quantkit, digits, tmp_path):
    assert_refused(quantkit("evaluate", "--data", VAL, tmp_path / "digits.int8.onnx"), 1, "--variant", "float model")


def test_invalid_latency_duration_is_refused(quantkit, digits):
    for word in ("inf", "nan", "-1"):
        assert_refused(quantkit("evaluate", "--data", VAL, digits, f"--latency-s={word}"), 1, "--latency-s")
