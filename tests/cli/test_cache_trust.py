"""`quantkit cache`: what it must not destroy, claim or hide."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from quantkit.caches.merge import merge_statistics
from quantkit.caches.open import open_cache
from quantkit.calibration.table import load_table, save_table
from quantkit.commands.calibrate import calibrate
from quantkit.commands.quantize import quantize, write_tensorrt_cache

from .conftest import CALIB, DIGITS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo model with everything that a calibration leaves."""
    folder = tmp_path_factory.mktemp("made")
    table = calibrate(
        DIGITS,
        CALIB,
        table_path=folder / "m.calib.json",
        keep_statistics=True,
        num_samples=60,
        batch_size=10,
        method="entropy",
        progress=False,
    )
    write_tensorrt_cache(DIGITS, table, folder / "m.calib", tensorrt_version="8.6.1")
    quantize(DIGITS, table, folder / "m.int8.onnx")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(DIGITS, tmp_path / "m.onnx")
    (tmp_path / "map.json").write_text('{"relu": "r"}')
    onnx.save(onnx.load(DIGITS), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "convert m.calib.json --to tensorrt --model m.onnx -o m.onnx",
        "convert m.calib.json --to tensorrt --model e.onnx -o e.data",
        "convert m.calib --to table --model m.onnx -o m.onnx",
        "convert m.calib --to qdq --model e.onnx -o e.data",
        "convert m.calib.json --to json -o m.calib.json",
        "convert m.calib.json --to json --map map.json -o map.json",
        "merge m.calib.stats -o m.calib.stats",
        "merge m.calib.stats -o m.onnx",
        "verify m.calib.json --model m.onnx --write-map m.calib.json",
        "verify m.calib.json --model m.onnx --write-map m.onnx",
        "verify m.calib.json --model e.onnx --write-map e.data",
        "verify m.calib.json --model m.onnx --old-model e.onnx --write-map e.onnx",
    ],
)
def test_no_command_overwrites_its_input(quantkit, folder, monkeypatch, words):
    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    outcome = quantkit("cache", *words.split())
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert words.split()[-1] in outcome.err
    assert words.split()[-2] in outcome.err or "ends in .json" in outcome.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_merge_does_not_overwrite_its_statistics(quantkit, folder):
    shutil.copyfile(folder / "m.calib.stats", folder / "part.json")
    outcome = quantkit("cache", "merge", folder / "part.json", "-o", folder / "part.json")
    assert outcome.code == 1
    assert "Refusing to overwrite the input file" in outcome.err


def without_zero_points(source, path):
    model = onnx.load(source)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            del node.input[2:]
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("kind", "version", "verdict", "said"),
    [
        ("int8", "7.2.2", "refuses", "which came with 8"),
        ("int8", "8.6.1", "accepts", "TensorRT 8 and later"),
        ("fp16", "8.6.1", "misreads", "FLOAT16"),
        ("fp16", "10.3.0", "accepts", "TensorRT 10 and later"),
        ("fp16", None, "accepts", "TensorRT 10 and later"),
        ("bare", "8.6.1", "refuses", "no zero point"),
        ("bare", "9.2.0", "refuses", "no zero point"),
        ("bare", "11.0.0", "accepts", "TensorRT 10 and later"),
        ("int8", "11.0.0", "accepts", "TensorRT 8 and later"),
    ],
)
def test_qdq_model_verdict_depends_on_tensorrt_version(quantkit, folder, kind, version, verdict, said):
    model = folder / "x.onnx"
    if kind == "fp16":
        quantize(folder / "m.onnx", folder / "m.calib.json", model, high_precision="fp16")
    elif kind == "bare":
        without_zero_points(folder / "m.int8.onnx", model)
    else:
        shutil.copyfile(folder / "m.int8.onnx", model)
    options = [] if version is None else ["--tensorrt-version", version]
    outcome = quantkit("cache", "verify", model, "--model", folder / "m.onnx", "--json", *options)
    found = json.loads(outcome.out)["tensorrt"]
    assert found["verdict"] == verdict
    assert said in found["reason"]
    assert outcome.code == (0 if verdict == "accepts" else 4)


def test_invalid_tensorrt_version_is_refused(quantkit, folder):
    words = ("cache", "verify", folder / "m.int8.onnx", "--model", folder / "m.onnx", "--tensorrt-version", "new")
    assert "--tensorrt-version 'new' is not a version" in quantkit(*words).err


