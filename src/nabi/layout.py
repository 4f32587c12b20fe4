"""Where rows lie in a packed tensor: the reason why nabi never pads.

Rows of different length lie end to end in one (T, ...) tensor; a :class:`Layout` says where each begins. Shape letters, used all over nabi:

    T tokens in the pack     N rows           H heads        D head size
    W hidden size            L longest row    K kept tokens  C outputs of a head

Unusual: ``lengths`` is host truth. Kernels on the CPU need it and no device is ever synchronised for it; a region under ``torch.compile`` must read
only the tensors (``sizes`` is the same truth as a tensor on the CPU, for operators that are opaque to the compiler).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nabi.errors import InputError


class Plans:
    """What attention kernels computed for a layout.

    Unusual: no dict, because FSDP walks through the dicts and dataclasses of a module's arguments, and a plan leads back to its layout.
    """

    def __init__(self) -> None:
        self._found: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        """The plan under this key, or None."""
        return self._found.get(key)

    def __setitem__(self, key: Any, plan: Any) -> None:
        self._found[key] = plan


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each row lies in a packed (T, ...) tensor; made by :meth:`of`, :meth:`take` or :meth:`slots`.

    Attributes:
        lengths: tokens of each row.
        longest: the largest of them.
        sizes: (N,) int64 on the CPU, ``lengths`` again.
        cu_seqlens: (N+1,) int32, where rows begin and end; None when rows do not lie end to end.
        rows: (T,) int64, which row a token belongs to; None likewise.
        positions: (T,) int64, a token's position in its row, ``start`` included; None likewise.
        start: (N,) int64, position of each row's first token when it continues a past; None means 0.
        begin: (N,) int64 on the CPU, where each row begins when rows do not lie end to end (cache slots, shared rows).
        leading: (N,) int64, how many first positions of a row are global (CLS, a question).
    """

    lengths: tuple[int, ...]
    longest: int
    sizes: Tensor
    cu_seqlens: Tensor | None
    rows: Tensor | None
    positions: Tensor | None
    start: Tensor | None = None
    begin: Tensor | None = None
    leading: Tensor | None = None
    plans: Plans = field(default_factory=Plans, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int], *, start: Tensor | None = None, leading: Tensor | None = None, device: torch.device | str = "cpu") -> Layout:
        """Rows that lie end to end.

        Args:
            lengths: tokens of each row, each at least 1.
            start: (N,) position of each row's first token.
            leading: (N,) number of global first positions.
            device: where the tensors go.

        Raises:
            InputError: a row is empty; it is named by its number.
        """
        sizes = _checked(lengths)
        n = len(sizes)
        cu_seqlens = torch.zeros(n + 1, dtype=torch.int32)
        torch.cumsum(sizes, 0, out=cu_seqlens[1:])
        rows = torch.repeat_interleave(torch.arange(n), sizes)
        positions = torch.arange(len(rows)) - cu_seqlens[:-1].long()[rows]
        cu_seqlens, rows, positions = cu_seqlens.to(device), rows.to(device), positions.to(device)
        if start is not None:
            start = start.to(device)
            positions = positions + start[rows]
        leading = None if leading is None else leading.to(device)
        return cls(tuple(lengths), max(lengths), sizes, cu_seqlens, rows, positions, start, None, leading)

    @classmethod
    def slots(cls, lengths: Sequence[int], begin: Sequence[int], *, start: Tensor | None = None, leading: Tensor | None = None) -> Layout:
        """Rows that lie anywhere in a buffer: row i is ``buffer[begin[i] : begin[i] + lengths[i]]``; pooling is refused on it.

        Raises:
            InputError: a row is empty; it is named by its number.
        """
        return cls(tuple(lengths), max(lengths), _checked(lengths), None, None, None, start, torch.tensor(list(begin)), leading)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def begins(self) -> Tensor:
        """(N,) int64 on the CPU: the index of each row's first token, however the rows lie."""
        return self.begin if self.begin is not None else self.sizes.cumsum(0) - self.sizes

    def take(self, rows: Sequence[int]) -> Layout:
        """These rows, in this order, sharing the tokens where they lie: how beams share an encoder's keys without a copy."""
        pick = torch.tensor(list(rows), dtype=torch.int64)

        def picked(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[pick.to(x.device)]

        lengths = [self.lengths[i] for i in rows]
        return Layout.slots(lengths, self.begins[pick].tolist(), start=picked(self.start), leading=picked(self.leading))

    def one_each(self) -> Layout:
        """As many rows, of one token each: where what stands for a whole row lies."""
        return Layout.of([1] * len(self), device=self._ends.device)

    def continued(self, start: Tensor) -> Layout:
        """The same rows, their first tokens at the positions ``start`` (N,): how a batch continues a cached past."""
        return Layout.of(self.lengths, start=start, leading=self.leading, device=self._ends.device)

    def to(self, device: torch.device | str) -> Layout:
        """This layout with its device tensors on ``device``; host truth stays on the CPU."""

        def moved(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        cu_seqlens, rows, positions, start = moved(self.cu_seqlens), moved(self.rows), moved(self.positions), moved(self.start)
        return Layout(self.lengths, self.longest, self.sizes, cu_seqlens, rows, positions, start, self.begin, moved(self.leading))

    def first(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N, ...): each row's first token."""
        return x[self._ends[:-1]]

    def last(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N, ...): each row's last token."""
        return x[self._ends[1:] - 1]

    def sum(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N, ...): the sum over each row's tokens, in float32 at least."""
        ends = self._ends
        assert self.rows is not None
        x = x if x.dtype == torch.float64 else x.float()
        return x.new_zeros(ends.shape[0] - 1, *x.shape[1:]).index_add(0, self.rows, x)

    def mean(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N, ...): the mean over each row's tokens, exact for every length."""
        count = self._ends.diff().reshape(-1, *[1] * (x.dim() - 1))
        return (self.sum(x) / count).to(x.dtype)

    @property
    def _ends(self) -> Tensor:
        if self.cu_seqlens is None:
            raise InputError("rows that do not lie end to end (cache slots) can't be pooled", fix="pool the layout of the batch instead")
        return self.cu_seqlens


class Packed(NamedTuple):
    """Values (T, ...) and where their rows lie; ``layout`` is None for kept tokens, which are (K, W) in the order that was asked for."""

    values: Tensor
    layout: Layout | None


def join(a: Packed, b: Packed) -> Packed:
    """Row-wise concatenation: row i of the result is row i of ``a`` followed by row i of ``b`` (a CLS token before patches).

    Raises:
        InputError: the numbers of rows differ, or rows do not lie end to end.
    """
    if a.layout is None or b.layout is None or len(a.layout) != len(b.layout):
        raise InputError("only two packs with the same number of rows can be joined")
    first, second = a.layout, b.layout
    joined = Layout.of([m + n for m, n in zip(first.lengths, second.lengths, strict=True)], device=a.values.device)
    places = torch.cat(places_joined(first, second))
    order = torch.empty_like(places).index_copy_(0, places, torch.arange(len(places), device=places.device))
    return Packed(torch.cat([a.values, b.values])[order], joined)


def places_joined(first: Layout, second: Layout) -> tuple[Tensor, Tensor]:
    """Where the tokens of each of two layouts lie after :func:`join`: (Ta,), (Tb,) int64."""
    assert first.rows is not None and second.rows is not None
    before, behind = first._ends.long(), second._ends.long()
    mine = torch.arange(first.rows.shape[0], device=before.device) + behind[first.rows]
    theirs = torch.arange(second.rows.shape[0], device=before.device) + before[second.rows + 1]
    return mine, theirs


def _checked(lengths: Sequence[int]) -> Tensor:
    if not lengths:
        raise InputError("a layout needs at least one row")
    empty = [i for i, n in enumerate(lengths) if n < 1]
    if empty:
        raise InputError("rows without a token", value=empty, expected="at least one token a row", fix="leave these rows out of the batch")
    return torch.tensor(list(lengths), dtype=torch.int64)
