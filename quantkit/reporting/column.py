"""What a column of a report's tables is; the columns themselves are in `quantkit.reporting.columns`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from quantkit.reporting.formatting import MISSING
from quantkit.reporting.terms import Term
from quantkit.types import Report

Row = TypeVar("Row")
Form = Literal["terminal", "markdown", "html"]

ALL_FORMS: tuple[Form, ...] = ("terminal", "markdown", "html")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A column of a table. It is shown where `text` has a value in at least one row; the first of a table always is.

    Attributes:
        field: identifier, the cells' ``data-field`` on the page.
        heading: may hold {score}, {baseline}, {variant} and {counted}.
        text: a row's cell; `MISSING` where there is no value.
        term: of the glossary; None for names, which need no definition.
        unit: may be {unit} or {points}: those of the report's score and of its differences.
        forms: in which it is shown.
        align: numbers are aligned to the right.
        interval: shown with the value: in small type on the page, in parentheses in Markdown.
        drawing: name of the macro that draws the cell on the page instead of `text`; empty for text.
    """

    field: str
    heading: str
    text: Callable[[Row], str]
    term: Term | None = None
    unit: str = ""
    forms: tuple[Form, ...] = ALL_FORMS
    align: Literal["left", "right"] = "right"
    interval: Column[Row] | None = None
    drawing: str = ""

    def is_measured(self, rows: Sequence[Row]) -> bool:
        """Whether any row has a value."""
        return any(self.text(row) != MISSING for row in rows)


@dataclass(frozen=True)
class Table(Generic[Row]):
    """All rows that a report has for a table, of every variant, and its columns.

    Attributes:
        rows: of a report.
        columns: in their order.
        parts: the rows by name of the variant, where they do not name it.
    """

    rows: Callable[[Report], Sequence[Row]]
    columns: tuple[Column[Row], ...]
    parts: Callable[[Report], Sequence[tuple[str, Sequence[Row]]]] | None = None

    @classmethod
    def of_variants(
        cls, parts: Callable[[Report], Sequence[tuple[str, Sequence[Row]]]], columns: tuple[Column[Row], ...]
    ) -> Table[Row]:
        """A table whose rows do not name their variant."""
        return cls(lambda report: [row for _, rows in parts(report) for row in rows], columns, parts)
