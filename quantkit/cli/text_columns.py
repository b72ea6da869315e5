"""Where the columns of a table go on a terminal of any width. Printing is left to `text`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

_NAME, _WORDS = 24, 12
"""Columns that a name, and any other text, gets at least."""

_INDENT = 2


class Layout:
    """A table laid out: `heading` and `lines`, none of them wider than the terminal where that is possible at all.

    Args:
        headings: of all columns; all empty for a table without.
        rows: of cells, printable text.
        right: columns of numbers: at the right, never folded.
        optional: columns to leave out on a narrow terminal, the first first.
        width: columns of the terminal.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        right: Sequence[int],
        optional: Sequence[int],
        width: int,
    ) -> None:
        self._rows, self._right, self._headings = rows, frozenset(right), headings
        self._margin, self._gap = (1, 3) if any(headings) else (0, 2)
        self._cells = [max((_width(row[i]) for row in rows), default=0) for i in range(len(headings))]
        self._is_stacked = False
        self._widths = self._choose(optional, width)
        self.width = max(
            self._start() + sum(self._widths.values()) + self._gap * (len(self._widths) - 1),
            self._margin + min(self._cells[0], width - self._margin) if self._is_stacked else 0,
        )

    @property
    def columns(self) -> frozenset[int]:
        """Those that found room."""
        return frozenset(self._widths) | ({0} if self._is_stacked else frozenset())

    @property
    def heading(self) -> list[str]:
        """Lines of the headings; none where there are none."""
        if not any(self._headings):
            return []
        above = [" " * self._margin + self._headings[0]] if self._is_stacked else []
        return above + list(self._joined(self._headings))

    def lines(self) -> Iterator[str]:
        """Lines of all rows."""
        for row in self._rows:
            if self._is_stacked:
                for line in fold(row[0], self.width - self._margin):
                    yield " " * self._margin + line
            yield from self._joined(row)

    def _choose(self, optional: Sequence[int], width: int) -> dict[int, int]:
        """Column → its width, of those that stay."""
        columns = [i for i in range(len(self._cells)) if self._cells[i] or self._headings[i]]
        going = [i for i in optional if i in columns]
        for number in range(len(going) + 1):
            found = self._fit([i for i in columns if i not in going[:number]], width - self._margin)
            if found is not None:
                return found
        self._is_stacked = len(columns) > 1
        below = columns[1:] if self._is_stacked else columns
        for number in range(len(going) + 1):
            left = [i for i in below if i not in going[:number]]
            found = self._fit(left, width - self._start())
            if found is not None:
                return found
        return {i: self._least(i) for i in left}

    def _start(self) -> int:
        return self._margin + (_INDENT if self._is_stacked else 0)

    def _natural(self, column: int) -> int:
        return max(self._cells[column], _width(self._headings[column]))

    def _least(self, column: int) -> int:
        words = max(map(_width, self._headings[column].split(" ")))
        if column in self._right:
            return max(self._cells[column], words)
        return max(min(self._cells[column], _WORDS if column else _NAME), words)

    def _fit(self, columns: Sequence[int], room: int) -> dict[int, int] | None:
        """Widths that add up to `room` at most; None if names would get too little."""
        room -= self._gap * (len(columns) - 1)
        widths = {i: self._natural(i) for i in columns}
        if sum(widths.values()) <= room:
            return widths
        least = {i: self._least(i) for i in columns}
        spare = room - sum(least.values())
        if spare < 0:
            return None
        # What is left goes to the narrowest first: they are whole soonest.
        growing = sorted(columns, key=lambda i: widths[i] - least[i])
        for place, i in enumerate(growing):
            more = min(widths[i] - least[i], spare // (len(growing) - place))
            least[i] += more
            spare -= more
        return least

    def _joined(self, row: Sequence[str]) -> Iterator[str]:
        """The lines of one row."""
        folded = {i: fold(row[i], width) for i, width in self._widths.items()}
        for number in range(max(map(len, folded.values()), default=0)):
            parts = []
            for i, width in self._widths.items():
                text = folded[i][number] if number < len(folded[i]) else ""
                blank = " " * (width - _width(text))
                parts.append(blank + text if i in self._right else text + blank)
            yield (" " * self._start() + (" " * self._gap).join(parts)).rstrip()


def fold(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, broken between words where that is possible."""
    if _width(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if _width(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        rest = word
        while _width(rest) > width:
            count = _fitting(rest, width)
            lines.append(rest[:count])
            rest = rest[count:]
        line = rest
    return [*lines, line]


def _fitting(text: str, width: int) -> int:
    """How many characters fit: at least one."""
    used = 0
    for count, character in enumerate(text):
        used += _width(character)
        if used > width:
            return max(count, 1)
    return len(text)


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
