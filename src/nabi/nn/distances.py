"""Positions by buckets of distance (Raffel et al. 2019, section 2.1): near distances have a bucket each, farther ones share buckets that grow."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from nabi.errors import OptionError
from nabi.nn.kernels import DistanceBias
from nabi.nn.linear import Embedding


@functools.cache
def buckets(causal: bool, count: int, furthest: int, device: torch.device) -> Tensor:
    """(2 * furthest + 1,) the bucket of each distance (key - query) from -furthest on; what is further is in the last buckets.

    Args:
        causal: later keys share bucket 0; else they have half of the buckets.
        count: how many buckets; half of a side's are for one distance each, the others grow by a factor.
        furthest: the distance from where on all are in the last bucket.

    Raises:
        OptionError: the formula needs more buckets, or a longer distance.
    """
    side = count if causal else count // 2
    single = side // 2
    if single < 1 or furthest <= single:
        raise OptionError("too few buckets, or too short a distance for them", value=(count, furthest), fix="take 32 buckets for 128, as the paper does")
    with torch.inference_mode(False):  # what is cached outlives the caller's mode
        distance = torch.arange(-furthest, furthest + 1, device=device)
        far = (-distance).clamp(min=0) if causal else distance.abs()
        grown = single + (torch.log(far.clamp(min=1).float() / single) / math.log(furthest / single) * (side - single)).long()
        found = torch.where(far < single, far, grown.clamp(max=side - 1))
        return found if causal else found + side * (distance > 0)


class DistanceBuckets(Embedding):
    """A table of what each head adds to its scores by bucket of distance, shared by the layers of a stack.

    Args:
        count: how many buckets.
        heads: H.
        furthest: the distance from where on all are in the last bucket.
        causal: whether only earlier keys have buckets of their own.
    """

    def __init__(self, count: int, heads: int, *, furthest: int, causal: bool) -> None:
        super().__init__(count, heads)
        self.furthest, self.causal = furthest, causal

    def bias(self) -> DistanceBias:
        """What is added in this forward; the buckets are looked up here, once for all layers."""
        furthest = self.furthest
        found = buckets(self.causal, self.weight.shape[0], furthest, self.weight.device)
        by_distance: Tensor = self(found).t().contiguous()  # (H, 2 * furthest + 1)

        def of(distance: Tensor) -> Tensor:
            index = distance.clamp(-furthest, furthest) + furthest
            return by_distance.index_select(1, index.flatten()).view(-1, *index.shape)

        return DistanceBias(of)
