from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantkit.datasets import batching, iterate_batches
from quantkit.datasets.preprocess import PixelInput
from quantkit.errors import DatasetError, UnreadableSampleError
from quantkit.types import Preprocessing, Sample


class Numbers:
    """Sample i holds i. Counts the samples that are alive, and fails where it is told to."""

    classes: Sequence[str] = ()
    fingerprint = ""

    def __init__(self, count: int, *, bad: frozenset[int] = frozenset(), labeled: bool = True) -> None:
        self.count, self.bad, self.labeled = count, bad, labeled
        self.ids = [f"s{i}" for i in range(count)]
        self.targets = list(range(count)) if labeled else None
        self.preprocessing: Preprocessing | None = None
        self.lock = threading.Lock()
        self.alive = self.most_alive = self.read = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise UnreadableSampleError(f"s{index}", "damaged")
        sample = Sample(f"s{index}", {"x": self.value(index)}, index if self.labeled else None)
        with self.lock:
            self.read += 1
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(sample, self._forget)
        return sample

    def value(self, index: int) -> np.ndarray:
        return np.full((2, 3), index, np.float32)

    def _forget(self) -> None:
        with self.lock:
            self.alive -= 1


class Ragged(Numbers):
    def value(self, index: int) -> np.ndarray:
        return np.zeros(1 + index // 4, np.float32)


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("quantkit-decode")]


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    workers=st.integers(1, 4),
    prefetch=st.integers(0, 3),
    bad=st.frozensets(st.integers(0, 39)),
)
def test_batches_have_order_and_size(
    count: int, batch_size: int, workers: int, prefetch: int, bad: frozenset[int]
) -> None:
    good = [i for i in range(count) if i not in bad]
    if not good:
        return
    skipped: list[tuple[str, str]] = []
    dataset = Numbers(count, bad=bad)
    batches = list(
        iterate_batches(
            dataset, batch_size, workers=workers, prefetch=prefetch, on_skip=lambda *what: skipped.append(what)
        )
    )
    assert [name for batch in batches for name in batch.ids] == [f"s{i}" for i in good]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    assert skipped == [(f"s{i}", "damaged") for i in range(count) if i in bad]
    for batch in batches:
        assert batch.targets is not None
        assert batch.targets.dtype == np.int64
        assert batch.ids == tuple(f"s{i}" for i in batch.targets)
        assert batch.inputs["x"].shape == (len(batch), 2, 3)
        assert np.array_equal(batch.inputs["x"][:, 1, 2], batch.targets)


@pytest.mark.parametrize("prefetch", [0, 1, 2, 4])
@pytest.mark.parametrize("bad", [frozenset[int](), frozenset(range(3, 300, 2))])
def test_memory_is_independent_of_the_data_size(prefetch: int, bad: frozenset[int]) -> None:
    dataset = Numbers(300, bad=bad)
    read_ahead = 0
    delivered = 0
    for batch in iterate_batches(dataset, 5, workers=4, prefetch=prefetch):
        delivered += len(batch)
        read_ahead = max(read_ahead, dataset.read - delivered)
    stacked = 5 if prefetch else 0  # the next batch, ready or being made
    assert dataset.most_alive <= (prefetch + 1) * 5 + 1 + stacked
    assert read_ahead <= max(1, prefetch * 5) + stacked
    assert dataset.alive == 0


