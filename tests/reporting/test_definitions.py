from __future__ import annotations

from quantkit.reporting.definitions import DEFINITIONS, FIELDS, SCORE, definitions

from .samples import make_classification, make_detection, make_unlabelled_arrays


def test_every_field_has_a_term_and_every_term_words():
    assert {term for term in FIELDS.values() if term != SCORE} <= DEFINITIONS.keys()
    assert all(len(words) > 30 and words.endswith(".") for words in DEFINITIONS.values())


def test_the_score_is_defined_by_the_report():
    assert next(iter(definitions(make_detection()))) == "mAP"
    assert definitions(make_detection())["mAP"].startswith("Mean over classes of average precision")


def test_what_is_not_in_a_report_is_not_explained():
    whole = definitions(make_classification())
    assert {"Top-5", "MLPerf", "Rank interval", "Own SQNR", "Coverage", "Class score"} <= whole.keys()
    assert not {"Compute", "Samples"} & whole.keys()
    bare = definitions(make_unlabelled_arrays())
    assert not {"Top-1", "Difference", "MLPerf", "Top-5", "Class score"} & bare.keys()
    assert "Compute" in definitions(make_detection())
