"""The Transformer of 2017: an encoder-decoder, post-norm, sinusoidal positions (Vaswani et al. 2017, "Attention Is All You Need").

Unusual: one table is the encoder's input, the decoder's and the output layer (section 3.4). Positions are computed, so no row is too long. The incumbent
has no such class; a checkpoint holds our own names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nabi.batch import Part
from nabi.errors import OptionError
from nabi.families import Family
from nabi.nn.dropout import dropout
from nabi.nn.encoder_decoder import EncoderDecoder, post_norm_stacks
from nabi.nn.heads import HeadSpec
from nabi.nn.linear import Embedding, Linear, normal_
from nabi.nn.positions import sinusoids


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and settings; the defaults are the base model (table 3), the vocabulary that of English and German (section 5.1)."""

    vocab_size: int = 37000
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    intermediate_size: int = 2048
    activation: str = "relu"
    norm_eps: float = 1e-5
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.0
    first_id: int = 0


class TransformerEmbeddings(nn.Module):
    """Token times sqrt(W), + position (sections 3.4 and 3.5)."""

    def __init__(self, c: TransformerConfig) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(T,) each -> (T, W)."""
        x: Tensor = self.tokens(tokens)
        return x * math.sqrt(x.shape[1]) + sinusoids(positions, x.shape[1], interleaved=True).to(x.dtype)


class Transformer(EncoderDecoder):
    """The encoder and the decoder."""

    heads = {"vocabulary": HeadSpec(reads="target", tied_to="embeddings.tokens", bias="")}

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c = config
        if c.first_id >= c.vocab_size:
            raise OptionError("the decoder's first token is not in the vocabulary", value=c.first_id, expected=f"0 to {c.vocab_size - 1}", fix="set first_id")
        self.hidden_size, self.tables, self.first, self.dropout = c.hidden_size, {"tokens": c.vocab_size}, c.first_id, c.hidden_dropout
        self.init_std = c.hidden_size**-0.5
        self.embeddings = TransformerEmbeddings(c)
        sizes = (c.num_layers, c.num_heads, c.intermediate_size)
        self.encoder, self.decoder = post_norm_stacks(
            c.hidden_size,
            sizes,
            sizes,
            activation=c.activation,
            norm_eps=c.norm_eps,
            dropout=c.hidden_dropout,
            attention_dropout=c.attention_dropout,
        )

    def embed_part(self, part: Part, role: str) -> Tensor:
        return dropout(self.embeddings(part.streams["tokens"], part.layout.positions), self.dropout, self.training)

    def groups(self) -> list[nn.Module]:
        return [self.embeddings, *self.encoder, *self.decoder]

    def initialise(self, generator: torch.Generator) -> None:
        """Products as Xavier uniform (Glorot and Bengio 2010, section 4.2.1), queries, keys and values each by itself; the paper names no start:

        `embeddings.tokens.weight` from N(0, sqrt(1 / hidden_size)), biases 0, norms 1 and 0,
        `*.*.attention.*.weight` from U(-sqrt(3 / hidden_size), sqrt(3 / hidden_size)),
        `decoder.*.cross.*.weight` from U(-sqrt(3 / hidden_size), sqrt(3 / hidden_size)),
        `*.*.feed_forward.*.weight` from U(-6 ** 0.5 * (hidden_size + intermediate_size) ** -0.5, 6 ** 0.5 * (hidden_size + intermediate_size) ** -0.5).
        """
        normal_(self, self.init_std, generator)
        for path, module in self.named_modules():
            if isinstance(module, Linear):
                outputs, inputs = module.weight.shape
                bound = math.sqrt(6 / (inputs + (outputs if "feed_forward" in path else self.hidden_size)))
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)


_BASE = TransformerConfig()

FAMILY = Family(
    config=TransformerConfig,
    body=Transformer,
    paper="Vaswani et al. 2017, arXiv:1706.03762",
    sizes={
        "tiny": TransformerConfig(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64),
        "base": _BASE,
        "big": replace(_BASE, hidden_size=1024, num_heads=16, intermediate_size=4096, hidden_dropout=0.3),
    },
)
