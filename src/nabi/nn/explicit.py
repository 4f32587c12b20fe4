"""Softmax attention written out with its gradient, for what torch's own can't do fast or at all: dropout on the CPU, and the backward of an operator.

Rows come in runs of equal length. Unusual: all runs share one flat buffer of weights, so that what is done element by element is done once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nabi.nn.dropout import kept

Runs = Sequence[tuple[int, int, int]]  # (rows, query length, key length) of each run, end to end
Masks = Sequence[Tensor | None]  # what may be seen in each run, (Lq, Lk) or (rows, 1, Lq, Lk); None is everything


def forward(q: Tensor, k: Tensor, v: Tensor, runs: Runs, masks: Masks, scale: float, p: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Attention; a query that sees nothing gives zeros.

    Args:
        q, k, v: (Tq, H, D), (Tk, H, D), (Tk, H, D).
        scale: of the scores.
        p: the share of weights that is dropped.

    Returns:
        the result (Tq, H, D); the weights, flat; what they were multiplied with, flat, or None without dropout.
    """
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
    keep = None
    if p:
        keep, factor = kept(weights.numel(), p, weights.dtype)
        keep.mul_(factor)
    dropped = _grids(weights if keep is None else weights * keep, runs, n_heads)
    out = _tokens((torch.bmm(w, vi) for w, vi in zip(dropped, _blocks(v, of), strict=True)), at, q.new_empty(*q.shape[:2], v.shape[2]))
    return out, weights, keep


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, weights: Tensor, keep: Tensor | None, runs: Runs, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from what :func:`forward` took and returned."""
    n_heads, (at, of) = q.shape[1], _sides(runs)
    above = _blocks(grad, at)
    dropped = _grids(weights if keep is None else weights * keep, runs, n_heads)
    to_v = _tokens((torch.bmm(w.transpose(1, 2), g) for w, g in zip(dropped, above, strict=True)), of, torch.empty_like(v))
    scores = torch.empty_like(weights)
    for s, g, vi in zip(_grids(scores, runs, n_heads), above, _blocks(v, of), strict=True):
        torch.bmm(g, vi.transpose(1, 2), out=s)
    if keep is not None:
        scores.mul_(keep)
    # what softmax subtracts in its backward, sum(weights * gradient), is the product of output and gradient (Dao et al. 2022, appendix B)
    means = (grad * out).sum(-1, keepdim=True)
    for s, m in zip(_grids(scores, runs, n_heads), _blocks(means, at), strict=True):
        s.sub_(m)
    scores.mul_(weights)
    to_scores = _grids(scores, runs, n_heads)
    to_q = _tokens((_product(s, ki, scale) for s, ki in zip(to_scores, _blocks(k, of), strict=True)), at, torch.empty_like(q))
    to_k = _tokens((_product(s.transpose(1, 2), qi, scale) for s, qi in zip(to_scores, _blocks(q, at), strict=True)), of, torch.empty_like(k))
    return to_q, to_k, to_v


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, runs: Runs, masks: Masks, scale: float, p: float) -> Tensor:
        out, weights, keep = forward(q, k, v, runs, masks, scale, p)
        ctx.save_for_backward(q, k, v, out, weights, keep)
        ctx.runs, ctx.scale = runs, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, weights, keep = ctx.saved_tensors
        return *backward(grad, q, k, v, out, weights, keep, ctx.runs, ctx.scale), None, None, None, None


def dropped(q: Tensor, k: Tensor, v: Tensor, runs: Runs, masks: Masks, scale: float, p: float) -> Tensor:
    """:func:`forward` with dropout and a gradient; k and v may have fewer heads than q."""
    return _Dropped.apply(q, grouped(k, q), grouped(v, q), runs, masks, scale, p)  # type: ignore[no-any-return,no-untyped-call]


def grouped(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values (Tk, heads, D) with each head repeated for the query heads that share it: (Tk, H, D)."""
    return x if x.shape[1] == q.shape[1] else x.repeat_interleave(q.shape[1] // x.shape[1], 1)


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
