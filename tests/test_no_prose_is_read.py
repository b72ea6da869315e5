"""Nothing in the package decides by the words of a sentence: kinds, topics and error classes are data."""

import ast
import re
from collections.abc import Iterator, Sequence

from tests.sources import nodes

_SEARCHES = {"startswith", "endswith", "removeprefix", "removesuffix", "find", "index", "count"}

ALLOWED = {
    "backends/tensorrt/": "TensorRT's log, metadata and JSON: it gives no codes",
    "caches/formats/ort_tables.py": "the first bytes of other formats",
    "caches/verify.py": "TensorRT's name of a tensor without one",
    "machine.py": "protobuf and C++ libraries lack a code for want of memory",
    "calibration/json_text.py": "Python's JSON decoder names its errors in words alone",
}
"""Where words of other programs are read, for want of a code, and why."""


def words_searched_for(nodes_of: Sequence[ast.AST]) -> set[str]:
    """String literals of several words that are looked for in a text, also by way of a constant of the module."""
    named: dict[str, list[ast.expr]] = {}
    for node in nodes_of:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    named.setdefault(target.id, []).append(node.value)
    sought: list[ast.expr] = []
    for node in nodes_of:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _SEARCHES:
            sought += node.args[:1]
        elif isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            sought.append(node.left)
        elif isinstance(node, ast.comprehension):
            for sequence in named.get(getattr(node.iter, "id", ""), [node.iter]):
                for name, value in _values_of(node.target, sequence):
                    named.setdefault(name, []).append(value)
    values = [value for e in sought for value in (named.get(e.id, []) if isinstance(e, ast.Name) else [e])]
    literals = (n for v in values if isinstance(v, ast.Constant | ast.Tuple | ast.JoinedStr) for n in ast.walk(v))
    texts = {n.value for n in literals if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    names = (n for v in values if isinstance(v, ast.JoinedStr) for n in v.values if isinstance(n, ast.Constant))
    return {text for text in texts if re.search(r"\w.* ", text)} | {n.value for n in names if ": " in n.value}


def _values_of(target: ast.expr, sequence: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What the variables of a comprehension stand for where it goes through literals."""
    if not isinstance(sequence, ast.Tuple):
        return
    if isinstance(target, ast.Name):
        yield target.id, sequence
    elif isinstance(target, ast.Tuple):
        for place, variable in enumerate(target.elts):
            inner = [row.elts[place] for row in sequence.elts if isinstance(row, ast.Tuple)]
            yield from _values_of(variable, ast.Tuple(inner))


def test_no_sentence_is_searched_for_words():
    found = {file: words for file, inside in nodes().items() if (words := words_searched_for(inside))}
    unexpected = {file: words for file, words in found.items() if not file.startswith(tuple(ALLOWED))}
    assert not unexpected, unexpected
    unused = [place for place in ALLOWED if not any(file.startswith(place) for file in found)]
    assert not unused, f"nothing is read there any more: {unused}"


def test_the_search_sees_sentences_and_no_names():
    code = """
WORDS = ("is not installed", "x")
HINTS = (("out of memory", "give more memory"),)
a = error.startswith("no such file")
b = "was excluded" in reason
c = any(word in text for word in WORDS)
d = name.endswith(".txt") or ": " in name
e = f"read by {name}" in text
f = [hint for word, hint in HINTS if word in text]
g = text.removeprefix(f"{name}: ")
"""
    assert words_searched_for(list(ast.walk(ast.parse(code)))) == {
        "no such file",
        "was excluded",
        "is not installed",
        "read by ",
        "out of memory",
        ": ",
    }
