from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.datasets import Selection, decoder_processes, image_files, iterate_batches, read_ahead
from quantkit.datasets.image_files import ImageFiles
from quantkit.errors import ChangedDataError, DatasetError, MachineError
from quantkit.types import Batch, Preprocessing

PLAIN = Preprocessing((6, 5), mean=(1.0, 2.0, 3.0), std=(2.0,))
UPSIDE_DOWN = 3
ON_LINUX = sys.platform == "linux"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes decode also few samples; yields those that were started."""
    found: list[subprocess.Popen[bytes]] = []
    start = decoder_processes._start

    def note(*shared: int | None) -> subprocess.Popen[bytes]:
        found.append(start(*shared))
        return found[-1]

    monkeypatch.setattr(decoder_processes, "_MOST_THREADS", 0)
    monkeypatch.setattr(decoder_processes, "_WORTH_PROCESSES", 1)
    for module in (read_ahead, decoder_processes):
        monkeypatch.setattr(module, "TOGETHER", 3)
    monkeypatch.setattr(decoder_processes, "_start", note)
    yield found
    assert all(process.poll() is not None for process in found)


def images(folder: Path, count: int = 20) -> ImageFiles:
    """Photographs of several modes and sizes, one of them turned, one damaged, one empty, one missing."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 256, (8 + i, 12, 3), dtype=np.uint8)).convert(("RGB", "L", "P")[i % 3])
        exif = Image.Exif()
        exif[0x0112] = UPSIDE_DOWN
        image.save(folder / f"{i:02}.png", **({"exif": exif} if i == 1 else {}))
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:60])
    (folder / "06.png").write_bytes(b"")
    (folder / "09.png").unlink()
    paths = [folder / f"{i:02}.png" for i in range(count)]
    boxes = [(0.0, 0.0, 10.0, 6.0 if i != 11 else 0.0) for i in range(count)]  # one of them empty
    names = [path.name for path in paths]
    return ImageFiles("image list", paths, names, list(range(count)), (), "x", PLAIN, boxes)


def read(data: object, **options: int) -> tuple[list[Batch], list[tuple[str, str]]]:
    skipped: list[tuple[str, str]] = []
    batches = iterate_batches(data, 4, on_skip=lambda *what: skipped.append(what), **options)  # type: ignore[arg-type]
    return list(batches), skipped


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert [batch.ids for batch in found] == [batch.ids for batch in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one.inputs["x"], other.inputs["x"])
        assert one.image_sizes == other.image_sizes
        assert np.array_equal(one.targets, other.targets)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_give_what_threads_give(tmp_path, started, workers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_processes, "_MOST_THREADS", 99)
        wanted, skipped = read(Selection(images(tmp_path / "a"), tuple(range(19, -1, -1))))
        assert not started
    found, also_skipped = read(Selection(images(tmp_path / "a"), tuple(range(19, -1, -1))), workers=workers)
    assert_same(found, wanted)
    assert also_skipped == skipped
    assert [name for name, _ in skipped] == ["11.png", "09.png", "06.png", "05.png"]
    assert 1 <= len(started) <= workers


@pytest.mark.parametrize("num_places", [0, pytest.param(2, marks=pytest.mark.skipif(not ON_LINUX, reason="Linux'"))])
def test_pixels_for_which_there_is_no_place_come_through_the_pipe(tmp_path, started, monkeypatch, num_places):
    wanted, _ = read(images(tmp_path))
    share = decoder_processes.share_pixels
    monkeypatch.setattr(
        decoder_processes, "share_pixels", lambda _, size: share(num_places, size) if num_places else None
    )
    assert_same(read(images(tmp_path), workers=2)[0], wanted)
    assert started


def test_a_process_has_the_next_request_while_it_answers(tmp_path, started, monkeypatch):
    """Of the threads that share it."""
    wanted, _ = read(images(tmp_path))
    receive, send = decoder_processes._receive, decoder_processes._send
    sent, received = threading.Semaphore(0), []

    def note(process, requests):
        send(process, requests)
        sent.release()

    def wait(process):
        received.append(process)
        assert len(received) > 1 or (sent.acquire(timeout=20) and sent.acquire(timeout=20))
        return receive(process)

    monkeypatch.setattr(decoder_processes, "_send", note)
    monkeypatch.setattr(decoder_processes, "_receive", wait)
    assert_same(read(images(tmp_path), workers=1)[0], wanted)
    assert len(received) == 7  # chunks of three


def test_a_file_that_changes_is_found_out(tmp_path, started):
    data = images(tmp_path)
    data.content_hash(0)
    Image.new("RGB", (9, 9)).save(data.paths[0])
    with pytest.raises(ChangedDataError, match=r"00\.png was changed"):
        read(data)
    assert started


