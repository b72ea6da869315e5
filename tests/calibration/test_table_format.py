"""docs/reference/table_format.md and docs/reference/table.schema.json, held to what is written."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantkit.calibration.refinement_file import save_refinement
from quantkit.calibration.statistics_file import save_statistics
from quantkit.calibration.table import load_table, table_checksum, table_json
from quantkit.datasets.fingerprint import fingerprint_of
from tests.calibration.test_refinement_file import REFINEMENT
from tests.calibration.test_statistics_file import KEPT
from tests.calibration.test_table import TABLE, tables

DOCS = Path(__file__).parents[2] / "docs" / "reference"
SCHEMA = json.loads((DOCS / "table.schema.json").read_text())
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def violations(value, schema, where="table"):
    """What a value breaks of a schema, for the words that this schema uses; an unknown word fails."""
    known = {"$schema", "$defs", "$ref", "title", "description", "type", "required", "properties", "const", "enum"}
    known |= {"additionalProperties", "minProperties", "items", "minItems", "maxItems", "pattern", "anyOf"}
    known |= {"minimum", "maximum", "exclusiveMinimum"}
    assert schema.keys() <= known, schema.keys() - known
    if "$ref" in schema:
        return violations(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
    if "anyOf" in schema:
        return [] if any(not violations(value, s, where) for s in schema["anyOf"]) else [f"{where}: none of anyOf"]
    found = []
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        fits = [isinstance(value, TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names]
        if not any(fits):
            return [f"{where}: {value!r} is no {names}"]
    broken = {
        "const": lambda s: value != s,
        "enum": lambda s: value not in s,
        "pattern": lambda s: re.search(s, value) is None,
        "minimum": lambda s: value is not None and value < s,
        "maximum": lambda s: value > s,
        "exclusiveMinimum": lambda s: value <= s,
        "minItems": lambda s: len(value) < s,
        "maxItems": lambda s: len(value) > s,
        "minProperties": lambda s: len(value) < s,
        "required": lambda s: set(s) - set(value),
    }
    found += [f"{where}: {word}" for word, breaks in broken.items() if word in schema and breaks(schema[word])]
    if isinstance(value, list):
        found += [v for i, item in enumerate(value) for v in violations(item, schema.get("items", {}), f"{where}[{i}]")]
    if isinstance(value, dict):
        rest = schema.get("additionalProperties", {})
        for key, item in value.items():
            found += violations(item, schema.get("properties", {}).get(key, rest), f"{where}.{key}")
    return found


def reader(name):
    """A function that the document shows."""
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "table_format.md").read_text(), re.DOTALL):
        exec(block, scope)
    return scope[name]


@given(tables())
def test_every_table_keeps_the_schema_and_the_shown_reader_reads_it(tmp_path_factory, table):
    text = table_json(table)
    assert violations(json.loads(text), SCHEMA) == []
    path = tmp_path_factory.mktemp("t") / "t.json"
    path.write_text(text, encoding="utf-8")
    read = reader("read_table")(path)
    assert {n: r["amax"] for n, r in read["tensors"].items()} == {n: r.amax for n, r in table.tensors.items()}


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(data):
        for key in keys:
            data = data[key]
        data[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("format", "other"),
        put("format_version", 2),
        put("model", "hash", "A" * 64),
        put("dataset", "num_samples", 1.5),
        put("preprocessing", "size", [1]),
        put("preprocessing", "color", "CMYK"),
        put("settings", "seed", [1]),
        put("settings", {}),
        put("versions", "quantkit", 1),
        put("tensors", {}),
        put("tensors", "x", "amax", 0),
        put("tensors", "x", {"amax": 1.0}),
        put("digests", "model", "12"),
        put("float_tensors", {"x": 1}),
        put("quality", {"sqnr_db": "31"}),
        put("tensors", "x", "method", 1),
        put("settings", "accuracy", "fast"),
        put("settings", "rounding", "up"),
        put("digests", "tensors", "x", 1),
        lambda data: data.pop("skipped"),
    ],
)
def test_the_schema_refuses(change):
    data = json.loads(table_json(TABLE))
    assert violations(data, SCHEMA) == []
    change(data)
    assert violations(data, SCHEMA) != []


def test_the_schema_is_one():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(table_json(TABLE)), SCHEMA)


def test_the_shown_reader_reads_rounded_weights(tmp_path):
    path = save_refinement(REFINEMENT, tmp_path / "a.weights", table="c" * 64)
    found = reader("read_weights")(path, "c" * 64)
    for name, weight in REFINEMENT.weights.items():
        assert np.array_equal(found["codes", name], weight.codes)
        assert np.array_equal(found["scale", name], weight.scale)
    for kind, arrays in (
        ("bias", REFINEMENT.biases),
        ("shift", REFINEMENT.shifts),
        ("channel_scale", REFINEMENT.channel_scales),
        ("amax", REFINEMENT.amax),
    ):
        assert {name: array.tolist() for (k, name), array in found.items() if k == kind} == {
            name: np.asarray(array, np.float32).tolist() for name, array in arrays.items()
        }
    with pytest.raises(ValueError, match="another table"):
        reader("read_weights")(path, "d" * 64)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        reader("read_weights")(path, "c" * 64)


def test_the_shown_reader_reads_statistics(tmp_path):
    path = save_statistics(KEPT, tmp_path / "a.stats")
    header = reader("read_statistics")(path)
    for tensor in header["tensors"]:
        histogram = KEPT.tensors[tensor["name"]].histogram
        assert np.array_equal(tensor["bins"], np.flatnonzero(histogram))
        assert np.array_equal(tensor["counts"], histogram[tensor["bins"]])
        assert tensor["bin_width"] == KEPT.tensors[tensor["name"]].bin_width
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        reader("read_statistics")(path)


def test_the_digests_are_as_described(tmp_path):
    import hashlib

    def digest(value):
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    data = json.loads(table_json(TABLE))
    digests = data.pop("digests")
    del data["checksum"]
    assert {n: digest(v) for n, v in data.pop("tensors").items()} == digests.pop("tensors")
    assert {n: digest(v) for n, v in data.items()} == digests
    header = reader("read_statistics")(save_statistics(KEPT, tmp_path / "a.stats"))
    for tensor in header["tensors"]:
        content = tensor["bins"].tobytes() + tensor["counts"].tobytes()
        assert tensor["digest"] == hashlib.sha256(content).hexdigest()[:8]


def test_the_shown_readers_read_what_was_written_first():
    data = Path(__file__).parent / "data"
    assert set(reader("read_table")(data / "version_1.calib.json")["tensors"]) == {"x", "y: 1"}
    assert len(reader("read_statistics")(data / "version_1.calib.stats")["tensors"]) == 3
    assert violations(json.loads((data / "version_1.calib.json").read_text()), SCHEMA) == []


def test_the_shown_reader_refuses_an_edited_table(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(table_json(TABLE).replace("1.5", "1.25"))
    with pytest.raises(ValueError, match="was changed"):
        reader("read_table")(path)


def test_the_fingerprint_is_as_described():
    import hashlib

    lines = "".join(f"{len(i.encode())}:{i}{c}\n" for i, c in sorted([("é/b", "1" * 64), ("a", "2" * 64)]))
    assert fingerprint_of([("é/b", "1" * 64), ("a", "2" * 64)]) == hashlib.sha256(lines.encode()).hexdigest()


def test_later_members_are_ignored_and_the_checksum_names_the_table(tmp_path):
    import hashlib

    data = json.loads(table_json(TABLE))
    assert data["checksum"] == table_checksum(TABLE)
    del data["checksum"], data["digests"]
    data["later"] = {"a": 1}
    data["tensors"]["x"]["later"] = 2
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    data["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / "t.json").write_text(json.dumps(data))
    assert dataclasses.replace(load_table(tmp_path / "t.json"), versions=TABLE.versions) == TABLE
    assert violations(data, SCHEMA) == []


def number_as_described(value: float) -> str:
    """The rules of docs/reference/table_format.md from the digits on, without Python's arrangement of them."""
    from decimal import Decimal

    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + exponent  # digits before the point
    if value == 0:
        text = "0.0"
    elif 1e-4 <= abs(value) < 1e16:
        whole = text.ljust(point, "0")[:point] if point > 0 else "0"
        rest = text[point:] if point > 0 else "0" * -point + text
        text = f"{whole}.{rest or '0'}"
    else:
        power = point - 1
        text = f"{text[0]}{'.' if text[1:] else ''}{text[1:]}e{'-' if power < 0 else '+'}{abs(power):02}"
    return "-" * sign + text


