"""ResNet: a convolutional network of residual blocks (He et al. 2015, "Deep Residual Learning for Image Recognition").

Unusual: a token is a pixel, and what comes back under ``image`` are the places of the last stage, fewer than the pixels by the product of all strides. The
batch norms of a network from scratch learn from the whole batch; one that was loaded keeps its statistics, so that an image alone is the image in a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nabi.batch import Batch, Cache
from nabi.data.pixels import ImageSettings
from nabi.errors import OptionError
from nabi.families import HF, Family
from nabi.layout import Layout, Packed
from nabi.nn.body import Body
from nabi.nn.convolution import ConvNorm, he_, maps_of, max_pooled, packed
from nabi.nn.heads import HeadSpec
from nabi.weights.names import Entry, same

_INNER = "relu"
_REDUCTION = 4  # of the channels inside a bottleneck (figure 5)


@dataclass(frozen=True)
class ResnetConfig:
    """Sizes and settings; the defaults are ResNet-50.

    Attributes:
        image_size: of the images that a network from scratch reads, in pixels; any other size can be read too.
        channels: of a pixel.
        stem: how pixels enter. ``large`` is a 7 x 7 convolution of stride 2 and a max pool of stride 2 (table 1); ``small`` is a 3 x 3 convolution, for
            images of 32 x 32 (section 4.2), which the incumbent lacks.
        stem_size: channels behind the stem.
        hidden_sizes: channels behind each stage.
        depths: blocks of each stage.
        block: ``basic``, two 3 x 3 convolutions, or ``bottleneck``, a 3 x 3 between two 1 x 1 (figure 5).
        activation: behind the stem and behind each sum; inside a block it is ReLU, as the incumbent has it.
        shrink_first: whether the first stage halves the image as the others do.
        shrink_early: of bottlenecks, whether the first convolution has the stride, as in the paper, or the 3 x 3.
    """

    image_size: int = 224
    channels: int = 3
    stem: Literal["large", "small"] = "large"
    stem_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    block: Literal["basic", "bottleneck"] = "bottleneck"
    activation: str = "relu"
    shrink_first: bool = False
    shrink_early: bool = False


class Stem(nn.Module):
    """From pixels to the first stage."""

    def __init__(self, c: ResnetConfig) -> None:
        super().__init__()
        self.pools = c.stem == "large"
        self.input = ConvNorm(c.channels, c.stem_size, 7, 2, c.activation) if self.pools else ConvNorm(c.channels, c.stem_size, 3, 1, c.activation)

    def forward(self, maps: Sequence[Tensor], real: bool) -> list[Tensor]:
        """(n, C, H, W) of each size -> (n, stem_size, H / 4, W / 4), or of the same height and width."""
        maps = self.input(maps, real=real)
        return max_pooled(maps, 3, 2) if self.pools else list(maps)


class Block(nn.Module):
    """Convolutions beside a shortcut (section 3.3, option B), the activation after the sum."""

    def __init__(self, c: ResnetConfig, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if c.block == "basic":
            layers = [ConvNorm(inputs, outputs, 3, stride, _INNER), ConvNorm(outputs, outputs, 3, 1, c.activation)]
        else:
            first, second, inner = (stride, 1, outputs // _REDUCTION) if c.shrink_early else (1, stride, outputs // _REDUCTION)
            layers = [
                ConvNorm(inputs, inner, 1, first, _INNER),
                ConvNorm(inner, inner, 3, second, _INNER),
                ConvNorm(inner, outputs, 1, 1, c.activation),
            ]
        self.layers = nn.ModuleList(layers)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if inputs != outputs or stride != 1 else None

    def forward(self, maps: list[Tensor], real: bool) -> list[Tensor]:
        """(n, inputs, H, W) of each size -> (n, outputs, H / stride, W / stride)."""
        x, beside = maps, maps if self.shortcut is None else self.shortcut(maps, real=real)
        for layer in self.layers[:-1]:
            x = layer(x, real=real)
        return cast(list[Tensor], self.layers[-1](x, beside, real))


class Resnet(Body):
    """The network without its classifier."""

    needs = {"image": frozenset({"patches"})}
    heads = {"row": HeadSpec(reads="image", pool="mean")}
    grain = {"image": 256}  # ResNet-50 computes for so many pixels about what a small encoder does for a token

    def __init__(self, config: ResnetConfig) -> None:
        super().__init__()
        c = config
        if not c.hidden_sizes or len(c.hidden_sizes) != len(c.depths) or min(*c.hidden_sizes, *c.depths) < 1:
            raise OptionError("hidden_sizes and depths must have a positive number a stage", value=[c.hidden_sizes, c.depths])
        if c.block == "bottleneck" and any(size % _REDUCTION for size in c.hidden_sizes):
            raise OptionError("a bottleneck has a quarter of its stage's channels inside", value=c.hidden_sizes, expected=f"multiples of {_REDUCTION}")
        self.hidden_size, self.channels = c.hidden_sizes[-1], c.channels
        strides = [2 if i or c.shrink_first else 1 for i in range(len(c.depths))]
        self.shrinks = (4 if c.stem == "large" else 1) * 2 ** strides.count(2)
        self.stem = Stem(c)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(c, outputs if i else inputs, outputs, 1 if i else stride) for i in range(depth))
            for (inputs, outputs), stride, depth in zip(itertools.pairwise((c.stem_size, *c.hidden_sizes)), strides, c.depths, strict=True)
        )

    def embed(self, batch: Batch) -> dict[str, Packed]:
        part = batch.parts["image"]
        return {"image": Packed(part.streams["patches"], part.layout)}

    def layout(self, batch: Batch, part: str) -> Layout:
        grid = batch.parts[part].rows["grid"]
        lengths = [-(-height // self.shrinks) * -(-width // self.shrinks) for height, width in grid.tolist()]
        return Layout.of(lengths, device=grid.device)

    def forward(
        self,
        batch: Batch,
        cache: Cache | None = None,
        *,
        embedded: Mapping[str, Packed] | None = None,
        keep: Mapping[str, Tensor | None] | None = None,
    ) -> dict[str, Packed]:
        grid = batch.parts["image"].rows["grid"]
        maps = maps_of((embedded or self.embed(batch))["image"].values, grid)
        for layer in self.groups():
            maps = layer(maps, batch.real)
        x, kept = packed(maps, grid), (keep or {}).get("image")
        return {"image": Packed(x, self.layout(batch, "image")) if kept is None else Packed(x[kept], None)}

    def groups(self) -> list[nn.Module]:
        return [self.stem, *(block for stage in self.stages for block in cast(nn.ModuleList, stage))]

    def initialise(self, generator: torch.Generator) -> None:
        """Every weight from N(0, sqrt(2 / fan_out)), norms 1 and 0, as the incumbent does."""
        he_(self, generator)


def _normed(theirs: str, ours: str) -> list[Entry]:
    """A convolution and its norm, statistics included."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return [
        same(f"{theirs}.convolution.weight", f"{ours}.convolution.weight"),
        same(f"{theirs}.normalization.weight", f"{ours}.norm.weight"),
        same(f"{theirs}.normalization.bias", f"{ours}.norm.bias"),
        *(same(f"{theirs}.normalization.{name}", f"{ours}.norm.{name}") for name in statistics),
    ]


