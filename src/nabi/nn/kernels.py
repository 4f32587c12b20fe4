"""Who may see whom (``Pattern``, the one definition) and the kernels that compute it, each tested against that definition.

The cheapest kernel that does not refuse is chosen once per pair of layouts, not per layer. Unusual: padding lives and dies inside one function here;
everything outside is packed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.errors import OptionError
from nabi.layout import Layout
from nabi.nn import explicit
from nabi.nn.dropout import dropout


@dataclass(frozen=True)
class Pattern:
    """Who may see whom: ``causal_ok & (in_window | in_block | is_global | is_random)``; everything in reach where none of these is set.

    Attributes:
        causal: a query sees no later key.
        window: a query sees keys nearer than ``window * dilation`` positions (Beltagy et al. 2020, section 3.1).
        dilation: only every dilation-th of them.
        block: a query sees the keys of its own block of this many positions (Child et al. 2019).
        leading: the first positions of a row, as many as its layout says, see all and are seen by all.
        random_blocks: each block of queries sees this many random blocks of keys (Zaheer et al. 2020); blocks of ``block`` or 64 positions.
        seed: which random blocks.
    """

    causal: bool = False
    window: int | None = None
    dilation: int = 1
    block: int | None = None
    leading: bool = False
    random_blocks: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("dilation", self.dilation), ("block", self.block)):
            if value is not None and value < 1:
                raise OptionError(f"a pattern's {name} must be at least 1", value=value)

    @property
    def everything(self) -> bool:
        """Whether nothing but ``causal`` restricts the view."""
        return self.window is None and self.block is None and not self.leading and self.random_blocks == 0

    def visible(self, query: Tensor, key: Tensor, *, length: Tensor | int, leading: Tensor | int = 0) -> Tensor:
        """Whether the query at a position may see the key at a position of the same row.

        Args:
            query: positions, any shape that broadcasts with ``key``, such as (Lq, 1).
            key: positions, such as (1, Lk).
            length: of the row's keys; only random blocks without ``causal`` depend on it.
            leading: how many first positions are global.

        Returns:
            bool of the broadcast shape.
        """
        gap = query - key
        seen = torch.ones_like(gap, dtype=torch.bool) if self.everything else torch.zeros_like(gap, dtype=torch.bool)
        if self.window is not None:
            seen = seen | ((gap.abs() < self.window * self.dilation) & (gap % self.dilation == 0))
        if self.block is not None:
            seen = seen | (torch.div(query, self.block, rounding_mode="floor") == torch.div(key, self.block, rounding_mode="floor"))
        if self.leading:
            seen = seen | (query < leading) | (key < leading)  # not in place: rows may have marks of their own, positions not
        if self.random_blocks:
            seen = seen | self._random(query, key, length)
        return seen & (gap >= 0) if self.causal else seen

    def _random(self, query: Tensor, key: Tensor, length: Tensor | int) -> Tensor:
        size = self.block or 64
        q, k = torch.div(query, size, rounding_mode="floor"), torch.div(key, size, rounding_mode="floor")
        mine, chosen = self._mixed(q, k), torch.zeros_like(q + k)
        # a key block is chosen if fewer than random_blocks candidates have a smaller number; candidates of a causal row never depend on its length
        last = torch.div(torch.as_tensor(length, device=query.device) - 1, size, rounding_mode="floor")
        for j in range(int(torch.maximum(k.max(), last.max())) + 1):
            other = torch.full_like(k, j)
            candidate = (other <= q) if self.causal else (other <= last)
            chosen = chosen + (candidate & (self._mixed(q, other) < mine)).long()
        return chosen < self.random_blocks

    def _mixed(self, q: Tensor, k: Tensor) -> Tensor:
        # integer mixing in the manner of splitmix, so that every kernel and chunking draws the same blocks; k as tie-breaker
        x = q * 73856093 + k * 19349663 + self.seed * 83492791 + 1
        for _ in range(3):
            x = ((x ^ (x >> 16)) * 73244475) & 0xFFFFFFFF
        return x * 65536 + k


class PositionBias(Protocol):
    """What is added to the scores: a function of the positions of one row's queries and keys."""

    def __call__(self, query: Tensor, key: Tensor, row: int) -> Tensor: ...  # (Lq,), (Lk,), row number -> (H, Lq, Lk)


