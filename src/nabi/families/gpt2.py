"""GPT-2: a causal decoder, pre-norm, with a norm after the last layer (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Unusual: the incumbent keeps its products transposed (in, out); the vocabulary head is the token table, unless ``tied`` is false; the weights of both
projections that feed a residual start smaller, by the square root of their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from nabi.families import HF, Family
from nabi.nn.decoder import CausalDecoder, PreNormLayer
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern
from nabi.nn.linear import LayerNorm, TokenEmbeddings, normal_
from nabi.weights.names import flipped, same


@dataclass(frozen=True)
class Gpt2Config:
    """Sizes and settings; the defaults are GPT-2 small."""

    vocab_size: int = 50257
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int | None = None
    max_positions: int = 1024
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    hidden_dropout: float = 0.1
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    token_dropout: float | None = None
    tied: bool = True
    init_std: float = 0.02


class Gpt2(CausalDecoder):
    """The decoder."""

    heads = {
        "row": HeadSpec(pool="last", bias=""),
        "token": HeadSpec(),
        "span": HeadSpec(),
        "vocabulary": HeadSpec(tied_to="embeddings.tokens", bias=""),
    }

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        c = config
        self.hidden_size, self.limits, self.tables = c.hidden_size, {"text": c.max_positions}, {"tokens": c.vocab_size}
        self.head_dropout = {"token": c.hidden_dropout if c.token_dropout is None else c.token_dropout}
        self.init_std, self.dropout = c.init_std, c.embedding_dropout
        if not c.tied:
            self.heads = {**self.heads, "vocabulary": HeadSpec(bias="")}  # type: ignore[misc]  # this body's own
        self.embeddings = TokenEmbeddings(c.vocab_size, c.max_positions, c.hidden_size)
        self.layers = nn.ModuleList(
            PreNormLayer(
                c.hidden_size,
                c.num_heads,
                c.intermediate_size or 4 * c.hidden_size,
                activation=c.activation,
                norm_eps=c.norm_eps,
                dropout=c.hidden_dropout,
                attention_dropout=c.attention_dropout,
                pattern=Pattern(causal=True),
            )
            for _ in range(c.num_layers)
        )
        self.norm = LayerNorm(c.hidden_size, c.norm_eps)

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0; what feeds a residual begins smaller (section 2.3):

        `layers.*.attention.out.weight` from N(0, init_std / sqrt(2 * num_layers)),
        `layers.*.feed_forward.down.weight` from N(0, init_std / sqrt(2 * num_layers)).
        """
        normal_(self, self.init_std, generator)
        with torch.no_grad():
            for layer in self.layers:
                for linear in (layer.attention.out, layer.feed_forward.down):  # type: ignore[union-attr]
                    linear.weight.div_(math.sqrt(2 * len(self.layers)))  # type: ignore[union-attr,operator]


_SMALL = Gpt2Config()

FAMILY = Family(
    config=Gpt2Config,
    body=Gpt2,
    paper="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    sizes={
        "tiny": Gpt2Config(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, max_positions=64),
        "small": _SMALL,
        "medium": replace(_SMALL, hidden_size=1024, num_layers=24, num_heads=16),
        "large": replace(_SMALL, hidden_size=1280, num_layers=36, num_heads=20),
        "xl": replace(_SMALL, hidden_size=1600, num_layers=48, num_heads=25),
    },
    hf=HF(
        types={"gpt2": "GPT2"},
        fields={
            "vocab_size": "vocab_size",
            "n_embd": "hidden_size",
            "n_layer": "num_layers",
            "n_head": "num_heads",
            "n_inner": "intermediate_size",
            "n_positions": "max_positions",
            "activation_function": "activation",
            "layer_norm_epsilon": "norm_eps",
            "resid_pdrop": "hidden_dropout",
            "embd_pdrop": "embedding_dropout",
            "attn_pdrop": "attention_dropout",
            "classifier_dropout": "token_dropout",
            "tie_word_embeddings": "tied",
            "initializer_range": "init_std",
        },
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "n_special": 0,
            "pruned_heads": {},
            "chunk_size_feed_forward": 0,
        },
        weights=(
            same("wte", "embeddings.tokens"),
            same("wpe", "embeddings.positions"),
            same("h.*.ln_1", "layers.*.attention_norm"),
            flipped("h.*.attn.c_attn", "layers.*.attention.qkv"),
            flipped("h.*.attn.c_proj", "layers.*.attention.out"),
            same("h.*.ln_2", "layers.*.feed_forward_norm"),
            flipped("h.*.mlp.c_fc", "layers.*.feed_forward.up"),
            flipped("h.*.mlp.c_proj", "layers.*.feed_forward.down"),
            same("ln_f", "norm"),
        ),
        prefix="transformer.",
        heads={
            ("row",): ("ForSequenceClassification", (same("score", "row.out"),)),
            ("token",): ("ForTokenClassification", (same("classifier", "token.out"),)),
            ("span",): ("ForQuestionAnswering", (same("qa_outputs", "span.out"),)),
            ("vocabulary",): ("LMHeadModel", (same("lm_head", "vocabulary.out"),)),
        },
        ignore={r"(transformer\.)?h\.[0-9]+\.attn\.(masked_)?bias": "a constant", r"multiple_choice_head\..*": "a head that no task of nabi builds"},
    ),
)
