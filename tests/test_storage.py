import contextlib
import errno
import os
import selectors
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

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
    with pytest.raises(OutputError, match=f"cannot write to {tmp_path / 'file'}: "):
        check_writable(tmp_path / "t", tmp_path / "file" / "x")
    with pytest.raises(OutputError, match="a folder folder is there"):
        check_writable(tmp_path / "t", tmp_path / "folder")
    check_writable(tmp_path / "new" / "folder" / "t", tmp_path / "file")


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


def waiting_for(path):
    code = (
        "import sys\nfrom quantkit.storage import exclusive\n"
        "with exclusive(sys.argv[1], on_wait=lambda: print('waits', flush=True)):\n"
        "    print('holds', flush=True)\n    sys.stdin.readline()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="selects on pipes")
def test_one_process_at_a_time_and_a_killed_one_frees_the_lock(tmp_path):
    path = tmp_path / "lock"
    first = waiting_for(path)
    assert first.stdout.readline() == "holds\n"
    others = [waiting_for(path) for _ in range(2)]
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
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_runs_without(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "refused")

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive(tmp_path / "a" / "lock", on_wait=pytest.fail):
        assert os.listdir(tmp_path / "a") == []
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_an_error_at_once(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="lock"), exclusive(tmp_path / "lock", on_wait=pytest.fail):
        pass


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


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced")
def test_content_then_name_are_synced(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(source, target):
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text(tmp_path / "a.json", "{}")
    assert steps == ["file", "rename", "folder"]


def test_a_folder_that_cannot_be_synced_is_no_error_and_a_fault_is(tmp_path, monkeypatch):
    fsync = os.fsync

    def failing(code):
        def sync(handle):
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                raise OSError(code, os.strerror(code))
            fsync(handle)

        return sync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    write_text(tmp_path / "a.json", "{}")
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OutputError, match=r"a\.json: Input/output error"):
        write_text(tmp_path / "a.json", "[]")


def test_a_folder_that_another_run_took_for_a_leftover_is_made_again(monkeypatch):
    taken = []

    @contextlib.contextmanager
    def take_first(folder: Path):
        if not taken:
            taken.append(folder)
            folder.rmdir()
        yield

    monkeypatch.setattr(storage, "removed_with_process", take_first)
    with storage.temporary_folder() as folder:
        assert folder.is_dir()
        assert folder not in taken