class DistanceBias:
    """A bias that depends on the distance from query to key alone (T5, ALiBi); made once a forward, its grids are shared by the layers.

    Args:
        of: distances (key - query), int64 of any shape -> (H, *shape).
    """

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        self._of = of
        self._grids: dict[Any, tuple[Any, Tensor]] = {}

    def __call__(self, query: Tensor, key: Tensor, row: int) -> Tensor:
        """(Lq,), (Lk,) -> (H, Lq, Lk)."""
        return self._of(key[None] - query[:, None])

    def anew(self) -> DistanceBias:
        """The same with nothing remembered, for a layer that is computed twice: it must do the same both times."""
        return DistanceBias(self._of)

    def grid(self, query: Tensor, key: Tensor) -> Tensor:
        """Positions (..., Lq, 1) and (..., 1, Lk) -> (..., H, Lq, Lk), remembered by the tensors of positions that a kernel prepared."""
        name = (id(query), id(key))
        if name not in self._grids:  # the positions are kept with it, so that their ids stay theirs
            self._grids[name] = ((query, key), self._of(key - query).movedim(0, -3))
        return self._grids[name][1]


Biased = Literal["", "by distance", "by row"]


@dataclass(frozen=True, eq=False)
class Call:
    """All that a kernel may ask about one attention before it says whether it can and what it costs."""

    at: Layout
    of: Layout
    pattern: Pattern
    biased: Biased = ""
    watched: bool = False
    dropout: float = 0.0


@dataclass(frozen=True, eq=False)
class Kernel:
    """One way to compute attention.

    Attributes:
        name: for ``explain_kernels``.
        refuses: the reason why it can't take a call, or None.
        cost: a rough time in microseconds of one thread (12 heads of 32, forward), comparable between kernels.
        prepare: what to compute once per pair of layouts.
        run: (q, k, v, call, prepared, scale, bias) -> (Tq, H, D).
    """

    name: str
    refuses: Callable[[Call], str | None]
    cost: Callable[[Call], float]
    prepare: Callable[[Call, torch.device], Any]
    run: Callable[[Tensor, Tensor, Tensor, Call, Any, float | None, PositionBias | None], Tensor]


# ---- dense: the reference, row by row ------------------------------------------------------------------------------------------------------


def dense(q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float | None, bias: PositionBias | None = None, keep: list[Tensor] | None = None) -> Tensor:
    """Attention by its definition, one row at a time; a query that sees no key gives zeros.

    Args:
        q, k, v: (Tq, H, D), (Tk, H, D), (Tk, H, D).
        bias: added to the scores.
        keep: takes each row's weights (H, Lq, Lk).
    """
    at, of = call.at, call.of
    out = []
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = explicit.grouped(k, q), explicit.grouped(v, q)
    for i, of_row in enumerate(zip(_rows(q, at), _rows(k, of), _rows(v, of), strict=True)):
        rows = [x.transpose(0, 1) for x in of_row]
        lq, lk = at.lengths[i], of.lengths[i]
        q_at = torch.arange(lq, device=q.device) + (0 if at.start is None else at.start[i])
        k_at = torch.arange(lk, device=q.device) + (0 if of.start is None else of.start[i])
        leading = _leading(call)
        seen = call.pattern.visible(q_at[:, None], k_at[None], length=lk, leading=0 if leading is None else leading[i])
        scores = rows[0] @ rows[1].transpose(1, 2) * scale
        if bias is not None:
            scores = scores + bias(q_at, k_at, i)
        weights = _softmax(scores, seen)
        if keep is not None:
            keep.append(weights)
        out.append((dropout(weights, call.dropout) @ rows[2]).transpose(0, 1))
    return torch.cat(out)


