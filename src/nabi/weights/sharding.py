"""Tensors dealt to several files or processes: whole tensors, so that every shard is an ordinary safetensors file and resharding is nothing but loading.

The names of the shards and of their index are the hub's (``model-00001-of-00002.safetensors``, ``model.safetensors.index.json``).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

INDEX = "model.safetensors.index.json"


def dealt(sizes: Mapping[str, int], world: int) -> list[list[str]]:
    """Which tensors each of ``world`` processes holds: the largest first, each to whoever has least (Graham 1969); the same on every process.

    No share is larger than 4/3 of the best possible one, save by a tensor that is larger than that by itself.

    Args:
        sizes: tensor name -> bytes.
        world: how many shares.

    Returns:
        The names of each share, sorted; each name once.
    """
    shares: list[list[str]] = [[] for _ in range(world)]
    least = [(0, rank) for rank in range(world)]
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        filled, rank = heapq.heappop(least)
        shares[rank].append(name)
        heapq.heappush(least, (filled + sizes[name], rank))
    return [sorted(share) for share in shares]


def shard_name(stem: str, rank: int = 0, world: int = 1) -> str:
    """``model.safetensors`` of one process, ``model-00001-of-00002.safetensors`` of the first of two."""
    return f"{stem}.safetensors" if world == 1 else f"{stem}-{rank + 1:05d}-of-{world:05d}.safetensors"


def index(stem: str, sizes: Mapping[str, int], shares: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What the index of these shards holds, as the incumbent writes it: the bytes in all, and the file of each tensor."""
    files = {name: shard_name(stem, rank, len(shares)) for rank, share in enumerate(shares) for name in share}
    return {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(files.items()))}
