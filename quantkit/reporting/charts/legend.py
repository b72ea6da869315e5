"""Marks of variants: a color and a shape for each, the same in all charts, and the legend that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantkit.reporting.charts.axes import PlotFrame
from quantkit.reporting.charts.labels import CHARACTER_WIDTH, Point

SHAPES = (
    "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",  # circle
    "M-5.5-5.5h11v11h-11z",  # square
    "M0-7.2L6.6 5.2H-6.6z",  # triangle
    "M0-7.4L7.4 0L0 7.4L-7.4 0z",  # diamond
    "M0 7.2L6.6-5.2H-6.6z",  # triangle, upside down
    "M-2.3-6.5h4.6v4.2h4.2v4.6h-4.2v4.2h-4.6v-4.2h-4.2v-4.6h4.2z",  # cross
    "M0-7L6.7-2.2L4.1 5.7H-4.1L-6.7-2.2z",  # pentagon
)
"""Outlines around 0, 0, of about equal area."""

COLORS = ("#1d2024", "#0f6cbd", "#b5450b", "#1b7f4b", "#8a3ffc", "#9a6700", "#b3236b")
NIGHT_COLORS = ("#e4e6e8", "#6cb6ff", "#f59a62", "#6fd39b", "#c4a1ff", "#e3b341", "#f58ac0")
"""On light and on dark ground, in the style sheets as .v0 to .v6; the first is the baseline's."""

NUM_COLORS = len(COLORS)

_ROW, _GAP, _MARK = 28.0, 22.0, 14.0
_BELOW_AXIS = 78.0
"""From the bottom of the plot: ticks and the title of the axis lie between."""


def shape_of(index: int) -> str:
    """Outline of the mark of a variant: where colors begin anew, shapes go on, so that no two are alike in both.

    >>> [SHAPES.index(shape_of(i)) for i in (0, 6, 7, 13, 14)]
    [0, 6, 1, 0, 2]
    """
    return SHAPES[(index + index // NUM_COLORS) % len(SHAPES)]


@dataclass(frozen=True)
class LegendItem:
    """A mark and, to its right, the name of the variant."""

    name: str
    index: int
    is_hollow: bool
    x: float
    y: float

    @property
    def shape(self) -> str:
        """Outline of the mark."""
        return shape_of(self.index)


def lay_out_legend(points: Sequence[Point], frame: PlotFrame) -> tuple[tuple[LegendItem, ...], float]:
    """Rows of items below the plot, each as wide as the page's largest type needs.

    Returns:
        The items, and the height of the drawing with them.
    """
    items: list[LegendItem] = []
    x, y = frame.left, frame.bottom + _BELOW_AXIS
    for point in points:
        width = _MARK + CHARACTER_WIDTH * len(point.name)
        if x > frame.left and x + width > frame.right:
            x, y = frame.left, y + _ROW
        items.append(LegendItem(point.name, point.index, not point.representative, round(x + 7, 2), y))
        x += width + _GAP
    return tuple(items), y + _ROW / 2