def test_what_processes_read_has_its_hash(tmp_path, started):
    data, again = images(tmp_path), images(tmp_path)
    read(data)
    assert data.fingerprint == again.fingerprint


@pytest.mark.parametrize("threads", [1, 2])
def test_a_process_that_is_killed_loses_no_sample(tmp_path, started, monkeypatch, threads):
    wanted, _ = read(images(tmp_path))
    receive = decoder_processes._receive
    asked = []

    def kill(process):
        asked.append(process)
        if len(asked) == 2:
            process.kill()
        return receive(process)

    monkeypatch.setattr(read_ahead, "ASKING", threads)
    monkeypatch.setattr(decoder_processes, "_receive", kill)
    found, _ = read(images(tmp_path), workers=1)
    assert_same(found, wanted)
    assert 2 <= len(asked) <= 2 + threads  # one may find its answer in the pipe yet; then each goes on without one


@pytest.mark.parametrize("threads", [1, 2])
def test_half_a_reply_is_not_taken_for_the_next_one(tmp_path, started, monkeypatch, threads):
    """Where memory runs out amid a reply, the rest of it stays in the pipe."""
    wanted, _ = read(images(tmp_path))
    asked = []

    def run_out(process):
        asked.append(process)
        process.stdout.read(10)
        raise MemoryError

    monkeypatch.setattr(read_ahead, "ASKING", threads)
    monkeypatch.setattr(read_ahead, "SAMPLE_LIMIT_S", 20.0)
    monkeypatch.setattr(decoder_processes, "_receive", run_out)
    found, _ = read(images(tmp_path), workers=1)
    assert_same(found, wanted)
    assert 1 <= len(asked) <= threads  # each thread goes on without one


def test_samples_are_read_though_they_cannot_be_prepared_together(tmp_path, started, monkeypatch):
    def fail(data, indices):
        raise RuntimeError("whatever it is")

    monkeypatch.setattr(read_ahead, "SAMPLE_LIMIT_S", 20.0)
    monkeypatch.setattr(ImageFiles, "prefetch", fail)
    found, _ = read(images(tmp_path))
    assert sum(len(batch) for batch in found) == 16


def test_without_processes_threads_decode(tmp_path, started, monkeypatch):
    wanted, skipped = read(images(tmp_path))
    refused = []

    def refuse(*shared):
        refused.append("no process can be started")
        raise OSError(refused[-1])

    monkeypatch.setattr(read_ahead, "ASKING", 1)
    monkeypatch.setattr(decoder_processes, "_start", refuse)
    found, also_skipped = read(images(tmp_path), workers=1)
    assert_same(found, wanted)
    assert also_skipped == skipped
    assert len(refused) == 1


@pytest.mark.parametrize(
    "code", ["raise SystemExit(3)", "print('hello')", "print('N.')", "import sys; sys.stdin.close()", "{path!r}; 1 / 0"]
)
def test_without_a_child_that_serves_threads_decode(tmp_path, started, monkeypatch, capfd, code):
    wanted, skipped = read(images(tmp_path))
    tried = len(started)
    monkeypatch.setattr(decoder_processes, "_START", code)
    found, also_skipped = read(images(tmp_path), workers=2)
    assert_same(found, wanted)
    assert also_skipped == skipped
    assert len(started) <= tried + 2  # no thread tries again
    assert capfd.readouterr() == ("", "")


def test_a_frozen_application_does_not_start_itself(tmp_path, started, monkeypatch):
    wanted, _ = read(images(tmp_path))
    tried = len(started)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    found, _ = read(images(tmp_path))
    assert_same(found, wanted)
    assert len(started) == tried


def test_without_an_interpreter_to_start_threads_decode(tmp_path, started, monkeypatch):
    """As in a program that embeds Python."""
    wanted, _ = read(images(tmp_path))
    monkeypatch.setattr(sys, "executable", None)
    assert_same(read(images(tmp_path))[0], wanted)


def test_entries_of_the_path_that_python_skips_are_skipped(tmp_path, started, monkeypatch):
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    answers = []
    receive = decoder_processes._receive
    monkeypatch.setattr(decoder_processes, "_receive", lambda child: answers.append(receive(child)) or answers[-1])
    read(images(tmp_path))
    assert answers


def test_a_child_that_hangs_before_it_serves_is_ended(tmp_path, started, monkeypatch):
    monkeypatch.setattr(decoder_processes, "_START", "import time; time.sleep(1000)")
    monkeypatch.setattr(read_ahead, "SAMPLE_LIMIT_S", 0.5)
    monkeypatch.setattr(read_ahead, "leave_threads", lambda: None)
    with pytest.raises(MachineError, match=r"could not be read and prepared within 0\.5 s"):
        read(images(tmp_path), workers=1)
    assert len(started) == 1


