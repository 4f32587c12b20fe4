"""Convolution and batch normalisation over packed images (Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training").

Unusual: the images of one size lie in one tensor whose channels are last in memory, which of packed pixels is a view, and on a CPU the fastest form. The
statistics of training are those of all images of a batch, whatever their sizes, on all processes; a frozen norm keeps those that it has, so that no image
depends on its neighbours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import cast

import torch
import torch.distributed.nn.functional as collective
import torch.nn.functional as F
from torch import Tensor, nn

from nabi.errors import InputError, unknown
from nabi.nn.linear import PRECISIONS, activation

_EPS, _MOMENTUM = 1e-5, 0.1  # which no checkpoint states otherwise
_again: ContextVar[bool] = ContextVar("again", default=False)


def maps_of(pixels: Tensor, grid: Tensor) -> list[Tensor]:
    """Packed pixels (T, C) -> (n, C, H, W) of each size of image, in the order in which the sizes come; ``grid`` (N, 2) int64 is H and W of each image."""
    sizes, channels = _by_size(grid), pixels.shape[1]
    images = torch.split(pixels, grid.prod(1).tolist()) if len(sizes) > 1 else ()
    return [
        (torch.cat([images[i] for i in rows]) if images else pixels).view(len(rows), height, width, channels).permute(0, 3, 1, 2)
        for (height, width), rows in sizes.items()
    ]


def packed(maps: Sequence[Tensor], grid: Tensor) -> Tensor:
    """The inverse of :func:`maps_of`, ``grid`` being the one that it was given, whatever convolutions have made of the sizes since."""
    flat = [x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps]
    if len(flat) == 1:
        return flat[0]
    images: dict[int, Tensor] = {}
    for rows, x in zip(_by_size(grid).values(), flat, strict=True):
        images |= zip(rows, x.chunk(len(rows)), strict=True)
    return torch.cat([images[i] for i in range(len(images))])


def _by_size(grid: Tensor) -> dict[tuple[int, int], list[int]]:
    """Height and width -> the rows of that size."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, (height, width) in enumerate(grid.tolist()):
        found.setdefault((height, width), []).append(i)
    return found


class Convolution(nn.Module):
    """A square kernel without a bias, with zeros around the image so that a stride of 1 keeps its size; a stride s leaves 1/s of it, rounded up.

    Args:
        inputs, outputs: channels.
        size: of the kernel, odd.
        stride: of its steps.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.weight, self.stride = nn.Parameter(torch.empty(outputs, inputs, size, size)), stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, outputs, H / stride, W / stride)."""
        return F.conv2d(x, self.weight, stride=self.stride, padding=self.weight.shape[-1] // 2)

    def extra_repr(self) -> str:
        outputs, inputs, size, _ = self.weight.shape
        return f"{inputs} -> {outputs}, {size} x {size}, stride={self.stride}"


class BatchNorm(nn.Module):
    """Each channel minus its mean, divided by its deviation, scaled and shifted.

    Training takes mean and deviation of the batch and moves the running ones a tenth of the way to them; otherwise the running ones are taken.

    Attributes:
        frozen: take the running ones in training too, and leave them as they are.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.frozen = False

    def forward(self, maps: Sequence[Tensor], real: bool = True) -> list[Tensor]:
        """(n, C, H, W) each -> the same; the statistics are those of all together.

        Args:
            maps: of each size of image.
            real: whether these are images of the batch; what only fills up a process's share has no part in the statistics.

        Raises:
            InputError: a batch whose channels have a single number each has no deviation.
        """
        if self.frozen or not self.training:
            return [F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=_EPS) for x in maps]
        flat = [x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps]
        together = self._of_the_batch(torch.cat(flat) if len(flat) > 1 else flat[0], real)  # of one size: no copy
        pieces = torch.split(together, [len(x) for x in flat])
        return [y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2) for x, y in zip(maps, pieces, strict=True)]

    def _of_the_batch(self, x: Tensor, real: bool) -> Tensor:
        """(T, C) -> (T, C)."""
        mean, variance = (None, None) if _again.get() else (self.running_mean, self.running_var)
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1)
        if alone and len(x) < 2:
            fix = "train on larger images or batches, or with plan.batch_statistics=false"
            raise InputError("batch statistics of a single place", value="one image, shrunk to one place", expected="two places at least", fix=fix)
        if mean is not None:
            self.num_batches_tracked += 1
        if alone:
            return F.batch_norm(x, mean, variance, self.weight, self.bias, training=True, momentum=_MOMENTUM, eps=_EPS)
        wide = x.float()
        sums = _summed(torch.cat([wide.sum(0), wide.new_tensor([len(x)])]) * real)
        count, middle = sums[-1], sums[:-1] / sums[-1]
        spread = _summed(((wide - middle) ** 2).sum(0) * real) / count
        if mean is not None and variance is not None:
            with torch.no_grad():
                mean.lerp_(middle, _MOMENTUM)
                variance.lerp_(spread * (count / (count - 1)), _MOMENTUM)
        return ((wide - middle) * torch.rsqrt(spread + _EPS) * self.weight + self.bias).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"


def freeze_statistics(module: nn.Module, frozen: bool = True) -> None:
    """Let every batch norm below ``module`` keep its statistics in training, or take the batch's again."""
    for leaf in module.modules():
        if isinstance(leaf, BatchNorm):
            leaf.frozen = frozen


@contextlib.contextmanager
def again() -> Iterator[None]:
    """What is computed inside was computed before: running statistics do not count it twice."""
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)


