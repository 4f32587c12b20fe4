"""Sorted files of fixed-size records, read by ranges of their key: the external sort that finds duplicates.

Nothing is mapped into memory: a range is found by bisection with small reads and read whole, so a process holds what it asked for and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.files import whole


class Run:
    """One file of records.

    Args:
        path: it must be there.
        dtype: of a record.
        key: the field that it is sorted by (ascending); an unsigned integer.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], key: str) -> None:
        self.path, self.dtype = path, dtype
        field, self.at = dtype.fields[key][:2] if dtype.fields else (dtype, 0)
        self.width = field.itemsize
        size = path.stat().st_size
        assert size % dtype.itemsize == 0, path
        self.count = size // dtype.itemsize

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Records ``start`` to ``stop``."""
        return np.fromfile(self.path, self.dtype, stop - start, offset=start * self.dtype.itemsize)

    def blocks(self, size: int) -> Iterator[NDArray[Any]]:
        """All records, up to ``size`` at a time."""
        for start in range(0, self.count, size):
            yield self.read(start, min(start + size, self.count))

    def span(self, low: int, high: int, start: int = 0, stop: int | None = None) -> tuple[int, int]:
        """Which of the records from ``start`` to ``stop`` have low <= key < high."""
        stop = self.count if stop is None else stop
        file = os.open(self.path, os.O_RDONLY)
        try:
            first = self._bisect(file, low, start, stop)
            return first, self._bisect(file, high, first, stop)
        finally:
            os.close(file)

    def between(self, low: int, high: int, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """The records of ``span``."""
        return self.read(*self.span(low, high, start, stop))

    def _bisect(self, file: int, key: int, start: int, stop: int) -> int:
        while start < stop:
            middle = (start + stop) // 2
            if int.from_bytes(os.pread(file, self.width, middle * self.dtype.itemsize + self.at), "little") < key:
                start = middle + 1
            else:
                stop = middle
        return start


def pieces(runs: list[Run], low: int, high: int, most: int) -> Iterator[tuple[NDArray[Any], bool]]:
    """The records of all runs with low <= key < high, in pieces of up to ``most``; a piece has them run by run, and all that share a key.

    A key with more than ``most`` records comes alone, in several pieces, marked True.
    """
    yield from _pieces([(run, 0, run.count) for run in runs], low, high, most)


def _pieces(spans: list[tuple[Run, int, int]], low: int, high: int, most: int) -> Iterator[tuple[NDArray[Any], bool]]:
    inside = [(run, *run.span(low, high, start, stop)) for run, start, stop in spans]
    inside = [(run, start, stop) for run, start, stop in inside if start < stop]
    if not inside:
        return
    if sum(stop - start for _, start, stop in inside) <= most:
        yield np.concatenate([run.read(start, stop) for run, start, stop in inside]), False
    elif high - low == 1:
        for run, start, stop in inside:
            for at in range(start, stop, most):
                yield run.read(at, min(at + most, stop)), True
    else:
        middle = (low + high) // 2
        yield from _pieces(inside, low, middle, most)
        yield from _pieces(inside, middle, high, most)


def write(path: Path, blocks: Iterable[NDArray[Any]]) -> None:
    """Write records, whole or not at all.

    Raises:
        StorageError: it could not be written.
    """
    with whole(path) as draft, draft.open("wb") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).data if block.size else b"")
