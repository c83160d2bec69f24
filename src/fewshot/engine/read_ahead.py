"""Reading ahead in an array that may not stay in memory. Layer 0."""

import ctypes
import functools
import mmap
import os
from collections.abc import Callable

from torch import Tensor

LARGE = 1 << 30  # bytes; a smaller array is soon in memory as a whole
_WILLNEED = 3  # of madvise, on Linux and macOS


def is_large(array: Tensor) -> bool:
    """Whether rows of a memory-mapped array may have to come from the disk each time."""
    return array.is_cpu and array.nbytes >= LARGE


def read_ahead(array: Tensor, rows: Tensor) -> None:
    """Have the system fetch `rows` (int64, any shape) of a memory-mapped array [M, ...] while others compute.

    It is asked and not waited for: whoever takes the rows later finds them in memory, if the disk was fast enough.
    Nothing is done where there is no madvise.
    """
    if (advise := _madvise()) is None:
        return
    begin, size = array.data_ptr(), array[0].nbytes
    for row in rows.flatten().tolist():
        first = begin + row * size
        page = first - first % mmap.PAGESIZE
        advise(page, first + size - page, _WILLNEED)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if os.name != "posix":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
