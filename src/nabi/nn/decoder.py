"""The causal decoder that GPT and GPT-2 share: the pre-norm layer, and the body around a stack of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nabi.batch import Batch, Cache
from nabi.layout import Layout, Packed
from nabi.nn.attention import Attention
from nabi.nn.body import Body
from nabi.nn.cache import KeyValues
from nabi.nn.dropout import dropout
from nabi.nn.kernels import Pattern
from nabi.nn.linear import FeedForward, LayerNorm


class PreNormLayer(nn.Module):
    """Self-attention and feed-forward, a norm before each (Radford et al. 2019, section 2.3).

    Args:
        hidden_size, num_heads, intermediate_size: W, H and the inner size of the feed-forward.
        activation: its name.
        norm_eps: of both norms.
        dropout: on both results, before the residual is added.
        attention_dropout: on the attention weights.
        pattern: who may see whom.
        scale: of the scores; 1 / sqrt(D) if None.
        norm: what makes the norms, from W and ``norm_eps``.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        intermediate_size: int,
        *,
        activation: str,
        norm_eps: float,
        dropout: float,
        attention_dropout: float,
        pattern: Pattern,
        scale: float | None = None,
        norm: Callable[[int, float], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        self.attention_norm = norm(hidden_size, norm_eps)
        self.attention = Attention(hidden_size, num_heads, pattern=pattern, scale=scale, dropout=dropout, attention_dropout=attention_dropout)
        self.feed_forward_norm = norm(hidden_size, norm_eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout)

    def forward(self, x: Tensor, layout: Layout, keep: Tensor | None = None, cache: Any = None) -> Tensor:
        """(T, W) -> (T, W), or (K, W) for the kept tokens; ``cache`` is this layer's own share of a past."""
        x = self.attention(self.attention_norm(x), layout, add=x, keep=keep, cache=cache)
        y: Tensor = self.feed_forward(self.feed_forward_norm(x), add=x)
        return y


def through(layers: nn.ModuleList, x: Tensor, layout: Layout, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(T, W) through all layers; the last one computes only what is read.

    Args:
        wanted: by name the (K,) tokens that are read; of several names they may be the same.

    Returns:
        by name (K, W).
    """
    for layer in layers[:-1]:
        x = layer(x, layout)
    x = layers[-1](x, layout, torch.cat(list(wanted.values())))
    return dict(zip(wanted, torch.split(x, [len(places) for places in wanted.values()]), strict=True))


class CausalDecoder(Body):
    """A body of one part, which it can continue: embeddings, dropout, layers, perhaps a norm. A family adds its constructor and ``initialise``.

    Attributes:
        generates: the part that it reads and writes; ``text`` in most families.
        embeddings, layers, norm: its modules, from bottom to top; ``norm`` may be None.
        dropout: on the embeddings.
    """

    needs = {"text": frozenset({"tokens"})}
    generates: ClassVar[str] = "text"
    embeddings: nn.Module
    layers: nn.ModuleList
    norm: nn.Module | None
    dropout: float

    def begin(self, batch: Batch, reserve: int) -> Cache:
        return KeyValues(self.generates, len(self.layers), len(batch.parts[self.generates].layout), reserve)

    def embed(self, batch: Batch) -> dict[str, Packed]:
        part = batch.parts[self.generates]
        return {self.generates: Packed(self.embeddings(part.streams["tokens"], part.layout.positions), part.layout)}

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        layout, kept = batch.parts[self.generates].layout, (keep or {}).get(self.generates)
        x = dropout((embedded or self.embed(batch))[self.generates].values, self.dropout, self.training)
        for i, layer in enumerate(self.layers):
            x = layer(x, layout, kept if i == len(self.layers) - 1 else None, None if cache is None else cache[i].self)
        if cache is not None:
            cache.advance(layout)
        x = x if self.norm is None else self.norm(x)
        return {self.generates: Packed(x, layout if kept is None else None)}

    def groups(self) -> list[nn.Module]:
        return [self.embeddings, *self.layers, *([] if self.norm is None else [self.norm])]
