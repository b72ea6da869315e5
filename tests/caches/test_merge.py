"""Statistics of parts, merged, against one run over everything: the demo model and its images."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantkit.caches.contents import shown_cache
from quantkit.caches.merge import merge_statistics
from quantkit.calibration.collect import Collector
from quantkit.calibration.statistics_file import KeptStatistics, StatisticsOrigin, load_statistics, save_statistics
from quantkit.calibration.table import load_table, table_json
from quantkit.commands.calibrate import calibrate
from quantkit.datasets.fingerprint import fingerprint_of
from quantkit.errors import CalibrationError, OutputError
from quantkit.notices import Notice
from quantkit.types import Batch
from tests.cli.conftest import CALIB, DIGITS, conv_model, write_images

IMAGES = sorted(CALIB.glob("*/*.png"))
ROWS = (
    np.random.default_rng(5).standard_normal((40, 1, 7)).astype(np.float32) * np.geomspace(1e-3, 1e3, 40)[:, None, None]
)


def split_folder(folder: Path, images: list[Path]) -> Path:
    for image in images:
        target = folder / image.parent.name / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, target)
    return folder


def run(model, data, folder, **options):
    options = {"batch_size": 10, "classes": [str(i) for i in range(10)], "progress": False} | options
    folder.mkdir(exist_ok=True)
    table = folder / "m.calib.json"
    calibrate(model, data, table_path=table, keep_statistics=True, calibrator="quantkit", accuracy="fast", **options)
    return table, table.with_suffix(".stats")


def without_quality(table: Path) -> str:
    """A table as a merge writes it: nothing could be run to tell what the output is worth."""
    return table_json(dataclasses.replace(load_table(table), quality={}))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """One run over 120 images, and over three parts of 30, 40 and 50 of them."""
    root = tmp_path_factory.mktemp("parts")
    images = [IMAGES[i] for i in np.random.default_rng(1).permutation(len(IMAGES))[:120]]
    whole = run(DIGITS, split_folder(root / "all", images), root / "whole")
    bounds = [0, 30, 70, 120]
    stats = []
    for i in range(3):
        data = split_folder(root / f"data{i}", images[bounds[i] : bounds[i + 1]])
        stats.append(run(DIGITS, data, root / f"part{i}")[1])
    return whole, stats


@pytest.mark.parametrize("method", ["auto", "entropy", "minmax", "percentile", "mse"])
def test_three_folders_give_the_table_of_the_whole_byte_for_byte(parts, tmp_path, method):
    (table, _), stats = parts
    said: list[Notice] = []
    options = {
        "method": method,
        "accuracy": "fast",
        "batch_size": 10,
        "progress": False,
        "classes": [str(i) for i in range(10)],
    }
    again = tmp_path / "m.calib.json"
    shutil.copyfile(table.with_suffix(".stats"), again.with_suffix(".stats"))
    calibrate(DIGITS, table.parents[1] / "all", table_path=again, calibrator="quantkit", notify=said.append, **options)
    assert any("the model does not have to run" in notice.text for notice in said)
    merge_statistics(stats[::-1], tmp_path / "merged.json", method=method)
    assert (tmp_path / "merged.json").read_text() == without_quality(again)
    if method == "auto":
        assert again.read_bytes() == table.read_bytes()


def fake_part(rows: list[int], **changes) -> KeptStatistics:
    """What a run over those rows of `ROWS` keeps, the model being the identity."""
    collector = Collector(["x", "y"])
    for row in rows:
        batch = Batch({"x": ROWS[[row]]}, (f"{row}",))
        collector.add(batch, {"y": np.maximum(ROWS[[row]], 0)})
    origin = StatisticsOrigin(
        model_hash="a" * 64,
        model_name="net.onnx",
        contents=tuple((f"{row}", f"{row:064x}") for row in rows),
        preprocessing=None,
        settings={"calibrator": "quantkit", "histogram": "exact", "seed": 0},
        versions={"quantkit": "0.1.0"},
    )
    kept = KeptStatistics(origin, collector.statistics, len(rows), len(rows), {}, 1)
    fields = {f.name for f in dataclasses.fields(StatisticsOrigin)}
    origin = dataclasses.replace(origin, **{k: v for k, v in changes.items() if k in fields})
    return dataclasses.replace(kept, origin=origin, **{k: v for k, v in changes.items() if k not in fields})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.permutations(range(len(ROWS))), st.lists(st.integers(1, len(ROWS) - 1), max_size=5, unique=True))
def test_any_split_and_order_gives_the_same_bits(tmp_path, order, cuts):
    whole = save_statistics(fake_part(list(range(len(ROWS)))), tmp_path / "whole")
    bounds = [0, *sorted(cuts), len(ROWS)]
    paths = [
        save_statistics(fake_part(order[start:stop]), tmp_path / f"{start}")
        for start, stop in itertools.pairwise(bounds)
    ]
    merged, expected = merge_statistics(paths, progress=False), merge_statistics([whole], progress=False)
    assert table_json(merged) == table_json(expected)
    assert expected.dataset_fingerprint == fingerprint_of([(f"{i}", f"{i:064x}") for i in range(len(ROWS))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_hash": "b" * 64},
            "cannot be merged: model hash: aaaaaaaaaaaa → bbbbbbbbbbbb",
        ),
        ({"tensors": {"x": fake_part([3]).tensors["x"]}}, "cannot be merged: observed tensors: "),
        ({"unclipped": frozenset("x")}, "cannot be merged: unclipped tensors: x"),
        ({"contents": (("5", f"{5:064x}"), ("x", "e" * 64)), "num_read": 2, "num_samples": 2}, "both contain 5: each"),
        ({"contents": (("3", "3" * 64), ("4", "4" * 64))}, "incomplete"),
    ],
)
def test_what_is_no_part_of_the_same_run_is_refused(tmp_path, changes, message):
    first = save_statistics(fake_part([5, 6]), tmp_path / "first.stats")
    other = save_statistics(fake_part([3], **changes), tmp_path / "other.stats")
    with pytest.raises(CalibrationError, match=message) as error:
        merge_statistics([first, other])
    assert "other.stats" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_preprocessing_and_histogram_are_refused(tmp_path):
    model = conv_model(tmp_path / "net.onnx")
    data = [write_images(tmp_path / f"d{i}", 4, seed=i) for i in range(2)]
    options = {"classes": None, "batch_size": None}
    first = run(model, data[0], tmp_path / "a", **options)[1]
    other = run(model, data[1], tmp_path / "b", preprocess="tf", **options)[1]
    with pytest.raises(CalibrationError, match=r"cannot be merged: .*preprocessing mean: 0"):
        merge_statistics([first, other])
    other = run(model, data[1], tmp_path / "c", histogram="tensorrt", **options)[1]
    with pytest.raises(CalibrationError, match="TensorRT's histogram"):
        merge_statistics([first, other])


def test_the_same_file_twice_and_no_file(tmp_path):
    first = save_statistics(fake_part([5, 6]), tmp_path / "first.stats")
    with pytest.raises(CalibrationError, match="given twice"):
        merge_statistics([first, first])
    shutil.copyfile(first, tmp_path / "copy.stats")
    with pytest.raises(CalibrationError, match="both contain 5, 6"):
        merge_statistics([first, tmp_path / "copy.stats"])
    with pytest.raises(CalibrationError, match="nothing to merge"):
        merge_statistics([])


def test_the_same_content_under_another_name_is_told(tmp_path):
    said: list[Notice] = []
    first = save_statistics(fake_part([5]), tmp_path / "first.stats")
    other = save_statistics(fake_part([5], contents=(("sub/5", f"{5:064x}"),)), tmp_path / "other.stats")
    merge_statistics([first, other], notify=said.append)
    assert any("count twice: sub/5 (5)" in notice.text for notice in said)


def test_unreadable_samples_of_parts_add_up(tmp_path):
    changes = {"contents": (("b", "unreadable"), ("5", f"{5:064x}")), "num_read": 2, "unreadable": {"b": "no image"}}
    paths = [
        save_statistics(fake_part([6]), tmp_path / "a"),
        save_statistics(fake_part([5], **changes), tmp_path / "b"),
    ]
    assert merge_statistics(paths).num_samples == 2
    assert load_statistics(paths[1]).unreadable == {"b": "no image"}


@pytest.mark.parametrize("cuts", [[10, 23], [4], [1, 2, 39]])
def test_parts_of_an_array_give_the_table_of_the_whole_byte_for_byte(tmp_path, cuts):
    rows = np.random.default_rng(9).random((40, 1, 8, 8), np.float32)
    options = {"classes": None, "batch_size": 1}
    paths = []
    for i, part in enumerate(np.split(rows, cuts)):
        np.save(tmp_path / f"{i}.npy", part)
        paths.append(run(DIGITS, tmp_path / f"{i}.npy", tmp_path / f"part{i}", **options)[1])
    np.save(tmp_path / "all.npy", rows)
    whole = run(DIGITS, tmp_path / "all.npy", tmp_path / "whole", **options)[0]
    said: list[Notice] = []
    merge_statistics(paths, tmp_path / "merged.json", progress=False, notify=said.append)
    assert (tmp_path / "merged.json").read_text() == without_quality(whole)
    assert [notice.text for notice in said] == [
        "rows are numbered in the order of the files, 0 to 39: the data fingerprint is that of the joined array"
    ]
    backwards = merge_statistics(paths[::-1], progress=False)
    assert backwards.tensors == merge_statistics(paths, progress=False).tensors
    shutil.copyfile(paths[0], tmp_path / "copy.stats")
    with pytest.raises(CalibrationError, match="contain the same rows: each sample may count only once"):
        merge_statistics([*paths, tmp_path / "copy.stats"])


def test_some_rows_of_arrays_cannot_be_numbered_as_in_the_whole(tmp_path):
    first = save_statistics(fake_part([0, 2]), tmp_path / "a")
    other = save_statistics(fake_part([5, 6], contents=(("0", "5" * 64), ("1", "6" * 64))), tmp_path / "b")
    said: list[Notice] = []
    table = merge_statistics([first, other], notify=said.append)
    assert "is not that of the whole array" in said[0].text
    contents = [("0", f"{0:064x}"), ("2", f"{2:064x}"), ("0", "5" * 64), ("1", "6" * 64)]
    assert table.dataset_fingerprint == fingerprint_of(contents)


def test_copies_that_filled_batches_are_told(tmp_path):
    said: list[Notice] = []
    first = save_statistics(fake_part([1], num_repeated=3, batch_size=4), tmp_path / "a")
    other = save_statistics(fake_part([2], batch_size=4), tmp_path / "b")
    merge_statistics([first, other], notify=said.append)
    (notice,) = said
    assert "3 padding samples" in notice.text
    assert "multiple of 4" in notice.text
    assert str(first) in notice.text


def test_merged_statistics_merge_again_and_spare_the_run(parts, tmp_path):
    (table, _), stats = parts
    merge_statistics(stats[:2], tmp_path / "two.calib.json", keep_statistics=True, progress=False)
    merge_statistics([tmp_path / "two.calib.stats", stats[2]], tmp_path / "m.calib.json", keep_statistics=True)
    assert (tmp_path / "m.calib.json").read_text() == without_quality(table)
    assert shown_cache(tmp_path / "m.calib.json").histograms == shown_cache(table).histograms
    said: list[Notice] = []
    options = {"batch_size": 10, "classes": [str(i) for i in range(10)], "progress": False, "method": "mse"}
    data = table.parents[1] / "all"
    calibrate(DIGITS, data, table_path=tmp_path / "m.calib.json", calibrator="quantkit", notify=said.append, **options)
    assert any("the model does not have to run" in notice.text for notice in said)
    before = (tmp_path / "two.calib.stats").read_bytes()
    with pytest.raises(OutputError, match="Refusing to overwrite the input file"):
        merge_statistics([tmp_path / "two.calib.stats", stats[2]], tmp_path / "two.calib.json", keep_statistics=True)
    assert (tmp_path / "two.calib.stats").read_bytes() == before
    with pytest.raises(CalibrationError, match="pass table_path"):
        merge_statistics(stats, keep_statistics=True)


@pytest.mark.parametrize(
    ("asked", "merged"),
    [
        ((None, None), None),  # both whole
        ((512, 512), None),  # both whole, from before null said so
        ((None, 2), 4),  # two of the other's samples were chosen
        ((2, 2), 4),
        ((512, None), None),
    ],
)
def test_the_number_asked_for_is_none_of_wholes_and_the_sum_of_selections(tmp_path, asked, merged):
    common = {"calibrator": "quantkit", "histogram": "exact", "method": "entropy"}
    parts = [
        save_statistics(fake_part(rows, settings=common | {"num_samples": number}), tmp_path / f"{rows[0]}.stats")
        for rows, number in zip(([0, 1], [2, 3]), asked, strict=True)
    ]
    assert merge_statistics(parts, progress=False).settings["num_samples"] == merged
    third = save_statistics(fake_part([4], settings=common | {"num_samples": None}), tmp_path / "third.stats")
    merge_statistics(parts, tmp_path / "two.calib.json", keep_statistics=True, progress=False)
    again = merge_statistics([tmp_path / "two.calib.stats", third], progress=False)
    at_once = merge_statistics([*parts, third], progress=False)
    assert again.settings == at_once.settings
