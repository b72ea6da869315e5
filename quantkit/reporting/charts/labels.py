"""Points of a chart, and the places of their labels: none over another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

CHARACTER_WIDTH, _CHARACTER_HEIGHT = 10.5, 15.0
"""Size of a character in the largest type in which the page sets a chart, on a phone: a safe estimate."""

_RISES = (4.0, -9.0, 19.0, -22.0, 30.0)
"""Below or above the point, nearest first: a label further away could be taken for another point's."""


@dataclass(frozen=True)
class Point:
    """One variant: position, intervals both ways (None without one) and the place of its name; `label`: numbers.

    Attributes:
        index: of the variant in the report, for its color and shape.
        is_labeled: whether there was room for its name beside it; the legend has all names.
    """

    name: str
    x: float
    y: float
    label: str
    index: int
    is_baseline: bool
    representative: bool
    low: float | None = None
    high: float | None = None
    left: float | None = None
    right: float | None = None
    label_x: float = 0.0
    label_y: float = 0.0
    anchor: str = "start"
    is_labeled: bool = False


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def place_labels(
    points: Sequence[Point], *, left: float, right: float, avoid: Iterable[tuple[float, float]] = ()
) -> tuple[Point, ...]:
    """Gives each label the first place beside its point where it covers no other label, point or interval.

    Points that stand for the target choose first; what finds no place has no label.

    Args:
        points: in the order of the report.
        left: where a label may begin, SVG units.
        right: where it must end.
        avoid: small dots to be left free too.
    """
    taken = [_Box(p.x - 8, p.y - 8, p.x + 8, p.y + 8) for p in points]
    taken += [_Box(p.x - 5, p.high, p.x + 5, p.low) for p in points if p.low is not None and p.high is not None]
    taken += [_Box(p.left, p.y - 5, p.right, p.y + 5) for p in points if p.left is not None and p.right is not None]
    taken += [_Box(x - 5, y - 16, x + 5, y + 5) for x, y in avoid]
    placed = dict(enumerate(points))
    for i, point in sorted(placed.items(), key=lambda item: not item[1].representative):
        for found, box in (_label_at(point, dx, dy) for dy in _RISES for dx in (12.0, -12.0)):
            inside = box.left >= left and box.right <= right
            if inside and not any(box.meets(other) for other in taken):
                placed[i] = replace(found, is_labeled=True)
                taken.append(box)
                break
    return tuple(placed.values())


def _label_at(point: Point, dx: float, dy: float) -> tuple[Point, _Box]:
    """The point with its label there, and the room that the label needs."""
    x, y, width = point.x + dx, point.y + dy, CHARACTER_WIDTH * len(point.name)
    left = x if dx > 0 else x - width
    label = replace(
        point, label_x=round(x, 2), label_y=round(y, 2), anchor="start" if dx > 0 else "end", is_labeled=True
    )
    return label, _Box(left, y - _CHARACTER_HEIGHT, left + width, y + 4)