def _rows(x: Tensor, layout: Layout) -> Sequence[Tensor]:
    """The rows of (T, ...), views; where they lie end to end by one split, whose backward is one copy and not one of T tokens a row."""
    if layout.begin is None:
        return torch.split(x, list(layout.lengths))
    return [x[begin : begin + length] for begin, length in zip(layout.begin.tolist(), layout.lengths, strict=True)]


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    scores = scores.masked_fill(~seen, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights.masked_fill(~seen.any(-1, keepdim=True), 0.0).to(scores.dtype)


def _leading(call: Call) -> Tensor | None:
    return call.at.leading if call.at.leading is not None else call.of.leading


# ---- runs of equal length: no padding and no mask -------------------------------------------------------------------------------------------


def _runs(call: Call) -> Iterator[tuple[int, int, int]]:
    """(rows, query length, key length) of each run of neighbours with equal lengths."""
    for (lq, lk), group in groupby(zip(call.at.lengths, call.of.lengths, strict=True)):
        yield sum(1 for _ in group), lq, lk


def _runs_refuses(call: Call) -> str | None:
    if call.of.begin is not None or call.at.begin is not None:
        return "rows do not lie end to end"
    if call.at.start is not None or call.of.start is not None:
        return "rows continue a past"
    if call.pattern.leading and _leading(call) is not None:
        return "global positions may differ between rows of one length"
    return _needs_scores(call)


def _needs_scores(call: Call) -> str | None:
    return "a bias by row or a watch needs the scores of one row" if call.biased == "by row" or call.watched else None


def _runs_cost(call: Call) -> float:
    return sum(15 + n * (1.5 * lq + 0.5 * lk + lq * lk * 1e-2) for n, lq, lk in _runs(call))


def _runs_prepare(call: Call, device: torch.device, native: bool = True) -> Any:
    masks: list[Tensor | None] = []
    places: list[tuple[Tensor, Tensor]] = []
    for _, lq, lk in (runs := list(_runs(call))):
        # torch's own causal mask is only for squares: without a past, query i stands at position i, the upper left corner
        plain = call.pattern.everything and (not call.pattern.causal or (native and lq == lk and not call.dropout and not call.biased))
        places.append((torch.arange(lq, device=device)[:, None], torch.arange(lk, device=device)[None]))
        masks.append(None if plain else call.pattern.visible(*places[-1], length=lk))
    return runs, masks, places


def _runs_run(q: Tensor, k: Tensor, v: Tensor, call: Call, prepared: Any, scale: float | None, bias: PositionBias | None) -> Tensor:
    runs, masks, places = prepared
    if call.dropout and q.device.type == "cpu" and bias is None:
        return explicit.dropped(q, k, v, runs, masks, q.shape[-1] ** -0.5 if scale is None else scale, call.dropout)
    q_sizes, k_sizes = [n * lq for n, lq, _ in runs], [n * lk for n, _, lk in runs]
    out = []
    rows = zip(runs, masks, places, torch.split(q, q_sizes), torch.split(k, k_sizes), torch.split(v, k_sizes), strict=True)
    for (n, _, _), mask, (q_at, k_at), qi, ki, vi in rows:
        qi, ki, vi = _square(qi, n), _square(ki, n), _square(vi, n)
        added = _grid(bias, q_at, k_at)
        out.append(_sdpa(qi, ki, vi, mask, mask is None and call.pattern.causal, call.dropout, scale, added).flatten(0, 1))
    return torch.cat(out)


def _grid(bias: PositionBias | None, q_at: Tensor, k_at: Tensor) -> Tensor | None:
    """What a bias by distance adds to a block of scores, (..., H, Lq, Lk)."""
    if bias is None:
        return None
    assert isinstance(bias, DistanceBias)  # any other is refused
    return bias.grid(q_at, k_at)


def _square(x: Tensor, n: int) -> Tensor:
    """(n * L, H, D) -> (n, L, H, D), a view."""
    return x.view(n, -1, *x.shape[1:])


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float, scale: float | None, added: Tensor | None = None
) -> Tensor:
    """(N, Lq, H, D), (N, Lk, H, D) x 2 -> (N, Lq, H, D); ``mask`` is what may be seen, ``added`` (..., H, Lq, Lk) goes to the scores."""
    if mask is not None:
        blind = ~mask.any(-1, keepdim=True)  # torch gives NaN where a query sees nothing; by definition that is zero
        mask = mask | blind
    shown = mask if added is None else added.to(q.dtype)
    if added is not None and mask is not None:
        shown = added.to(q.dtype).masked_fill(~mask, float("-inf"))
    if shown is not None and shown.dim() == 3:
        shown = shown[None]  # torch's fast path takes two axes or four
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, shown, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped)
    if mask is not None:
        out = out.masked_fill(blind, 0.0)
    return out.transpose(1, 2)


# ---- padded inside: any layout, one call --------------------------------------------------------------------------------------------------------


def _padded_refuses(call: Call) -> str | None:
    return _needs_scores(call)


def _padded_cost(call: Call) -> float:
    return 50 + len(call.at) * (2.4 * call.at.longest + 0.6 * call.of.longest + call.at.longest * call.of.longest * 3e-2)


