"""GPT: a causal decoder, post-norm (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

Unusual: no norm on the embeddings and none after the last layer; "gelu" means the tanh formula; the incumbent keeps its products transposed (in, out); the
vocabulary head is the token table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from nabi.families import HF, Family
from nabi.nn.decoder import CausalDecoder
from nabi.nn.encoder import PostNormLayer
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern
from nabi.nn.linear import TokenEmbeddings, normal_
from nabi.weights.names import flipped, same


@dataclass(frozen=True)
class GptConfig:
    """Sizes and settings; the defaults are the paper's (section 4.1). ``activation`` is spelt as in checkpoints, where "gelu" is the tanh formula."""

    vocab_size: int = 40478
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    max_positions: int = 512
    activation: Literal["gelu", "relu", "silu", "swish"] = "gelu"
    norm_eps: float = 1e-5
    hidden_dropout: float = 0.1
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    tied: bool = True
    init_std: float = 0.02


class Gpt(CausalDecoder):
    """The decoder."""

    heads = {"row": HeadSpec(pool="last", bias=""), "vocabulary": HeadSpec(tied_to="embeddings.tokens", bias="")}
    norm = None

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        c = config
        self.hidden_size, self.limits, self.tables = c.hidden_size, {"text": c.max_positions}, {"tokens": c.vocab_size}
        self.init_std, self.dropout = c.init_std, c.embedding_dropout
        if not c.tied:
            self.heads = {**self.heads, "vocabulary": HeadSpec(bias="")}  # type: ignore[misc]  # this body's own
        self.embeddings = TokenEmbeddings(c.vocab_size, c.max_positions, c.hidden_size)
        self.layers = nn.ModuleList(
            PostNormLayer(
                c.hidden_size,
                c.num_heads,
                4 * c.hidden_size,
                activation="gelu_new" if c.activation == "gelu" else c.activation,
                norm_eps=c.norm_eps,
                dropout=c.hidden_dropout,
                attention_dropout=c.attention_dropout,
                pattern=Pattern(causal=True),
            )
            for _ in range(c.num_layers)
        )

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (section 4.1)."""
        normal_(self, self.init_std, generator)


FAMILY = Family(
    config=GptConfig,
    body=Gpt,
    paper="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training",
    sizes={"tiny": GptConfig(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, max_positions=64), "base": GptConfig()},
    hf=HF(
        types={"openai-gpt": "OpenAIGPT"},
        fields={
            "vocab_size": "vocab_size",
            "n_embd": "hidden_size",
            "n_layer": "num_layers",
            "n_head": "num_heads",
            "n_positions": "max_positions",
            "afn": "activation",
            "layer_norm_epsilon": "norm_eps",
            "resid_pdrop": "hidden_dropout",
            "embd_pdrop": "embedding_dropout",
            "attn_pdrop": "attention_dropout",
            "tie_word_embeddings": "tied",
            "initializer_range": "init_std",
        },
        fixed={"n_special": 0, "pruned_heads": {}, "chunk_size_feed_forward": 0},
        weights=(
            same("tokens_embed", "embeddings.tokens"),
            same("positions_embed", "embeddings.positions"),
            flipped("h.*.attn.c_attn", "layers.*.attention.qkv"),
            flipped("h.*.attn.c_proj", "layers.*.attention.out"),
            same("h.*.ln_1", "layers.*.attention_norm"),
            flipped("h.*.mlp.c_fc", "layers.*.feed_forward.up"),
            flipped("h.*.mlp.c_proj", "layers.*.feed_forward.down"),
            same("h.*.ln_2", "layers.*.norm"),
        ),
        prefix="transformer.",
        heads={
            ("row",): ("ForSequenceClassification", (same("score", "row.out"),)),
            ("vocabulary",): ("LMHeadModel", (same("lm_head", "vocabulary.out"),)),
        },
        ignore={
            r"(transformer\.)?(h\.[0-9]+\.attn\.bias|position_ids)": "a constant",
            r"multiple_choice_head\..*": "a head that no task of nabi builds",
        },
    ),
)
