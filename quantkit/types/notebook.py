"""How a report and a calibration table show themselves: a few lines as text, a table in a notebook, a data frame."""

from __future__ import annotations

import html
import importlib
from collections.abc import Sequence
from typing import Any

from quantkit.errors import BackendUnavailableError

_MOST_ROWS = 20

ShownRow = dict[str, Any]


class ShownInNotebook:
    """Text, HTML and pandas of what has a title and rows; the rows hold numbers and names, None where there is none."""

    def _title(self) -> str:
        raise NotImplementedError

    def _rows(self) -> Sequence[ShownRow]:
        raise NotImplementedError

    def __repr__(self) -> str:
        rows = self._rows()
        cells = [[*(rows[0] if rows else ())], *([_show(value) for value in row.values()] for row in rows[:_MOST_ROWS])]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([self._title(), *lines, *_left_out(rows)])

    def _repr_html_(self) -> str:
        """What a notebook shows; everything that comes from files is escaped."""
        rows = self._rows()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in (rows[0] if rows else ()))
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(_show(value))}</td>' for value in row.values())}</tr>"
            for row in rows[:_MOST_ROWS]
        )
        more = "".join(f"<p>{line}</p>" for line in _left_out(rows))
        title = html.escape(self._title())
        return (
            f"<p><strong>{title}</strong></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
        )

    def to_pandas(self) -> Any:
        """All rows as a `pandas.DataFrame`.

        Raises:
            BackendUnavailableError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise BackendUnavailableError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(list(self._rows()))


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _left_out(rows: Sequence[ShownRow]) -> list[str]:
    return [f"and {len(rows) - _MOST_ROWS} more"] if len(rows) > _MOST_ROWS else []