def test_unobserved_extremes_are_not_reported_as_seen(quantkit, folder):
    table = folder / "c.calib.json"
    words = ("--to", "table", "--model", folder / "m.onnx", "-o", table)
    assert quantkit("cache", "convert", folder / "m.calib", *words).code == 0
    words = ("cache", "verify", table, "--model", folder / "m.onnx", "--data", CALIB)
    outcome = quantkit(*words)
    assert "when calibrated" not in outcome.out
    assert {c["seen"] for c in json.loads(quantkit(*words, "--json").out)["ranges"]} == {None}
    shown = json.loads(quantkit("cache", "show", table, "--json").out)["tensors"]
    assert {(t["minimum"], t["maximum"]) for t in shown} == {(None, None)}
    of_data = quantkit(*words[:2], folder / "m.calib.json", *words[3:])
    assert "in calibration" in of_data.out


@pytest.mark.parametrize("columns", [30, 45, 60, 70, 80])
def test_rows_are_complete_on_a_narrow_terminal(quantkit, folder, monkeypatch, columns):
    table = load_table(folder / "m.calib.json")
    wide = json.loads(quantkit("cache", "show", folder / "m.calib.json", "--json").out)["tensors"]
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = quantkit("cache", "show", folder / "m.calib.json").out
    words = shown.split()
    for tensor in wide:
        assert tensor["name"] in words
        assert {f"{tensor['amax']:.6g}", f"{tensor['scale']:.6g}", tensor["hex"]} <= set(words)
    assert "…" not in shown
    assert "tensor" in words
    assert ("histogram:" in words) == ("█" in shown)
    verified = quantkit("cache", "verify", folder / "m.calib.json", "--model", folder / "m.onnx", "--data", CALIB).out
    assert "…" not in verified
    listed = verified[verified.index("most clipped") :].split()
    assert len(set(table.tensors) & set(listed)) == min(len(table.tensors), 20)
    if columns >= 45:
        assert max(map(len, (shown + verified).splitlines())) <= columns


def test_many_tensors_are_shown_without_rich_tables(quantkit, folder, monkeypatch):
    """Rich's tables took a third of a millisecond a row; what is counted here does not depend on the machine."""
    import rich.table

    monkeypatch.setattr(rich.table.Table, "add_row", None)
    table = load_table(folder / "m.calib.json")
    one = next(iter(table.tensors.values()))
    save_table(type(table)(**{**vars(table), "tensors": {f"t{i}": one for i in range(3000)}}), folder / "b.calib.json")
    assert quantkit("cache", "show", folder / "b.calib.json").out.count("\n") > 3000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b.replace(b"\n", b"\r\n"), "has Windows line ends, which TensorRT does not write"),
        (lambda b: b"\xef\xbb\xbf" + b, "has a byte order mark, which TensorRT does not write"),
        (lambda b: b.decode().encode("utf-16"), "is UTF-16 text, as written by > in PowerShell: save it as UTF-8"),
        (lambda b: b"", "is empty"),
    ],
)
def test_cache_changed_by_an_editor_is_reported(quantkit, folder, change, said):
    cache = folder / "x.calib"
    cache.write_bytes(change((folder / "m.calib").read_bytes()))
    for words in (("cache", "show"), ("inspect",)):
        outcome = quantkit(*words, cache)
        assert outcome.code == 1
        assert outcome.err.count("\n") == 1
        if said != "is empty" or words[0] == "cache":
            assert said in outcome.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[:1000], r"is cut short after 1000 bytes, in line"),
        (lambda b: b + b"xx", "is not a calibration table: line"),
        (lambda b: b.replace(b'"amax": ', b'"amax" ', 1), "is not a calibration table: line"),
        (lambda b: b.replace(b'"format_version": 1', b'"format_version": 0'), "reads version 1: calibrate again"),
        (lambda b: b.replace(b'"format_version": 1', b'"format_version": 2'), "reads version 1: upgrade quantkit"),
        (lambda b: b.decode().encode("utf-16"), "is UTF-16 text"),
        (lambda b: b"[" * 100_000, "is nested more than 100 deep"),
    ],
)
def test_damaged_table_has_the_same_error_in_every_command(quantkit, folder, change, said):
    table, model = folder / "m.calib.json", folder / "m.onnx"
    table.write_bytes(change(table.read_bytes()))
    errors = set()
    for words in (
        ("cache", "show", table),
        ("cache", "verify", table, "--model", model),
        ("quantize", model, "--table", table, "-o", folder / "o.onnx"),
    ):
        outcome = quantkit(*words)
        assert outcome.code == 1
        errors.add(outcome.err)
    assert all(said in error for error in errors)
    if "UTF-16" not in said:
        assert len(errors) == 1
    if "cut short" in said:
        assert next(iter(errors)).endswith(": calibrate again\n")


