import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.calibration.table import load_table, save_table, table_checksum, table_json
from quantkit.errors import CalibrationError, OutputError
from quantkit.types import CalibrationTable, Preprocessing, TensorRange

TEXT = st.text(max_size=20).filter(lambda s: "\ud800" <= "\udfff" and s.isprintable())
POSITIVE = st.floats(min_value=1e-30, max_value=1e30)


@st.composite
def tables(draw):
    names = draw(st.lists(TEXT, min_size=1, max_size=8, unique=True))
    split = draw(st.integers(1, len(names)))
    ranges = {}
    for name in names[:split]:
        low, high = sorted(draw(st.tuples(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))))
        ranges[name] = TensorRange(draw(POSITIVE), low, high, method=draw(st.sampled_from(["", "mse x 0.7"])))
    return CalibrationTable(
        tensors=ranges,
        skipped=dict.fromkeys(names[split:], "zero on every sample"),
        model_hash="a" * 64,
        model_name=draw(TEXT),
        dataset_fingerprint="b" * 64,
        num_samples=draw(st.integers(1, 10**9)),
        preprocessing=draw(st.sampled_from([None, Preprocessing(size=(4, 5)), PREPROCESSING])),
        settings={"method": "entropy", "percentile": draw(st.none() | POSITIVE), "all": draw(st.booleans())},
        versions={"quantkit": "0.1.0"},
        float_tensors=draw(st.dictionaries(st.sampled_from(names[:split]), TEXT)),
        quality=draw(st.dictionaries(st.sampled_from(["sqnr_db", "kl_divergence"]), st.floats(-999, 999))),
    )


PREPROCESSING = Preprocessing(
    size=(224, 320),
    color="BGR",
    resize="crop",
    shorter_side=366,
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 3.0),
    scale=1 / 255,
)
TABLE = CalibrationTable(
    tensors={"x": TensorRange(1.5, -1.5, 1.0), "y: 1": TensorRange(2.0, 0.0, 3.0)},
    model_hash="a" * 64,
    model_name="net.onnx",
    dataset_fingerprint="b" * 64,
    num_samples=10,
    preprocessing=PREPROCESSING,
    settings={"method": "entropy", "seed": 0},
)


