"""ViT: an encoder of image patches, pre-norm (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale").

Unusual: the token for the whole image is a part of its own, ``whole``, so that what comes back under ``image`` is aligned with the patches; images of other
sizes than the table of positions are read by interpolating it, each image of a batch at its own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from nabi.batch import Batch, Cache
from nabi.data.pixels import ImageSettings
from nabi.families import HF, Family
from nabi.layout import Layout, Packed, join, places_joined
from nabi.nn.body import Body
from nabi.nn.decoder import PreNormLayer, through
from nabi.nn.dropout import dropout
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern
from nabi.nn.linear import LayerNorm, PatchEmbedding, normal_
from nabi.nn.patches import grid_positions
from nabi.weights.names import same, stacked


@dataclass(frozen=True)
class VitConfig:
    """Sizes and settings; the defaults are ViT-B/16. ``pooling`` is what a classifier reads: the token of the whole image, or the mean of the patches."""

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    activation: str = "gelu"
    norm_eps: float = 1e-12
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    pooling: Literal["whole", "mean"] = "whole"
    init_std: float = 0.02


class VitEmbeddings(nn.Module):
    """Patches + positions, and the token of the whole image with a position of its own (section 3.1)."""

    def __init__(self, c: VitConfig) -> None:
        super().__init__()
        self.side = c.image_size // c.patch_size
        self.whole = nn.Parameter(torch.empty(1, 1, c.hidden_size))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.side**2, c.hidden_size))
        self.patches = PatchEmbedding(c.channels, c.patch_size, c.hidden_size)

    def forward(self, patches: Tensor, grid: Tensor) -> Tensor:
        """(T, C * side * side), (N, 2) -> (T, W)."""
        y: Tensor = self.patches(patches) + grid_positions(self.positions[0, 1:], grid, self.side)
        return y


class Vit(Body):
    """The encoder."""

    needs = {"image": frozenset({"patches"})}
    makes = {"whole": "image"}
    sources = {"whole": frozenset({"image"})}
    heads = {"row": HeadSpec(reads="whole", pool="first"), "pooled": HeadSpec(reads="whole", pool="first", activation="tanh")}

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        c = config
        self.hidden_size, self.side, self.channels, self.init_std, self.dropout = c.hidden_size, c.patch_size, c.channels, c.init_std, c.hidden_dropout
        if c.pooling == "mean":
            self.heads = {**self.heads, "row": HeadSpec(reads="image", pool="mean")}  # type: ignore[misc]  # this body's own
        self.embeddings = VitEmbeddings(c)
        self.layers = nn.ModuleList(
            PreNormLayer(
                c.hidden_size,
                c.num_heads,
                c.intermediate_size,
                activation=c.activation,
                norm_eps=c.norm_eps,
                dropout=c.hidden_dropout,
                attention_dropout=c.attention_dropout,
                pattern=Pattern(),
            )
            for _ in range(c.num_layers)
        )
        self.norm = LayerNorm(c.hidden_size, c.norm_eps)

    def embed(self, batch: Batch) -> dict[str, Packed]:
        part = batch.parts["image"]
        return {"image": Packed(self.embeddings(part.streams["patches"], part.rows["grid"]), part.layout)}

    def layout(self, batch: Batch, part: str) -> Layout:
        layout = batch.parts["image"].layout
        return layout if part == "image" else layout.one_each()

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        image = (embedded or self.embed(batch))["image"]
        patches = batch.parts["image"].layout
        token = (self.embeddings.whole + self.embeddings.positions[:, :1])[0].expand(len(patches), -1)
        x, layout = join(Packed(token, patches.one_each()), Packed(image.values, patches))
        assert layout is not None
        places = dict(zip(("whole", "image"), places_joined(patches.one_each(), patches), strict=True))
        wanted = {part: places[part] if kept is None else places[part][kept] for part, kept in (keep or dict.fromkeys(places)).items()}
        found = through(self.layers, dropout(x, self.dropout, self.training), layout, wanted)
        return {part: Packed(self.norm(x), None if keep and keep[part] is not None else self.layout(batch, part)) for part, x in found.items()}

    def groups(self) -> list[nn.Module]:
        return [self.embeddings, *self.layers, self.norm]

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, init_std), biases 0, norms 1 and 0 (as the incumbent does, but for the truncation of the normal), and

        `embeddings.whole` from N(0, init_std), `embeddings.positions` from N(0, init_std).
        """
        normal_(self, self.init_std, generator)
        for vectors in (self.embeddings.whole, self.embeddings.positions):
            nn.init.normal_(vectors, 0.0, self.init_std, generator=generator)


_BASE = VitConfig()

FAMILY = Family(
    config=VitConfig,
    body=Vit,
    paper="Dosovitskiy et al. 2020, arXiv:2010.11929",
    sizes={
        "tiny": VitConfig(image_size=16, patch_size=4, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64),
        # a narrow network begins to learn far sooner from larger weights, and from the mean of its patches
        "digits": VitConfig(
            image_size=28, patch_size=7, channels=1, hidden_size=128, num_layers=6, num_heads=4, intermediate_size=512, pooling="mean", init_std=0.06
        ),
        "small-16": replace(_BASE, hidden_size=384, num_heads=6, intermediate_size=1536),
        "base-16": _BASE,
        "base-32": replace(_BASE, patch_size=32),
        "large-16": replace(_BASE, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096),
    },
    images=lambda c: ImageSettings(size=(c.image_size, c.image_size), mean=(0.5,) * c.channels, std=(0.5,) * c.channels, channels=c.channels),
    hf=HF(
        types={"vit": "ViT"},
        fields={
            "image_size": "image_size",
            "patch_size": "patch_size",
            "num_channels": "channels",
            "hidden_size": "hidden_size",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "intermediate_size": "intermediate_size",
            "hidden_act": "activation",
            "layer_norm_eps": "norm_eps",
            "hidden_dropout_prob": "hidden_dropout",
            "attention_probs_dropout_prob": "attention_dropout",
            "pooling": "pooling",
            "initializer_range": "init_std",
        },
        fixed={"qkv_bias": True, "pooler_act": "tanh"},
        lacks=lambda c: c.pooling == "mean",  # its classifier would read another vector and not say so
        weights=(
            same("embeddings.cls_token", "embeddings.whole"),
            same("embeddings.position_embeddings", "embeddings.positions"),
            same("embeddings.patch_embeddings.projection", "embeddings.patches"),
            same("encoder.layer.*.layernorm_before", "layers.*.attention_norm"),
            stacked(tuple(f"encoder.layer.*.attention.attention.{x}" for x in ("query", "key", "value")), "layers.*.attention.qkv"),
            same("encoder.layer.*.attention.output.dense", "layers.*.attention.out"),
            same("encoder.layer.*.layernorm_after", "layers.*.feed_forward_norm"),
            same("encoder.layer.*.intermediate.dense", "layers.*.feed_forward.up"),
            same("encoder.layer.*.output.dense", "layers.*.feed_forward.down"),
            same("layernorm", "norm"),
        ),
        prefix="vit.",
        shared=(same("pooler.dense", "pooled.out"),),
        heads={("row",): ("ForImageClassification", (same("classifier", "row.out"),)), ("pooled",): ("Model", ())},
        bare=frozenset({("pooled",), ()}),
        ignore={r"decoder\..*": "the head of masked images"},
    ),
)
