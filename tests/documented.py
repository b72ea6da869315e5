"""The commands and files in the blocks of code of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

_SHELLS = ("", "console", "bash", "sh")


def commands(text: str) -> list[str]:
    """Those of quantkit, in order: continued lines are joined, and what `&&` and `>` part is by itself."""
    lines = [line for language, block in _blocks(text) if language in _SHELLS for line in _joined(block)]
    parts = [part.strip() for line in lines for part in re.split(r" && | > ", line.removeprefix("$ "))]
    return [part for part in parts if re.match(r"quantkit ([a-z]+( |$)|--)", part)]


def files(text: str) -> dict[str, str]:
    """Blocks that begin with a comment which names them, `# age.py`, by that name."""
    found = {}
    for language, block in _blocks(text):
        if language == "python" and (name := re.match(r"# (\w+\.py)\b", block)):
            found[name[1]] = block
    return found


def sections(page: Path) -> dict[str, str]:
    """What stands under each heading of the first two levels, until the next one."""
    found: dict[str, list[str]] = {}
    heading, is_code = "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        is_code ^= line.startswith("```")
        if not is_code and (start := re.match(r"##? (.+)", line)):
            heading = start[1]
        found.setdefault(heading, []).append(line)
    return {heading: "\n".join(lines) for heading, lines in found.items()}


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each block, fenced or indented."""
    fence, language, block = "", "", list[str]()
    for line in [*text.splitlines(), ""]:
        if fence:
            if line.startswith(fence):
                yield language, "\n".join(block)
                fence, block = "", []
            else:
                block.append(line)
        elif line.startswith("    "):
            block.append(line[4:])
        else:
            if block:
                yield "", "\n".join(block)
                block = []
            if line.startswith("```"):
                fence, language = "```", line[3:].strip()


def _joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", block).splitlines()
