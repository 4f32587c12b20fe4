"""Attention as one operator that a compiler does not look into: ``torch.ops.nabi.attend``, registered when this file is imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nabi.layout import Layout
from nabi.nn import kernels
from nabi.nn.kernels import Call, Pattern


def encoded(p: Pattern) -> list[int]:
    """A pattern as the operator takes it."""
    return [int(p.causal), p.window or 0, p.dilation, p.block or 0, int(p.leading), p.random_blocks, p.seed]


def decoded(code: list[int]) -> Pattern:
    """The pattern of :func:`encoded`."""
    causal, window, dilation, block, leading, random_blocks, seed = code
    return Pattern(bool(causal), window or None, dilation, block or None, bool(leading), random_blocks, seed)


def _call(
    at_sizes: Tensor,
    at_start: Tensor | None,
    of_sizes: Tensor,
    of_begin: Tensor | None,
    of_start: Tensor | None,
    leading: Tensor | None,
    pattern: list[int],
    device: torch.device,
) -> Call:
    at = Layout.of(at_sizes.tolist(), start=at_start, leading=leading, device=device)
    if of_begin is not None:
        of = Layout.slots(of_sizes.tolist(), of_begin.tolist(), start=of_start)
    elif at_start is None and of_start is None and torch.equal(at_sizes, of_sizes):
        of = at
    else:
        of = Layout.of(of_sizes.tolist(), start=of_start, device=device)
    return Call(at, of, decoded(pattern))


def _attend_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at_sizes: Tensor,
    at_start: Tensor | None,
    of_sizes: Tensor,
    of_begin: Tensor | None,
    of_start: Tensor | None,
    leading: Tensor | None,
    pattern: list[int],
    scale: float | None,
) -> Tensor:
    call = _call(at_sizes, at_start, of_sizes, of_begin, of_start, leading, pattern, q.device)
    kernel = kernels.choose(call)
    return kernel.run(q, k, v, call, kernel.prepare(call, q.device), scale, None).contiguous()


_attend_op = torch.library.custom_op("nabi::attend", _attend_plain, mutates_args=())


@_attend_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(*q.shape[:2], v.shape[2])


@torch.library.custom_op("nabi::attend_backward", mutates_args=())
def _attend_backward_op(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at_sizes: Tensor,
    at_start: Tensor | None,
    of_sizes: Tensor,
    of_begin: Tensor | None,
    of_start: Tensor | None,
    leading: Tensor | None,
    pattern: list[int],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _call(at_sizes, at_start, of_sizes, of_begin, of_start, leading, pattern, q.device)
    to_q, to_k, to_v = kernels.gradients(grad, q, k, v, call, scale)
    return to_q.contiguous(), to_k.contiguous(), to_v.contiguous()


@_attend_backward_op.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.pattern, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grads = torch.ops.nabi.attend_backward(grad, *ctx.saved_tensors, ctx.pattern, ctx.scale)
    return (*grads, *[None] * 8)


_attend_op.register_autograd(_backward, setup_context=_save)
