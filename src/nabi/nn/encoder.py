"""The post-norm encoder that BERT, DistilBERT and RoBERTa share: its layer, and the body around a stack of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nabi.batch import Batch, Cache
from nabi.layout import Layout, Packed
from nabi.nn.attention import Attention
from nabi.nn.body import Body
from nabi.nn.dropout import dropout
from nabi.nn.kernels import Pattern
from nabi.nn.linear import FeedForward, LayerNorm


class PostNormLayer(nn.Module):
    """Self-attention and feed-forward, a norm after each residual (Vaswani et al. 2017, section 3.1).

    Args:
        hidden_size, num_heads, intermediate_size: W, H and the inner size of the feed-forward.
        activation: its name.
        norm_eps: of both norms.
        dropout: on the result of the feed-forward.
        attention_dropout: on the attention weights.
        output_dropout: on the result of the attention; ``dropout`` if None.
        inner_dropout: inside the feed-forward, after the activation; none if None.
        pattern: who may see whom.
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
        output_dropout: float | None = None,
        inner_dropout: float | None = None,
        pattern: Pattern | None = None,
    ) -> None:
        super().__init__()
        on_output = dropout if output_dropout is None else output_dropout
        self.attention = Attention(hidden_size, num_heads, pattern=pattern, dropout=on_output, attention_dropout=attention_dropout)
        self.attention_norm = LayerNorm(hidden_size, norm_eps)
        self.feed_forward = FeedForward(hidden_size, intermediate_size, activation, dropout, inner_dropout)
        self.norm = LayerNorm(hidden_size, norm_eps)

    def forward(self, x: Tensor, layout: Layout, keep: Tensor | None = None, cache: Any = None) -> Tensor:
        """(T, W) -> (T, W), or (K, W) for the kept tokens; ``cache`` is this layer's own share of a past."""
        x = self.attention_norm(self.attention(x, layout, add=x, keep=keep, cache=cache))
        y: Tensor = self.norm(self.feed_forward(x, add=x))
        return y


class PostNormEncoder(Body):
    """A body of one part, ``text``: embeddings, dropout, post-norm layers. A family adds its constructor, ``embed`` and ``initialise``.

    Attributes:
        embeddings, layers: its modules, from bottom to top.
        dropout: on the embeddings.
    """

    embeddings: nn.Module
    layers: nn.ModuleList
    dropout: float

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        layout, kept = batch.parts["text"].layout, (keep or {}).get("text")
        x = (embedded or self.embed(batch))["text"].values
        x = dropout(x, self.dropout, self.training)
        for layer in self.layers[:-1]:
            x = layer(x, layout)
        x = self.layers[-1](x, layout, kept)  # the last one computes only what is read
        return {"text": Packed(x, layout if kept is None else None)}

    def groups(self) -> list[nn.Module]:
        return [self.embeddings, *self.layers]
