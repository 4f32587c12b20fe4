"""T5, its version 1.1 and mT5: an encoder-decoder, pre-norm, positions by buckets of distance (Raffel et al. 2019, "Exploring the Limits of Transfer
Learning with a Unified Text-to-Text Transformer"; Xue et al. 2020 for mT5).

Unusual: no biases, scores are not scaled, one table of distances a stack is shared by its layers; version 1.0 scales what it multiplies with the token
table, later ones have a separate vocabulary head. Tokens are tagged by the encoder alone, whose body then has no decoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nabi.batch import Part
from nabi.errors import CheckpointError, OptionError
from nabi.families import HF, Family
from nabi.layout import Layout
from nabi.nn.attention import Attention, CrossAttention
from nabi.nn.distances import DistanceBuckets
from nabi.nn.dropout import dropout
from nabi.nn.encoder_decoder import EncoderDecoder, Keys
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern, PositionBias
from nabi.nn.linear import Embedding, FeedForward, GatedFeedForward, Linear, RMSNorm
from nabi.weights.names import same, stacked, tied

FEED_FORWARD = {"gated-gelu": "gated-gelu_new"}  # the incumbent's old name


@dataclass(frozen=True)
class T5Config:
    """Sizes and settings; the defaults are T5 base."""

    vocab_size: int = 32128
    hidden_size: int = 768
    num_layers: int = 12
    num_decoder_layers: int | None = None
    num_heads: int = 12
    head_size: int = 64
    intermediate_size: int = 3072
    feed_forward: str = "relu"
    num_buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    dropout: float = 0.1
    classifier_dropout: float = 0.0
    tied: bool = True
    scaled: bool = True
    decoder: bool = True
    start_id: int | None = 0
    init_factor: float = 1.0


class T5Embeddings(nn.Module):
    """The table of both stacks' tokens, and what each stack adds to its scores by distance."""

    def __init__(self, c: T5Config) -> None:
        super().__init__()
        self.tokens = Embedding(c.vocab_size, c.hidden_size)
        self.encoder_distances = DistanceBuckets(c.num_buckets, c.num_heads, furthest=c.max_distance, causal=False)
        if c.decoder:
            self.decoder_distances = DistanceBuckets(c.num_buckets, c.num_heads, furthest=c.max_distance, causal=True)


class T5Layer(nn.Module):
    """Self-attention and feed-forward, a norm before each."""

    def __init__(self, c: T5Config, causal: bool = False) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(c.hidden_size, c.norm_eps)
        shape: dict[str, Any] = {"head_size": c.head_size, "bias": False, "scale": 1.0, "dropout": c.dropout, "attention_dropout": c.dropout}
        self.attention = Attention(c.hidden_size, c.num_heads, pattern=Pattern(causal=causal), **shape)
        if causal:
            self.cross_norm = RMSNorm(c.hidden_size, c.norm_eps)
            self.cross = CrossAttention(c.hidden_size, c.num_heads, **shape)
        self.feed_forward_norm = RMSNorm(c.hidden_size, c.norm_eps)
        kind, _, act = FEED_FORWARD.get(c.feed_forward, c.feed_forward).rpartition("-")
        if kind not in ("", "gated"):
            raise OptionError("unknown feed-forward", value=c.feed_forward, expected="the name of an activation, perhaps after 'gated-'")
        self.feed_forward: GatedFeedForward | FeedForward
        if kind:
            self.feed_forward = GatedFeedForward(c.hidden_size, c.intermediate_size, act, c.dropout, c.dropout)
        else:
            self.feed_forward = FeedForward(c.hidden_size, c.intermediate_size, act, c.dropout, c.dropout, bias=False)

    def forward(self, x: Tensor, layout: Layout, keys: Keys | None = None, cache: Any = None, bias: PositionBias | None = None) -> Tensor:
        """(T, W) -> (T, W); a decoder's layer also reads what the encoder said and its own share of a past."""
        x = self.attention(self.attention_norm(x), layout, add=x, cache=cache, bias=bias)
        if keys is not None:
            x = self.cross(self.cross_norm(x), layout, keys, add=x)
        y: Tensor = self.feed_forward(self.feed_forward_norm(x), add=x)
        return y


