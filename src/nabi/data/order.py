"""The order in which examples are read: a seeded permutation with O(1) access, so that any reader can begin anywhere.

An epoch of ``n`` ids is one sequence, the same for every number of readers. Ranks cut it round robin: rank ``r`` of ``w`` reads the places ``r, r + w, ...``,
so the union over the ranks is the whole sequence. The workers of a rank share its places in runs, dealt in turn, so taking from them in turn gives the
rank's sequence whatever their number. A position counts the places that all ranks together have read. Unusual: there is no shuffled list, no buffer and no
state of a generator; a run that stops at a position goes on from that number alone, also with other ranks and workers than before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nabi.errors import OptionError

_MASK = (1 << 64) - 1
_GOLDEN, _ADDED, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0x632BE59BD9B4E019, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ROUNDS = 4
_MOST = 1 << 30  # ranks, workers, ids in a run
_BLOCK = 1 << 14  # places that are worked out at a time: what a block needs stays in a processor's cache


def mixed(*numbers: int) -> int:
    """A 64-bit number that depends on all of these in a scrambled way (splitmix64, Steele et al. 2014)."""
    return _absorbed(_GOLDEN, *numbers)


def _absorbed(x: int, *numbers: int) -> int:
    for number in numbers:
        x = (x + number * _GOLDEN + _ADDED) & _MASK
        x = ((x ^ (x >> 30)) * _FIRST) & _MASK
        x = ((x ^ (x >> 27)) * _SECOND) & _MASK
        x ^= x >> 31
    return x


def _half(n: int) -> int:
    """Bits of half a place: the permutation walks in the smallest square of a power of two that holds ``n``."""
    return max(1, ((n - 1).bit_length() + 1) // 2)


def permuted(i: int, n: int, key: int) -> int:
    """Place ``i`` of a permutation of 0..n-1 that ``key`` chooses: four Feistel rounds, walked until they land inside (Black and Rogaway 2002)."""
    half = _half(n)
    mask = (1 << half) - 1
    begun = [_absorbed(_GOLDEN, key, turn) for turn in range(_ROUNDS)]
    while True:
        left, right = i >> half, i & mask
        for x in begun:
            left, right = right, left ^ (_absorbed(x, right) & mask)
        i = left << half | right
        if i < n:
            return i


def permuted_many(first: int, count: int, n: int, key: int, step: int = 1) -> NDArray[np.int64]:
    """``permuted`` of the places ``first, first + step, ...``, all at once.

    Args:
        first: the first place.
        count: how many.
        n: of the permutation, at most 2 ** 62.
        key: chooses it.
        step: from one place to the next.

    Returns:
        (count,), element by element what :func:`permuted` gives.
    """
    assert count == 0 or (0 <= first < n and 0 <= first + (count - 1) * step < n <= 1 << 62)
    found = np.empty(count, np.int64)
    for begin in range(0, count, _BLOCK):
        size = min(_BLOCK, count - begin)
        places = np.arange(size, dtype=np.int64) * step + (first + begin * step)
        found[begin : begin + size] = _walked(places.astype(np.uint64), n, key).astype(np.int64)
    return found


def _walked(places: NDArray[np.uint64], n: int, key: int) -> NDArray[np.uint64]:
    bits = _half(n)
    half, mask, end = np.uint64(bits), np.uint64((1 << bits) - 1), np.uint64(n)
    begun = [np.uint64(_absorbed(_GOLDEN, key, turn)) for turn in range(_ROUNDS)]
    outside = np.arange(len(places))
    found = places.copy()
    while len(outside):
        here = found[outside]
        left, right = here >> half, here & mask
        for x in begun:
            left, right = right, left ^ (_absorbed_all(x, right) & mask)
        here = left << half | right
        found[outside] = here
        outside = outside[here >= end]
    return found


def _absorbed_all(x: np.uint64, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``_absorbed`` of each of these; products of unsigned 64-bit arrays are taken modulo 2 ** 64, as there."""
    y = numbers * np.uint64(_GOLDEN)
    y += x
    y += np.uint64(_ADDED)
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        y ^= y >> np.uint64(shift)
        y *= np.uint64(factor)
    y ^= y >> np.uint64(31)
    return y


@dataclass(frozen=True)
class Order:
    """One epoch's order of ``n`` ids; ``order[i]`` is the id at place ``i``, a slice an array of ids.

    Args:
        n: how many ids, 0 to n - 1.
        seed: another seed is another order.
        epoch: each has an order of its own.

    Raises:
        OptionError: ``n`` is negative or above 2 ** 62.
    """

    n: int
    seed: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.n <= 1 << 62:
            raise OptionError("an order of so many ids can't be made", value=self.n, expected="0 to 2 ** 62")

    @property
    def key(self) -> int:
        """What chooses the permutation."""
        return mixed(self.seed, self.epoch)

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> NDArray[np.int64]: ...
    def __getitem__(self, place: int | slice) -> Any:
        chosen = range(self.n)[place]  # raises IndexError as a list does
        return permuted(chosen, self.n, self.key) if isinstance(chosen, int) else permuted_many(chosen.start, len(chosen), self.n, self.key, chosen.step)

    def __iter__(self) -> Iterator[int]:
        return self.read()

    def read(self, position: int = 0, *, rank: int = 0, world: int = 1, worker: int = 0, workers: int = 0, run: int = 1) -> Iterator[int]:
        """The ids that one reader reads from a position to the end of the epoch, in constant memory.

        Args:
            position: places that all ranks together have read before.
            rank, world: this process, of how many.
            worker, workers: this worker of the rank, of how many; with 0 the rank reads for itself, as a single worker would.
            run: how many of the rank's ids in a row a worker reads before the next one's turn: its batch size, where workers make batches.

        Raises:
            OptionError: a number is out of its range.
        """
        many = max(1, workers)
        problems = [f"{name} is {value}, must be {low} to {high}" for name, value, low, high in (
            ("position", position, 0, self.n), ("world", world, 1, _MOST), ("rank", rank, 0, world - 1), ("workers", workers, 0, _MOST),
            ("worker", worker, 0, many - 1), ("run", run, 1, _MOST),
        ) if not low <= value <= high]  # fmt: skip
        if problems:
            raise OptionError("there is no such reader: " + "; ".join(problems))
        return self._read(position + (rank - position) % world, world, worker, many, run)

    def _read(self, first: int, world: int, worker: int, workers: int, run: int) -> Iterator[int]:
        of_rank = len(range(first, self.n, world))  # places of the rank from here on, which its workers share
        begin, size = 0, 64
        while True:
            mine = np.arange(begin, begin + size, dtype=np.int64)
            shared = (mine // run * workers + worker) * run + mine % run  # where the worker's own ids lie among the rank's
            shared = shared[shared < of_rank]
            yield from _walked((first + shared * world).astype(np.uint64), self.n, self.key).tolist()
            if len(shared) < size:
                return
            begin, size = begin + size, min(2 * size, _BLOCK)  # who wants a few ids does not wait for many
