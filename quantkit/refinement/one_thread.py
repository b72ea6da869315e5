"""Products of small matrices by one thread: BLAS cuts them among threads that then mostly wait for one another."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.linalg import _umath_linalg

_PATTERNS = "scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"
"""OpenBLAS as NumPy's wheels name its functions, and as distributions do. Other libraries are left alone."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's BLAS computes in the calling thread alone, as far as that can be told to it."""
    get, set_ = blas_functions()
    before = get()
    set_(1)
    try:
        yield
    finally:
        set_(before)


def blas_functions() -> tuple[Any, Any]:
    """That get and set the number of BLAS's threads; ones without effect where they are not known."""
    library = ctypes.CDLL(_umath_linalg.__file__)  # symbols are looked up in what it is linked with, too
    for pattern in _PATTERNS:
        if hasattr(library, pattern.format("get")):
            return getattr(library, pattern.format("get")), getattr(library, pattern.format("set"))
    return (lambda: 1), (lambda count: None)
