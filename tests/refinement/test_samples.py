"""The samples of trials: the same ones in every order, all of them used, in batches that the model takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.datasets.fingerprint import contents_of
from quantkit.datasets.open import open_samples
from quantkit.refinement.samples import SampleBatches, choose_samples
from quantkit.types import Dataset, TensorSpec


def rows_of(samples: SampleBatches) -> list[float]:
    return [float(value) for batch in samples.batches for value in batch["x"][:, 0]]


def dataset(folder: Path, values: np.ndarray) -> Dataset:
    np.save(folder / "data.npy", values.astype(np.float32).reshape(-1, 1))
    inputs = (TensorSpec("x", np.dtype("float32"), (None, 1)),)
    return open_samples(inputs, folder / "data.npy", None, None, num_samples=1000, seed=0, order="given")


def chosen(data: Dataset, most: int, batch_size: int | None = None) -> SampleBatches:
    inputs = (TensorSpec("x", np.dtype("float32"), (batch_size, 1)),)
    return choose_samples(inputs, data, contents_of(data), most=most, workers=1)


@pytest.mark.parametrize("most", [7, 30, 100])
def test_no_order_changes_the_choice(tmp_path: Path, most: int) -> None:
    values = np.arange(30)
    first = rows_of(chosen(dataset(tmp_path, values), most))
    shuffled = rows_of(chosen(dataset(tmp_path, np.random.default_rng(0).permutation(values)), most))
    assert first == shuffled
    assert len(set(first)) == min(most, 30)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_there_are_parts_to_suggest_and_to_judge_where_there_are_samples(tmp_path: Path, count: int) -> None:
    samples = chosen(dataset(tmp_path, np.arange(count)), 1000)
    assert samples.num_samples == count
    assert len(samples.batches) >= min(count, 3)
    assert all(part.num_samples for part in samples.split())


@pytest.mark.parametrize("count", [1, 3, 8, 9])
def test_a_fixed_batch_is_filled_up_with_copies(tmp_path: Path, count: int) -> None:
    samples = chosen(dataset(tmp_path, np.arange(count)), 1000, batch_size=4)
    assert {len(batch["x"]) for batch in samples.batches} == {4}
    assert set(rows_of(samples)) == set(range(count))


def made(sizes: list[int]) -> SampleBatches:
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return SampleBatches(tuple({"x": part[:, None]} for part in rows))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 200))
def test_the_first_samples_are_whole_batches(sizes: list[int], wanted: int) -> None:
    samples = made(sizes)
    first = samples.first(wanted)
    assert rows_of(first) == list(range(first.num_samples))
    assert first.num_samples >= min(wanted, samples.num_samples)
    assert SampleBatches(first.batches[:-1]).num_samples < wanted


@pytest.mark.parametrize(
    ("sample_bytes", "is_fixed", "kept"),
    [(1, False, 24), (1 << 27, False, 16), (1 << 29, False, 4), (1 << 40, False, 1), (1 << 40, True, 8)],
)
def test_what_is_kept_fits_into_memory(sample_bytes: int, is_fixed: bool, kept: int) -> None:
    samples = replace(made([8, 8, 8]), is_fixed=is_fixed).within(sample_bytes)
    assert rows_of(samples) == list(range(kept))
    assert samples.is_fixed == is_fixed


@given(st.lists(st.integers(1, 9), min_size=4, max_size=40))
def test_what_judges_did_not_suggest_and_what_tells_did_neither(sizes: list[int]) -> None:
    parts = [set(rows_of(part)) for part in made(sizes).split()]
    assert set.union(*parts) == set(range(sum(sizes)))
    assert sum(map(len, parts)) == sum(sizes)
    assert all(parts)


def test_a_last_batch_of_few_samples_does_not_tell_what_the_result_is_worth() -> None:
    assert [part.num_samples for part in made([8, 8, 8, 8, 8, 8, 8, 1]).split()] == [33, 16, 8]
