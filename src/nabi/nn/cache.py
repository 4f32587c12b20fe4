"""The past of a batch: keys and values of every layer in slots, one slot a row.

Unusual: nothing is copied when a token is added. A slot has room to spare and grows in steps of a quarter; rows that an order puts on one slot (beams of one
parent) get copies but for the first heir, and only of what their new slot does not hold already: beams have most of their past in common. What an encoder said
is kept once and shared by all rows that read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nabi.errors import InputError
from nabi.layout import Layout


class Slots:
    """Keys and values of all layers: (layers, 2, slots * size, H, D), made when the first ones come.

    Args:
        layers: how many.
        rows: how many; they begin empty.
        reserve: tokens that a slot shall hold without growing.
        shared: rows may share a slot, which is then never written again.

    Attributes:
        size: tokens in a slot.
        rows: the slot of each row.
        stamps: of each slot a number for each token in it; two tokens with one number are one token, as is all that lies before them.
        copied: tokens that were moved to grow or to part rows, over all calls.
    """

    def __init__(self, layers: int, rows: int, reserve: int, *, shared: bool = False) -> None:
        self.layers, self.size, self.shared = layers, max(reserve, 1), shared
        self.rows = list(range(rows))
        self.stamps: list[list[int]] = [[] for _ in range(rows)]
        self.copied, self._stamp = 0, 0
        self._buffer: Tensor | None = None
        self._at: Layout | None = None
        self._of: Layout | None = None
        self._index: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer: 2 * layers * slots * size * H * D * bytes of a number; none before the first keys."""
        return 0 if self._buffer is None else self._buffer.nbytes

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(self.stamps[slot]) for slot in self.rows]

    def append(self, layer: int, k: Tensor, v: Tensor, at: Layout) -> tuple[Tensor, Tensor, Layout]:
        """Store the keys and values (T, H, D) of new tokens; all of the rows' keys and values, and where they lie."""
        if self._at is not at:  # once a forward: all layers write at the same places and read by the same layout
            self._start(k, at)
        assert self._buffer is not None and self._of is not None and self._index is not None
        held = self._buffer[layer]
        held[0].index_copy_(0, self._index, k)
        held[1].index_copy_(0, self._index, v)
        if self._of is at:  # nothing lies before them: they are read where they were made
            return k, v, at
        return held[0], held[1], self._of

    def _start(self, k: Tensor, at: Layout) -> None:
        if len(at) != len(self.rows):
            raise InputError("a batch continues another number of rows than its cache holds", value=(len(at), len(self.rows)))
        past = self.lengths
        need = max(n + more for n, more in zip(past, at.lengths, strict=True))
        if self._buffer is None:
            self.size = max(self.size, need)
            self._buffer = _zeros(k, self.layers, 2, len(self.stamps) * self.size, *k.shape[1:])
        elif need > self.size:
            self._grow(len(self.stamps), need + need // 4)
        assert at.rows is not None
        starts = torch.tensor([slot * self.size + n for slot, n in zip(self.rows, past, strict=True)]) - at.begins
        self._index = starts.to(k.device)[at.rows] + torch.arange(len(at.rows), device=k.device)
        if any(past):
            ends = [n + more for n, more in zip(past, at.lengths, strict=True)]
            self._of = Layout.slots(ends, [slot * self.size for slot in self.rows])
        else:
            self._of = at
        self._at = at

    def fill(self, layer: int, k: Tensor, v: Tensor, of: Layout) -> None:
        """Store what rows will read from now on: (T, H, D) of rows laid out as ``of``, once a layer."""
        self.append(layer, k, v, of)
        if layer == self.layers - 1:
            self.advance(of)

    def read(self, layer: int) -> tuple[Tensor, Tensor, Layout]:
        """All keys and values of a layer, and where the rows' lie."""
        assert self._buffer is not None
        if self._of is None or self._of is self._at:
            self._at, self._of = None, Layout.slots(self.lengths, [slot * self.size for slot in self.rows])
        return self._buffer[layer, 0], self._buffer[layer, 1], self._of

    def advance(self, at: Layout) -> None:
        """The forward over ``at`` is over: its tokens count as past."""
        for slot, n in zip(self.rows, at.lengths, strict=True):
            self.stamps[slot] += self._fresh(n)
        self._at = self._of = None

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget what lies beyond ``lengths`` tokens of each row."""
        for slot, n in zip(self.rows, lengths, strict=True):
            del self.stamps[slot][n:]
        self._at = self._of = None

    def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row rows[i] was; the first heir of a slot keeps it, others get copies unless the slots are shared."""
        slots = [self.rows[i] for i in rows]
        self._at = self._of = None
        if not self.shared:
            held: set[int] = set()
            twice = [i for i, slot in enumerate(slots) if slot in held or held.add(slot)]  # type: ignore[func-returns-value]
            if twice:
                free = self._nearest([slots[i] for i in twice], held)
                self._copy(self, [slots[i] for i in twice], free)
                for i, slot in zip(twice, free, strict=True):
                    slots[i] = slot
        self.rows = slots

    def admit(self, other: Slots) -> None:
        """The rows of ``other`` come behind the last, in free slots."""
        self._at = self._of = None
        used = sorted(set(other.rows))
        if other._buffer is not None and other.size > self.size and max(other.lengths) > self.size:
            self._grow(len(self.stamps), other.size)
        if self._buffer is None and other._buffer is not None:
            self._buffer = _zeros(other._buffer, self.layers, 2, len(self.stamps) * self.size, *other._buffer.shape[3:])
        free = self._free(len(used), set(self.rows))
        self._copy(other, used, free)
        place = dict(zip(used, free, strict=True))
        self.rows = self.rows + [place[slot] for slot in other.rows]

    def _free(self, count: int, held: set[int]) -> list[int]:
        """This many slots that nobody in ``held`` has, new ones if there are too few."""
        free = [slot for slot in range(len(self.stamps)) if slot not in held][:count]
        if len(free) < count:
            more = count - len(free)
            free += range(len(self.stamps), len(self.stamps) + more)
            self._grow(len(self.stamps) + more, self.size)
        return free

    def _nearest(self, slots: Sequence[int], held: set[int]) -> list[int]:
        """For each of these slots one that nobody in ``held`` has, with as much in common with it as there is."""
        free: dict[int, list[int]] = {}
        for slot, stamps in enumerate(self.stamps):
            if stamps and slot not in held:
                free.setdefault(stamps[0], []).append(slot)
        found: list[int | None] = []
        for slot in slots:
            kin = free.get(self.stamps[slot][0] if self.stamps[slot] else -1)
            found.append(max(kin, key=lambda other: _common(self.stamps[other], self.stamps[slot])) if kin else None)
            if kin:
                kin.remove(found[-1])  # type: ignore[arg-type]
        missing = found.count(None)
        rest = iter(self._free(missing, held | {slot for slot in found if slot is not None}) if missing else ())
        return [next(rest) if slot is None else slot for slot in found]

    def _fresh(self, count: int) -> range:
        """Numbers for so many new tokens."""
        self._stamp += count
        return range(self._stamp - count, self._stamp)

    def _copy(self, source: Slots, old: Sequence[int], new: Sequence[int]) -> None:
        taken: list[int] = []
        placed: list[int] = []
        for to, slot in zip(new, old, strict=True):
            stamps = source.stamps[slot]
            same, end = _common(self.stamps[to], stamps) if source is self else 0, len(stamps)
            taken += range(slot * source.size + same, slot * source.size + end)
            placed += range(to * self.size + same, to * self.size + end)
            self.stamps[to] = list(stamps if source is self else self._fresh(end))
        if placed:
            assert self._buffer is not None and source._buffer is not None
            device = self._buffer.device
            tokens = source._buffer.index_select(2, torch.tensor(taken, device=device))
            self._buffer.index_copy_(2, torch.tensor(placed, device=device), tokens)
            self.copied += len(placed)

    def _grow(self, slots: int, size: int) -> None:
        count, longest = len(self.stamps), max((len(self.stamps[slot]) for slot in self.rows), default=0)
        if self._buffer is not None:
            old = _by_slot(self._buffer, self.size)
            new = _zeros(old, *old.shape[:2], slots, size, *old.shape[4:])
            new[:, :, :count, :longest] = old[:, :, :, :longest]
            self._buffer = new.flatten(2, 3)
            self.copied += longest * len(set(self.rows))
        for stamps in self.stamps:
            del stamps[longest:]
        self.stamps += [[] for _ in range(slots - count)]
        self.size = size


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two slots have in common, from the first on: by halving, since those before a common one are common too."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[middle - 1] == b[middle - 1] else (low, middle - 1)
    return low


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Zeros; on a CPU of pages that the system gives when they are first written to, for most of a cache is never reached."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.dtype.itemsize, np.uint8)).view(like.dtype).view(shape)


def _by_slot(buffer: Tensor, size: int) -> Tensor:
    """(layers, 2, slots * size, H, D) -> (layers, 2, slots, size, H, D), a view."""
    return buffer.view(*buffer.shape[:2], -1, size, *buffer.shape[3:])


class _Own:
    """One layer's share of the rows' own past."""

    def __init__(self, slots: Slots, layer: int) -> None:
        self._slots, self._layer = slots, layer

    def append(self, k: Tensor, v: Tensor, at: Layout) -> tuple[Tensor, Tensor, Layout]:
        """See ``Slots.append``."""
        return self._slots.append(self._layer, k, v, at)

    def read(self) -> tuple[Tensor, Tensor, Layout]:
        """See ``Slots.read``."""
        return self._slots.read(self._layer)


class Share:
    """One layer's share of a cache: ``self`` for its own attention, ``cross`` for what it reads from an encoder."""

    def __init__(self, own: Slots, cross: Slots | None, layer: int) -> None:
        self.self = _Own(own, layer)
        self.cross = None if cross is None else _Own(cross, layer)


class KeyValues:
    """The cache of softmax attention, a ``nabi.batch.Cache``.

    Args:
        part: the part that it continues.
        layers: of the decoder.
        rows: how many.
        reserve: tokens that a row shall hold without growing.
        cross: what an encoder said, in shared slots, row by row.
    """

    def __init__(self, part: str, layers: int, rows: int, reserve: int, cross: Slots | None = None) -> None:
        self.part, self.own, self.cross = part, Slots(layers, rows, reserve), cross
        self._shares = [Share(self.own, cross, i) for i in range(layers)]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self.own.lengths

    @property
    def capacity(self) -> int:
        """Tokens that fit in a slot without growing."""
        return self.own.size

    @property
    def copied(self) -> int:
        """Tokens that were moved so far, to grow, to part rows or to let rows in; none of them by adding a token."""
        return self.own.copied + (self.cross.copied if self.cross else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return self.own.nbytes + (self.cross.nbytes if self.cross else 0)

    def __getitem__(self, layer: int) -> Share:
        return self._shares[layer]

    def advance(self, at: Layout) -> None:
        """The forward over these rows is over."""
        self.own.advance(at)

    def crop(self, lengths: Sequence[int]) -> None:
        """Forget what lies beyond these lengths."""
        self.own.crop(lengths)

    def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row rows[i] was; there may be more rows than before, or fewer."""
        if list(rows) == list(range(len(self.own.rows))):
            return
        self.own.reorder(rows)
        if self.cross is not None:
            self.cross.reorder(rows)

    def admit(self, other: KeyValues) -> None:
        """The rows of ``other`` come behind the last, in free slots."""
        self.own.admit(other.own)
        if self.cross is not None and other.cross is not None:
            self.cross.admit(other.cross)

    def release(self, rows: Sequence[int]) -> None:
        """These rows are finished, their slots free; the rows behind them move up."""
        gone = set(rows)
        self.reorder([i for i in range(len(self.own.rows)) if i not in gone])
