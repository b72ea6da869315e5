"""`quantkit cache` as a user types it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantkit.caches.formats.tensorrt_cache import TensorRTCache, parse_cache
from quantkit.caches.open import open_cache
from quantkit.errors import QuantKitError
from quantkit.graph.float_model import FloatModel
from quantkit.graph.placement.tensorrt import float_activations

from .conftest import CALIB, DIGITS


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The demo model with everything that calibrate writes."""
    from quantkit.cli import main

    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits.onnx").write_bytes(DIGITS.read_bytes())
    words = f"calibrate --data {CALIB} {folder / 'digits.onnx'} --all-tensors --tensorrt-version 8.6.1 --quiet"
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), "--num-samples", "100"])
    assert not stop.value.code
    return folder


def test_show_reads_every_format(quantkit, calibrated):
    shown = {}
    for name in ("digits.calib.json", "digits.calib", "digits.int8.onnx"):
        data = json.loads(quantkit("cache", "show", calibrated / name, "--json").out)
        shown[data["form"]] = {t["name"]: t["hex"] for t in data["tensors"]}
    assert set(shown) == {"table", "tensorrt", "qdq"}
    for name, bits in shown["qdq"].items():
        assert shown["table"][name] == bits
    text = quantkit("cache", "show", calibrated / "digits.calib", "--sort", "amax", "--filter", "*relu*")
    assert "TensorRT 8.6.1 cache" in text.out
    assert "entropy" in text.out


def test_show_sorts_and_filters(quantkit, calibrated):
    words = ("cache", "show", calibrated / "digits.calib.json", "--json")
    everything = json.loads(quantkit(*words).out)["tensors"]
    by_amax = json.loads(quantkit(*words, "--sort", "amax").out)["tensors"]
    assert [t["amax"] for t in by_amax] == sorted((t["amax"] for t in everything), reverse=True)
    first = everything[0]["name"]
    assert [t["name"] for t in json.loads(quantkit(*words, "--filter", first).out)["tensors"]] == [first]


def test_diff_lists_differing_scales(quantkit, calibrated, tmp_path):
    same = quantkit("cache", "diff", calibrated / "digits.calib", calibrated / "digits.calib")
    assert "0 different" in same.out
    cache = parse_cache((calibrated / "digits.calib").read_text())
    name = list(cache.scale_bits)[1]
    other = TensorRTCache(
        cache.version, cache.algorithm, {**cache.scale_bits, name: cache.scale_bits[name] + (1 << 23)}
    )
    (tmp_path / "b").write_text(other.text())
    found = json.loads(quantkit("cache", "diff", calibrated / "digits.calib", tmp_path / "b", "--json").out)
    assert (found["tensors"][0]["name"], found["tensors"][0]["ratio"]) == (name, 2.0)
    assert found["num_identical"] == len(cache.scale_bits) - 1
    text = quantkit("cache", "diff", calibrated / "digits.calib", tmp_path / "b").out
    assert "1 different" in text
    assert "of 2048 histogram bins" in text


def test_convert_tensorrt_version_changes_only_the_header(quantkit, calibrated, tmp_path):
    out = tmp_path / "ten.calib"
    words = ("cache", "convert", calibrated / "digits.calib", "--to", "tensorrt", "-o", out)
    assert quantkit(*words, "--tensorrt-version", "10.16.1").code == 0
    before, after = (p.read_bytes().partition(b"\n") for p in (calibrated / "digits.calib", out))
    assert (before[0], after[0]) == (b"TRT-8601-EntropyCalibration2", b"TRT-101601-EntropyCalibration2")
    assert before[2] == after[2]
    assert quantkit(*words).code == 0
    assert out.read_bytes() == (calibrated / "digits.calib").read_bytes()


def test_convert_table_to_tensorrt_equals_calibrate(quantkit, calibrated, tmp_path):
    out = tmp_path / "t.calib"
    words = ("--to", "tensorrt", "--model", calibrated / "digits.onnx", "--tensorrt-version", "8.6.1", "-o", out)
    outcome = quantkit("cache", "convert", calibrated / "digits.calib.json", *words)
    assert out.read_bytes() == (calibrated / "digits.calib").read_bytes()
    assert "scales only" in outcome.out


