"""The towers of CLIP, one for texts and one for images, whose vectors are compared (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nabi.layout import Layout, Packed, join, places_joined
from nabi.nn.decoder import PreNormLayer
from nabi.nn.kernels import Pattern
from nabi.nn.linear import LayerNorm, Linear, PatchEmbedding, normal_
from nabi.nn.patches import grid_positions


class ImageEmbeddings(nn.Module):
    """Patches + positions, the token of the whole image with a position of its own, and the norm before the first layer (section 2.4).

    Args:
        channels, patch_size, image_size: of the images, in pixels.
        hidden_size: W.
        norm_eps: of the norm.
    """

    def __init__(self, channels: int, patch_size: int, image_size: int, hidden_size: int, norm_eps: float) -> None:
        super().__init__()
        self.side = image_size // patch_size
        self.whole, self.positions = nn.Parameter(torch.empty(hidden_size)), nn.Parameter(torch.empty(1 + self.side**2, hidden_size))
        self.patches = PatchEmbedding(channels, patch_size, hidden_size, bias=False)
        self.norm = LayerNorm(hidden_size, norm_eps)

    def forward(self, patches: Tensor, grid: Tensor) -> Tensor:
        """(T, C * side * side), (N, 2) -> (T, W)."""
        y: Tensor = self.norm(self.patches(patches) + grid_positions(self.positions[1:], grid, self.side))
        return y

    def joined(self, x: Tensor, layout: Layout) -> tuple[Tensor, Layout, dict[str, Tensor]]:
        """(T, W) of the patches -> the same with the whole image's token before each row, and where either lies."""
        one = layout.one_each()
        token: Tensor = self.norm(self.whole + self.positions[0])
        y, around = join(Packed(token.expand(len(one), -1), one), Packed(x, layout))
        assert around is not None
        whole, patches = places_joined(one, layout)
        return y, around, {"whole": whole, "image": patches, "image_vector": whole}


class Tower(nn.Module):
    """Embeddings, layers, a norm, and the projection to what both towers have in common (section 2.4).

    Args:
        embeddings: what the first layer reads is made by.
        sizes: number of layers, W, H, inner size of the feed-forward.
        activation, norm_eps, attention_dropout, pattern: of each layer.
        projection: C, what W is projected to.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        sizes: tuple[int, int, int, int],
        activation: str,
        norm_eps: float,
        attention_dropout: float,
        pattern: Pattern,
        projection: int,
    ) -> None:
        super().__init__()
        count, width, heads, inner = sizes
        self.embeddings = embeddings
        self.layers = nn.ModuleList(
            PreNormLayer(
                width,
                heads,
                inner,
                activation=activation,
                norm_eps=norm_eps,
                dropout=0.0,
                attention_dropout=attention_dropout,
                pattern=pattern,
            )
            for _ in range(count)
        )
        self.norm, self.projection = LayerNorm(width, norm_eps), Linear(width, projection, bias=False)

    def initialise(self, std: float, generator: torch.Generator) -> None:
        """As the authors' code begins the tower for texts, but for what the embeddings have of their own."""
        normal_(self, std, generator)
        width, narrow = self.projection.weight.shape[1] ** -0.5, (2 * len(self.layers)) ** -0.5
        for layer in self.layers:
            assert isinstance(layer, PreNormLayer)
            stds = {layer.attention.qkv: width, layer.attention.out: width * narrow, layer.feed_forward.up: width / 2**0.5}
            for linear, spread in {**stds, layer.feed_forward.down: width * narrow}.items():
                nn.init.normal_(linear.weight, 0.0, spread, generator=generator)
        nn.init.normal_(self.projection.weight, 0.0, width, generator=generator)
