"""DistilBERT: BERT at half depth, without segments and pooler (Sanh et al. 2019, "DistilBERT, a distilled version of BERT").

Unusual: no dropout on the result of the attention; the row head is a dense layer with ReLU, and each head has a dropout of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nabi.batch import Batch
from nabi.families import HF, Family
from nabi.layout import Packed
from nabi.nn.encoder import PostNormEncoder, PostNormLayer
from nabi.nn.heads import HeadSpec
from nabi.nn.linear import Embedding, LayerNorm, normal_
from nabi.weights.names import same, stacked

NORM_EPS = 1e-12  # no key of the incumbent's config changes it


@dataclass(frozen=True)
class DistilBertConfig:
    """Sizes and settings; the defaults are DistilBERT-base."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 6
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    row_dropout: float = 0.2
    span_dropout: float = 0.1
    init_std: float = 0.02


class DistilBertEmbeddings(nn.Module):
    """Token + position, then norm."""

    def __init__(self, c: DistilBertConfig) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)
        self.positions = Embedding(c.max_positions, c.hidden_size)
        self.norm = LayerNorm(c.hidden_size, NORM_EPS)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(T,) each -> (T, W)."""
        y: Tensor = self.norm(self.tokens(tokens) + self.positions(positions))
        return y


class DistilBert(PostNormEncoder):
    """The encoder."""

    needs = {"text": frozenset({"tokens"})}
    heads = {
        "row": HeadSpec(pool="first", dense=True, activation="relu"),
        "token": HeadSpec(),
        "span": HeadSpec(),
        "choice": HeadSpec(pool="first", dense=True, activation="relu"),
        "vocabulary": HeadSpec(dense=True, activation="gelu", norm_eps=NORM_EPS, tied_to="embeddings.tokens"),
    }

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.hidden_size, self.limits, self.tables = config.hidden_size, {"text": config.max_positions}, {"tokens": config.vocab_size}
        self.head_dropout = {"row": config.row_dropout, "choice": config.row_dropout, "token": config.hidden_dropout, "span": config.span_dropout}
        self.heads = {**self.heads, "vocabulary": replace(self.heads["vocabulary"], activation=config.activation)}  # type: ignore[misc]  # this body's own
        self.init_std, self.dropout = config.init_std, config.hidden_dropout
        self.embeddings = DistilBertEmbeddings(config)
        self.layers = nn.ModuleList(
            PostNormLayer(
                config.hidden_size,
                config.num_heads,
                config.intermediate_size,
                activation=config.activation,
                norm_eps=NORM_EPS,
                dropout=config.hidden_dropout,
                attention_dropout=config.attention_dropout,
                output_dropout=0.0,
            )
            for _ in range(config.num_layers)
        )

    def embed(self, batch: Batch) -> dict[str, Packed]:
        part = batch.parts["text"]
        return {"text": Packed(self.embeddings(part.streams["tokens"], part.layout.positions), part.layout)}

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (as BERT, from which the paper takes the rest of its recipe)."""
        normal_(self, self.init_std, generator)


FAMILY = Family(
    config=DistilBertConfig,
    body=DistilBert,
    paper="Sanh et al. 2019, arXiv:1910.01108",
    sizes={
        "tiny": DistilBertConfig(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=64),
        "base": DistilBertConfig(),
    },
    hf=HF(
        types={"distilbert": "DistilBert"},
        fields={
            "vocab_size": "vocab_size",
            "dim": "hidden_size",
            "n_layers": "num_layers",
            "n_heads": "num_heads",
            "hidden_dim": "intermediate_size",
            "max_position_embeddings": "max_positions",
            "activation": "activation",
            "dropout": "hidden_dropout",
            "attention_dropout": "attention_dropout",
            "seq_classif_dropout": "row_dropout",
            "qa_dropout": "span_dropout",
            "initializer_range": "init_std",
        },
        fixed={"pruned_heads": {}, "chunk_size_feed_forward": 0},
        weights=(
            same("embeddings.word_embeddings", "embeddings.tokens"),
            same("embeddings.position_embeddings", "embeddings.positions"),
            same("embeddings.LayerNorm", "embeddings.norm"),
            stacked(tuple(f"transformer.layer.*.attention.{x}_lin" for x in "qkv"), "layers.*.attention.qkv"),
            same("transformer.layer.*.attention.out_lin", "layers.*.attention.out"),
            same("transformer.layer.*.sa_layer_norm", "layers.*.attention_norm"),
            same("transformer.layer.*.ffn.lin1", "layers.*.feed_forward.up"),
            same("transformer.layer.*.ffn.lin2", "layers.*.feed_forward.down"),
            same("transformer.layer.*.output_layer_norm", "layers.*.norm"),
        ),
        prefix="distilbert.",
        heads={
            ("row",): ("ForSequenceClassification", (same("pre_classifier", "row.dense"), same("classifier", "row.out"))),
            ("token",): ("ForTokenClassification", (same("classifier", "token.out"),)),
            ("span",): ("ForQuestionAnswering", (same("qa_outputs", "span.out"),)),
            ("choice",): ("ForMultipleChoice", (same("pre_classifier", "choice.dense"), same("classifier", "choice.out"))),
            ("vocabulary",): (
                "ForMaskedLM",
                (same("vocab_transform", "vocabulary.dense"), same("vocab_layer_norm", "vocabulary.norm"), same("vocab_projector", "vocabulary.out")),
            ),
        },
        ignore={r"(distilbert\.)?embeddings\.position_ids": "a constant", r"vocab_(transform|layer_norm|projector)\..*": "the pretraining head"},
    ),
)
