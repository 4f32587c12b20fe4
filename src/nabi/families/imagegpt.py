"""iGPT: a causal decoder over the pixels of an image, row by row (Chen et al. 2020, "Generative Pretraining from Pixels").

Unusual: a token is the number of a colour cluster, and one token more, the last number, begins an image that is written; it is read and never predicted. Norms
divide by the root mean square and subtract no mean; the incumbent keeps its products transposed (in, out). Positions are places in that order of pixels, so an
image of another width is scrambled to the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from nabi.data.pixels import ImageSettings, greys
from nabi.families import HF, Family
from nabi.nn.decoder import CausalDecoder, PreNormLayer
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern
from nabi.nn.linear import RMSNorm, TokenEmbeddings, normal_
from nabi.weights.names import flipped, same


@dataclass(frozen=True)
class ImageGptConfig:
    """Sizes and settings; the defaults are iGPT-S at 32 x 32 pixels. ``vocab_size`` is the number of colours and one more."""

    vocab_size: int = 513
    hidden_size: int = 512
    num_layers: int = 24
    num_heads: int = 8
    intermediate_size: int | None = None
    max_positions: int = 1024
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    hidden_dropout: float = 0.1
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    init_std: float = 0.02


class ImageGpt(CausalDecoder):
    """The decoder."""

    needs = {"image": frozenset({"tokens"})}
    generates = "image"
    heads = {"row": HeadSpec(reads="image", pool="mean", bias=""), "vocabulary": HeadSpec(reads="image", bias="")}

    def __init__(self, config: ImageGptConfig) -> None:
        super().__init__()
        c = config
        self.hidden_size, self.limits, self.tables = c.hidden_size, {"image": c.max_positions}, {"tokens": c.vocab_size}
        self.colours, self.init_std, self.dropout = c.vocab_size - 1, c.init_std, c.embedding_dropout
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
                norm=RMSNorm,
            )
            for _ in range(c.num_layers)
        )
        self.norm = RMSNorm(c.hidden_size, c.norm_eps)

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, `norm.weight` 1, `*.*.*norm.weight` 1; what feeds a residual begins smaller, as the incumbent does it:

        `layers.*.attention.out.weight` from N(0, init_std / sqrt(2 * num_layers)),
        `layers.*.feed_forward.down.weight` from N(0, init_std / sqrt(2 * num_layers)).
        """
        normal_(self, self.init_std, generator)
        with torch.no_grad():
            for layer in self.layers:
                for linear in (layer.attention.out, layer.feed_forward.down):  # type: ignore[union-attr]
                    linear.weight.div_(math.sqrt(2 * len(self.layers)))  # type: ignore[union-attr,operator]


def _images(c: ImageGptConfig) -> ImageSettings:
    """Square images as large as the positions allow, in levels of grey until colours are fitted to images of training."""
    side = math.isqrt(c.max_positions)
    return ImageSettings(size=(side, side), clusters=greys(c.vocab_size - 1))


_SMALL = ImageGptConfig()
_STILL = replace(_SMALL, hidden_dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0)  # so small a model learns no images by heart

FAMILY = Family(
    config=ImageGptConfig,
    body=ImageGpt,
    paper="Chen et al. 2020, Generative Pretraining from Pixels",
    sizes={
        "tiny": ImageGptConfig(vocab_size=9, hidden_size=32, num_layers=2, num_heads=4, max_positions=25),
        "digits": replace(_STILL, vocab_size=17, hidden_size=96, num_layers=6, num_heads=4, max_positions=196),
        "small": _SMALL,
        "medium": replace(_SMALL, hidden_size=1024, num_layers=36),
        "large": replace(_SMALL, hidden_size=1536, num_layers=48, num_heads=16),
    },
    images=_images,
    hf=HF(
        types={"imagegpt": "ImageGPT"},
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
            "initializer_range": "init_std",
        },
        fixed={
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": False,
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
            ("row",): ("ForImageClassification", (same("score", "row.out"),)),
            ("vocabulary",): ("ForCausalImageModeling", (same("lm_head", "vocabulary.out"),)),
        },
        ignore={r"(transformer\.)?h\.[0-9]+\.attn\.(masked_)?bias": "a constant"},
    ),
)
