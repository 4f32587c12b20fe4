"""Cross-entropy over a large vocabulary, chunk by chunk, so that the logits of all tokens never exist at once.

Unusual: the forward pass computes the gradients too, while a chunk's logits are at hand; the backward pass only scales them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nabi.nn import fast

CHUNK = 1 << 24  # logits at a time


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """The sum over tokens of the cross-entropy of softmax(x W^T + b).

    Args:
        x: (K, W).
        weight, bias: (C, W) and (C,) or None.
        targets: (K,) int64, each below C.
        smoothing: share of the target spread evenly over all C (Szegedy et al. 2016, section 7).

    Returns:
        a scalar with gradient.
    """
    return _LinearCrossEntropy.apply(x, weight, bias, targets, smoothing)  # type: ignore[no-any-return,no-untyped-call]


@torch.no_grad()
def token_nats(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """(K,) the cross-entropy of each token, in nats, without gradient; arguments as for :func:`linear_cross_entropy`."""
    found = []
    for rows, aims in _chunks(x, targets, _rows(weight)):
        logits = _logits(rows, weight, bias)
        found.append(logits.logsumexp(-1) - logits.gather(1, aims[:, None])[:, 0])
    return torch.cat(found)


def _rows(weight: Tensor) -> int:
    return max(1, CHUNK // weight.shape[0])


def _chunks(x: Tensor, targets: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(x, rows), torch.split(targets, rows), strict=True)


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = fast.linear(x.to(weight.dtype), weight, None)
    y = y if y.dtype == torch.float64 else y.float()
    return y if bias is None else y + bias


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float) -> Tensor:
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=kind, device=x.device)
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_x = torch.empty_like(x) if wants_x else None
        to_weight = torch.zeros_like(weight, dtype=kind) if wants_weight else None
        to_bias = torch.zeros_like(bias, dtype=kind) if wants_bias and bias is not None else None
        begin = 0
        for rows, aims in _chunks(x, targets, _rows(weight)):
            logits = _logits(rows, weight, bias)
            logits = torch.log_softmax(logits, -1, out=logits) if not logits.requires_grad else logits.log_softmax(-1)
            total -= (1 - smoothing) * logits.gather(1, aims[:, None]).sum()
            if smoothing:
                total -= smoothing * logits.mean(-1).sum()
            if wants_x or wants_weight or wants_bias:
                # the gradient by logit: softmax minus target
                slopes = logits.exp_()
                slopes.scatter_add_(1, aims[:, None], slopes.new_full((len(aims), 1), smoothing - 1))
                if smoothing:
                    slopes -= smoothing / slopes.shape[1]
                if to_bias is not None:
                    to_bias += slopes.sum(0)
                slopes = slopes.to(weight.dtype)
                if to_x is not None:
                    to_x[begin : begin + len(rows)] = fast.product(slopes, weight)
                if to_weight is not None:
                    to_weight += fast.product(slopes.t(), rows.to(weight.dtype))
            begin += len(rows)
        ctx.grads = to_x, None if to_weight is None else to_weight.to(weight.dtype), None if to_bias is None or bias is None else to_bias.to(bias.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        made = tuple(None if g is None else g * grad.to(g.dtype) for g in ctx.grads)
        return *made, None, None