def text_as_described(value: str) -> str:
    short = dict(zip('"\\\n\r\t\b\f', ['\\"', "\\\\", "\\n", "\\r", "\\t", "\\b", "\\f"], strict=True))
    signs = []
    for sign in value:
        units = sign.encode("utf-16-be").hex()
        escaped = "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
        signs.append(short.get(sign) or (sign if " " <= sign < "\x7f" else escaped))
    return f'"{"".join(signs)}"'


def canonical_as_described(value) -> str:
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda item: [ord(c) for c in item[0]])
        return "{" + ",".join(f"{text_as_described(k)}:{canonical_as_described(v)}" for k, v in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_as_described, value)) + "]"
    if isinstance(value, str):
        return text_as_described(value)
    if isinstance(value, float):
        return number_as_described(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@given(tables())
def test_the_checksum_can_be_written_anew_from_the_description(table):
    import hashlib

    data = json.loads(table_json(table))
    stated = data.pop("checksum")
    del data["digests"]
    assert hashlib.sha256(canonical_as_described(data).encode("ascii")).hexdigest() == stated


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e-5)
@example(1e-4)
@example(1e16)
@example(9999999999999998.0)
@example(1.5e-7)
@example(-0.0)
def test_numbers_are_written_as_described(value):
    assert number_as_described(value) == json.dumps(value)


def test_the_rows_of_an_array_are_hashed_as_described(tmp_path):
    import hashlib

    from quantkit.datasets import open_dataset
    from quantkit.datasets.fingerprint import content_hash
    from quantkit.types import TensorSpec

    rows = np.arange(12, dtype=np.float32).reshape(3, 4).astype(">f4")
    np.save(tmp_path / "a.npy", rows)
    dataset = open_dataset(tmp_path / "a.npy", (TensorSpec("x", np.dtype("float32"), (None, 4)),))
    wanted = hashlib.sha256(b"x\n>f4\n(4,)\n" + rows[1].tobytes()).hexdigest()
    assert content_hash(dataset, 1) == wanted