def test_convert_to_qdq_keeps_the_scales(quantkit, calibrated, tmp_path):
    out = tmp_path / "d.int8.onnx"
    model = calibrated / "digits.onnx"
    outcome = quantkit("cache", "convert", calibrated / "digits.calib", "--to", "qdq", "--model", model, "-o", out)
    assert outcome.code == 0, outcome.err
    onnx.checker.check_model(onnx.load(out))
    made, cache = open_cache(out), open_cache(calibrated / "digits.calib")
    assert len(made.tensors) >= 10
    for name, value in made.tensors.items():
        assert value.scale_bits == cache.tensors[name].scale_bits
    assert "10 of 10 weighted operators are INT8" in outcome.out


@pytest.mark.parametrize("target", ["ort", "ort-json", "ort-text", "json", "table"])
def test_round_trip_conversion_keeps_every_scale(quantkit, calibrated, tmp_path, target):
    model = calibrated / "digits.onnx"
    there, back = tmp_path / "there", tmp_path / "back"
    assert (
        quantkit("cache", "convert", calibrated / "digits.calib", "--to", target, "--model", model, "-o", there).code
        == 0
    )
    words = ("--to", "tensorrt", "--model", model, "--tensorrt-version", "8.6.1", "-o", back)
    assert quantkit("cache", "convert", there, *words).code == 0
    one, other = (parse_cache(p.read_text()).scale_bits for p in (calibrated / "digits.calib", back))
    assert one == other


def test_table_from_a_cache_quantizes(quantkit, calibrated, tmp_path):
    table = tmp_path / "c.calib.json"
    model = calibrated / "digits.onnx"
    quantkit("cache", "convert", calibrated / "digits.calib", "--to", "table", "--model", model, "-o", table)
    data = json.loads(table.read_text())
    assert data["settings"]["calibrator"] == "TensorRT 8.6.1 cache"
    assert data["dataset"] == {"fingerprint": "", "num_samples": 0}
    for target in ("tensorrt", "cpu"):
        out = tmp_path / f"{target}.onnx"
        outcome = quantkit("quantize", model, "--table", table, "--target", target, "-o", out)
        assert outcome.code == 0, outcome.err
    assert quantkit("inspect", table).code == 0
    assert quantkit("cache", "verify", table, "--model", model).code == 0


def without_tensor(calibrated, tmp_path, name: str):
    cache = parse_cache((calibrated / "digits.calib").read_text())
    bits = {n: b for n, b in cache.scale_bits.items() if n != name}
    path = tmp_path / "less.calib"
    path.write_text(TensorRTCache(cache.version, cache.algorithm, bits).text())
    return path


def test_verify_names_missing_tensors(quantkit, calibrated, tmp_path):
    model = calibrated / "digits.onnx"
    needed = json.loads(quantkit("cache", "verify", calibrated / "digits.calib", "--model", model, "--json").out)[
        "needed"
    ]
    less = without_tensor(calibrated, tmp_path, needed[1])
    outcome = quantkit("cache", "verify", less, "--model", model, "--json")
    data = json.loads(outcome.out)
    assert outcome.code == 4
    assert data["missing"] == [needed[1]]
    assert needed[1] in data["float_operators"].values()
    # Made into a model, those operators stay in float; the CPU's plan needs the range and says so.
    out = tmp_path / "m.onnx"
    outcome = quantkit("cache", "convert", less, "--to", "qdq", "--model", model, "-o", out)
    assert outcome.code == 0
    assert "operators stay in float" in outcome.out
    assert needed[1] not in open_cache(out).tensors
    table = tmp_path / "less.calib.json"
    quantkit("cache", "convert", less, "--to", "table", "--model", model, "-o", table)
    outcome = quantkit("quantize", model, "--table", table, "--target", "cpu", "-o", out)
    assert outcome.code == 1
    assert needed[1] in outcome.err


@pytest.mark.parametrize(
    ("version", "code", "verdict"),
    [("8.6.1", 0, "accepts"), ("8.6.0", 4, "recalibrates"), ("10.16.1", 4, "recalibrates"), ("11.0.0", 4, "ignores")],
)
def test_verify_compares_tensorrt_versions(quantkit, calibrated, version, code, verdict):
    words = ("cache", "verify", calibrated / "digits.calib", "--model", calibrated / "digits.onnx", "--json")
    outcome = quantkit(*words, "--tensorrt-version", version)
    assert outcome.code == code
    assert json.loads(outcome.out)["tensorrt"]["verdict"] == verdict


