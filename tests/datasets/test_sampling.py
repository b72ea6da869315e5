from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.datasets import describe, open_dataset, select
from quantkit.datasets.arrays import ArrayRows
from quantkit.errors import DatasetError
from quantkit.types import Dataset, Sample, TensorSpec


def rows(targets: list[int] | None, count: int = 0) -> ArrayRows:
    count = len(targets) if targets is not None else count
    return ArrayRows(
        path=Path("x.npy"),
        arrays={"x": np.arange(count, dtype=np.float32)[:, None]},
        dtypes={"x": np.dtype(np.float32)},
        ids=[str(i) for i in range(count)],
        targets=targets,
        classes=(),
    )


labels = st.lists(st.integers(0, 6), min_size=1, max_size=60)


@given(labels, st.integers(1, 70), st.integers(0, 2**32), st.sampled_from(["shuffled", "given"]))
def test_classes_are_balanced(targets: list[int], count: int, seed: int, order: str) -> None:
    chosen = select(rows(targets), num_samples=count, seed=seed, order=order)  # type: ignore[arg-type]
    assert len(chosen) == min(count, len(targets))
    assert len(set(chosen.indices)) == len(chosen)
    available, taken = Counter(targets), Counter(chosen.targets)
    most = max(taken.values())
    for label, there in available.items():
        # A class gives less than the others only by one, or because it has no more.
        assert taken[label] >= min(there, most - 1)


@given(labels, st.integers(1, 70))
def test_given_order_takes_the_first_of_each_class(targets: list[int], count: int) -> None:
    chosen = select(rows(targets), num_samples=count, order="given")
    assert list(chosen.indices) == sorted(chosen.indices)
    for label in set(targets):
        of_class = [i for i, target in enumerate(targets) if target == label]
        taken = [i for i in chosen.indices if targets[i] == label]
        assert taken == of_class[: len(taken)]


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 2**64))
def test_unlabeled_data_is_sampled_without_replacement(total: int, count: int, seed: int) -> None:
    chosen = select(rows(None, total), num_samples=count, seed=seed)
    assert len(set(chosen.indices)) == min(count, total)
    assert chosen.targets is None
    assert select(rows(None, total), num_samples=count, order="given").indices == tuple(range(min(count, total)))


def test_selection_is_deterministic() -> None:
    # Written down from the definition: indices sorted by the raw 64-bit stream of PCG64(0).
    assert select(rows(None, 10), seed=0).indices == tuple(
        sorted(range(10), key=[int(k) for k in np.random.PCG64(0).random_raw(10)].__getitem__)
    )
    assert select(rows(None, 10), num_samples=4, seed=0).indices == (3, 2, 1, 8)
    targets = [0] * 20 + [1] * 3 + [2] * 5
    first = select(rows(targets), num_samples=12, seed=7)
    assert first.indices == select(rows(targets), num_samples=12, seed=7).indices
    assert first.indices != select(rows(targets), num_samples=12, seed=8).indices
    assert Counter(first.targets) in (Counter({0: 5, 1: 3, 2: 4}), Counter({0: 4, 1: 3, 2: 5}))


def test_few_samples_do_not_favor_the_first_classes() -> None:
    targets = [i // 3 for i in range(60)]
    seen = {label for seed in range(30) for label in select(rows(targets), num_samples=2, seed=seed).targets or ()}
    assert len(seen) > 15


def test_large_number_selects_all_samples() -> None:
    dataset = rows([1, 0, 1])
    for count in (None, 3, 99):
        assert sorted(select(dataset, num_samples=count).indices) == [0, 1, 2]
        assert select(dataset, num_samples=count, order="given").indices == (0, 1, 2)


def test_selection_reads_its_samples() -> None:
    view = select(rows([5, 6, 7, 8]), num_samples=2, seed=3)
    assert isinstance(view, Dataset)
    for i, original in enumerate(view.indices):
        sample = view[i]
        assert (sample.id, sample.target) == (str(original), original + 5)
        assert view.ids[i] == sample.id
        assert view.targets is not None
        assert view.targets[i] == sample.target
    with pytest.raises(IndexError):
        view[2]
    assert view.preprocessing is None
    assert view.classes == ()
    again = select(view, num_samples=1, order="given")
    assert again[0].id == view.ids[0]


def test_fingerprint_depends_on_the_selected_samples() -> None:
    dataset = rows(None, 6)
    whole = dataset.fingerprint
    assert select(dataset, seed=1).fingerprint == select(dataset, seed=2).fingerprint == whole
    assert select(dataset, order="given").fingerprint == whole
    part = select(dataset, num_samples=3, order="given")
    assert part.fingerprint == rows(None, 3).fingerprint != whole


class Foreign:
    """A data set by someone else: the protocol and nothing more."""

    ids = ("a", "b")
    targets = None
    classes = ()
    preprocessing = None
    fingerprint = "theirs"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise DatasetError("b: gone")
        return Sample("a", {"x": np.zeros(3, np.float32)})


def test_any_data_set_can_be_sampled() -> None:
    view = select(Foreign())
    assert len(view.fingerprint) == 64
    assert view.fingerprint != select(Foreign(), num_samples=1, order="given").fingerprint
    assert describe(view) == {"kind": "data set", "num_samples": 2, "num_classes": 0}


def test_describe() -> None:
    assert describe(rows(None, 4)) == {"kind": "arrays", "num_samples": 4, "num_classes": 0}
    expected = {"kind": "arrays", "num_samples": 4, "num_classes": 2, "min_per_class": 1, "max_per_class": 3}
    assert describe(rows([3, 0, 3, 3])) == expected
    assert describe(select(rows([3, 0, 3, 3]), num_samples=2))["max_per_class"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_samples": 0}, "--num-samples 0"), ({"seed": -1}, "--seed -1"), ({"order": "sorted"}, "'sorted'")],
)
def test_invalid_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        select(rows(None, 3), **options)  # type: ignore[arg-type]


def test_meaningless_labels_are_dropped(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "0.png")
    dataset = open_dataset(tmp_path, [TensorSpec("x", np.dtype(np.float32), ("n", 1, 4, 4))])
    chosen = select(dataset, labeled=False)
    assert (chosen.targets, tuple(chosen.classes), chosen[0].target) == (None, (), None)
    assert select(dataset).targets is not None