def test_map_is_not_written_without_proposals(quantkit, folder):
    names = folder / "n.json"
    words = ("cache", "verify", folder / "m.calib.json", "--model", folder / "m.onnx", "--write-map", names)
    outcome = quantkit(*words)
    assert outcome.code == 0
    assert f"not written: {names}: there are no names to propose" in outcome.out
    assert "--old-model" not in outcome.out
    assert not names.exists()
    lines = (folder / "m.calib").read_text().splitlines()[:2]
    (folder / "f.calib").write_text("\n".join([lines[0], "foreign: 3c010204", *["other: 3c010204"], ""]))
    outcome = quantkit("cache", "verify", folder / "f.calib", *words[3:])
    assert "no names to propose: pass --old-model" in outcome.out
    assert not names.exists()


@pytest.mark.parametrize("form", ["ort", "ort-json", "ort-text"])
def test_lost_tensor_order_is_reported(quantkit, folder, form):
    table, back = folder / "t", folder / "b.calib"
    there = quantkit("cache", "convert", folder / "m.calib.json", "--to", form, "-o", table)
    assert "the network order is lost" in there.out
    words = ("--to", "tensorrt", "--tensorrt-version", "8.6.1", "-o", back, "--model", folder / "m.onnx")
    assert quantkit("cache", "convert", table, *words).code == 0
    assert list(open_cache(back).tensors) == list(open_cache(folder / "m.calib").tensors)


def test_verify_prints_the_preprocessing(quantkit, folder):
    words = ("cache", "verify", folder / "m.calib.json", "--model", folder / "m.onnx", "--data", CALIB)
    own = quantkit(*words)
    assert "preprocessing: L, stretch to 8x8 bilinear, (pixel * 1/255 - [0]) / [1], NCHW float32" in own.out
    assert "other preprocessing" not in own.out
    other = quantkit(*words, "--scale", "0.003")
    assert "preprocessing: L, stretch to 8x8 bilinear, (pixel * 1/333.333" in other.out
    assert "note: the table was calibrated with different preprocessing: table scale: 0.00392" in other.out
    assert json.loads(quantkit(*words, "--scale", "0.003", "--json").out)["preprocessing"]["scale"] == 0.003
    assert json.loads(quantkit(*words[:5], "--json").out)["preprocessing"] is None


@pytest.mark.parametrize("name", ["", "TRT-1", "{x", "nul\0"])
@pytest.mark.parametrize("form", ["ort-text", "ort"])
def test_unrepresentable_tensor_name_is_refused(quantkit, tmp_path, name, form):
    ranges = tmp_path / "r.json"
    entry = {"amax": None, "hex": "3c010204", "minimum": None, "maximum": None, "flag": ""}
    ranges.write_text(json.dumps({"format": "quantkit ranges", "format_version": 1, "tensors": {name: entry}}))
    outcome = quantkit("cache", "convert", ranges, "--to", form, "-o", tmp_path / "o")
    if form == "ort" and name:
        assert list(open_cache(tmp_path / "o").tensors) == [name]
    else:
        assert outcome.code == 1
        assert f"tensor name {name!r}" in outcome.err
        assert not (tmp_path / "o").exists()


def test_filter_without_matches_is_reported(quantkit, folder):
    assert "no tensor matches nothing*" in quantkit("cache", "show", folder / "m.calib", "--filter", "nothing*").out
    (folder / "empty.calib").write_text("TRT-101601-EntropyCalibration2\n")
    assert "it lists no tensor" in quantkit("cache", "show", folder / "empty.calib").out


def test_merged_shards_equal_the_table_of_all_data(tmp_path):
    """34, 116 and 100 rows, with no number of samples given for the parts."""
    rows = np.random.default_rng(0).random((250, 1, 8, 8), np.float32)
    options = {"keep_statistics": True, "progress": False, "batch_size": 10, "accuracy": "fast"}
    parts = []
    for i, part in enumerate(np.split(rows, [34, 150])):
        np.save(tmp_path / f"{i}.npy", part)
        table = tmp_path / f"{i}" / "m.calib.json"
        calibrate(DIGITS, tmp_path / f"{i}.npy", table_path=table, **options)
        parts.append(table.with_suffix(".stats"))
    np.save(tmp_path / "all.npy", rows)
    merge_statistics(parts, tmp_path / "merged.json", progress=False)
    for asked in (250, 500):
        table = tmp_path / f"{asked}" / "m.calib.json"
        calibrate(DIGITS, tmp_path / "all.npy", table_path=table, num_samples=asked, **options)
        # A merge has no model to tell what the output is worth.
        assert replace(load_table(table), quality={}) == load_table(tmp_path / "merged.json")
    assert load_table(tmp_path / "merged.json").settings["num_samples"] is None
