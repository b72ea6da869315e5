"""Files that belong together: whole sets, and sets of two runs as a kill between two files leaves them."""

import dataclasses
import itertools
import shutil

import onnx
import pytest

from quantkit.caches.verify import verify_cache
from quantkit.calibration.table import load_table, save_table, table_checksum
from quantkit.commands.calibrate import calibrate
from quantkit.commands.inspect import inspect
from quantkit.commands.quantize import quantize, write_tensorrt_cache
from tests.cli.conftest import CALIB, DIGITS, conv_model, write_images

METHODS = ("minmax", "entropy")
FILES = ("d.calib.stats", "d.calib.json", "d.calib", "d.int8.onnx")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Everything that two runs with other methods write, each in its folder."""
    root = tmp_path_factory.mktemp("runs")
    for method in METHODS:
        folder = root / method
        folder.mkdir()
        table = calibrate(
            DIGITS,
            CALIB,
            table_path=folder / "d.calib.json",
            method=method,
            num_samples=100,
            keep_statistics=True,
            progress=False,
            calibrator="quantkit",
        )
        write_tensorrt_cache(DIGITS, table, folder / "d.calib", tensorrt_version="8.6.1")
        quantize(DIGITS, table, folder / "d.int8.onnx")
    return root


@pytest.fixture
def mix(runs, tmp_path):
    def make(**methods: str):
        for name in FILES:
            shutil.copyfile(runs / methods.get(name.replace(".", "_"), "entropy") / name, tmp_path / name)
        return tmp_path

    return make


def verify(path):
    found = verify_cache(path, DIGITS, tensorrt_version="8.6.1", progress=False)
    return list(found.problems), list(found.notes)


def test_a_set_of_one_run_is_whole(mix):
    folder = mix()
    assert verify(folder / "d.calib.json") == ([], [])
    assert verify(folder / "d.calib") == ([], ["its scales are those of d.calib.json beside it"])
    problems, notes = verify(folder / "d.int8.onnx")
    checksum = table_checksum(load_table(folder / "d.calib.json"))
    assert problems == []
    assert notes == [f"made of calibration table {checksum[:12]}, which is d.calib.json beside it"]


@pytest.mark.parametrize("new", [n for n in itertools.product([0, 1], repeat=3) if 0 < sum(n) < 3])
def test_any_mix_of_two_runs_is_stale_seen_from_the_table(mix, new):
    names = ("d_calib_json", "d_calib", "d_int8_onnx")
    folder = mix(**{name: METHODS[i] for name, i in zip(names, new, strict=True)})
    problems, _ = verify(folder / "d.calib.json")
    said = " ".join(problems)
    assert ("d.int8.onnx was made from different inputs: table checksum" in said) == (new[2] != new[0])
    assert ("d.calib next to it has other scales" in said) == (new[1] != new[0])
    assert verify(folder / "d.calib")[0] != [] or new[1] == new[0]
    assert verify(folder / "d.int8.onnx")[0] != [] or new[2] == new[0]


def test_a_table_made_from_tensorrts_cache_may_list_less(mix):
    folder = mix()
    table = load_table(folder / "d.calib.json")
    lines = (folder / "d.calib").read_text().splitlines(keepends=True)
    (folder / "d.calib").write_text("".join(lines[:-1]))
    assert "is not listed" in verify(folder / "d.calib.json")[0][0]
    settings = {**table.settings, "calibrator": "TensorRT 8.6.1"}
    save_table(dataclasses.replace(table, settings=settings), folder / "d.calib.json")
    assert not any("d.calib beside it" in problem for problem in verify(folder / "d.calib.json")[0])
    name, _, bits = lines[1].rstrip().rpartition(": ")
    (folder / "d.calib").write_text("".join([lines[0], f"{name}: {int(bits, 16) + 1:x}\n"]))  # 127 * scale as float32
    assert not any("d.calib beside it" in problem for problem in verify(folder / "d.calib.json")[0])
    (folder / "d.calib").write_text("".join([lines[0], f"{name}: {int(bits, 16) + 9:x}\n"]))
    assert f"d.calib next to it has other scales ({name})" in " ".join(verify(folder / "d.calib.json")[0])


def test_statistics_and_checkpoint_of_another_run_are_told(mix, tmp_path):
    folder = mix()
    calibrate(
        DIGITS,
        CALIB,
        table_path=tmp_path / "o" / "d.json",
        num_samples=20,
        method="entropy",
        keep_statistics=True,
        progress=False,
    )
    shutil.copyfile(tmp_path / "o" / "d.stats", folder / "d.calib.stats")
    shutil.copyfile(tmp_path / "o" / "d.stats", folder / "d.calib.partial")
    problems, notes = verify(folder / "d.calib.json")
    assert problems == []
    assert notes[0].startswith("d.calib.stats beside it is not of this table (data fingerprint: ")
    assert notes[1] == "an interrupted run left d.calib.partial: calibrate --resume continues it"


def test_files_beside_it_that_cannot_be_read_are_told(mix):
    folder = mix()
    (folder / "d.int8.onnx").write_bytes(b"no model")
    (folder / "d.calib").write_bytes(b"TRT-8601-EntropyCalibration2\nx")
    problems, notes = verify(folder / "d.calib.json")
    assert problems == []
    assert [any(name in note for note in notes) for name in ("d.int8.onnx", "d.calib is truncated")] == [True, True]


def test_a_model_without_its_table(mix):
    folder = mix()
    (folder / "d.calib.json").unlink()
    problems, notes = verify(folder / "d.int8.onnx")
    assert problems == []
    assert notes[0].startswith("made of calibration table ")
    assert notes[0].endswith("which is not beside it")
    assert verify(folder / "d.calib") == ([], [])
    (folder / "d.calib.json").write_text("{")
    for name in ("d.int8.onnx", "d.calib"):
        problems, notes = verify(folder / name)
        assert problems == []
        assert "the table next to it cannot be used" in notes[-1]


def test_a_table_of_another_model_beside_it(mix):
    folder = mix()
    table = dataclasses.replace(load_table(folder / "d.calib.json"), model_hash="f" * 64)
    save_table(table, folder / "d.calib.json")
    problems, (note,) = verify(folder / "d.calib")
    assert problems == []
    assert note.startswith("d.calib.json next to it is not compared: ")
    assert "model hash: ffffffffffff → " in note
    model = onnx.load(folder / "d.int8.onnx")
    model.metadata_props[0].value = table_checksum(table)
    onnx.save(model, folder / "d.int8.onnx")
    problems, _ = verify(folder / "d.int8.onnx")
    assert problems[0].startswith("it was made of d.calib.json: the calibration table of 'digits.onnx' was made from ")
    assert "model hash: ffffffffffff → " in problems[0]


def test_an_engine_of_another_table_is_told(mix):
    from quantkit.backends.tensorrt.build.manifest import Manifest, save_manifest

    folder = mix()
    (folder / "d.int8.engine").write_bytes(b"ftrt")
    facts = {"model_name": "d", "model_hash": "a", "precision": "int8", "mode": "explicit", "library": "tensorrt"}
    manifest = Manifest(**facts, library_version="10.0.0", gpu=None, quantkit_version="0", table={"sha256": "0" * 64})
    save_manifest(manifest, folder / "d.int8.engine.json")
    problems, (note,) = verify(folder / "d.calib.json")
    assert problems == []
    assert note.startswith("d.int8.engine was made from different inputs: table sha256: 000000000000 → ")


def test_rounded_weights_of_another_run_or_none_are_stale(tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    tables = [tmp_path / name / "net.calib.json" for name in ("a", "b")]
    for count, table in zip((8, 16), tables, strict=True):
        table.parent.mkdir()
        calibrate(model, write_images(tmp_path / str(count), count), table_path=table, progress=False)

    def problems():
        return list(verify_cache(tables[0], model, progress=False).problems)

    weights = tables[0].with_suffix(".weights")
    own = weights.read_bytes()
    assert problems() == []
    shutil.copyfile(tables[1].with_suffix(".weights"), weights)
    checksums = [table_checksum(load_table(table))[:12] for table in tables]
    stale = f"net.calib.weights was made from different inputs: table checksum: {checksums[1]} → {checksums[0]}"
    assert stale in problems()[0]
    weights.write_bytes(own[:-1])
    assert "cut short" in problems()[0]
    weights.unlink()
    assert "cannot read rounded weights" in problems()[0]


def test_inspect_says_what_an_int8_model_was_made_of(mix):
    folder = mix(d_calib_json="minmax")
    assert "it was made from different inputs: table checksum" in inspect(folder / "d.int8.onnx").notes[-1]


def test_the_model_for_the_cpu_belongs_to_the_set(mix, runs):
    folder = mix()
    other = "d.int8-cpu.onnx was made from different inputs: table checksum"
    for method, stale in (("entropy", False), ("minmax", True)):
        quantize(DIGITS, runs / method / "d.calib.json", folder / "d.int8-cpu.onnx", target="cpu", reduce_range=False)
        assert (other in " ".join(verify(folder / "d.calib.json")[0])) == stale
        notes, problems = verify(folder / "d.int8-cpu.onnx")[::-1]
        assert any(other in problem for problem in problems) == stale
        assert any("which is d.calib.json beside it" in note for note in notes) != stale


def test_a_renamed_model_does_not_make_the_cache_beside_it_another_runs(mix, tmp_path):
    """Scales of one run are told apart through the model of that run, and through no other."""
    folder = mix()
    model = onnx.load(DIGITS)
    fixed = {t.name for t in model.graph.initializer} | {v.name for v in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [n if not n or n in fixed else f"r/{n}" for n in names]
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "renamed.onnx")
    found = verify_cache(folder / "d.calib.json", tmp_path / "renamed.onnx", progress=False)
    said = " ".join((*found.problems, *found.notes))
    assert "was made from different inputs: model hash" in said
    assert "other scales" not in said
