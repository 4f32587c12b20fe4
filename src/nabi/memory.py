"""How much memory this process holds, and how freed memory goes back to the system.

Unusual: glibc splits its heap anew for aligned blocks, as a tensor is one, where what was freed does not fit (its ``memalign`` up to version 2.37); reading
a long document in batches of one size then makes the heap grow with each batch, though nothing is kept. Trimming ends that: 20 ms or less, so it is done
between large batches only.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def _trimming() -> Callable[[int], Any] | None:
    """glibc's ``malloc_trim``; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def peak() -> int:
    """The most memory that this process held so far, in bytes; what the process that began it held does not count, as it may in ``getrusage``."""
    try:
        return 1024 * int(Path("/proc/self/status").read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError, ValueError):  # not Linux
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trim() -> None:
    """Give free memory back to the system, where that can be asked for."""
    if (give := _trimming()) is not None:
        give(0)


def trimmed(batches: Iterable[T], size: Callable[[T], int], every: int) -> Iterator[T]:
    """The batches; whenever those that were taken come to ``every`` by their ``size``, free memory is given back before the next is made."""
    read, trim = 0, _trimming()
    for batch in batches:
        yield batch
        read += size(batch)
        if read >= every and trim is not None:
            trim(0)
            read = 0
