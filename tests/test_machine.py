"""Faults of the machine are tried again and named as such; what is wrong with a file is said at once."""

import errno
import os
from types import SimpleNamespace

import pytest
from google.protobuf.message import EncodeError
from PIL import ImageFile

from quantkit import machine
from quantkit.errors import MachineError, ModelError
from quantkit.machine import file_status, is_machine_fault, persistently, raise_if_out_of_memory, read_file

FAULTS = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(machine, "_PAUSES_S", (0, 0, 0))


class Failing:
    """Raises `error` so many times, then returns 7."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self, *_: object) -> int:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return 7


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_fault_is_tried_again_and_then_named(error):
    assert is_machine_fault(error)
    assert persistently(Failing(error, 3), "read a.png") == 7
    failing = Failing(error, 4)
    with pytest.raises(MachineError, match=r"^cannot read a\.png: .*: a fault of this machine") as raised:
        persistently(failing, "read a.png")
    assert failing.calls == 4
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: std::bad_alloc"),
        RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer of size 1048576"),
        EncodeError("Failed to serialize proto"),
        SystemError("error return without exception set"),
        SystemError("<ufunc 'add'> returned NULL without setting an exception"),
    ],
)
def test_want_of_memory_is_known_by_words_where_there_is_no_code(error):
    with pytest.raises(MachineError, match=r"cannot decode a\.png: not enough memory: "):
        persistently(Failing(error, 4), "decode a.png")
    with pytest.raises(MemoryError) as raised:
        raise_if_out_of_memory(error)
    assert str(raised.value) == str(error)
    assert raised.value.__cause__ is error


def test_pillow_says_want_of_memory_in_words_alone():
    error = ImageFile._get_oserror(-9, encoder=False)
    assert is_machine_fault(error)
    with pytest.raises(MachineError, match=r"^cannot decode a\.png: out of memory when reading image file: a fault of"):
        persistently(Failing(error, 4), "decode a.png")
    assert not is_machine_fault(ImageFile._get_oserror(-2, encoder=False))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Non-zero status code returned while running Conv node"),
        SystemError("unknown opcode"),
        ModelError("Out of memory/net.onnx is not an ONNX model"),
    ],
)
def test_words_of_other_failures_are_not_taken_for_it(error):
    raise_if_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "no"), PermissionError(13, "no"), OSError("torn"), ValueError()]
)
def test_what_is_wrong_with_a_file_is_said_at_once(error):
    assert not is_machine_fault(error)
    failing = Failing(error, 1)
    with pytest.raises(type(error)):
        persistently(failing, "read a.png")
    assert failing.calls == 1


def test_a_file_is_read_whole_through_links_up_to_a_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link", most_bytes=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(tmp_path / "a", most_bytes=4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "endless"):
        with pytest.raises(OSError, match="not a regular file"):
            read_file(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    with pytest.raises(OSError, match="symbolic links"):
        read_file(tmp_path / "loop")


def test_the_status_of_what_is_not_there_is_none_and_a_fault_is_no_absence(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    assert file_status(tmp_path / "loop") is None
    assert file_status(tmp_path / "none") is None
    assert file_status(tmp_path) is not None
    monkeypatch.setattr(machine, "os", SimpleNamespace(stat=Failing(OSError(errno.EIO, "Input/output error"), 9)))
    with pytest.raises(MachineError, match="look at"):
        file_status(tmp_path)