class T5(EncoderDecoder):
    """Both stacks, or the encoder alone."""

    heads = {
        "vocabulary": HeadSpec(reads="target", tied_to="embeddings.tokens", scaled=True, bias=""),
        "row": HeadSpec(reads="target", pool="last", dense=True, activation="tanh", dense_dropout=True),
        "token": HeadSpec(),
        "span": HeadSpec(reads="target"),
    }

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        c = self.config = config
        self.hidden_size, self.tables, self.first = c.hidden_size, {"tokens": c.vocab_size}, c.start_id or 0
        vocabulary = replace(T5.heads["vocabulary"], tied_to="embeddings.tokens" if c.tied else None, scaled=c.scaled)
        kinds = {**T5.heads, "vocabulary": vocabulary}
        self.heads = {kind: spec for kind, spec in kinds.items() if (kind != "token") == c.decoder}  # type: ignore[misc]
        self.head_dropout = {"row": c.classifier_dropout, "token": c.classifier_dropout}
        self.init_std, self.dropout = c.init_factor * c.hidden_size**-0.5, c.dropout
        self.embeddings = T5Embeddings(c)
        self.encoder = nn.ModuleList(T5Layer(c) for _ in range(c.num_layers))
        self.encoder_norm = RMSNorm(c.hidden_size, c.norm_eps)
        if c.decoder:
            self.decoder = nn.ModuleList(T5Layer(c, causal=True) for _ in range(c.num_decoder_layers or c.num_layers))
            self.decoder_norm = RMSNorm(c.hidden_size, c.norm_eps)
        else:
            self.without = ("decoder", "decoder_norm", "embeddings.decoder_distances")

    @classmethod
    def cut(cls, config: T5Config, kinds: Collection[str]) -> T5Config:
        return replace(config, decoder=False) if set(kinds) == {"token"} else config

    def embed_part(self, part: Part, role: str) -> Tensor:
        x: Tensor = self.embeddings.tokens(part.streams["tokens"])
        return dropout(x, self.dropout, self.training)

    def bias(self, role: str) -> PositionBias:
        distances = self.embeddings.encoder_distances if role == "text" else self.embeddings.decoder_distances
        return distances.bias()

    def finish(self, x: Tensor, role: str) -> Tensor:
        norm = self.encoder_norm if role == "text" else self.decoder_norm
        return dropout(norm(x), self.dropout, self.training)

    def groups(self) -> list[nn.Module]:
        decoder = [*self.decoder, self.decoder_norm] if self.whole else []
        return [self.embeddings, *self.encoder, self.encoder_norm, *decoder]

    def initialise(self, generator: torch.Generator) -> None:
        """As the incumbent, whose factors keep unscaled scores small:

        `embeddings.tokens.weight` from N(0, init_factor), `embeddings.*_distances.weight` from N(0, init_factor * hidden_size ** -0.5),
        `*.*.attention.qkv.weight` from N(0, init_factor * sqrt(2 / 3 / hidden_size + 1 / 3 / hidden_size / head_size)), all three together: the
        queries' are divided by sqrt(head_size), `decoder.*.cross.q.weight` from N(0, init_factor * (hidden_size * head_size) ** -0.5),
        `decoder.*.cross.kv.weight` from N(0, init_factor * hidden_size ** -0.5),
        `*.*.*.out.weight` from N(0, init_factor * (num_heads * head_size) ** -0.5),
        `*.*.feed_forward.up.weight` from N(0, init_factor * hidden_size ** -0.5),
        `*.*.feed_forward.gate_up.weight` from N(0, init_factor * hidden_size ** -0.5),
        `*.*.feed_forward.down.weight` from N(0, init_factor * intermediate_size ** -0.5), `*norm.weight` 1, `*.*.*norm.weight` 1.
        """
        c = self.config
        inputs = {"embeddings.tokens": 1, "embeddings.encoder_distances": c.hidden_size, "embeddings.decoder_distances": c.hidden_size}
        for name, leaf in self.named_modules():
            if isinstance(leaf, RMSNorm):
                nn.init.ones_(leaf.weight)
            elif isinstance(leaf, Linear | Embedding):
                nn.init.normal_(leaf.weight, 0.0, c.init_factor * inputs.get(name, leaf.weight.shape[1]) ** -0.5, generator=generator)
                queries = slice(c.num_heads * c.head_size if name.endswith("qkv") else None)
                if name.endswith((".attention.qkv", ".cross.q")):
                    leaf.weight.data[queries] *= c.head_size**-0.5


