"""What a body computes on the way: the weights of each attention and what enters each layer, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nabi.nn.attention import Attention
from nabi.nn.watch import WATCHING, Watch


@dataclass
class Seen(Watch):
    """What was seen, with gradients.

    Attributes:
        attended: of each attention in turn a row's weights (H, Lq, Lk) each.
        entered: what entered each layer in turn, (T, W).
    """

    attended: list[list[Tensor]] = field(default_factory=list)
    entered: list[Tensor] = field(default_factory=list)

    def record(self, q: Tensor, k: Tensor, v: Tensor, weights: list[Tensor], out: Tensor) -> Tensor:
        self.attended.append(weights)
        return out


@contextmanager
def looking(body: nn.Module, attentions: bool, hidden_states: bool) -> Iterator[Seen]:
    """Keep the one or the other while the block runs."""
    seen = Seen({})

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.entered.append(kwargs["add"])  # the residual of a layer's self-attention is what entered the layer, whatever norm comes first

    layers = [module for module in body.modules() if isinstance(module, Attention)] if hidden_states else []
    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    token = WATCHING.set(seen) if attentions else None
    try:
        yield seen
    finally:
        if token is not None:
            WATCHING.reset(token)
        for handle in handles:
            handle.remove()