def _padded_prepare(call: Call, device: torch.device) -> Any:
    at, of = call.at, call.of
    q_at, k_at = torch.arange(at.longest)[None], torch.arange(of.longest)[None]
    real_q, real_k = q_at < at.sizes[:, None], k_at < of.sizes[:, None]
    # a padded place reads the row's first token, which the mask then hides
    q_index = (at.begins[:, None] + torch.where(real_q, q_at, 0)).flatten().to(device)
    k_index = (of.begins[:, None] + torch.where(real_k, k_at, 0)).flatten().to(device)
    back = real_q.flatten().nonzero().flatten().to(device)
    q_at, k_at, real_k = q_at.to(device), k_at.to(device), real_k.to(device)
    if at.start is not None:
        q_at = q_at + at.start[:, None]
    if of.start is not None:
        k_at = k_at + of.start[:, None]
    leading = _leading(call)
    seen = call.pattern.visible(
        q_at[:, :, None], k_at[:, None], length=of.sizes.to(device)[:, None, None], leading=0 if leading is None else leading[:, None, None]
    )
    return q_index, k_index, back, (seen & real_k[:, None])[:, None], (q_at[:, :, None], k_at[:, None])


def _padded_run(q: Tensor, k: Tensor, v: Tensor, call: Call, prepared: Any, scale: float | None, bias: PositionBias | None) -> Tensor:
    q_index, k_index, back, mask, places = prepared
    q, k, v = q.index_select(0, q_index), k.index_select(0, k_index), v.index_select(0, k_index)
    n, _, lq, lk = mask.shape
    if call.dropout and q.device.type == "cpu" and bias is None:
        out = explicit.dropped(q, k, v, [(n, lq, lk)], [mask], q.shape[-1] ** -0.5 if scale is None else scale, call.dropout)
    else:
        added = _grid(bias, *places)
        out = _sdpa(_square(q, n), _square(k, n), _square(v, n), mask, False, call.dropout, scale, added).flatten(0, 1)
    return out.index_select(0, back)


# ---- slots of a cache: keys stay where they lie, a few queries a row; slots are whole, and finite all over -----------------------------------


