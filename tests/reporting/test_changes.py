from __future__ import annotations

from dataclasses import replace

import pytest

from quantkit.reporting.changes import change_groups

from .samples import make_classification, picture


def only(thumbnail):
    report = make_classification()
    change = replace(report.changes[0], thumbnail=thumbnail)
    (group,) = change_groups(replace(report, changes=(change,), num_changes={}))["int8"]
    return group.cards[0].thumbnail


def test_groups_are_in_order_with_their_counts():
    groups = change_groups(make_classification())
    assert [(g.kind, g.change_shown, g.change_total) for g in groups["int8"]] == [
        ("broken", "24", "57"),
        ("fixed", "24", "48"),
        ("changed", "5", "5"),
    ]
    assert [len(g.cards) for g in groups["int8"]] == [24, 24, 5]
    assert [(g.change_shown, g.change_total) for g in groups["int8-minmax"]] == [
        ("8", "302"),
        ("3", "160"),
        ("0", "226"),
    ]


def test_pictures_are_taken_as_they_are():
    assert only(picture(1)) == picture(1)
    assert only("") == ""


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:text/html;base64,PHN2Zz4=",
        "https://example.com/a.png",
        "data:image/png;base64,AAAA\n",
        'data:image/png;base64,AAAA" onerror="alert(1)',
        "data:image/png;base64,",
        "DATA:image/png;base64,AAAA",
        "data:image/png;base64,ÄÄÄÄ",
    ],
)
def test_what_is_no_picture_of_pixels_is_dropped(uri):
    assert only(uri) == ""


def test_more_cards_than_were_counted_are_counted():
    report = replace(make_classification(), num_changes={})
    assert [g.change_total for g in change_groups(report)["int8"]] == ["24", "24", "5"]
