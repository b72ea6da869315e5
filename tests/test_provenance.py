import dataclasses

from quantkit.provenance import differences
from quantkit.types import Preprocessing

PREPROCESSING = Preprocessing(size=(224, 224))


def test_each_difference_is_named_with_both_values():
    stored = {
        "model hash": "a" * 64,
        "dataset fingerprint": "b" * 64,
        "preprocessing": PREPROCESSING,
        "method": "entropy",
        "exclude": ["fc"],
    }
    wanted = {
        **stored,
        "dataset fingerprint": "c" * 64,
        "preprocessing": dataclasses.replace(PREPROCESSING, color="BGR", pad_value=1),
        "method": "mse",
        "exclude": [],
        "seed": 3,
    }
    assert differences(stored, wanted) == [
        "dataset fingerprint: bbbbbbbbbbbb → cccccccccccc",
        f"preprocessing color: {PREPROCESSING.color} → BGR",
        f"preprocessing pad_value: {PREPROCESSING.pad_value} → 1",
        "method: entropy → mse",
        "exclude: ['fc'] → none",
        "seed: none → 3",
    ]
    assert differences(stored, stored) == []
    assert differences({"preprocessing": None}, {"preprocessing": PREPROCESSING}) == [
        "preprocessing: none → another kind"
    ]


def test_of_dictionaries_the_differing_keys_are_named():
    stored, wanted = {"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "x", "d": "3"}
    assert differences({"samples": stored}, {"samples": wanted}) == ["samples: b, c, d"]
