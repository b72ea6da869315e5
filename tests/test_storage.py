import os
import signal
import subprocess
import sys
import time

import pytest

from quantkit.errors import OutputError
from quantkit.storage import check_writable, write_atomically, write_bytes, write_text


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
