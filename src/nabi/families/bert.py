"""BERT: an encoder with learned positions and segments, post-norm (Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers").

Unusual: the pooler (dense + tanh over the first token) belongs to the heads that read it, not to the body, so that no parameter is ever without a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nabi.batch import Batch
from nabi.families import HF, Family
from nabi.layout import Packed
from nabi.nn.encoder import PostNormEncoder, PostNormLayer
from nabi.nn.heads import HeadSpec
from nabi.nn.linear import Embedding, LayerNorm, normal_
from nabi.weights.names import same, stacked, tied


@dataclass(frozen=True)
class BertConfig:
    """Sizes and settings; the defaults are BERT-base."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float | None = None
    init_std: float = 0.02


class BertEmbeddings(nn.Module):
    """Token + segment + position, then norm and dropout (section 3, figure 2)."""

    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)
        self.segments = Embedding(c.num_segments, c.hidden_size)
        self.positions = Embedding(c.max_positions, c.hidden_size)
        self.norm = LayerNorm(c.hidden_size, c.norm_eps)

    def forward(self, tokens: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """(T,) each -> (T, W)."""
        y: Tensor = self.norm(self.tokens(tokens) + self.segments(segments) + self.positions(positions))
        return y


class Bert(PostNormEncoder):
    """The encoder."""

    needs = {"text": frozenset({"tokens", "segments"})}
    heads = {
        "row": HeadSpec(pool="first", dense=True, activation="tanh"),
        "token": HeadSpec(),
        "span": HeadSpec(),
        "choice": HeadSpec(pool="first", dense=True, activation="tanh"),
        "vocabulary": HeadSpec(dense=True, activation="gelu", norm_eps=1e-12, tied_to="embeddings.tokens"),
        "next_sentence": HeadSpec(pool="first", dense=True, activation="tanh"),
    }

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.hidden_size, self.limits = config.hidden_size, {"text": config.max_positions}
        self.tables = {"tokens": config.vocab_size, "segments": config.num_segments}
        self.head_dropout = dict.fromkeys(("row", "token", "span"), config.hidden_dropout if config.head_dropout is None else config.head_dropout)
        masked = HeadSpec(dense=True, activation=config.activation, norm_eps=config.norm_eps, tied_to="embeddings.tokens")
        self.heads = {**self.heads, "vocabulary": masked}  # type: ignore[misc]  # this body's own
        self.init_std, self.dropout = config.init_std, config.hidden_dropout
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(
            PostNormLayer(
                config.hidden_size,
                config.num_heads,
                config.intermediate_size,
                activation=config.activation,
                norm_eps=config.norm_eps,
                dropout=config.hidden_dropout,
                attention_dropout=config.attention_dropout,
            )
            for _ in range(config.num_layers)
        )

    def embed(self, batch: Batch) -> dict[str, Packed]:
        part = batch.parts["text"]
        return {"text": Packed(self.embeddings(part.streams["tokens"], part.streams["segments"], part.layout.positions), part.layout)}

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (appendix A.2; truncation of the normal left out, as the incumbent does)."""
        normal_(self, self.init_std, generator)


_ROW = (same("classifier", "row.out"),)
_MASKED = (
    same("cls.predictions.transform.dense", "vocabulary.dense"),
    same("cls.predictions.transform.LayerNorm", "vocabulary.norm"),
    same("cls.predictions.decoder.weight", "vocabulary.out.weight"),
    same("cls.predictions.bias", "vocabulary.bias"),
    tied("cls.predictions.decoder.bias", "vocabulary.bias"),
)
_NEXT = (same("cls.seq_relationship", "next_sentence.out"),)

FAMILY = Family(
    config=BertConfig,
    body=Bert,
    paper="Devlin et al. 2018, arXiv:1810.04805",
    sizes={
        "tiny": BertConfig(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=64),
        "mini": BertConfig(hidden_size=256, num_layers=4, num_heads=4, intermediate_size=1024),
        "base": BertConfig(),
        "large": BertConfig(hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096),
    },
    hf=HF(
        types={"bert": "Bert"},
        fields={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "intermediate_size": "intermediate_size",
            "max_position_embeddings": "max_positions",
            "type_vocab_size": "num_segments",
            "hidden_act": "activation",
            "layer_norm_eps": "norm_eps",
            "hidden_dropout_prob": "hidden_dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "classifier_dropout": "head_dropout",
            "initializer_range": "init_std",
        },
        fixed={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False, "pruned_heads": {}, "chunk_size_feed_forward": 0},
        weights=(
            same("embeddings.word_embeddings", "embeddings.tokens"),
            same("embeddings.token_type_embeddings", "embeddings.segments"),
            same("embeddings.position_embeddings", "embeddings.positions"),
            same("embeddings.LayerNorm", "embeddings.norm"),
            stacked(tuple(f"encoder.layer.*.attention.self.{x}" for x in ("query", "key", "value")), "layers.*.attention.qkv"),
            same("encoder.layer.*.attention.output.dense", "layers.*.attention.out"),
            same("encoder.layer.*.attention.output.LayerNorm", "layers.*.attention_norm"),
            same("encoder.layer.*.intermediate.dense", "layers.*.feed_forward.up"),
            same("encoder.layer.*.output.dense", "layers.*.feed_forward.down"),
            same("encoder.layer.*.output.LayerNorm", "layers.*.norm"),
        ),
        prefix="bert.",
        shared=(same("pooler.dense", "row.dense"), same("pooler.dense", "next_sentence.dense"), same("pooler.dense", "choice.dense")),
        heads={
            ("row",): ("ForSequenceClassification", _ROW),
            ("token",): ("ForTokenClassification", (same("classifier", "token.out"),)),
            ("span",): ("ForQuestionAnswering", (same("qa_outputs", "span.out"),)),
            ("choice",): ("ForMultipleChoice", (same("classifier", "choice.out"),)),
            ("vocabulary",): ("ForMaskedLM", _MASKED),
            ("next_sentence",): ("ForNextSentencePrediction", _NEXT),
            ("vocabulary", "next_sentence"): ("ForPreTraining", (*_MASKED, *_NEXT)),
        },
        legacy={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
        ignore={r"(bert\.)?embeddings\.position_ids": "a constant", r"cls\..*": "the pretraining heads"},
    ),
)