def test_verify_compares_ranges_with_data(quantkit, calibrated):
    words = (
        "cache",
        "verify",
        calibrated / "digits.calib.json",
        "--model",
        calibrated / "digits.onnx",
        "--data",
        CALIB,
    )
    outcome = quantkit(*words)
    assert outcome.code == 0, outcome.out
    assert "up to date" in outcome.out
    outcome = quantkit(*words, "--preprocess", "none")  # 0 to 255 instead of 0 to 1
    assert outcome.code == 4
    assert "of its values exceed" in outcome.out
    data = json.loads(quantkit(*words, "--json").out)
    assert all(c["seen"] is not None for c in data["ranges"])


def rename_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    constants = {t.name for t in model.graph.initializer}
    outside = {v.name for v in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [n if not n or n in constants | outside else f"r/{n}" for n in names]
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize("with_old_model", [True, False])
def test_name_mapping_is_proposed_and_applied_only_on_request(quantkit, calibrated, tmp_path, with_old_model):
    model, cache, names = tmp_path / "renamed.onnx", calibrated / "digits.calib", tmp_path / "map.json"
    onnx.save(rename_tensors(onnx.load(calibrated / "digits.onnx")), model)
    words = ["--old-model", calibrated / "digits.onnx"] if with_old_model else []
    outcome = quantkit("cache", "verify", cache, "--model", model, "--write-map", names, *words)
    assert outcome.code == 4
    assert f"by {'structure' if with_old_model else 'order'}" in outcome.out
    proposal = json.loads(names.read_text())
    assert proposal
    assert all(b == f"r/{a}" for a, b in proposal.items())
    out = tmp_path / "r.int8.onnx"
    unasked = quantkit("cache", "convert", cache, "--to", "qdq", "--model", model, "-o", out)
    assert unasked.code == 4 or "stay in float" in unasked.out
    asked = quantkit("cache", "convert", cache, "--to", "qdq", "--model", model, "-o", out, "--map", names)
    assert asked.code == 0, asked.err
    assert "10 of 10 weighted operators" in asked.out


def test_convert_reports_asymmetric_ranges(quantkit, calibrated, tmp_path):
    unsigned, out = tmp_path / "cpu.onnx", tmp_path / "o.json"
    table = calibrated / "digits.calib.json"
    quantkit("quantize", calibrated / "digits.onnx", "--table", table, "--target", "cpu", "-o", unsigned)
    outcome = quantkit("cache", "convert", unsigned, "--to", "ort-json", "-o", out)
    assert outcome.code == 0, outcome.err
    assert "the larger side is kept" in outcome.out


def test_a_cache_that_would_be_incomplete_is_refused(quantkit, calibrated, tmp_path):
    """TensorRT would run the layers without a scale in float, and say so only in its log."""
    model, out = calibrated / "digits.onnx", tmp_path / "o.calib"
    words = ("--to", "tensorrt", "--tensorrt-version", "8.6.1", "-o", out)
    without = quantkit("cache", "convert", calibrated / "digits.calib.json", *words)
    assert (without.code, "pass --model" in without.err) == (1, True)
    partial = quantkit("cache", "convert", calibrated / "digits.int8.onnx", *words, "--model", model)
    assert partial.code == 1
    assert "have none: " in partial.err
    assert "conv2d_1" in partial.err
    assert not out.exists()


def test_without_all_tensors_no_cache_is_written_and_an_old_one_goes(quantkit, digits):
    words = ("calibrate", "--data", CALIB, digits, "--num-samples", "20", "--accuracy", "fast")
    assert quantkit(*words).code == 0
    cache = digits.with_name("digits.calib")
    assert set(parse_cache(cache.read_text()).scale_bits) >= set(float_activations(FloatModel(digits).prepared()))
    outcome = quantkit(*words, "--no-all-tensors")
    assert outcome.code == 0
    assert "digits.calib is not written: " in outcome.err
    assert "TensorRT calibration cache" not in outcome.out
    assert not cache.exists()


def test_invalid_calls_are_one_line(quantkit, calibrated, tmp_path):
    cache, model = calibrated / "digits.calib", calibrated / "digits.onnx"
    (tmp_path / "map").write_text("[]")
    (tmp_path / "map2").write_text('{"nobody": "x"}')
    for words in (
        ("show", tmp_path / "nothing"),
        ("show", model),
        ("show", tmp_path),
        ("convert", cache, "--to", "qdq", "-o", tmp_path / "o"),
        ("convert", cache, "--to", "json", "-o", cache),
        ("convert", cache, "--to", "json", "-o", tmp_path / "o", "--map", tmp_path / "map"),
        ("convert", cache, "--to", "json", "-o", tmp_path / "o", "--map", tmp_path / "map2"),
        ("convert", cache, "--to", "tensorrt", "-o", tmp_path / "o", "--tensorrt-version", "11.0.0"),
        ("verify", cache, "--model", calibrated / "digits.int8.onnx"),
        ("verify", cache, "--model", model, "--max-clipped", "7"),
    ):
        outcome = quantkit("cache", *words)
        assert outcome.code == 1, words
        assert outcome.err.count("\n") == 1, words
        assert outcome.err.startswith("quantkit: error: "), words
    assert not (tmp_path / "o").exists()


def test_verify_table_of_another_model_is_stale(quantkit, calibrated, tmp_path):
    model = onnx.load(calibrated / "digits.onnx")
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(weight) * np.float32(2)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    outcome = quantkit("cache", "verify", calibrated / "digits.calib.json", "--model", tmp_path / "other.onnx")
    assert outcome.code == 4
    assert "was made from different inputs: model hash" in outcome.out


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["", ".onnx", ".calib", ".flatbuffers"]))
def test_any_file_is_read_or_refused_in_one_line(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    try:
        open_cache(path)
    except QuantKitError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The demo model calibrated with statistics kept."""
    from quantkit.cli import main

    folder = tmp_path_factory.mktemp("kept")
    (folder / "digits.onnx").write_bytes(DIGITS.read_bytes())
    words = f"calibrate --data {CALIB} {folder / 'digits.onnx'} --keep-statistics --calibrator quantkit --quiet"
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), "--num-samples", "100"])
    assert not stop.value.code
    return folder


def test_show_draws_histograms_of_kept_statistics(quantkit, kept, calibrated, monkeypatch):
    for name in ("digits.calib.json", "digits.calib.stats"):
        shown = quantkit("cache", "show", kept / name)
        assert shown.code == 0, shown.err
        row = next(line for line in shown.out.splitlines() if line.startswith(" relu "))
        assert row.count("│") == 1
        assert "▁" in row or "▂" in row
        assert "│ is amax" in shown.out
        tensors = json.loads(quantkit("cache", "show", kept / name, "--json").out)["tensors"]
        relu = next(t for t in tensors if t["name"] == "relu")
        assert len(relu["histogram"]["counts"]) == 20
        assert relu["histogram"]["upper"] == relu["maximum"]
    assert "histogram" not in quantkit("cache", "show", calibrated / "digits.calib.json").out
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, quantkit("cache", "show", kept / "digits.calib.json").out.splitlines())) <= 80


def test_statistics_are_refused_as_ranges(quantkit, kept, tmp_path):
    model = kept / "digits.onnx"
    for words in (
        ("verify", kept / "digits.calib.stats", "--model", model),
        ("convert", kept / "digits.calib.stats", "--to", "json", "-o", tmp_path / "o"),
        ("diff", kept / "digits.calib.stats", kept / "digits.calib.json"),
    ):
        outcome = quantkit("cache", *words)
        assert outcome.code == 1
        assert "'quantkit cache merge digits.calib.stats -o digits.calib.json' creates a table" in outcome.err
    outcome = quantkit("inspect", kept / "digits.calib.stats")
    assert outcome.code == 1
    assert "use `quantkit cache show`" in outcome.err


def test_json_of_every_command_has_the_documented_keys(quantkit, kept):
    """Each key of docs/how-to/caches.md, and no other."""
    import re

    text = (CALIB.parents[2] / "docs" / "how-to" / "caches.md").read_text()
    documented = {}
    for title, table in re.findall(r"^\*\*(.+?)\*\*.*?\n\n((?:\|.*\n)+)", text, re.MULTILINE):
        rows = [row.split("|")[1] for row in table.splitlines()[2:]]
        documented[title] = {key for row in rows for key in re.findall(r"`([a-z_0-9]+)`", row)}
    table, model = kept / "digits.calib.json", kept / "digits.onnx"
    shown = json.loads(quantkit("cache", "show", table, "--json").out)
    found = json.loads(quantkit("cache", "diff", table, kept / "digits.calib", "--json").out)
    checked = json.loads(quantkit("cache", "verify", table, "--model", model, "--data", CALIB, "--json").out)
    head = documented["Every file"]
    assert set(shown) == head | documented["show"]
    assert set(shown["tensors"][0]) == documented["tensors of show"]
    assert set(found) == documented["diff"]
    assert set(found["first"]) == set(found["second"]) == head
    assert set(found["tensors"][0]) == documented["tensors of diff"]
    assert set(checked) == head | documented["verify"]
    assert set(checked["ranges"][0]) == documented["ranges of verify"]


def test_verify_finds_files_of_two_runs(quantkit, kept, tmp_path):
    import shutil

    folder = shutil.copytree(kept, tmp_path / "mixed")
    options = ("--num-samples", "100", "--calibrator", "quantkit", "--quiet", "--method", "minmax")
    assert quantkit("calibrate", "--method", "entropy", "--data", CALIB, folder / "digits.onnx", *options).code == 0
    table = folder / "digits.calib.json"
    assert quantkit("cache", "verify", table, "--model", folder / "digits.onnx").code == 0
    shutil.copyfile(kept / "digits.int8.onnx", folder / "digits.int8.onnx")
    outcome = quantkit("cache", "verify", table, "--model", folder / "digits.onnx")
    assert outcome.code == 4
    assert "stale: digits.int8.onnx was made from different inputs: table checksum" in outcome.out
    for command in (("cache", "show"), ("inspect",)):
        shown = quantkit(*command, folder / "digits.int8.onnx").out
        assert "it was made from different inputs: table checksum" in shown
    shutil.copyfile(kept / "digits.calib", folder / "digits.calib")
    outcome = quantkit("cache", "verify", folder / "digits.calib", "--model", folder / "digits.onnx")
    assert outcome.code == 4
    assert "other scales than digits.calib.json beside it" in outcome.out


def test_diff_prints_what_was_compared(quantkit, kept):
    out = quantkit("cache", "diff", kept / "digits.calib", kept / "digits.calib.json").out
    assert "TensorRT 10.16.1 cache" in out or "cache      entropy" in out
    assert "quantkit calibration table" in out


def test_invalid_map_is_refused_with_its_position(quantkit, calibrated, tmp_path):
    path = tmp_path / "names.json"
    words = ("cache", "convert", calibrated / "digits.calib", "--to", "json", "-o", tmp_path / "o", "--map", path)
    for content, said in (('{"a": 1}', "the new name of 'a' is not text"), ('{"a": "b"', "is cut short after 9 bytes")):
        path.write_text(content)
        assert said in quantkit(*words).err


def test_verify_compares_clipping_with_calibration(quantkit, kept):
    words = ("cache", "verify", kept / "digits.calib.json", "--model", kept / "digits.onnx", "--data", CALIB)
    same = json.loads(quantkit(*words, "--num-samples", "100", "--json").out)
    for check in same["ranges"]:
        assert check["clipped"] == pytest.approx(check["clipped_then"], abs=1e-6)  # the same 100 images
    assert any(check["clipped_then"] > 0 for check in same["ranges"])
    assert not any("clip more than" in note for note in same["notes"])
    other = json.loads(quantkit(*words, "--num-samples", "20", "--scale", "0.012", "--json").out)
    assert any("tensors clip more than 4 times what they did when calibrated" in note for note in other["notes"])
    assert "then %" in quantkit(*words).out
    ranges = json.loads(quantkit(*words[:2], kept / "digits.calib", *words[3:], "--json").out)["ranges"]
    assert {check["clipped_then"] for check in ranges} == {None}


def test_verify_reports_models_that_tensorrt_refuses(quantkit, calibrated, tmp_path):
    model, unsigned = calibrated / "digits.onnx", tmp_path / "cpu.onnx"
    table = calibrated / "digits.calib.json"
    quantkit("quantize", model, "--table", table, "--target", "cpu", "-o", unsigned)
    words = ("cache", "verify", unsigned, "--model", model, "--json")
    for options, code in (((), 0), (("--tensorrt-version", "10.3.0"), 4)):
        outcome = quantkit(*words, *options)
        assert outcome.code == code
        found = json.loads(outcome.out)["tensorrt"]
        assert found["verdict"] in ("refuses", "misreads")
        assert "convert it with --to qdq" in found["reason"]
    accepted = json.loads(quantkit(*words[:2], calibrated / "digits.int8.onnx", *words[3:]).out)
    assert accepted["tensorrt"]["verdict"] == "accepts"