def _stated(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """config.json, with what its version leaves open.

    The incumbent scales T5's outputs as ``scale_decoder_outputs`` says, before that key wherever the tables are tied, mT5's never; its version 5 writes
    ``tie_word_embeddings`` as true even where the head has another table, and then goes by the tensors.

    Raises:
        CheckpointError: keys that follow from ``feed_forward_proj`` contradict it.
    """
    said = config.get("tie_word_embeddings", True) is not False
    scaled = config.get("scale_decoder_outputs", said and config.get("model_type") != "mt5")
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    head, table = tensors.get("lm_head.weight"), next((tensors[name] for name in names if name in tensors), None)
    parted = head is not None and table is not None and not torch.equal(head, table)
    alone = config.get("is_encoder_decoder") is False or any(
        str(name).endswith(("EncoderModel", "ForTokenClassification")) for name in config.get("architectures") or ()
    )
    kind, _, act = FEED_FORWARD.get(proj := str(config.get("feed_forward_proj", "relu")), proj).rpartition("-")
    for key, value in (("dense_act_fn", act), ("is_gated_act", kind == "gated")):
        if config.get(key, value) != value:
            raise CheckpointError(f"config.json can't be used: '{key}' contradicts 'feed_forward_proj'", value=config[key], expected=repr(value))
    return {**config, "tie_word_embeddings": said and not parted, "scale_decoder_outputs": scaled, "is_encoder_decoder": not alone}


_SELF, _CROSS, _FORWARD = "layer.0.SelfAttention", "decoder.block.*.layer.1.EncDecAttention", "DenseReluDense"
_SMALL = T5Config(hidden_size=512, num_layers=6, num_heads=8, intermediate_size=2048)
_V11 = T5Config(feed_forward="gated-gelu", intermediate_size=2048, tied=False, scaled=False)

FAMILY = Family(
    config=T5Config,
    body=T5,
    paper="Raffel et al. 2019, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    sizes={
        "tiny": T5Config(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, head_size=8, intermediate_size=64, num_buckets=8, max_distance=12),
        "small": _SMALL,
        "base": T5Config(),
        "v1.1-base": _V11,
        "mt5-small": replace(_V11, vocab_size=250112, hidden_size=512, num_layers=8, num_heads=6, intermediate_size=1024),
    },
    hf=HF(
        types={"t5": "T5", "mt5": "MT5"},
        fields={
            "vocab_size": "vocab_size",
            "d_model": "hidden_size",
            "num_layers": "num_layers",
            "num_decoder_layers": "num_decoder_layers",
            "num_heads": "num_heads",
            "d_kv": "head_size",
            "d_ff": "intermediate_size",
            "feed_forward_proj": "feed_forward",
            "relative_attention_num_buckets": "num_buckets",
            "relative_attention_max_distance": "max_distance",
            "layer_norm_epsilon": "norm_eps",
            "dropout_rate": "dropout",
            "classifier_dropout": "classifier_dropout",
            "tie_word_embeddings": "tied",
            "scale_decoder_outputs": "scaled",
            "is_encoder_decoder": "decoder",
            "decoder_start_token_id": "start_id",
            "initializer_factor": "init_factor",
        },
        fixed={"is_decoder": False, "pruned_heads": {}, "chunk_size_feed_forward": 0},
        stated=_stated,
        weights=(
            same("shared", "embeddings.tokens"),
            tied("encoder.embed_tokens.weight", "embeddings.tokens.weight"),
            tied("decoder.embed_tokens.weight", "embeddings.tokens.weight"),
            *(
                entry
                for stack, last in (("encoder", 1), ("decoder", 2))
                for entry in (
                    same(f"{stack}.block.0.{_SELF}.relative_attention_bias", f"embeddings.{stack}_distances"),
                    same(f"{stack}.block.*.layer.0.layer_norm", f"{stack}.*.attention_norm"),
                    stacked(tuple(f"{stack}.block.*.{_SELF}.{x}" for x in "qkv"), f"{stack}.*.attention.qkv"),
                    same(f"{stack}.block.*.{_SELF}.o", f"{stack}.*.attention.out"),
                    same(f"{stack}.block.*.layer.{last}.layer_norm", f"{stack}.*.feed_forward_norm"),
                    same(f"{stack}.block.*.layer.{last}.{_FORWARD}.wi", f"{stack}.*.feed_forward.up"),
                    stacked(tuple(f"{stack}.block.*.layer.{last}.{_FORWARD}.wi_{i}" for i in (0, 1)), f"{stack}.*.feed_forward.gate_up"),
                    same(f"{stack}.block.*.layer.{last}.{_FORWARD}.wo", f"{stack}.*.feed_forward.down"),
                    same(f"{stack}.final_layer_norm", f"{stack}_norm"),
                )
            ),
            same("decoder.block.*.layer.1.layer_norm", "decoder.*.cross_norm"),
            same(f"{_CROSS}.q", "decoder.*.cross.q"),
            stacked((f"{_CROSS}.k", f"{_CROSS}.v"), "decoder.*.cross.kv"),
            same(f"{_CROSS}.o", "decoder.*.cross.out"),
        ),
        prefix="transformer.",
        heads={
            ("vocabulary",): ("ForConditionalGeneration", (same("lm_head", "vocabulary.out"),)),
            ("row",): ("ForSequenceClassification", (same("classification_head.dense", "row.dense"), same("classification_head.out_proj", "row.out"))),
            ("token",): ("ForTokenClassification", (same("classifier", "token.out"),)),
            ("span",): ("ForQuestionAnswering", (same("qa_outputs", "span.out"),)),
        },
        task="text2text_generation",  # what it shall do stands in the text
        bare=frozenset({("vocabulary",), ("span",)}),
        ignore={r"(transformer\.)?decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "early files hold it, nothing reads it"},
    ),
)