def test_the_next_batch_is_stacked_while_the_caller_works() -> None:
    batches = iterate_batches(Numbers(40), 10, workers=1, prefetch=1)
    first = next(batches)
    for _ in range(1000):
        if any(thread.name.startswith("quantkit-stack") for thread in threading.enumerate()):
            break
        time.sleep(0.01)
    assert first.ids[0] == "s0"
    batches.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("quantkit-stack", "quantkit-decode"))]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_skipped_samples_are_told_in_the_callers_thread_before_their_batch(prefetch: int) -> None:
    told: list[tuple[str, int]] = []
    delivered = 0

    def note(name: str, _: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append((name, delivered))

    for batch in iterate_batches(Numbers(12, bad=frozenset({0, 5, 11})), 4, workers=2, prefetch=prefetch, on_skip=note):
        delivered += len(batch)
    assert told == [("s0", 0), ("s5", 4), ("s11", 8)]


def test_samples_are_decoded_concurrently() -> None:
    class Meeting(Numbers):
        barrier = threading.Barrier(3)

        def value(self, index: int) -> np.ndarray:
            self.barrier.wait(timeout=30)  # breaks unless three samples are decoded together
            return super().value(index)

    assert [len(b) for b in iterate_batches(Meeting(6), 3, workers=3, prefetch=1)] == [3, 3]


def test_batches_of_unlabeled_data_have_no_labels() -> None:
    assert next(iterate_batches(Numbers(3, labeled=False), 2)).targets is None


def test_missing_label_leaves_the_batch_unlabeled() -> None:
    class Half(Numbers):
        def __getitem__(self, index: int) -> Sample:
            return Sample(f"s{index}", {"x": self.value(index)}, index if index else None)

    first, second = iterate_batches(Half(4), 2)
    assert first.targets is None
    assert second.targets is not None


def test_strict_raises_the_first_error_in_order() -> None:
    batches = iterate_batches(Numbers(20, bad=frozenset({7, 9})), 4, workers=4, strict=True)
    assert next(batches).ids == ("s0", "s1", "s2", "s3")
    with pytest.raises(DatasetError, match=r"^s7: damaged$"):
        list(batches)
    assert decoding_threads() == []


def test_data_without_readable_samples_is_refused() -> None:
    dataset = Numbers(9, bad=frozenset(range(9)))
    with pytest.raises(DatasetError, match=r"^no readable sample among 9: s0: damaged$"):
        list(iterate_batches(dataset, 4))
    dataset.preprocessing = Preprocessing(size=(1, 1))
    with pytest.raises(DatasetError, match=r"^no readable image among 9: s0: damaged$"):
        list(iterate_batches(dataset, 4))
    with pytest.raises(DatasetError, match="no readable sample among 0"):
        list(iterate_batches(Numbers(0), 4))


def test_samples_with_different_shapes_are_in_different_batches() -> None:
    batches = list(iterate_batches(Ragged(8), 8))
    assert [b.inputs["x"].shape for b in batches] == [(4, 1), (4, 2)]
    assert [name for b in batches for name in b.ids] == [f"s{i}" for i in range(8)]
    assert [b.inputs["x"].shape for b in iterate_batches(Ragged(8), 4)] == [(4, 1), (4, 2)]
    assert decoding_threads() == []


def test_samples_with_different_inputs_are_refused() -> None:
    class Other(Numbers):
        def __getitem__(self, index: int) -> Sample:
            return Sample(f"s{index}", {"xy"[index]: self.value(index)})

    with pytest.raises(DatasetError, match="samples 's0' and 's1' have different inputs"):
        list(iterate_batches(Other(2), 2))


def test_closing_early_stops_the_threads() -> None:
    dataset = Numbers(1000)
    batches = iterate_batches(dataset, 4, workers=3)
    next(batches)
    assert decoding_threads()
    batches.close()
    assert decoding_threads() == []
    assert dataset.read <= 3 * 4
    assert dataset.alive == 0


def test_dropping_the_iterator_stops_the_threads() -> None:
    for _ in iterate_batches(Numbers(1000), 4, workers=3):
        break
    assert decoding_threads() == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_other_errors_pass_through(kind: type[BaseException]) -> None:
    class Broken(Numbers):
        def value(self, index: int) -> np.ndarray:
            if index == 5:
                raise kind
            return super().value(index)

    with pytest.raises(kind):
        list(iterate_batches(Broken(100), 4, workers=3))
    assert decoding_threads() == []


def test_error_in_on_skip_stops_the_threads() -> None:
    def interrupt(name: str, reason: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(iterate_batches(Numbers(100, bad=frozenset({1})), 4, workers=3, on_skip=interrupt))
    assert decoding_threads() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 1, "workers": 0}, "--workers 0"),
        ({"batch_size": 1, "prefetch": -1}, "prefetch -1"),
    ],
)
def test_invalid_arguments_are_refused_immediately(options: dict[str, int], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        iterate_batches(Numbers(1), **options)


@pytest.mark.parametrize(("worth", "pools"), [(1, [2]), (1 << 30, [])])
def test_threads_fill_a_batch_only_where_it_is_large(
    monkeypatch: pytest.MonkeyPatch, worth: int, pools: list[int]
) -> None:
    how = Preprocessing((4, 5), scale=0.5)
    levels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    samples = [Sample(f"s{i}", PixelInput("x", levels + i, how)) for i in range(5)]
    started = []
    pool_of = batching.ThreadPoolExecutor
    monkeypatch.setattr(batching, "ThreadPoolExecutor", lambda size: started.append(size) or pool_of(size))
    monkeypatch.setattr(batching, "count_cpus", lambda: 2)
    monkeypatch.setattr(batching, "_WORTH_WRITERS", worth)
    found = batching.stack_samples(samples).inputs["x"]
    assert np.array_equal(found, [sample.inputs["x"] for sample in samples])
    assert started == pools
