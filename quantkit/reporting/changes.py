"""Samples for which a variant's prediction differs from the baseline's, as cards: ground truth and both predictions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quantkit.reporting.formatting import format_count, single_line
from quantkit.types import ChangedSample, Report

NUM_CHANGES_SHOWN = 12
"""Cards that are shown at once; the others are folded."""

_PICTURE = re.compile(r"data:image/(?:png|jpeg|webp);base64,[A-Za-z0-9+/=]+", re.ASCII)
"""The only pictures that a page takes: of other makes, such as SVG, it would have to trust the contents."""


@dataclass(frozen=True)
class ChangeCard:
    """One sample: texts on one line; `thumbnail` is a data URI or empty, `alt` its alternative text."""

    sample: str
    truth: str
    before: str
    after: str
    thumbnail: str
    alt: str


@dataclass(frozen=True)
class ChangeGroup:
    """The samples of one variant and kind, the most severe first.

    Attributes:
        kind: "broken", "fixed" or "changed".
        title: for people.
        change_total: how many such samples there are.
        cards: those that the report holds.
    """

    kind: str
    title: str
    change_total: str
    cards: tuple[ChangeCard, ...]

    @property
    def change_shown(self) -> str:
        """How many cards there are."""
        return format_count(len(self.cards))


def change_groups(report: Report) -> dict[str, tuple[ChangeGroup, ...]]:
    """Variant → groups, broken samples first; variants and groups without a sample are left out."""
    # Changes of a variant that is not in the report: nothing on the page to compare them with.
    found = {e.name: _groups(report, e.name) for e in report.evaluations}
    return {single_line(name): groups for name, groups in found.items() if groups}


def cards_by_variant(report: Report) -> list[tuple[str, list[ChangeCard]]]:
    """The samples of all groups of each variant, in their order."""
    found = change_groups(report).items()
    return [(variant, [card for group in groups for card in group.cards]) for variant, groups in found]


def _groups(report: Report, variant: str) -> tuple[ChangeGroup, ...]:
    base = single_line(report.baseline.name)
    titles = {
        "broken": f"Broken: {base} is better",
        "fixed": f"Fixed: {single_line(variant)} is better",
        "changed": "Changed: different prediction",
    }
    groups = []
    for kind, title in titles.items():
        cards = tuple(_card(base, c) for c in report.changes if (c.variant, c.kind) == (variant, kind))
        if total := max(report.num_changes.get(variant, {}).get(kind, 0), len(cards)):
            groups.append(ChangeGroup(kind, title, format_count(total), cards))
    return tuple(groups)


def _card(base: str, change: ChangedSample) -> ChangeCard:
    sample, truth, before, after = map(single_line, (change.sample, change.truth, change.before, change.after))
    right = f"ground truth {truth}; " if truth else ""
    return ChangeCard(
        sample=sample,
        truth=truth,
        before=before,
        after=after,
        thumbnail=change.thumbnail if _PICTURE.fullmatch(change.thumbnail) else "",
        alt=f"Sample {sample}: {right}{base} predicts {before}, {single_line(change.variant)} predicts {after}",
    )
