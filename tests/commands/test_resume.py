"""Kept statistics that spare a run, and interrupted runs that go on."""

import contextlib
import re
import shutil

import numpy as np
import pytest

from quantkit.caches.files import CalibrationFiles
from quantkit.calibration.statistics_file import load_statistics, save_statistics
from quantkit.commands import collect
from quantkit.commands.calibrate import calibrate
from quantkit.errors import CalibrationError, DatasetError
from quantkit.notices import Notice
from quantkit.types import Batch
from tests.cli.conftest import CALIB, DIGITS, conv_model, write_images


class InterruptionError(Exception):
    """Stands for a kill between two batches."""


@pytest.fixture
def often(monkeypatch):
    """Checkpoints after each batch."""
    monkeypatch.setattr(collect, "CHECKPOINT_S", 0.0)


@pytest.fixture
def images(tmp_path):
    folder = write_images(tmp_path / "images", 23)
    for number in (0, 9, 10, 21, 22):
        (folder / f"{number:03}.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def model(tmp_path):
    return conv_model(tmp_path / "net.onnx")


@pytest.fixture
def interrupted(monkeypatch, often):
    """Runs until so many checkpoints were written, and stops there."""

    def run_until(after, *arguments, **options):
        count = iter(range(1, 1000))

        def save(kept, path):
            result = save_statistics(kept, path)
            if next(count) == after:
                raise InterruptionError
            return result

        with monkeypatch.context() as patch:
            patch.setattr(collect, "save_statistics", save)
            with pytest.raises(InterruptionError):
                run(*arguments, **options)

    return run_until


def run(model, data, table, said=None, **options):
    common = {"batch_size": 4, "progress": False, "calibrator": "quantkit", "min_readable": 0.5, "accuracy": "fast"}
    options = common | options
    return calibrate(model, data, table_path=table, notify=None if said is None else said.append, **options)


@pytest.mark.parametrize(("histogram", "accuracy"), [("exact", "balanced"), ("tensorrt", "fast")])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_a_resumed_run_gives_the_same_table(interrupted, tmp_path, model, images, histogram, accuracy, after):
    options = {"histogram": histogram, "accuracy": accuracy, "order": "given", "keep_statistics": True}
    whole = tmp_path / "whole.json"
    run(model, images, whole, **options)
    table, partial = tmp_path / "t.json", tmp_path / "t.partial"
    interrupted(after, model, images, table, **options)
    assert not table.exists()
    assert load_statistics(partial).num_samples == min(4 * after, 18)
    said: list[Notice] = []
    run(model, images, table, said, resume=True, **options)
    assert any(notice.text.startswith("Resuming after") for notice in said)
    assert table.read_bytes() == whole.read_bytes()
    assert table.with_suffix(".stats").read_bytes() == whole.with_suffix(".stats").read_bytes()
    assert not partial.exists()
    assert any("5 unreadable images were left out" in notice.text for notice in said)


def test_the_batch_size_chosen_by_memory_is_that_of_the_interrupted_run(interrupted, tmp_path):
    table = tmp_path / "t.json"
    interrupted(3, DIGITS, CALIB, table, batch_size=None)
    run(DIGITS, CALIB, table, batch_size=None, resume=True)
    run(DIGITS, CALIB, tmp_path / "whole.json", batch_size=None)
    assert table.read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 5}, "batch size: 4 → 5"),
        ({"seed": 3}, "order of the samples"),
        ({"num_samples": 10}, "samples: "),
        ({"preprocessing": "tf"}, "preprocessing"),
        ({"histogram": "tensorrt"}, "histogram: exact → tensorrt"),
        ({"all_tensors": False}, "observed tensors: "),
    ],
)
def test_another_run_starts_anew_and_says_why(interrupted, tmp_path, model, options, reason):
    images = write_images(tmp_path / "images", 12)
    table = tmp_path / "t.json"
    interrupted(1, model, images, table)
    said: list[Notice] = []
    run(model, images, table, said, resume=True, **options)
    assert any(notice.text.startswith("Starting from the first sample") and reason in notice.text for notice in said), (
        said
    )
    run(model, images, tmp_path / "whole.json", **options)
    assert table.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_strict_does_not_continue_over_a_broken_image(interrupted, tmp_path, model, images):
    table = tmp_path / "t.json"
    interrupted(2, model, images, table)
    (images / "000.png").write_bytes((images / "001.png").read_bytes())
    said: list[Notice] = []
    run(model, images, table, said, resume=True)
    assert any("samples: 000.png" in notice.text for notice in said)