def _summed(x: Tensor) -> Tensor:
    """Over the processes, with gradient."""
    return cast(Tensor, collective.all_reduce(x))  # type: ignore[no-untyped-call]


class ConvNorm(nn.Module):
    """Convolution, batch norm, perhaps a residual, perhaps an activation.

    Args:
        inputs, outputs, size, stride: of the convolution.
        act: name of the activation, "" for none.
    """

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, act: str = "") -> None:
        super().__init__()
        self.convolution, self.norm = Convolution(inputs, outputs, size, stride), BatchNorm(outputs)
        self.act = activation(act) if act else None

    def forward(self, maps: Sequence[Tensor], add: Sequence[Tensor] | None = None, real: bool = True) -> list[Tensor]:
        """(n, inputs, H, W) of each size -> (n, outputs, H / stride, W / stride); ``add`` of that shape comes before the activation."""
        found = self._normed(maps, real)
        if add is not None:
            found = [x + y for x, y in zip(found, add, strict=True)]
        return [self.act(x) for x in found] if self.act else found

    def _normed(self, maps: Sequence[Tensor], real: bool) -> list[Tensor]:
        return self.norm([self.convolution(x) for x in maps], real)  # type: ignore[no-any-return]

    def prepared(self, precision: str) -> FoldedConvNorm:
        """A copy for inference whose norm is part of the kernel; its numbers stay float32 in every precision.

        Raises:
            OptionError: an unknown precision.
        """
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        return FoldedConvNorm(self)


class FoldedConvNorm(ConvNorm):
    """A kernel that holds the running statistics of the norm behind it, and a bias."""

    weight: Tensor
    bias: Tensor

    def __init__(self, given: ConvNorm) -> None:
        nn.Module.__init__(self)
        norm, kernel = given.norm, given.convolution
        scale = norm.weight * torch.rsqrt(norm.running_var + _EPS)
        self.act, self.stride = given.act, kernel.stride
        self.register_buffer("weight", (kernel.weight * scale[:, None, None, None]).detach().to(memory_format=torch.channels_last))
        self.register_buffer("bias", (norm.bias - norm.running_mean * scale).detach())

    def _normed(self, maps: Sequence[Tensor], real: bool) -> list[Tensor]:
        return [F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.weight.shape[-1] // 2) for x in maps]


def max_pooled(maps: Sequence[Tensor], size: int, stride: int) -> list[Tensor]:
    """(n, C, H, W) of each size -> (n, C, H / stride, W / stride): the largest within a square of odd ``size``."""
    return [F.max_pool2d(x, size, stride, padding=size // 2) for x in maps]


def he_(module: nn.Module, generator: torch.Generator) -> None:
    """Fill every convolution and norm below ``module``: kernels from N(0, sqrt(2 / fan_out)) (He et al. 2015, "Delving Deep into Rectifiers",
    section 2.2), norms 1 and 0, their statistics those of N(0, 1)."""
    for leaf in module.modules():
        if isinstance(leaf, Convolution):
            outputs, _, height, width = leaf.weight.shape
            nn.init.normal_(leaf.weight, 0.0, (2 / (outputs * height * width)) ** 0.5, generator=generator)
        elif isinstance(leaf, BatchNorm):
            for x, value in ((leaf.weight, 1.0), (leaf.bias, 0.0), (leaf.running_mean, 0.0), (leaf.running_var, 1.0), (leaf.num_batches_tracked, 0)):
                nn.init.constant_(x, value)