def _slots_found(call: Call) -> tuple[int, int, int, list[int]] | None:
    """(first key, step, slots, slot of each row) where the rows' keys lie at even steps in one buffer, several rows perhaps in one slot."""
    if call.of.begin is None:
        return None
    begins = call.of.begin.tolist()
    first = min(begins)
    step = math.gcd(*(b - first for b in begins)) or call.of.longest
    count = (max(begins) - first) // step + 1
    if step < call.of.longest or count > 2 * len(set(begins)):  # empty slots between are computed too
        return None
    return first, step, count, [(b - first) // step for b in begins]


def _slots_refuses(call: Call) -> str | None:
    if call.at.begin is not None:
        return "queries do not lie end to end"
    if call.pattern.leading and _leading(call) is not None:
        return "global positions may differ between rows of one slot"
    if _slots_found(call) is None:
        return "keys do not lie in slots of one size, or most slots are empty"
    return _needs_scores(call)


def _slots_cost(call: Call) -> float:
    found = _slots_found(call)
    count = found[2] if found else 0
    return 30 + count * (0.3 * call.of.longest + len(call.at) / max(count, 1) * call.at.longest * (1.5 + call.of.longest * 2e-2))


def _slots_prepare(call: Call, device: torch.device) -> Any:
    found = _slots_found(call)
    assert found is not None
    first, step, count, slots = found
    at, of = call.at, call.of
    # the queries of rows that share a slot stand one behind the other in it: (count, places, H, D)
    ranks, seen_so_far = [], Counter[int]()
    for slot in slots:
        ranks.append(seen_so_far[slot])
        seen_so_far[slot] += 1
    places = max(seen_so_far.values()) * at.longest
    starts = torch.tensor([slot * places + rank * at.longest for slot, rank in zip(slots, ranks, strict=True)])
    q_index = (starts - at.begins).repeat_interleave(at.sizes) + torch.arange(len(at.rows) if at.rows is not None else 0)
    plain = len(q_index) == count * places and bool(torch.equal(q_index, torch.arange(len(q_index))))
    sizes = torch.ones(count, dtype=torch.int64)
    sizes[torch.tensor(slots)] = of.sizes
    # by place: the position of its query; the slot's first key of an empty place is seen by nobody that is read
    q_at = torch.zeros(count * places, dtype=torch.int64, device=device)
    q_index = q_index.to(device)
    assert at.positions is not None
    q_at[q_index] = at.positions
    k_at = torch.arange(of.longest, device=device)[None, None].expand(count, 1, -1)
    if of.start is not None:
        k_start = torch.zeros(count, dtype=torch.int64, device=device)
        k_start[torch.tensor(slots, device=device)] = of.start
        k_at = k_at + k_start[:, None, None]
    q_at = q_at.view(count, places, 1)
    sizes = sizes.to(device)[:, None, None]
    real = torch.arange(of.longest, device=device)[None, None] < sizes
    mask = real if call.pattern.everything and not call.pattern.causal else call.pattern.visible(q_at, k_at, length=sizes) & real
    whole = bool(mask.all()) if device.type == "cpu" else False
    return first, step, count, places, (None if plain else q_index), (None if whole else mask[:, None]), (q_at, k_at)


def _slots_run(q: Tensor, k: Tensor, v: Tensor, call: Call, prepared: Any, scale: float | None, bias: PositionBias | None) -> Tensor:
    first, step, count, places, q_index, mask, at = prepared
    if q_index is not None:
        q = q.new_zeros(count * places, *q.shape[1:]).index_copy(0, q_index, q)
    keys, values = (
        x[first:].as_strided((count, call.of.longest, *x.shape[1:]), (step * x.stride(0), *x.stride()), x[first:].storage_offset()) for x in (k, v)
    )
    out = _sdpa(q.view(count, places, *q.shape[1:]), keys, values, mask, False, call.dropout, scale, _grid(bias, *at)).flatten(0, 1)
    return out if q_index is None else out.index_select(0, q_index)


def _dense_cost(call: Call) -> float:
    return sum(80 + 1.5 * lq + 0.4 * lk + lq * lk * 4e-2 for lq, lk in zip(call.at.lengths, call.of.lengths, strict=True))


def _dense_run(q: Tensor, k: Tensor, v: Tensor, call: Call, prepared: Any, scale: float | None, bias: PositionBias | None) -> Tensor:
    return dense(q, k, v, call, scale, bias)


def gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, call: Call, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v without dropout and without autograd, which can't be had inside an operator; queries lie end to end.

    Args:
        grad: (Tq, H, D) of the result.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k_heads, k_index, tokens = k.shape[1], None, k.shape[0]
    k, v = explicit.grouped(k, q), explicit.grouped(v, q)
    if _runs_refuses(call) is None:
        runs, masks, _ = _runs_prepare(call, q.device, native=False)
    else:
        q_index, k_index, back, mask, _ = _padded_prepare(call, q.device)
        runs, masks = [(mask.shape[0], *mask.shape[2:])], [mask]
        grad = grad.new_zeros(len(q_index), *grad.shape[1:]).index_copy(0, back, grad)
        q, k, v = q.index_select(0, q_index), k.index_select(0, k_index), v.index_select(0, k_index)
    out, weights, _ = explicit.forward(q, k, v, runs, masks, scale)
    to_q, to_k, to_v = explicit.backward(grad, q, k, v, out, weights, None, runs, scale)
    if k_index is not None:
        to_q = to_q.index_select(0, back)
        to_k, to_v = (x.new_zeros(tokens, *x.shape[1:]).index_add(0, k_index, x) for x in (to_k, to_v))
    return to_q, *(x.view(tokens, k_heads, -1, x.shape[2]).sum(2) for x in (to_k, to_v))  # type: ignore[return-value]


KERNELS: tuple[Kernel, ...] = (
    Kernel("runs", _runs_refuses, _runs_cost, _runs_prepare, _runs_run),
    Kernel("slots", _slots_refuses, _slots_cost, _slots_prepare, _slots_run),
    Kernel("padded", _padded_refuses, _padded_cost, _padded_prepare, _padded_run),
    Kernel("dense", lambda call: None, _dense_cost, lambda call, device: None, _dense_run),
)


def choose(call: Call) -> Kernel:
    """The cheapest kernel that does not refuse."""
    return min((kernel for kernel in KERNELS if kernel.refuses(call) is None), key=lambda kernel: kernel.cost(call))


def explain_kernels(call: Call) -> list[str]:
    """One line a kernel: chosen, its cost, or the reason why it refuses."""
    chosen = choose(call)
    lines = []
    for kernel in KERNELS:
        reason = kernel.refuses(call)
        state = f"refuses: {reason}" if reason else f"cost {kernel.cost(call):.0f}" + (", chosen" if kernel is chosen else "")
        lines.append(f"{kernel.name}: {state}")
    return lines