def test_nothing_to_resume_a_broken_checkpoint_and_a_forgotten_one(tmp_path, model):
    images = write_images(tmp_path / "images", 12)
    table, partial = tmp_path / "t.json", tmp_path / "t.partial"
    said: list[Notice] = []
    run(model, images, table, said, resume=True)
    assert any("Nothing to resume" in notice.text for notice in said)
    partial.write_bytes(b"quantkit statistics 1 1000 00\n{")
    run(model, images, table, said, resume=True, force=True)
    assert any("t.partial is cut short" in notice.text for notice in said)
    partial.write_bytes(b"")
    run(model, images, table, said, force=True)
    assert any("Pass --resume to continue it" in notice.text for notice in said)
    assert not partial.exists()


def test_statistics_once_every_method_later(tmp_path, monkeypatch):
    table = tmp_path / "t.calib.json"
    run(DIGITS, CALIB, table, keep_statistics=True)
    monkeypatch.setattr("quantkit.commands.on_device.OnnxRuntimeRunner", None)  # a run of the model would fail
    for options in ({"method": "mse"}, {"method": "percentile", "percentile": 99.0}, {"method": "minmax", "seed": 4}):
        said: list[Notice] = []
        run(DIGITS, CALIB, table, said, **options)
        assert any("the model does not have to run" in notice.text for notice in said)
        kept = table.read_bytes()
        monkeypatch.undo()
        run(DIGITS, CALIB, tmp_path / "fresh.json", force=True, **options)
        assert kept == (tmp_path / "fresh.json").read_bytes()
        monkeypatch.setattr("quantkit.commands.on_device.OnnxRuntimeRunner", None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_samples": 10}, "samples: "),
        ({"all_tensors": False}, "observed tensors: "),
        ({"preprocessing": "tf"}, "preprocessing"),
        ({"strict": True}, "strict: 1 samples"),
    ],
)
def test_statistics_of_other_inputs_are_not_used(tmp_path, model, options, reason):
    images = write_images(tmp_path / "images", 12)
    (images / "003.png").write_bytes(b"no image")
    table = tmp_path / "t.json"
    run(model, images, table, keep_statistics=True)
    said: list[Notice] = []
    with contextlib.suppress(DatasetError):  # --strict: the image cannot be read
        run(model, images, table, said, method="mse", **options)
    assert any(notice.text.startswith("Not using t.stats") and reason in notice.text for notice in said), said


def test_a_table_without_statistics_is_made_again_to_keep_them(tmp_path, model):
    images = write_images(tmp_path / "images", 12)
    table = tmp_path / "t.json"
    run(model, images, table)
    before = table.read_bytes()
    run(model, images, table, keep_statistics=True)
    assert table.read_bytes() == before
    assert load_statistics(tmp_path / "t.stats").is_complete
    said: list[Notice] = []
    run(model, images, table, said, keep_statistics=True)
    assert any(notice.text.startswith("Reusing") for notice in said)


def test_broken_statistics_are_told_and_collected_again(tmp_path, model):
    images = write_images(tmp_path / "images", 12)
    table = tmp_path / "t.json"
    run(model, images, table, keep_statistics=True)
    good = (tmp_path / "t.stats").read_bytes()
    (tmp_path / "t.stats").write_bytes(good[:-3])
    said: list[Notice] = []
    run(model, images, table, said, method="mse", keep_statistics=True)
    assert any("t.stats is cut short" in notice.text for notice in said)
    assert (tmp_path / "t.stats").read_bytes() == good


def test_what_has_no_statistics_to_keep(tmp_path, model):
    images = write_images(tmp_path / "images", 12)
    with pytest.raises(CalibrationError, match="TensorRT's calibrator saves no statistics"):
        run(model, images, tmp_path / "t.json", calibrator="tensorrt", resume=True)
    with pytest.raises(CalibrationError, match="pass table_path"):
        run(model, images, None, keep_statistics=True)


def test_the_rest_is_unreadable(interrupted, tmp_path, model):
    """Killed before the last images, none of which can be read."""
    images = write_images(tmp_path / "images", 6)
    for number in (4, 5):
        (images / f"{number:03}.png").write_bytes(b"no image")
    table = tmp_path / "t.json"
    options = {"batch_size": 4, "order": "given"}
    interrupted(1, model, images, table, **options)
    shutil.copyfile(tmp_path / "t.partial", tmp_path / "u.partial")
    run(model, images, table, resume=True, **options)
    run(model, images, tmp_path / "whole.json", **options)
    assert table.read_bytes() == (tmp_path / "whole.json").read_bytes()
    with pytest.raises(Exception, match=r"004\.png"):
        run(model, images, tmp_path / "u.json", resume=True, strict=True, **options)


