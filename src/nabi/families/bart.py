"""BART: an encoder-decoder, post-norm, learned positions (Lewis et al. 2019, "BART: Denoising Sequence-to-Sequence Pre-training").

Unusual: both tables of positions begin at row 2; the embeddings have a norm; a class or a span is read from the decoder, which is fed the text itself,
shifted by one. The row head reads a row's last token, the end token that BART's tokenizer puts there.
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
from nabi.nn.linear import Embedding, LayerNorm, normal_
from nabi.weights.names import Entry, same, stacked, tied

_OFFSET = 2  # rows of the table of positions that no position has: fairseq counts from its padding's number + 1
_NORM_EPS = 1e-5


@dataclass(frozen=True)
class BartConfig:
    """Sizes and settings; the defaults are BART-large, except that a key that its config lacks is as the incumbent fills it in."""

    vocab_size: int = 50265
    hidden_size: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    encoder_heads: int = 16
    decoder_heads: int = 16
    encoder_intermediate_size: int = 4096
    decoder_intermediate_size: int = 4096
    max_positions: int = 1024
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    row_dropout: float = 0.0
    scale_embedding: bool = False
    first_id: int = 2
    init_std: float = 0.02


class BartPositions(nn.Module):
    """Position, then norm, of one of the two stacks."""

    def __init__(self, c: BartConfig) -> None:
        super().__init__()
        self.positions, self.norm = Embedding(c.max_positions + _OFFSET, c.hidden_size), LayerNorm(c.hidden_size, _NORM_EPS)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """(T, W), (T,) -> (T, W)."""
        y: Tensor = self.norm(x + self.positions(positions + _OFFSET))
        return y


class BartEmbeddings(nn.Module):
    """One table of tokens, and the positions of both stacks."""

    def __init__(self, c: BartConfig) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)
        self.text, self.target = BartPositions(c), BartPositions(c)
        self.scale = math.sqrt(c.hidden_size) if c.scale_embedding else 1.0

    def forward(self, tokens: Tensor, positions: Tensor, role: str) -> Tensor:
        """(T,) each -> (T, W)."""
        y: Tensor = (self.text if role == "text" else self.target)(self.tokens(tokens) * self.scale, positions)
        return y


class Bart(EncoderDecoder):
    """The encoder and the decoder."""

    heads = {
        "row": HeadSpec(reads="target", pool="last", dense=True, activation="tanh", dense_dropout=True),
        "span": HeadSpec(reads="target"),
        "vocabulary": HeadSpec(reads="target", tied_to="embeddings.tokens", bias="kept"),
    }

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        c = config
        if c.first_id >= c.vocab_size:
            raise OptionError("the decoder's first token is not in the vocabulary", value=c.first_id, expected=f"0 to {c.vocab_size - 1}", fix="set first_id")
        self.hidden_size, self.limits, self.tables = c.hidden_size, dict.fromkeys(self.needs, c.max_positions), {"tokens": c.vocab_size}
        self.head_dropout, self.init_std, self.dropout, self.first = {"row": c.row_dropout}, c.init_std, c.hidden_dropout, c.first_id
        self.embeddings = BartEmbeddings(c)
        self.encoder, self.decoder = post_norm_stacks(
            c.hidden_size,
            (c.encoder_layers, c.encoder_heads, c.encoder_intermediate_size),
            (c.decoder_layers, c.decoder_heads, c.decoder_intermediate_size),
            activation=c.activation,
            norm_eps=_NORM_EPS,
            dropout=c.hidden_dropout,
            attention_dropout=c.attention_dropout,
            inner_dropout=c.activation_dropout or None,
        )

    def embed_part(self, part: Part, role: str) -> Tensor:
        return dropout(self.embeddings(part.streams["tokens"], part.layout.positions, role), self.dropout, self.training)

    def groups(self) -> list[nn.Module]:
        return [self.embeddings, *self.encoder, *self.decoder]

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (as the incumbent; the paper names none)."""
        normal_(self, self.init_std, generator)


def _stack(name: str, role: str) -> list[Entry]:
    """Their names of one stack, apart from the attention to the encoder."""
    theirs = f"{name}.layers.*"
    return [
        tied(f"{name}.embed_tokens.weight", "embeddings.tokens.weight"),
        same(f"{name}.embed_positions", f"embeddings.{role}.positions"),
        same(f"{name}.layernorm_embedding", f"embeddings.{role}.norm"),
        stacked(tuple(f"{theirs}.self_attn.{x}_proj" for x in "qkv"), f"{name}.*.attention.qkv"),
        same(f"{theirs}.self_attn.out_proj", f"{name}.*.attention.out"),
        same(f"{theirs}.self_attn_layer_norm", f"{name}.*.attention_norm"),
        same(f"{theirs}.fc1", f"{name}.*.feed_forward.up"),
        same(f"{theirs}.fc2", f"{name}.*.feed_forward.down"),
        same(f"{theirs}.final_layer_norm", f"{name}.*.norm"),
    ]


FAMILY = Family(
    config=BartConfig,
    body=Bart,
    paper="Lewis et al. 2019, arXiv:1910.13461",
    sizes={
        "tiny": BartConfig(99, 32, 2, 2, 4, 4, 64, 48, max_positions=64),
        "base": BartConfig(50265, 768, 6, 6, 12, 12, 3072, 3072, attention_dropout=0.1, activation_dropout=0.1),
        "large": BartConfig(attention_dropout=0.1, activation_dropout=0.1),
        "distilbart-12-6": BartConfig(vocab_size=50264, decoder_layers=6),
    },
    hf=HF(
        types={"bart": "Bart"},
        task="summarization",  # what most of its checkpoints with a vocabulary are trained for
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
            "activation_function": "activation",
            "dropout": "hidden_dropout",
            "attention_dropout": "attention_dropout",
            "activation_dropout": "activation_dropout",
            "classifier_dropout": "row_dropout",
            "scale_embedding": "scale_embedding",
            "decoder_start_token_id": "first_id",
            "init_std": "init_std",
        },
        fixed={
            "encoder_layerdrop": 0.0,  # whole layers left out in training, which no published checkpoint asks for
            "decoder_layerdrop": 0.0,
            "normalize_before": False,
            "normalize_embedding": True,
            "add_final_layer_norm": False,
            "static_position_embeddings": False,
            "is_decoder": False,
            "tie_word_embeddings": True,
        },
        weights=(
            same("shared", "embeddings.tokens"),
            *_stack("encoder", "text"),
            *_stack("decoder", "target"),
            same("decoder.layers.*.encoder_attn.q_proj", "decoder.*.cross.q"),
            stacked(tuple(f"decoder.layers.*.encoder_attn.{x}_proj" for x in "kv"), "decoder.*.cross.kv"),
            same("decoder.layers.*.encoder_attn.out_proj", "decoder.*.cross.out"),
            same("decoder.layers.*.encoder_attn_layer_norm", "decoder.*.cross_norm"),
        ),
        prefix="model.",
        heads={
            ("row",): ("ForSequenceClassification", tuple(same(f"classification_head.{x}", f"row.{y}") for x, y in (("dense", "dense"), ("out_proj", "out")))),
            ("span",): ("ForQuestionAnswering", (same("qa_outputs", "span.out"),)),
            ("vocabulary",): ("ForConditionalGeneration", (same("lm_head", "vocabulary.out"), same("final_logits_bias", "vocabulary.bias"))),
        },
        ignore={r"(model\.)?(encoder|decoder)\.version": "a number of fairseq's"},
    ),
)
