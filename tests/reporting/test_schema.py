"""docs/reference/report.schema.json and docs/reference/report.md, held to the types and to what is written."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given

from quantkit import types
from quantkit.reporting import report_json

from .reports import any_report
from .samples import SAMPLES
from .schema import schema_text

DOCS = Path(__file__).parents[2] / "docs" / "reference"
SCHEMA = json.loads((DOCS / "report.schema.json").read_text(encoding="utf-8"))
PARTS = (
    "Report",
    "Evaluation",
    "Latency",
    "Score",
    "ClassScore",
    "ChangedSample",
    "TensorQuality",
    "LayerPlacement",
    "SensitivityRanking",
    "RankedUnit",
)
TYPES = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool}


def violations(value, schema, where="report"):
    """What a value breaks of the words that this schema uses; an unknown word fails."""
    known = {
        "$ref",
        "title",
        "description",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "default",
    }
    assert schema.keys() <= known | {"anyOf", "enum", "prefixItems", "minItems", "maxItems", "$schema", "$defs"}
    if "$ref" in schema:
        return violations(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
    if "anyOf" in schema:
        return [] if any(not violations(value, s, where) for s in schema["anyOf"]) else [f"{where}: none of anyOf"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{where}: {value!r} is not one of {schema['enum']}"]
    if schema.get("type") == "null":
        return [] if value is None else [f"{where}: {value!r} is not null"]
    is_bool = isinstance(value, bool) and schema["type"] != "boolean"
    if is_bool or not isinstance(value, TYPES[schema["type"]]):
        return [f"{where}: {value!r} is no {schema['type']}"]
    found = []
    if isinstance(value, dict):
        found += [f"{where}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, entry in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            found += [f"{where}: {name}"] if not inner else violations(entry, inner, f"{where}.{name}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where}: {len(value)} items")
        prefix = schema.get("prefixItems", [schema.get("items")] * len(value))
        for inner, entry in zip(prefix, value, strict=False):
            found += violations(entry, inner, where) if isinstance(inner, dict) else []
    return found


def test_the_schema_is_that_of_the_types():
    assert (DOCS / "report.schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_fit_the_schema(name):
    assert violations(json.loads(report_json(SAMPLES[name]())), SCHEMA) == []


def test_an_old_report_fits_the_schema():
    assert violations(json.loads(Path(__file__).with_name("report_v1.json").read_text()), SCHEMA) == []


@given(any_report)
def test_any_report_fits_the_schema(report):
    assert violations(json.loads(report_json(report)), SCHEMA) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("model_hash"),
        lambda c: c["evaluations"][0].update(precision="int3"),
        lambda c: c["evaluations"][0]["metrics"].update(top1="high"),
        lambda c: c["tensors"][0].update(histogram=["a"]),
        lambda c: c.update(planned_samples="all"),
        lambda c: c.update(format_version=3),
    ],
)
def test_what_is_no_report_breaks_the_schema(change):
    content = json.loads(report_json(SAMPLES["classification"]()))
    change(content)
    assert violations(content, SCHEMA)


def test_every_field_is_in_the_documentation():
    text = (DOCS / "report.md").read_text(encoding="utf-8")
    for part in PARTS:
        section = re.search(rf"^### `?{part}`?.*?(?=^### |^## |\Z)", text, re.S | re.M)
        assert section, part
        documented = {
            name for line in re.findall(r"^\| (`.*?) \|", section[0], re.M) for name in re.findall(r"`(\w+)`", line)
        }
        assert documented == {f.name for f in fields(getattr(types, part))}, part
