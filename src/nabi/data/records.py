"""Rows that stay where they are: in a file, by the byte at which each begins, or in columns, a block at a time.

Unusual: a record is read with ``pread`` and not through a memory map. The page cache makes both equally quick, but a mapped file that is cut off under our
feet kills the process (SIGBUS), while a read that comes back short is an error with a name.
"""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from nabi.errors import DataError

T = TypeVar("T", covariant=True)
OPEN = 128  # files of records that are held open at a time: a folder may have thousands of shards
BLOCK = 256  # rows of a block of columns


class Lazy(Sequence[T]):
    """A sequence that makes its items when they are asked for; a slice is a list of them."""

    def get(self, index: int) -> T:
        """Item ``index``, from 0 to the length."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self.get(i) for i in range(len(self))[index]]
        return self.get(range(len(self))[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.get, range(len(self)))


class Records(Lazy[T]):
    """Records of a file, each made of the bytes from one offset to the next.

    Args:
        file: its path, which is opened when it is read; or an open file of our own that has no name.
        offsets: (N + 1,) where each record begins, and where the last one ends.
        made: the record from its bytes and its number.
        name: what to call the file in an error.
        changing: whether it is the user's file, which others may write to: its size and time are then looked at before each read.
    """

    _open: OrderedDict[int, Records[Any]] = OrderedDict()
    _lock = threading.Lock()

    def __init__(self, file: Path | IO[bytes], offsets: Sequence[int], made: Callable[[bytes, int], T], name: str, *, changing: bool = False) -> None:
        self._offsets, self._made, self._name = offsets, made, name
        self._path: Path | None = file if isinstance(file, Path) else None
        self._file: IO[bytes] | None = None if isinstance(file, Path) else file
        self._stated = None if self._path is None or not changing else _stated(self._path.stat())

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def get(self, index: int) -> T:
        return self._made(self.raw(index), index)

    def raw(self, index: int) -> bytes:
        """The bytes of a record.

        Raises:
            DataError: the file was changed, cut off or removed meanwhile.
        """
        start, stop = int(self._offsets[index]), int(self._offsets[index + 1])
        with Records._lock:
            try:
                place = self._descriptor()
                data = os.pread(place, stop - start, start)
                same = self._stated is None or _stated(os.fstat(place)) == self._stated
            except OSError as problem:
                raise self._lost(problem.strerror) from None
        if len(data) < stop - start or not same:
            raise self._lost("it was written to or cut off")
        return data

    def _descriptor(self) -> int:
        if self._file is None:
            assert self._path is not None
            self._file = self._path.open("rb")
            Records._open[id(self)] = self
            if len(Records._open) > OPEN:
                Records._open.popitem(last=False)[1]._shut()
        return self._file.fileno()

    def _shut(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lost(self, why: str | None) -> DataError:
        return DataError(f"{self._name}: the file was changed while it was in use ({why})", fix="leave it alone while it is read, and start again")


class Blocks(Lazy[dict[str, Any]]):
    """Rows of columns, made a block at a time; the last block is remembered.

    Args:
        length: how many rows.
        rows: the rows from a place to another.
    """

    def __init__(self, length: int, rows: Callable[[int, int], list[dict[str, Any]]]) -> None:
        self._length, self._rows = length, rows
        self._number, self._block = -1, list[dict[str, Any]]()

    def __len__(self) -> int:
        return self._length

    def get(self, index: int) -> dict[str, Any]:
        number, place = divmod(index, BLOCK)
        if number != self._number:
            self._block = self._rows(number * BLOCK, min((number + 1) * BLOCK, self._length))
            self._number = number
        return dict(self._block[place])


class Derived(Lazy[T]):
    """Items made from the items of another sequence: ``made(index)``."""

    def __init__(self, length: int, made: Callable[[int], T]) -> None:
        self._length, self._made = length, made

    def __len__(self) -> int:
        return self._length

    def get(self, index: int) -> T:
        return self._made(index)


class Joined(Lazy[T]):
    """Sequences end to end."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self._parts = parts
        self._starts = [0, *itertools.accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def place(self, index: int) -> tuple[int, int]:
        """Which part an item is in, and where in it."""
        part = bisect.bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]

    def get(self, index: int) -> T:
        part, place = self.place(index)
        return self._parts[part][place]

    def __iter__(self) -> Iterator[T]:
        return itertools.chain.from_iterable(self._parts)


def write(file: IO[bytes], records: Iterable[bytes]) -> array[int]:
    """Write records end to end; returns their offsets, (N + 1,)."""
    offsets = array("Q", [0])
    for record in records:
        file.write(record)
        offsets.append(offsets[-1] + len(record))
    return offsets


def save_numbers(path: Path, numbers: Sequence[int]) -> None:
    """Keep offsets or line numbers in a file."""
    import numpy as np

    np.save(path, np.asarray(numbers, np.uint64), allow_pickle=False)


def load_numbers(path: Path) -> Sequence[int]:
    """Numbers of :func:`save_numbers`, mapped: the file is the cache's own, which nobody writes to."""
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _stated(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns
