"""CLIP: a causal tower for texts and one for images, whose vectors are compared (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision").

Unusual: a text is read at its end token, of which the first counts; where a config.json gives that token the number 2, as old ones do, it is read at its
largest number. What stands for a whole text or image is a part of its own: ``text_vector`` and ``image_vector``, as long as each other, and ``whole``,
the token of the whole image before it is projected. No tower runs that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from nabi.batch import Batch, Cache, Part
from nabi.data.pixels import ImageSettings
from nabi.families import HF, Family
from nabi.layout import Layout, Packed
from nabi.nn.body import Body
from nabi.nn.decoder import through
from nabi.nn.heads import HeadSpec
from nabi.nn.kernels import Pattern
from nabi.nn.linear import TokenEmbeddings
from nabi.nn.towers import ImageEmbeddings, Tower
from nabi.weights.names import Entry, number, same, stacked

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of the images of the authors' training
_LARGEST = 2  # an end token with this number means: where the largest number of a text stands


@dataclass(frozen=True)
class ClipConfig:
    """Sizes and settings; the defaults are ViT-B/32 as the incumbent has them. What begins with ``image_`` is of the tower for images."""

    vocab_size: int = 49408
    max_positions: int = 77
    end_token_id: int = 49407
    hidden_size: int = 512
    num_layers: int = 12
    num_heads: int = 8
    intermediate_size: int = 2048
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    init_std: float = 0.02
    image_size: int = 224
    patch_size: int = 32
    channels: int = 3
    image_hidden_size: int = 768
    image_layers: int = 12
    image_heads: int = 12
    image_intermediate_size: int = 3072
    image_activation: str = "quick_gelu"
    image_norm_eps: float = 1e-5
    image_attention_dropout: float = 0.0
    image_init_std: float = 0.02
    projection_size: int = 512
    logit_scale: float = 2.6592


class Clip(Body):
    """Both towers."""

    needs = {"text": frozenset({"tokens"}), "image": frozenset({"patches"})}
    makes = {"text_vector": "text", "whole": "image", "image_vector": "image"}
    sources = {"text_vector": frozenset({"text"}), "whole": frozenset({"image"}), "image_vector": frozenset({"image"})}
    heads = {"pair": HeadSpec(reads="image_vector", against="text_vector")}

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        c = config
        self.hidden_size, self.limits, self.tables = c.projection_size, {"text": c.max_positions}, {"tokens": c.vocab_size}
        self.side, self.channels, self.end, self.stds = c.patch_size, c.channels, c.end_token_id, (c.init_std, c.image_init_std)
        self.heads = {"pair": replace(type(self).heads["pair"], scale=c.logit_scale)}  # type: ignore[misc]  # this body's own
        words = TokenEmbeddings(c.vocab_size, c.max_positions, c.hidden_size)
        sizes = (c.num_layers, c.hidden_size, c.num_heads, c.intermediate_size)
        self.text = Tower(words, sizes, c.activation, c.norm_eps, c.attention_dropout, Pattern(causal=True), c.projection_size)
        patches = ImageEmbeddings(c.channels, c.patch_size, c.image_size, c.image_hidden_size, c.image_norm_eps)
        sizes = (c.image_layers, c.image_hidden_size, c.image_heads, c.image_intermediate_size)
        self.image = Tower(patches, sizes, c.image_activation, c.image_norm_eps, c.image_attention_dropout, Pattern(), c.projection_size)

    def embed(self, batch: Batch) -> dict[str, Packed]:
        return {name: Packed(self._embedded(name, part), part.layout) for name, part in batch.parts.items()}

    def _embedded(self, name: str, part: Part) -> Tensor:
        y: Tensor
        if name == "text":
            y = self.text.embeddings(part.streams["tokens"], part.layout.positions)
        else:
            y = self.image.embeddings(part.streams["patches"], part.rows["grid"])
        return y

    def layout(self, batch: Batch, part: str) -> Layout:
        return batch.parts[part].layout if part in self.needs else batch.parts[self.makes[part]].layout.one_each()

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        wanted: Mapping[str, Tensor | None] = dict.fromkeys((*self.needs, *self.makes)) if keep is None else keep
        found: dict[str, Tensor] = {}
        for name, tower in (("text", self.text), ("image", self.image)):
            mine = [part for part in wanted if self.makes.get(part, part) == name]
            if mine:
                part = batch.parts[name]
                x, layout = self._embedded(name, part) if embedded is None else embedded[name].values, part.layout
                if name == "text":
                    places = {"text": torch.arange(len(x), device=x.device), "text_vector": _ends(part, self.end)}
                else:
                    x, layout, places = tower.embeddings.joined(x, layout)  # type: ignore[operator]
                kept = {p: places[p] if (rows := wanted[p]) is None else places[p][rows] for p in mine}
                for p, y in through(tower.layers, x, layout, kept).items():
                    y = y if p == "image" else tower.norm(y)  # as the incumbent, of the image only what stands for the whole
                    found[p] = tower.projection(y) if p.endswith("_vector") else y
        return {part: Packed(found[part], self.layout(batch, part) if kept is None else None) for part, kept in wanted.items()}

    def groups(self) -> list[nn.Module]:
        """By depth, what is as far from the top side by side."""
        image, text = self.image, self.text
        pairs = zip_longest(reversed(image.layers), reversed(text.layers))
        layers = [layer for pair in reversed(list(pairs)) for layer in pair if layer is not None]
        return [image.embeddings, text.embeddings, *layers, image.norm, text.norm, image.projection, text.projection]

    def initialise(self, generator: torch.Generator) -> None:
        """As the authors' code begins the tower for texts, here for both; biases 0, norms 1 and 0:

        `text.embeddings.tokens.weight` from N(0, init_std), `text.embeddings.positions.weight` from N(0, init_std),
        `image.embeddings.patches.weight` from N(0, image_init_std), `image.embeddings.whole` from N(0, 1 / sqrt(image_hidden_size)),
        `image.embeddings.positions` from N(0, 1 / sqrt(image_hidden_size)),
        `text.layers.*.attention.qkv.weight` from N(0, 1 / sqrt(hidden_size)),
        `text.layers.*.attention.out.weight` from N(0, 1 / sqrt(2 * num_layers * hidden_size)),
        `text.layers.*.feed_forward.up.weight` from N(0, 1 / sqrt(2 * hidden_size)),
        `text.layers.*.feed_forward.down.weight` from N(0, 1 / sqrt(2 * num_layers * hidden_size)),
        `text.projection.weight` from N(0, 1 / sqrt(hidden_size)),
        `image.layers.*.attention.qkv.weight` from N(0, 1 / sqrt(image_hidden_size)),
        `image.layers.*.attention.out.weight` from N(0, 1 / sqrt(2 * image_layers * image_hidden_size)),
        `image.layers.*.feed_forward.up.weight` from N(0, 1 / sqrt(2 * image_hidden_size)),
        `image.layers.*.feed_forward.down.weight` from N(0, 1 / sqrt(2 * image_layers * image_hidden_size)),
        `image.projection.weight` from N(0, 1 / sqrt(image_hidden_size)).
        """
        self.text.initialise(self.stds[0], generator)
        self.image.initialise(self.stds[1], generator)
        embeddings = self.image.embeddings
        assert isinstance(embeddings, ImageEmbeddings)
        for vectors in (embeddings.whole, embeddings.positions):
            nn.init.normal_(vectors, 0.0, vectors.shape[-1] ** -0.5, generator=generator)


def _ends(part: Part, end: int) -> Tensor:
    """(N,) where each text is read: at its first end token, and without one at its first token, as the incumbent does."""
    layout, tokens = part.layout, part.streams["tokens"]
    assert layout.rows is not None
    rank = tokens if end == _LARGEST else (tokens == end).long()
    best = rank.new_full((len(layout),), -1).scatter_reduce(0, layout.rows, rank, "amax")
    places = torch.arange(len(tokens), device=tokens.device)
    places = torch.where(rank == best[layout.rows], places, len(tokens))
    return places.new_full((len(layout),), len(tokens)).scatter_reduce(0, layout.rows, places, "amin")


def _stack(theirs: str, ours: str) -> tuple[Entry, ...]:
    """Their names of the layers of one tower."""
    layer, mine = f"{theirs}.encoder.layers.*", f"{ours}.layers.*"
    return (
        same(f"{layer}.layer_norm1", f"{mine}.attention_norm"),
        stacked(tuple(f"{layer}.self_attn.{x}_proj" for x in "qkv"), f"{mine}.attention.qkv"),
        same(f"{layer}.self_attn.out_proj", f"{mine}.attention.out"),
        same(f"{layer}.layer_norm2", f"{mine}.feed_forward_norm"),
        same(f"{layer}.mlp.fc1", f"{mine}.feed_forward.up"),
        same(f"{layer}.mlp.fc2", f"{mine}.feed_forward.down"),
    )


def _stated(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Old files say a tower's sizes under ``text_config_dict`` and ``vision_config_dict``, which count, and name settings that CLIP never had."""
    unused = {"dropout": 0.0, "add_cross_attention": False, "chunk_size_feed_forward": 0, "pruned_heads": {}}
    found = dict(config)
    for tower in ("text_config", "vision_config"):
        said = {**(config.get(tower) or {}), **(found.pop(f"{tower}_dict", None) or {})}
        found[tower] = {key: value for key, value in said.items() if unused.get(key, ...) != value}
    return found


_TOWER = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "activation",
    "layer_norm_eps": "norm_eps",
    "attention_dropout": "attention_dropout",
    "initializer_range": "init_std",
}
_BASE = ClipConfig()
_LARGE = replace(_BASE, hidden_size=768, num_heads=12, intermediate_size=3072, projection_size=768, patch_size=14)

FAMILY = Family(
    config=ClipConfig,
    body=Clip,
    paper="Radford et al. 2021, arXiv:2103.00020",
    sizes={
        "tiny": ClipConfig(
            vocab_size=99, max_positions=40, end_token_id=98, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
            image_size=16, patch_size=4, image_hidden_size=48, image_layers=2, image_heads=4, image_intermediate_size=96, projection_size=24,
        ),
        "base-32": _BASE,
        "base-16": replace(_BASE, patch_size=16),
        "large-14": replace(_LARGE, image_hidden_size=1024, image_layers=24, image_heads=16, image_intermediate_size=4096),
    },
    images=lambda c: ImageSettings(
        size=c.image_size, crop=(c.image_size, c.image_size), resample=3, mean=_MEAN[: c.channels], std=_STD[: c.channels], channels=c.channels
    ),
    hf=HF(
        types={"clip": "CLIP"},
        fields={
            **{f"text_config.{key}": f"num_{name}" if name in ("layers", "heads") else name for key, name in _TOWER.items()},
            **{f"vision_config.{key}": f"image_{name}" for key, name in _TOWER.items()},
            "text_config.vocab_size": "vocab_size",
            "text_config.max_position_embeddings": "max_positions",
            "text_config.eos_token_id": "end_token_id",
            "vision_config.image_size": "image_size",
            "vision_config.patch_size": "patch_size",
            "vision_config.num_channels": "channels",
            "projection_dim": "projection_size",
            "logit_scale_init_value": "logit_scale",
        },
        fixed={},
        weights=(
            same("text_model.embeddings.token_embedding", "text.embeddings.tokens"),
            same("text_model.embeddings.position_embedding", "text.embeddings.positions"),
            *_stack("text_model", "text"),
            same("text_model.final_layer_norm", "text.norm"),
            same("text_projection", "text.projection"),
            same("vision_model.embeddings.class_embedding", "image.embeddings.whole"),
            same("vision_model.embeddings.patch_embedding", "image.embeddings.patches"),
            same("vision_model.embeddings.position_embedding.weight", "image.embeddings.positions"),
            same("vision_model.pre_layrnorm", "image.embeddings.norm"),
            *_stack("vision_model", "image"),
            same("vision_model.post_layernorm", "image.norm"),
            same("visual_projection", "image.projection"),
        ),
        prefix="",
        heads={("pair",): ("Model", (number("logit_scale", "pair.scale"),))},
        task="zero_shot_image_classification",
        ignore={r"(text|vision)_model\.embeddings\.position_ids": "counted, not learnt"},
        stated=_stated,
    ),
)