def _images(c: ResnetConfig) -> ImageSettings:
    """ImageNet's colours, or grey around the middle."""
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if c.channels == 3 else ((0.5,) * c.channels, (0.5,) * c.channels)
    return ImageSettings(size=(c.image_size, c.image_size), mean=mean, std=std, channels=c.channels)


_50 = ResnetConfig()
_18 = replace(_50, hidden_sizes=(64, 128, 256, 512), depths=(2, 2, 2, 2), block="basic")
_CIFAR = ResnetConfig(image_size=32, stem="small", stem_size=16, hidden_sizes=(16, 32, 64), depths=(3, 3, 3), block="basic")

FAMILY = Family(
    config=ResnetConfig,
    body=Resnet,
    paper="He et al. 2015, arXiv:1512.03385",
    sizes={
        "tiny": ResnetConfig(image_size=32, stem_size=8, hidden_sizes=(16, 32), depths=(1, 2), block="bottleneck"),
        "cifar-20": _CIFAR,  # section 4.2
        "cifar-56": replace(_CIFAR, depths=(9, 9, 9)),
        "18": _18,
        "34": replace(_18, depths=(3, 4, 6, 3)),
        "50": _50,
        "101": replace(_50, depths=(3, 4, 23, 3)),
        "152": replace(_50, depths=(3, 8, 36, 3)),
    },
    images=_images,
    hf=HF(
        types={"resnet": "ResNet"},
        fields={
            "num_channels": "channels",
            "embedding_size": "stem_size",
            "hidden_sizes": "hidden_sizes",
            "depths": "depths",
            "layer_type": "block",
            "hidden_act": "activation",
            "downsample_in_first_stage": "shrink_first",
            "downsample_in_bottleneck": "shrink_early",
            "nabi_stem": "stem",
            "nabi_image_size": "image_size",
        },
        fixed={},
        weights=(
            *_normed("embedder.embedder", "stem.input"),
            *_normed("encoder.stages.*.layers.*.layer.*", "stages.*.*.layers.*"),
            *_normed("encoder.stages.*.layers.*.shortcut", "stages.*.*.shortcut"),
        ),
        prefix="resnet.",
        heads={("row",): ("ForImageClassification", (same("classifier.1", "row.out"),))},
        lacks=lambda c: c.stem != "large",
    ),
)
