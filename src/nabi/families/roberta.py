"""RoBERTa, and XLM-R and CamemBERT with it: BERT with other training (Liu et al. 2019, "RoBERTa"; Conneau et al. 2020, XLM-R, in 100 languages).

Unusual: positions count from ``pad_id`` + 1, so a row has two tokens less than the table has rows; a padding token that a text spells out stands at
``pad_id`` and is not counted. A table of one segment takes every segment for the first. The row head does not read the pooler, which only that of
multiple choice does: it is a dense layer with tanh, dropout before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nabi.batch import Batch
from nabi.families import HF, Family
from nabi.layout import Layout, Packed
from nabi.nn.encoder import PostNormEncoder, PostNormLayer
from nabi.nn.heads import HeadSpec
from nabi.nn.linear import Embedding, LayerNorm, normal_
from nabi.weights.names import same, stacked, tied


@dataclass(frozen=True)
class RobertaConfig:
    """Sizes and settings; the defaults are RoBERTa-base, except that a key that its config lacks is as the incumbent fills it in."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    pad_id: int = 1
    activation: str = "gelu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float | None = None
    init_std: float = 0.02


class RobertaEmbeddings(nn.Module):
    """Token + segment + position, then norm."""

    def __init__(self, c: RobertaConfig) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)
        self.segments = Embedding(c.num_segments, c.hidden_size)
        self.positions = Embedding(c.max_positions, c.hidden_size)
        self.norm = LayerNorm(c.hidden_size, c.norm_eps)
        self.pad_id, self.one_segment = c.pad_id, c.num_segments == 1

    def forward(self, tokens: Tensor, segments: Tensor, layout: Layout) -> Tensor:
        """(T,) each -> (T, W)."""
        if self.one_segment:  # a BERT tokenizer, as on klue/roberta, numbers the second text of a pair 1
            segments = torch.zeros_like(segments)
        y: Tensor = self.norm(self.tokens(tokens) + self.segments(segments) + self.positions(self.places(tokens, layout)))
        return y

    def places(self, tokens: Tensor, layout: Layout) -> Tensor:
        """(T,) rows of the table of positions."""
        assert layout.cu_seqlens is not None and layout.rows is not None and layout.positions is not None
        pads = (tokens == self.pad_id).long()
        seen = pads.cumsum(0)
        before_row = (seen - pads)[layout.cu_seqlens[:-1].long()][layout.rows]
        return (layout.positions + 1 - (seen - before_row)) * (1 - pads) + self.pad_id


class Roberta(PostNormEncoder):
    """The encoder."""

    needs = {"text": frozenset({"tokens", "segments"})}
    heads = {
        "row": HeadSpec(pool="first", dense=True, activation="tanh", dense_dropout=True),
        "token": HeadSpec(),
        "span": HeadSpec(),
        "choice": HeadSpec(pool="first", dense=True, activation="tanh"),
        "vocabulary": HeadSpec(dense=True, activation="gelu", norm_eps=1e-12, tied_to="embeddings.tokens"),  # GELU whatever the layers have
    }

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__()
        self.hidden_size, self.limits = config.hidden_size, {"text": config.max_positions - config.pad_id - 1}
        self.tables = {"tokens": config.vocab_size, **({"segments": config.num_segments} if config.num_segments > 1 else {})}
        self.head_dropout = dict.fromkeys(("row", "token", "span"), config.hidden_dropout if config.head_dropout is None else config.head_dropout)
        self.head_dropout["choice"] = config.hidden_dropout
        self.heads = {**self.heads, "vocabulary": replace(self.heads["vocabulary"], norm_eps=config.norm_eps)}  # type: ignore[misc]  # this body's own
        self.init_std, self.dropout = config.init_std, config.hidden_dropout
        self.embeddings = RobertaEmbeddings(config)
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
        return {"text": Packed(self.embeddings(part.streams["tokens"], part.streams["segments"], part.layout), part.layout)}

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (as BERT, whose recipe the paper keeps)."""
        normal_(self, self.init_std, generator)


_BASE = RobertaConfig(max_positions=514, num_segments=1, norm_eps=1e-5)

FAMILY = Family(
    config=RobertaConfig,
    body=Roberta,
    paper="Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116",
    sizes={
        "tiny": RobertaConfig(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=66, num_segments=2),
        "base": _BASE,
        "large": replace(_BASE, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096),
        "xlmr-base": replace(_BASE, vocab_size=250002),
    },
    hf=HF(
        types={"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"},
        fields={
            "vocab_size": "vocab_size",
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "intermediate_size": "intermediate_size",
            "max_position_embeddings": "max_positions",
            "type_vocab_size": "num_segments",
            "pad_token_id": "pad_id",
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
        prefix="roberta.",
        shared=(same("pooler.dense", "choice.dense"),),
        heads={
            ("row",): ("ForSequenceClassification", (same("classifier.dense", "row.dense"), same("classifier.out_proj", "row.out"))),
            ("token",): ("ForTokenClassification", (same("classifier", "token.out"),)),
            ("span",): ("ForQuestionAnswering", (same("qa_outputs", "span.out"),)),
            ("choice",): ("ForMultipleChoice", (same("classifier", "choice.out"),)),
            ("vocabulary",): (
                "ForMaskedLM",
                (
                    same("lm_head.dense", "vocabulary.dense"),
                    same("lm_head.layer_norm", "vocabulary.norm"),
                    same("lm_head.decoder.weight", "vocabulary.out.weight"),
                    same("lm_head.bias", "vocabulary.bias"),
                    tied("lm_head.decoder.bias", "vocabulary.bias"),
                ),
            ),
        },
        legacy={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
        ignore={
            r"(roberta\.)?embeddings\.position_ids": "a constant",
            r"lm_head\..*": "the pretraining head",
        },
    ),
)
