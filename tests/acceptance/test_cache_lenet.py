"""A cache that TensorRT 7.2.2 wrote, made into an INT8 model that works."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from quantkit.caches.formats.detect import read_ranges
from quantkit.caches.open import open_cache
from quantkit.caches.range_cache import difference
from quantkit.calibration.table import load_table, table_checksum
from quantkit.commands.convert import convert_cache
from quantkit.graph.float_model import FloatModel
from quantkit.graph.model import input_specs


def test_every_cache_from_the_wild_is_rewritten_byte_for_byte(shared, tmp_path):
    files = [p for p in sorted((shared / "tensorrt" / "caches").glob("*.cache")) if "NOT_TRT" not in p.name]
    assert len(files) >= 20
    for path in files:
        convert_cache(path, tmp_path / path.name, target="tensorrt")
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
        convert_cache(path, tmp_path / "x.json", target="json")
        one, other = read_ranges(path), read_ranges(tmp_path / "x.json")
        assert {n: r.scale_bits for n, r in one.tensors.items()} == {n: r.scale_bits for n, r in other.tensors.items()}


@pytest.fixture(scope="module")
def int8(shared, tmp_path_factory):
    golden = shared / "golden" / "lenet_mnist"
    path = tmp_path_factory.mktemp("lenet") / "lenet.int8.onnx"
    convert_cache(golden / "tensorrt_7.2.2.cache", path, target="qdq", model=golden / "lenet.onnx")
    return path


def test_its_scales_are_tensorrts(shared, int8):
    theirs = open_cache(shared / "golden" / "lenet_mnist" / "tensorrt_7.2.2.cache").tensors
    ours = open_cache(int8).tensors
    sources = {"data": "data", "pool1": "pool1", "flat": "pool2", "ip1": "ip1"}
    assert {n: r.scale_bits for n, r in ours.items()} == {n: theirs[s].scale_bits for n, s in sources.items()}


def test_fp16_rounds_its_scales_up_by_less_than_fp16_holds(shared, int8, tmp_path):
    golden = shared / "golden" / "lenet_mnist"
    half = tmp_path / "half.onnx"
    convert_cache(
        golden / "tensorrt_7.2.2.cache", half, target="qdq", model=golden / "lenet.onnx", high_precision="fp16"
    )
    found = difference(open_cache(int8), open_cache(half))
    assert not found.only_first
    assert not found.only_second
    assert all(1 <= t.ratio <= 1 + 2**-10 for t in found.tensors)


def test_it_works(shared, int8):
    from quantkit.backends.onnxruntime import OnnxRuntimeRunner
    from quantkit.datasets import iterate_batches, open_dataset

    golden = shared / "golden" / "lenet_mnist"
    dataset = open_dataset(golden / "images", input_specs(FloatModel(golden / "lenet.onnx").graph))
    outputs = {}
    for name, model in (("fp32", golden / "lenet.onnx"), ("int8", int8)):
        with OnnxRuntimeRunner(model, fuse_qdq=False) as runner:
            batches = [runner.run(batch.inputs)["prob"] for batch in iterate_batches(dataset, 50)]
        outputs[name] = np.concatenate(batches)
    assert len(outputs["fp32"]) == 500
    agreement = np.mean(outputs["fp32"].argmax(1) == outputs["int8"].argmax(1))
    noise = np.sum((outputs["fp32"] - outputs["int8"]) ** 2)
    assert agreement >= 0.99
    assert 10 * np.log10(np.sum(outputs["fp32"] ** 2) / noise) > 25


def test_the_documented_example_prints_what_is_shown(shared, tmp_path, monkeypatch, capsys):
    """Section "My TensorRT 8 cache, on TensorRT 11" of docs/how-to/caches.md, command by command."""
    from quantkit.cli import main

    golden = shared / "golden" / "lenet_mnist"
    shutil.copyfile(golden / "lenet.onnx", tmp_path / "lenet.onnx")
    shutil.copyfile(golden / "tensorrt_7.2.2.cache", tmp_path / "lenet.cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "caches.md").read_text()
    section = text.partition("## My TensorRT 8 cache, on TensorRT 11\n")[2].partition("\n## ")[0]
    lines = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ")]
    commands = [i for i, line in enumerate(lines) if line.removeprefix("$ ").startswith("quantkit ")]
    assert len(commands) == 3
    for start, end in itertools.pairwise([*commands, len(lines)]):
        with pytest.raises(SystemExit):
            main(lines[start].removeprefix("$ ").removeprefix("quantkit ").split())
        printed = capsys.readouterr().out.splitlines()
        for line in lines[start + 1 : end]:
            assert line == "..." or line in printed, (lines[start], line)
    assert open_cache("lenet.calib.json").table.settings["calibrator"] == "TensorRT 7.2.2 cache"
    assert open_cache("lenet.int8.onnx").made_of == table_checksum(load_table("lenet.calib.json"))
