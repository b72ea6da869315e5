"""What identifies samples: their ids and contents, in any order."""

from __future__ import annotations

import hashlib

import pytest

from quantkit.datasets.fingerprint import StoredFiles, compute_fingerprint, contents_of, fingerprint_of
from quantkit.errors import ChangedDataError
from tests.bar import Bar


class Hashed:
    """More samples than one thread takes at once, whose hashes are known."""

    def __init__(self, names):
        self.ids = tuple(names)

    def __len__(self):
        return len(self.ids)

    def content_hash(self, index):
        return f"hash of {self.ids[index]}"

    def __getitem__(self, index):
        raise AssertionError("nothing is decoded")


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_every_sample_has_its_own_hash_in_order(count):
    names = [f"{i:03d}.png" for i in range(count)]
    assert contents_of(Hashed(names)) == tuple((name, f"hash of {name}") for name in names)


def test_a_bar_moves_with_every_sample(monkeypatch):
    bars = []
    monkeypatch.setattr("quantkit.progress.tqdm", lambda *_, **look: bars.append(Bar(look)) or bars[-1])
    contents_of(Hashed([f"{i}.png" for i in range(150)]), show=True)
    assert (bars[0].look["total"], bars[0].steps) == (150, [1] * 150)


def test_the_fingerprint_is_that_of_a_set():
    names = [f"{i}.png" for i in range(150)]
    found = compute_fingerprint(Hashed(names))
    assert found == compute_fingerprint(Hashed(names[::-1]))
    assert found != compute_fingerprint(Hashed(names[:-1]))
    line = b"5:a.png" + b"00" + b"\n"
    assert fingerprint_of([("a.png", "00")]) == hashlib.sha256(line).hexdigest()


def test_a_file_that_changes_is_refused(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    files = StoredFiles()
    assert files.hash(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    with pytest.raises(ChangedDataError, match=r"a\.bin was changed while it was in use"):
        files.read(path)