def test_processes_end_with_an_iteration_that_is_given_up(tmp_path, started):
    batches = iterate_batches(images(tmp_path), 2, workers=2)
    next(batches)
    assert started
    batches.close()
    assert all(process.poll() is not None for process in started)


def test_who_gives_up_waits_for_no_image(tmp_path, started, monkeypatch):
    receive, load = decoder_processes._receive, ImageFiles.__getitem__
    asked, codes, loaded = threading.Event(), [], []

    def take_long(process):
        if not loaded:
            return receive(process)
        asked.set()
        codes.append(process.wait(20))
        raise EOFError

    def note(data, index):
        loaded.append(index)
        return load(data, index)

    monkeypatch.setattr(read_ahead, "ASKING", 1)
    monkeypatch.setattr(decoder_processes, "_receive", take_long)
    monkeypatch.setattr(ImageFiles, "__getitem__", note)
    batches = iterate_batches(images(tmp_path), 1, workers=1)
    next(batches)
    assert asked.wait(20)
    batches.close()
    assert codes
    assert loaded == [0, 1, 2]


@pytest.mark.parametrize(
    ("cpus", "kept", "prepared_by", "ahead"),
    [
        (2, 1000, "quantkit", 4 * 2 * 3),  # chunks for each process
        (2, 5, "quantkit", 5),  # what memory holds
        (2, 1, "quantkit", 3),  # a chunk at the least
        (1, 1000, "quantkit", 0),
        (2, 1000, "nobody", 0),
        (2, 1000, "a function", 0),
    ],
)
def test_as_much_is_decoded_ahead_as_pays(tmp_path, started, monkeypatch, cpus, kept, prepared_by, ahead):
    monkeypatch.setattr(decoder_processes, "_MOST_THREADS", 1)
    monkeypatch.setattr(decoder_processes, "_MOST_AHEAD_BYTES", kept * 3 * 6 * 5)
    monkeypatch.setattr(decoder_processes, "count_cpus", lambda: cpus)
    function = Preprocessing((0, 0), function="file.py:f", function_hash="0")
    how = {"quantkit": PLAIN, "nobody": None, "a function": function}[prepared_by]
    data = replace(images(tmp_path), preprocessing=how)  # type: ignore[arg-type]
    assert decoder_processes.count_ahead(data, 2) == ahead


def test_few_samples_or_threads_need_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_processes, "_start", pytest.fail)
    read(images(tmp_path), workers=8)


def test_functions_of_the_users_run_here(tmp_path, started):
    data = images(tmp_path)
    here = []

    def prepare(image, name):
        here.append(os.getpid())
        return np.zeros((3, 6, 5), np.float32)

    object.__setattr__(data, "function", prepare)
    read(data)
    assert set(here) == {os.getpid()}
    assert not started


@pytest.mark.skipif(not ON_LINUX, reason="looks into /proc")
def test_a_child_ends_with_its_parent(tmp_path):
    """However the parent ends: nothing is told to a child but by its pipe."""
    script = (
        "import os, signal\n"
        "from quantkit.datasets import decoder_processes\n"
        "child = decoder_processes._start()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    child = int(parent.stdout)
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
            assert parent.stderr == ""
            return
        time.sleep(0.05)
    pytest.fail("the child goes on")


@pytest.mark.parametrize("num_threads_enough", [0, 99])
def test_a_damaged_image_is_decoded_twice_wherever_that_is(tmp_path, started, monkeypatch, num_threads_enough):
    decoded, answered = [], []
    decode, receive = image_files.decode_pixels, decoder_processes._receive

    def note(*arguments):
        decoded.append(arguments)
        return decode(*arguments)

    def note_failures(process):
        replies = receive(process)
        answered.extend(reply for reply in replies if reply is None)
        return replies

    monkeypatch.setattr(decoder_processes, "_MOST_THREADS", num_threads_enough)
    monkeypatch.setattr(decoder_processes, "_receive", note_failures)
    monkeypatch.setattr(image_files, "decode_pixels", note)
    folder = tmp_path / "a"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = [f"{i}.png" for i in range(6)]
    data = ImageFiles("image list", [folder / name for name in names], names, None, (), "x", PLAIN)
    with pytest.raises(DatasetError, match="no readable image among 6"):
        read(data)
    assert len(decoded) + len(answered) == 12
    assert len(answered) == (0 if num_threads_enough else 6)
