"""Samples on which a variant answers otherwise, as cards: what is right, what the baseline says, what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quantkit.reporting.formatting import format_count, one_line
from quantkit.types import ChangedSample, Report

__all__ = ["ChangeCard", "ChangeGroup", "change_groups"]

NUM_SHOWN = 12
"""Cards that are shown at once; the others wait behind a click."""

_PICTURE = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/=]+", re.ASCII)
"""The only pictures that a page takes: of other makes, such as SVG, it would have to trust the contents."""


@dataclass(frozen=True)
class ChangeCard:
    """One sample: texts on one line, `thumbnail` a data URI or empty, `alt` for who does not see it."""

    sample: str
    truth: str
    before: str
    after: str
    thumbnail: str
    alt: str


@dataclass(frozen=True)
class ChangeGroup:
    """The samples of one variant and kind.

    Attributes:
        kind: "broken", "fixed" or "changed".
        title: for people.
        change_shown, change_total: how many cards there are, and how many such samples.
        first, rest: the cards, the most severe first.
    """

    kind: str
    title: str
    change_shown: str
    change_total: str
    first: tuple[ChangeCard, ...]
    rest: tuple[ChangeCard, ...]


def change_groups(report: Report) -> dict[str, tuple[ChangeGroup, ...]]:
    """Variant → groups, what broke first; variants and groups without a sample are left out."""
    names = [e.name for e in report.evaluations]
    # Changes of a variant that is not in the report: nothing on the page to compare them with.
    found = {name: _groups(report, name) for name in names}
    return {one_line(name): groups for name, groups in found.items() if groups}


def _groups(report: Report, variant: str) -> tuple[ChangeGroup, ...]:
    base = one_line(report.baseline.name)
    name = one_line(variant)
    titles = {
        "broken": f"Broken: {base} does better",
        "fixed": f"Fixed: {name} does better",
        "changed": "Changed: another answer",
    }
    groups = []
    for kind, title in titles.items():
        cards = tuple(_card(base, c) for c in report.changes if (c.variant, c.kind) == (variant, kind))
        total = max(report.num_changes.get(variant, {}).get(kind, 0), len(cards))
        if total:
            shown = format_count(len(cards))
            groups.append(ChangeGroup(kind, title, shown, format_count(total), cards[:NUM_SHOWN], cards[NUM_SHOWN:]))
    return tuple(groups)


def _card(base: str, change: ChangedSample) -> ChangeCard:
    sample, truth, before, after = map(one_line, (change.sample, change.truth, change.before, change.after))
    right = f"{truth}; " if truth else ""
    return ChangeCard(
        sample=sample,
        truth=truth,
        before=before,
        after=after,
        thumbnail=change.thumbnail if _PICTURE.fullmatch(change.thumbnail) else "",
        alt=f"Sample {sample}: {right}{base} says {before}, {one_line(change.variant)} says {after}",
    )
