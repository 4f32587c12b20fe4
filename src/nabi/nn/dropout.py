"""Dropout (Srivastava et al. 2014) that costs little on the CPU: alone, with a residual, and inside attention.

Unusual: torch draws a whole random number for each element; here one 64-bit draw of the same generator decides four elements, so a share p is rounded
to 1/65536 and what stays is scaled by exactly what that share asks for. Other devices take torch's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 1 << 16  # how finely a share can be drawn


def _drawn(x: Tensor, p: float) -> bool:
    return x.device.type == "cpu" and 0 < round(p * STEPS) < STEPS and not torch.compiler.is_compiling()


def kept(count: int, p: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Which of ``count`` elements stay, on the CPU: (count,) of 1 and 0, and the factor that keeps the expectation.

    Args:
        count: how many.
        p: the share that is dropped, rounded to 1/65536.
        dtype: of the result.
    """
    dropped = round(p * STEPS)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    keep = torch.empty(count, dtype=dtype)
    torch.ge(bits, dropped - STEPS // 2, out=keep)
    return keep, STEPS / (STEPS - dropped)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """(...) -> (...): each element zero with probability ``p``, the others scaled by 1 / (1 - p); ``x`` itself when not training."""
    if not training or p == 0.0:
        return x
    if not _drawn(x, p):
        return F.dropout(x, p)
    keep, scale = kept(x.numel(), p, x.dtype)
    return x * keep.mul_(scale).view(x.shape)


def dropout_add(x: Tensor, add: Tensor, p: float) -> Tensor:
    """``dropout(x, p) + add``, both (...), in one pass over the memory."""
    if not _drawn(x, p) or x.dtype != add.dtype or x.shape != add.shape:
        return dropout(x, p) + add
    keep, scale = kept(x.numel(), p, x.dtype)
    return torch.addcmul(add, x, keep.view(x.shape), value=scale)


# ---- attention whose weights are dropped out ------------------------------------------------------------------------------------------------------

Runs = Sequence[tuple[int, int, int]]


def dropped_attention(q: Tensor, k: Tensor, v: Tensor, runs: Runs, masks: Sequence[Tensor | None], p: float, scale: float) -> Tensor:
    """Softmax attention with dropout on the weights, over runs of rows of equal length, on the CPU.

    Args:
        q: (Tq, H, D), the runs end to end.
        k, v: (Tk, H or a divisor of it, D) likewise.
        runs: (rows, query length, key length) of each run.
        masks: for each run what may be seen, (Lq, Lk) or (rows, 1, Lq, Lk), or None for everything; a query that sees nothing gives zeros.
        p: the share of weights that is dropped.
        scale: of the scores.

    Returns:
        (Tq, H, D).
    """
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return _DroppedAttention.apply(q, k, v, runs, masks, p, scale)  # type: ignore[no-any-return,no-untyped-call]


class _DroppedAttention(torch.autograd.Function):
    """All runs share one flat buffer of weights, so that what is done element by element is done once and the mask drawn once."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, runs: Runs, masks: Sequence[Tensor | None], p: float, scale: float) -> Tensor:
        n_heads, (at, of) = q.shape[1], _sides(runs)
        weights = q.new_empty(sum(_sizes(runs, n_heads)))
        for w, qi, ki, mask, (n, _, _) in zip(_grids(weights, runs, n_heads), _blocks(q, at), _blocks(k, of), masks, runs, strict=True):
            w = w.view(n, n_heads, *w.shape[1:])
            scores = _product(qi, ki.transpose(1, 2), scale).view(w.shape)
            if mask is not None:
                scores.masked_fill_(~mask, float("-inf"))
            torch.softmax(scores, -1, out=w)
            if mask is not None:
                w.masked_fill_(~mask.any(-1, keepdim=True), 0.0)
        keep, factor = kept(weights.numel(), p, weights.dtype)
        keep.mul_(factor)
        dropped = _grids(weights * keep, runs, n_heads)
        out = _tokens((torch.bmm(w, vi) for w, vi in zip(dropped, _blocks(v, of), strict=True)), at, q.new_empty(*q.shape[:2], v.shape[2]))
        ctx.save_for_backward(q, k, v, weights, keep, out)
        ctx.runs, ctx.scale = runs, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, keep, out = ctx.saved_tensors
        runs, n_heads, (at, of) = ctx.runs, q.shape[1], _sides(ctx.runs)
        above = _blocks(grad, at)
        dropped = _grids(weights * keep, runs, n_heads)
        to_v = _tokens((torch.bmm(w.transpose(1, 2), g) for w, g in zip(dropped, above, strict=True)), of, torch.empty_like(v))
        scores = torch.empty_like(weights)
        for s, g, vi in zip(_grids(scores, runs, n_heads), above, _blocks(v, of), strict=True):
            torch.bmm(g, vi.transpose(1, 2), out=s)
        scores.mul_(keep)
        # what softmax subtracts in its backward, sum(weights * gradient), is the product of output and gradient (Dao et al. 2022, appendix B)
        means = (grad * out).sum(-1, keepdim=True)
        for s, m in zip(_grids(scores, runs, n_heads), _blocks(means, at), strict=True):
            s.sub_(m)
        scores.mul_(weights)
        to_scores = _grids(scores, runs, n_heads)
        to_q = _tokens((_product(s, ki, ctx.scale) for s, ki in zip(to_scores, _blocks(k, of), strict=True)), at, torch.empty_like(q))
        to_k = _tokens((_product(s.transpose(1, 2), qi, ctx.scale) for s, qi in zip(to_scores, _blocks(q, at), strict=True)), of, torch.empty_like(k))
        return to_q, to_k, to_v, None, None, None, None


def _sides(runs: Runs) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    return [(n, lq) for n, lq, _ in runs], [(n, lk) for n, _, lk in runs]


def _sizes(runs: Runs, n_heads: int) -> list[int]:
    return [n * n_heads * lq * lk for n, lq, lk in runs]


def _product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scale)


def _blocks(x: Tensor, side: list[tuple[int, int]]) -> list[Tensor]:
    """(T, H, D) -> for each run (rows * H, L, D), a view where the run has one row."""
    out = []
    for y, (n, length) in zip(torch.split(x, [n * length for n, length in side]), side, strict=True):
        out.append(y.transpose(0, 1) if n == 1 else y.view(n, length, *x.shape[1:]).transpose(1, 2).flatten(0, 1))
    return out


def _grids(x: Tensor, runs: Runs, n_heads: int) -> list[Tensor]:
    """A flat buffer -> for each run (rows * H, Lq, Lk), views."""
    return [y.view(n * n_heads, lq, lk) for y, (n, lq, lk) in zip(torch.split(x, _sizes(runs, n_heads)), runs, strict=True)]


def _tokens(blocks: Iterable[Tensor], side: list[tuple[int, int]], out: Tensor) -> Tensor:
    """The inverse of :func:`_blocks`, written into ``out`` (T, H, D)."""
    for y, block, (n, length) in zip(torch.split(out, [n * length for n, length in side]), blocks, side, strict=True):
        y.view(n, length, *out.shape[1:]).copy_(block.view(n, -1, *block.shape[1:]).transpose(1, 2))
    return out