@given(tables())
def test_round_trip(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("table") / "t.json"
    save_table(table, path)
    loaded = load_table(path)
    assert loaded == table
    assert list(loaded.tensors) == list(table.tensors)
    assert table_json(loaded) == path.read_text(encoding="utf-8")


def test_one_line_for_each_tensor(tmp_path):
    lines = table_json(TABLE).splitlines()
    assert '    "x": {"amax": 1.5, "minimum": -1.5, "maximum": 1.0},' in lines
    assert json.loads(table_json(TABLE))["tensors"]["y: 1"]["amax"] == 2.0


def damaged(text):
    data = json.loads(text)
    data["tensors"]["x"]["amax"] = 1.6
    return json.dumps(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], r"is cut short after \d+ bytes, in line \d+.*: calibrate again"),
        (lambda text: text[:-3], "is cut short after"),
        (lambda text: "", "is not a calibration table: it is empty"),
        (lambda text: text.replace('"seed":', '"seed"'), r"line 38, column 12: Expecting ':' delimiter"),
        (lambda text: "[1, 2]", "does not say format"),
        (lambda text: '{"format": "other"}', "does not say format"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 99'), "format version 99.*upgrade"),
        (damaged, r"was changed after it was written: \$\.tensors\['x'\]: calibrate again"),
        (lambda text: text.replace('"tensors"', '"tensor"'), "was changed"),
        (lambda text: text.replace('"entropy"', '"mse"'), r"was changed after it was written: \$\.settings:"),
        (lambda text: text.replace('"BGR"', '"RGB"'), r"\$\.preprocessing:"),
        (lambda text: text.replace('"name": "net', '"name": "other'), r"\$\.model:"),
        (lambda text: text.replace('"y: 1": {', '"z": {'), r"\$\.tensors\['y: 1'\] is missing, .*\['z'\] is new"),
        (lambda text: text.replace('"checksum": "', '"checksum": "0'), "its checksum does not match its content"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, damage, message):
    path = tmp_path / "net.calib.json"
    path.write_text(damage(table_json(TABLE)), encoding="utf-8")
    with pytest.raises(CalibrationError, match=message) as error:
        load_table(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@given(st.binary(max_size=300))
def test_any_bytes_give_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "t.json"
    path.write_bytes(content)
    with pytest.raises(CalibrationError):
        load_table(path)


def test_missing_file_and_unwritable_folder(tmp_path):
    with pytest.raises(CalibrationError, match="cannot read calibration table"):
        load_table(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_table(TABLE, tmp_path / "file" / "t.json")


def resealed(change):
    """The table's text after a change, with a right checksum: what another program would write."""
    data = json.loads(table_json(TABLE))
    change(data)
    checked = {name: value for name, value in data.items() if name not in ("checksum", "digests")}
    canonical = json.dumps(checked, sort_keys=True, separators=(",", ":"))
    return json.dumps({**data, "checksum": hashlib.sha256(canonical.encode()).hexdigest()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["tensors"]["y: 1"].update(amax="2"), r"\$\.tensors\['y: 1'\]\.amax: Expected `float`, got `str`"),
        (lambda d: d["tensors"]["y: 1"].update(amax=-2), r"\$\.tensors\['y: 1'\]: amax -2\.0 must be positive"),
        (lambda d: d["tensors"]["x"].pop("minimum"), r"\$\.tensors\['x'\]: .*missing required field `minimum`"),
        (lambda d: d.update(tensors=[]), r"\$\.tensors: Expected `object`"),
        (lambda d: d["model"].update(hash=1), r"\$\.model\.hash: Expected `str`"),
        (lambda d: d.pop("dataset"), r"\$\.dataset: Expected `object`, got `null`"),
        (lambda d: d["preprocessing"].update(size=[1]), r"\$\.preprocessing\.size: "),
    ],
)
def test_what_contradicts_itself_is_named_with_its_place(tmp_path, change, message):
    path = tmp_path / "net.calib.json"
    path.write_text(resealed(change), encoding="utf-8")
    with pytest.raises(CalibrationError, match=message) as error:
        load_table(path)
    assert "net.calib.json is not a valid calibration table" in str(error.value)
    assert "\n" not in str(error.value)


@given(st.data())
def test_any_edit_of_a_range_is_found(tmp_path_factory, data):
    content = json.loads(table_json(TABLE))
    name = data.draw(st.sampled_from(sorted(content["tensors"])))
    key = data.draw(st.sampled_from(["amax", "minimum", "maximum"]))
    value = data.draw(st.floats(1e-3, 1e3).filter(lambda v: v != content["tensors"][name][key]))
    content["tensors"][name][key] = value
    path = tmp_path_factory.mktemp("edit") / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError) as error:
        load_table(path)
    assert f"was changed after it was written: $.tensors[{name!r}]: calibrate again" in str(error.value)


def test_without_digests_a_change_is_found_but_not_its_place(tmp_path):
    data = json.loads(damaged(table_json(TABLE)))
    for digests in (None, {}, {"tensors": 1}, [1]):
        data["digests"] = digests
        (tmp_path / "t.json").write_text(json.dumps(data))
        with pytest.raises(CalibrationError, match="does not match, and it has no digests to locate the change"):
            load_table(tmp_path / "t.json")


def test_the_first_written_tables_stay_readable():
    path = Path(__file__).parent / "data" / "version_1.calib.json"
    assert "digests" not in json.loads(path.read_text())
    loaded = load_table(path)
    wanted = dataclasses.replace(TABLE, skipped={"dead": "zero on every sample"}, versions={"quantkit": "0.1.0"})
    assert loaded == wanted
    assert table_checksum(loaded) == json.loads(path.read_text())["checksum"]


def test_statistics_given_as_table_are_named(tmp_path):
    (tmp_path / "m.calib.stats").write_bytes(b"quantkit statistics 1 12 0\n")
    with pytest.raises(CalibrationError, match=r"contains statistics, not a calibration table: pass the \.calib\.json"):
        load_table(tmp_path / "m.calib.stats")
