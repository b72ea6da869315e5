import errno
import os
import selectors
import signal
import subprocess
import sys
import threading
import time

import pytest

from quantkit import storage
from quantkit.errors import OutputError
from quantkit.storage import check_writable, exclusive, write_atomically, write_bytes, write_text


def test_new_and_replaced(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "one\r\nté\n")
    assert path.read_bytes() == "one\r\nté\n".encode()
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["b.txt"]


def test_the_mode_is_that_of_a_plainly_written_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "t"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["t"]


def test_errors_name_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "x", tmp_path / "folder"):
        with pytest.raises(OutputError, match=str(target)):
            write_text(target, "")
    with pytest.raises(OutputError, match="file"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folder")


def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "t.bin"
    old, size = b"old" * 1000, 2_000_000
    code = (
        "import sys\nfrom quantkit.storage import write_bytes\nprint('go', flush=True)\n"
        f"while True:\n    for c in b'ab':\n        write_bytes(sys.argv[1], bytes([c]) * {size})\n"
    )
    path.write_bytes(old)
    for delay in (0.0, 0.003, 0.01, 0.02, 0.05):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert content == old or (len(content) == size and len(set(content)) == 1)


def waiting_for(path, before=""):
    code = (
        f"import sys\n{before}\nfrom quantkit.storage import exclusive\n"
        "with exclusive(sys.argv[1], on_wait=lambda: print('waits', flush=True)):\n"
        "    print('holds', flush=True)\n    sys.stdin.readline()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


WINDOWS = """
import errno, fcntl, pathlib, types
def locking(handle, mode, count):
    assert count == 1
    try:
        fcntl.flock(handle, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None
sys.modules["fcntl"], sys.modules["msvcrt"] = None, types.SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=locking)
def unlink(path, missing_ok=False):
    raise PermissionError(errno.EACCES, "the file is open")
pathlib.Path.unlink = unlink
"""
"""Makes a process lock as on Windows, by system calls of this one: an open file is not deleted."""


@pytest.mark.skipif(sys.platform == "win32", reason="selects on pipes")
@pytest.mark.parametrize("before", ["", WINDOWS], ids=["here", "windows"])
def test_one_process_at_a_time_and_a_killed_one_frees_the_lock(tmp_path, before):
    path = tmp_path / "lock"
    first = waiting_for(path, before)
    assert first.stdout.readline() == "holds\n"
    others = [waiting_for(path, before) for _ in range(2)]
    assert [p.stdout.readline() for p in others] == ["waits\n"] * 2
    first.kill()
    ready = []
    with selectors.DefaultSelector() as selector:
        for process in others:
            selector.register(process.stdout, selectors.EVENT_READ, process)
        ready = [key.data for key, _ in selector.select()]
    assert len(ready) == 1
    assert ready[0].stdout.readline() == "holds\n"
    ready[0].communicate("\n")
    (last,) = (p for p in others if p is not ready[0])
    assert last.communicate("\n")[0] == "holds\n"
    first.communicate()
    assert path.exists() == bool(before)


class FakeLocks:
    """msvcrt without another process: `refusals` are raised one after the other, then it locks."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self, *refusals: int) -> None:
        self.refusals, self.calls = list(refusals), []

    def locking(self, handle: int, mode: int, count: int) -> None:
        os.fstat(handle)
        self.calls.append((mode, count))
        if self.refusals:
            raise OSError(self.refusals.pop(0), "refused")


@pytest.fixture
def on_windows(monkeypatch):
    def make(*refusals: int) -> FakeLocks:
        locks = FakeLocks(*refusals)
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", locks)
        monkeypatch.setattr(storage, "_POLL_S", 0.0)
        return locks

    return make


def test_windows_locks_a_byte_and_removes_the_file(tmp_path, on_windows):
    locks = on_windows()
    with exclusive(tmp_path / "a" / "lock", on_wait=pytest.fail):
        assert (tmp_path / "a" / "lock").exists()
        assert locks.calls == [(2, 1)]
    assert locks.calls == [(2, 1), (0, 1)]
    assert list(tmp_path.iterdir()) == []


def test_windows_waits_and_says_so_once(tmp_path, on_windows):
    waits = []
    locks = on_windows(errno.EACCES, errno.EDEADLK, errno.EACCES)
    with exclusive(tmp_path / "lock", on_wait=lambda: waits.append(1)):
        assert waits == [1]
    assert [mode for mode, _ in locks.calls] == [2, 2, 2, 2, 0]


def test_windows_without_locks_on_a_share_runs_without(tmp_path, on_windows):
    locks = on_windows(errno.EINVAL)
    with exclusive(tmp_path / "lock", on_wait=pytest.fail):
        pass
    assert locks.calls == [(2, 1)]


def test_windows_opens_again_what_is_being_deleted(tmp_path, on_windows, monkeypatch):
    on_windows()
    refused, opened = [1, 1, 1], os.open

    def open_later(*words):
        if refused and refused.pop():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(*words)

    monkeypatch.setattr(os, "open", open_later)
    with exclusive(tmp_path / "lock", on_wait=pytest.fail):
        assert not refused
    refused += [1] * 100
    with pytest.raises(OutputError, match="lock"), exclusive(tmp_path / "lock", on_wait=pytest.fail):
        pass


def test_a_system_without_any_locks_runs_without(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", None)
    with exclusive(tmp_path / "lock", on_wait=pytest.fail):
        assert list(tmp_path.iterdir()) == []


def test_a_lock_leaves_no_folder_that_nothing_was_written_to(tmp_path):
    with exclusive(tmp_path / "a" / "b" / "lock", on_wait=pytest.fail):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with exclusive(tmp_path / "a" / "b" / "lock", on_wait=pytest.fail):
        write_text(tmp_path / "a" / "x", "")
    assert os.listdir(tmp_path / "a") == ["x"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"), exclusive(tmp_path / "file" / "lock", on_wait=pytest.fail):
        pass


def test_a_thread_that_holds_the_lock_may_take_it_again_and_another_waits(tmp_path):
    lock, order, waiting = tmp_path / "lock", [], threading.Event()

    def other():
        with exclusive(lock, on_wait=waiting.set):
            order.append("other")

    with exclusive(lock, on_wait=pytest.fail):
        with exclusive(lock, on_wait=pytest.fail):
            order.append("again")
        assert lock.exists()  # the inner one does not free it
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(30)
        order.append("still held")
    thread.join(30)
    assert order == ["again", "still held", "other"]
    assert not lock.exists()
