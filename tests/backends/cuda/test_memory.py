import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit.backends.cuda.memory import DeviceFeed, PrimaryContext
from quantkit.errors import BackendError, DatasetError
from quantkit.types import Batch, TensorSpec
from tests.backends import gpu as imaginary

INPUTS = (
    TensorSpec("image", np.dtype(np.float32), (2, 3, 4)),
    TensorSpec("mask", np.dtype(np.bool_), (2, 5)),
)


@pytest.fixture
def gpu(monkeypatch):
    device = imaginary.Gpu()
    device.driver = imaginary.install(device, monkeypatch)
    yield device
    assert device.is_empty()


@pytest.fixture(params=[True, False], ids=["overlap", "in turn"])
def overlap(request):
    return request.param


def make_batch(seed):
    rng = np.random.default_rng(seed)
    inputs = {
        "image": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "mask": rng.random((2, 5)) < 0.5,
    }
    return Batch(inputs=inputs, ids=("a", "b"))


def read(gpu, pointers):
    """What the GPU would see; it may look at any time until the next pointers are asked for."""
    return {spec.name: gpu.read(pointers[spec.name], array_of(spec).nbytes) for spec in INPUTS}


def array_of(spec):
    return np.empty(spec.shape, spec.dtype)


def content(batch):
    return {name: array.tobytes() for name, array in batch.inputs.items()}


@pytest.mark.parametrize("number", [0, 1, 2, 3, 7])
def test_batches_arrive_in_order_and_stay_valid(gpu, overlap, number):
    batches = [make_batch(i) for i in range(number)]
    with DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap) as feed:
        taken = 0
        for expected, pointers in zip(batches, feed.stream(batches), strict=True):
            first = read(gpu, pointers)
            gpu_settles()
            assert first == read(gpu, pointers) == content(expected)
            taken += 1
        assert taken == number


def test_asynchronous_reader_gets_stable_buffers(gpu, overlap):
    batches = [make_batch(i) for i in range(5)]
    seen = []
    context = PrimaryContext()
    with context:
        stream = gpu.driver.Stream()
    with DeviceFeed(INPUTS, context=context, overlap=overlap) as feed:
        for pointers in feed.stream(batches):
            stream.put(lambda pointers=pointers: seen.append(read(gpu, pointers)))
    assert seen == [content(batch) for batch in batches]


def gpu_settles():
    """Gives the copying thread the time to do whatever it wrongly might."""
    threading.Event().wait(0.002)


def test_stream_can_be_repeated(gpu, overlap):
    with DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap) as feed:
        for _ in range(2):
            assert len(list(feed.stream([make_batch(0), make_batch(1)]))) == 2


def test_the_next_batch_is_read_while_the_first_is_used(gpu):
    reached = threading.Event()

    def batches():
        yield make_batch(0)
        reached.set()
        yield make_batch(1)

    with DeviceFeed(INPUTS, context=PrimaryContext()) as feed:
        stream = feed.stream(batches())
        pointers = next(stream)
        assert reached.wait(10)
        assert read(gpu, pointers) == content(make_batch(0))
        assert next(stream) != pointers


def test_nothing_is_allocated_while_streaming(gpu, overlap):
    with DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap) as feed:
        before = set(gpu.memory)
        for _ in feed.stream([make_batch(i) for i in range(4)]):
            assert set(gpu.memory) == before
        assert sum(map(len, gpu.memory.values())) == feed.size_bytes == (2 if overlap else 1) * (2 * 3 * 4 * 4 + 2 * 5)


@pytest.mark.parametrize("error", [DatasetError("a.jpg: broken"), ValueError("odd"), KeyboardInterrupt()])
def test_iterator_error_is_raised_to_the_reader(gpu, overlap, error):
    def batches():
        yield make_batch(0)
        raise error

    with DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap) as feed:
        stream = feed.stream(batches())
        next(stream)
        with pytest.raises(type(error)) as caught:
            next(stream)
        assert caught.value is error


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_leaving_early_closes_the_iterator_and_frees_everything(gpu, overlap, taken):
    closed = threading.Event()

    def batches():
        try:
            for i in range(100):
                yield make_batch(i)
        finally:
            closed.set()

    def use():
        with DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap) as feed:
            stream = feed.stream(batches())
            for _ in range(taken):
                next(stream)
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        use()
    assert closed.is_set() == (taken > 0)
    assert threading.active_count() == before
    assert not gpu.memory
    assert not gpu.pinned


def test_freed_memory_is_not_used(gpu, overlap):
    feed = DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap)
    stream = feed.stream([make_batch(i) for i in range(5)])
    next(stream)
    feed.free()
    feed.free()
    with pytest.raises(BackendError, match="freed"):
        next(stream)
    with pytest.raises(BackendError, match="freed"):
        next(feed.stream([make_batch(0)]))


def test_one_stream_at_a_time(gpu):
    with DeviceFeed(INPUTS, context=PrimaryContext()) as feed:
        first = feed.stream([make_batch(0)])
        next(first)
        with pytest.raises(BackendError, match="in use"):
            next(feed.stream([make_batch(1)]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": np.zeros((2, 3, 4), np.float32)}, "no input 'mask'"),
        ({"image": np.zeros((2, 3, 5), np.float32), "mask": np.zeros((2, 5), bool)}, r"'image'.*\[2, 3, 5\]"),
        ({"image": np.zeros((2, 3, 4), np.float64), "mask": np.zeros((2, 5), bool)}, "'image'.*float64"),
    ],
)
def test_oversized_batch_is_refused(gpu, overlap, inputs, message):
    batch = Batch(inputs=inputs, ids=("a", "b"))
    with (
        DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap) as feed,
        pytest.raises(BackendError, match=message),
    ):
        next(feed.stream([batch]))


def test_dynamic_shape_is_refused(gpu):
    with pytest.raises(BackendError, match="no fixed shape"):
        DeviceFeed([TensorSpec("x", np.dtype(np.float32), ("N", 3))], context=PrimaryContext())


@given(capacity=st.integers(0, 2 * (2 * 3 * 4 * 4 + 2 * 5) + 10))
def test_out_of_memory_names_the_bytes_without_leak(capacity):
    with pytest.MonkeyPatch.context() as monkeypatch:
        gpu = imaginary.Gpu(capacity=capacity)
        imaginary.install(gpu, monkeypatch)
        try:
            with DeviceFeed(INPUTS, context=PrimaryContext()) as feed:
                assert feed.size_bytes <= capacity
        except BackendError as error:
            assert "212 bytes" in str(error)  # noqa: PT017  (whether it raises depends on the capacity)
            assert "--batch-size" in str(error)  # noqa: PT017
            assert capacity < 212
        assert gpu.is_empty()


def test_copy_error_is_a_backend_error_without_leak(gpu, overlap, monkeypatch):
    def fail(*arguments):
        del arguments  # or the traceback keeps the stream
        raise imaginary.CudaLogicError("cuMemcpyHtoDAsync failed: context is destroyed")

    feed = DeviceFeed(INPUTS, context=PrimaryContext(), overlap=overlap)
    monkeypatch.setattr(gpu.driver, "memcpy_htod_async", fail)
    with feed, pytest.raises(BackendError, match=r"cannot copy a batch.*context is destroyed"):
        next(feed.stream([make_batch(0)]))
