"""Marian: an encoder-decoder for translation, post-norm, computed positions (Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++").

Unusual: positions are sines first, then cosines, rounded to float32 as the incumbent keeps them; the decoder's first token is the padding, the last number
of the vocabulary. Languages with tables of their own (``share_encoder_decoder_embeddings`` false) are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nabi.batch import Part
from nabi.errors import OptionError
from nabi.families import HF, Family
from nabi.nn.dropout import dropout
from nabi.nn.encoder_decoder import EncoderDecoder, post_norm_stacks
from nabi.nn.heads import HeadSpec
from nabi.nn.linear import Embedding, normal_
from nabi.nn.positions import sinusoids
from nabi.weights.names import Entry, same, stacked, tied


@dataclass(frozen=True)
class MarianConfig:
    """Sizes and settings; the defaults are what the incumbent fills in for a key that a config lacks."""

    vocab_size: int = 58101
    hidden_size: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    encoder_heads: int = 16
    decoder_heads: int = 16
    encoder_intermediate_size: int = 4096
    decoder_intermediate_size: int = 4096
    max_positions: int = 1024
    decoder_vocab_size: int | None = None
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    scale_embedding: bool = False
    first_id: int = 58100
    pad_id: int | None = 58100  # nothing is padded here; without it the incumbent can't open a folder with a smaller vocabulary
    init_std: float = 0.02


class MarianEmbeddings(nn.Module):
    """Token, perhaps times sqrt(W), + position; one table for both stacks."""

    def __init__(self, c: MarianConfig) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)
        self.scale = math.sqrt(c.hidden_size) if c.scale_embedding else 1.0

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(T,) each -> (T, W)."""
        x: Tensor = self.tokens(tokens) * self.scale
        return x + sinusoids(positions, x.shape[1], interleaved=False).float().to(x.dtype)


class Marian(EncoderDecoder):
    """The encoder and the decoder."""

    heads = {"vocabulary": HeadSpec(reads="target", tied_to="embeddings.tokens", bias="kept")}

    def __init__(self, config: MarianConfig) -> None:
        super().__init__()
        c = config
        if max(c.first_id, c.pad_id or 0) >= c.vocab_size:
            fix = "set first_id and pad_id, which are one number in Marian"
            raise OptionError("a special token is not in the vocabulary", value=(c.first_id, c.pad_id), expected=f"0 to {c.vocab_size - 1}", fix=fix)
        if c.decoder_vocab_size not in (None, c.vocab_size):
            raise OptionError("the two vocabularies differ in size, but share one table", value=c.decoder_vocab_size, expected=str(c.vocab_size))
        self.hidden_size, self.limits, self.tables = c.hidden_size, dict.fromkeys(self.needs, c.max_positions), {"tokens": c.vocab_size}
        self.init_std, self.dropout, self.first = c.init_std, c.hidden_dropout, c.first_id
        self.embeddings = MarianEmbeddings(c)
        self.encoder, self.decoder = post_norm_stacks(
            c.hidden_size,
            (c.encoder_layers, c.encoder_heads, c.encoder_intermediate_size),
            (c.decoder_layers, c.decoder_heads, c.decoder_intermediate_size),
            activation=c.activation,
            norm_eps=1e-5,
            dropout=c.hidden_dropout,
            attention_dropout=c.attention_dropout,
            inner_dropout=c.activation_dropout or None,
        )

    def embed_part(self, part: Part, role: str) -> Tensor:
        return dropout(self.embeddings(part.streams["tokens"], part.layout.positions), self.dropout, self.training)

    def groups(self) -> list[nn.Module]:
        return [self.embeddings, *self.encoder, *self.decoder]

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (as the incumbent; the paper names none)."""
        normal_(self, self.init_std, generator)


def _stack(name: str) -> list[Entry]:
    """Their names of one stack, apart from the attention to the encoder."""
    theirs = f"{name}.layers.*"
    return [
        tied(f"{name}.embed_tokens.weight", "embeddings.tokens.weight"),
        stacked(tuple(f"{theirs}.self_attn.{x}_proj" for x in "qkv"), f"{name}.*.attention.qkv"),
        same(f"{theirs}.self_attn.out_proj", f"{name}.*.attention.out"),
        same(f"{theirs}.self_attn_layer_norm", f"{name}.*.attention_norm"),
        same(f"{theirs}.fc1", f"{name}.*.feed_forward.up"),
        same(f"{theirs}.fc2", f"{name}.*.feed_forward.down"),
        same(f"{theirs}.final_layer_norm", f"{name}.*.norm"),
    ]


FAMILY = Family(
    config=MarianConfig,
    body=Marian,
    paper="Junczys-Dowmunt et al. 2018, arXiv:1804.00344",
    sizes={
        "tiny": MarianConfig(99, 32, 2, 2, 4, 4, 64, 48, 64, activation="swish", scale_embedding=True, first_id=0, pad_id=0),
        "base": MarianConfig(58101, 512, 6, 6, 8, 8, 2048, 2048, 512, activation="swish", scale_embedding=True),
    },
    hf=HF(
        types={"marian": "Marian"},
        fields={
            "vocab_size": "vocab_size",
            "d_model": "hidden_size",
            "encoder_layers": "encoder_layers",
            "decoder_layers": "decoder_layers",
            "encoder_attention_heads": "encoder_heads",
            "decoder_attention_heads": "decoder_heads",
            "encoder_ffn_dim": "encoder_intermediate_size",
            "decoder_ffn_dim": "decoder_intermediate_size",
            "max_position_embeddings": "max_positions",
            "decoder_vocab_size": "decoder_vocab_size",
            "activation_function": "activation",
            "dropout": "hidden_dropout",
            "attention_dropout": "attention_dropout",
            "activation_dropout": "activation_dropout",
            "scale_embedding": "scale_embedding",
            "decoder_start_token_id": "first_id",
            "pad_token_id": "pad_id",
            "init_std": "init_std",
        },
        fixed={
            "share_encoder_decoder_embeddings": True,
            "encoder_layerdrop": 0.0,  # whole layers left out in training
            "decoder_layerdrop": 0.0,
            "normalize_before": False,
            "normalize_embedding": False,
            "add_final_layer_norm": False,
            "static_position_embeddings": True,
            "is_decoder": False,
            "tie_word_embeddings": True,
        },
        weights=(
            same("shared", "embeddings.tokens"),
            *_stack("encoder"),
            *_stack("decoder"),
            same("decoder.layers.*.encoder_attn.q_proj", "decoder.*.cross.q"),
            stacked(tuple(f"decoder.layers.*.encoder_attn.{x}_proj" for x in "kv"), "decoder.*.cross.kv"),
            same("decoder.layers.*.encoder_attn.out_proj", "decoder.*.cross.out"),
            same("decoder.layers.*.encoder_attn_layer_norm", "decoder.*.cross_norm"),
        ),
        prefix="model.",
        heads={("vocabulary",): ("MTModel", (same("lm_head", "vocabulary.out"), same("final_logits_bias", "vocabulary.bias")))},
        task="translation",
        ignore={r"(model\.)?(encoder|decoder)\.embed_positions\.weight": "sines and cosines, which are computed here"},
    ),
)