def sequence_first(path, batch):
    """A model of a fixed batch size that moves the batch to the second place."""
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.random.default_rng(4).standard_normal((8, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["rows"], name="rows"),
        helper.make_node("Transpose", ["rows"], ["turned"], perm=[1, 0, 2], name="turn"),
        helper.make_node("MatMul", ["turned", "w"], ["m"], name="product"),
        helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [24, batch, 2])],
        [
            numpy_helper.from_array(np.array([batch, 24, 8], np.int64), "shape"),
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(weight[:3, :2].copy(), "v"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_copies_that_count_are_told_and_kept(interrupted, tmp_path):
    model = sequence_first(tmp_path / "s.onnx", 4)
    images = write_images(tmp_path / "images", 10)
    said: list[Notice] = []
    whole, table = tmp_path / "whole.json", tmp_path / "t.json"
    run(model, images, whole, said, keep_statistics=True)
    notes = [notice for notice in said if "2 copies filled up batches" in notice.text]
    assert len(notes) == 1
    assert re.search("such as '(r|m|turned)'", notes[0].text)
    assert load_statistics(whole.with_suffix(".stats")).num_repeated == 2
    interrupted(3, model, images, table, keep_statistics=True)
    said.clear()
    run(model, images, table, said, keep_statistics=True, resume=True)
    assert any("2 copies filled up batches" in notice.text for notice in said), said
    assert table.with_suffix(".stats").read_bytes() == whole.with_suffix(".stats").read_bytes()


def test_copies_that_are_cut_off_are_not_told(tmp_path):
    model = conv_model(tmp_path / "net.onnx", shape=(4, 3, 8, 8))
    said: list[Notice] = []
    run(model, write_images(tmp_path / "images", 10), tmp_path / "t.json", said, keep_statistics=True)
    assert not any("copies filled" in notice.text for notice in said)
    assert load_statistics(tmp_path / "t.stats").num_repeated == 0


def test_a_caller_from_python_waits_for_another_run_too(tmp_path):
    import threading

    from quantkit.storage import exclusive

    table_path, told = tmp_path / "digits.calib.json", threading.Event()

    def notify(notice):
        if notice.topic == "lock":
            told.set()

    def run():
        calibrate(DIGITS, CALIB, table_path=table_path, num_samples=16, method="entropy", progress=False, notify=notify)

    lock = CalibrationFiles(table_path).lock
    assert lock == tmp_path / ".digits.calib.lock"
    with exclusive(lock, on_wait=pytest.fail):
        thread = threading.Thread(target=run)
        thread.start()
        assert told.wait(60)
        assert not table_path.exists()
    thread.join(60)
    assert table_path.exists()


def test_a_checkpoint_waits_until_all_samples_that_were_read_have_been_used(monkeypatch):
    """Samples of two shapes: those of each are batched, so that the first batch is not the first samples."""
    monkeypatch.setattr(collect, "CHECKPOINT_S", -1.0)
    array = np.zeros((2, 1), np.float32)
    pairs = [("a1", "a2"), ("b1", "b2"), ("a3", "a4")]
    saved, used = [], []
    batches = (Batch(inputs={"x": array}, ids=ids) for ids in pairs)
    ids = ("a1", "b1", "a2", "broken", "b2", "a3", "a4")
    skipped = {}
    for batch in collect._with_checkpoints(batches, ids, skipped, lambda: saved.append([*used])):
        used.extend(batch.ids)
        skipped["broken"] = "why"
    assert saved == [["a1", "a2", "b1", "b2"], ["a1", "a2", "b1", "b2", "a3", "a4"]]


@pytest.mark.parametrize("options", [{"min_readable": 0.9}, {"strict": True}])
def test_samples_that_an_earlier_run_did_not_take_are_not_called_unreadable(tmp_path, options):
    model, images = conv_model(tmp_path / "net.onnx"), write_images(tmp_path / "images", 8)
    said: list[Notice] = []
    for count in (4, 8):
        said.clear()
        run(model, images, tmp_path / "t.json", said, num_samples=count, accuracy="fast", **options)
    (reason,) = [notice.text for notice in said if notice.text.startswith("Recalibrating")]
    assert re.search(r"different inputs: dataset fingerprint: \w+ → \w+$", reason)
