from __future__ import annotations

import os

import numpy as np
import pytest

from quantkit.datasets.shared_pixels import SharedPixels, map_levels, share_pixels

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has files without a name")


def test_what_is_written_to_a_place_is_read_without_a_copy():
    shared = share_pixels(2, 12)
    assert shared is not None
    place = shared.take()
    assert place is not None
    start, stop = place.span
    written = map_levels(shared.file, writable=True)
    pixels = place.read((3, 3, 1))
    written[start:stop] = np.arange(12)
    assert pixels.tolist() == np.arange(9).reshape(3, 3, 1).tolist()
    assert not pixels.flags.writeable


def test_a_place_is_free_again_when_nobody_holds_it_nor_its_pixels():
    shared = SharedPixels(os.memfd_create("one"), 1, 12)
    place = shared.take()
    assert place is not None
    part = place.read((3, 2, 2))[:2, 0]
    del place
    assert shared.take() is None
    del part
    assert shared.take() is not None


def test_pixels_outlive_the_memory_that_they_are_from():
    shared = SharedPixels(os.memfd_create("one"), 1, 4)
    place = shared.take()
    assert place is not None
    map_levels(shared.file, writable=True)[:] = 7
    pixels = place.read((4,))
    file = shared.file
    del place, shared
    assert pixels.tolist() == [7] * 4
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_where_there_is_no_such_memory_nothing_is_shared(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert share_pixels(1, 1) is None
