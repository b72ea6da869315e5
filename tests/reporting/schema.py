"""Makes the JSON schema of reports from the types.

python -m tests.reporting.schema > docs/reference/report.schema.json
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgspec

from quantkit import types
from quantkit.types import Report

_WORD = {"enum": ["inf", "-inf", "nan"]}

_MAY_BE_A_WORD = {
    "ChangedSample": ("severity",),
    "TensorQuality": ("sqnr_db", "own_sqnr_db", "amax", "minimum", "maximum", "clipped", "histogram_top"),
}
"""Numbers that are written as a word where they are not finite; besides metrics and the scores of classes."""


def report_schema() -> dict[str, Any]:
    """msgspec's schema of `Report`, with the words for numbers that are not finite and each attribute's description."""
    generated = msgspec.json.schema(Report)
    definitions = generated["$defs"]
    for name, definition in definitions.items():
        described = _describe(inspect.getdoc(getattr(types, name)) or "")
        definition["description"] = described.pop("", "")
        for member, schema in definition["properties"].items():
            words = described.get(member)
            definition["properties"][member] = ({"description": words} if words else {}) | schema
    for name, members in _MAY_BE_A_WORD.items():
        properties = definitions[name]["properties"]
        for member in members:
            old = properties[member]
            words = {"description": old.pop("description")} if "description" in old else {}
            properties[member] = words | {"anyOf": [*old.get("anyOf", [old]), _WORD]}
    for name, member in (("Evaluation", "metrics"), ("ClassScore", "scores")):
        definitions[name]["properties"][member]["additionalProperties"] = {"anyOf": [{"type": "number"}, _WORD]}
    definitions["Report"]["properties"]["format_version"] = {"enum": [1, 2], "default": 2}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "quantkit report, format version 2",
        **generated,
    }


def schema_text() -> str:
    """As it is stored."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


def _describe(docstring: str) -> dict[str, str]:
    """Attribute → words, and under "" the first line."""
    head, _, attributes = docstring.partition("Attributes:\n")
    found = {"": " ".join(head.split())}
    for names, words in re.findall(r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", attributes, re.S | re.M):
        for name in names.split(", "):
            found[name] = " ".join(words.split())
    return found


if __name__ == "__main__":
    print(schema_text(), end="")
