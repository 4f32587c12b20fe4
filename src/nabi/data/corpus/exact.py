"""Exact duplicates: the digests of each shard in order, then equal ones of all shards side by side; the first of them stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.jobs import NONE, Job, bounds, parts
from nabi.data.corpus.marks import ShardReader
from nabi.data.corpus.runs import Run, pieces, write

RECORD = 128  # bytes of work for a record that is sorted
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8"), ("doc", "<u4")])
_SAME = np.dtype([("doc", "<u4"), ("of", "<u4")])


def first_rows(digests: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows with a digest that no earlier row has, in the digests' order; for each row the first with its digest."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = order[new]
    first = np.empty_like(order)
    first[order] = firsts[np.cumsum(new) - 1]
    return firsts, first


def sort_digests(job: Job, shard: int) -> None:
    """A shard's different digests in order, each with its first document."""
    starts = job.starts()
    with ShardReader(job.folder, shard) as reader:
        digests = reader.marks()["digest"].astype(np.uint64)
    firsts, _ = first_rows(digests)
    records = np.empty(len(firsts), _DIGEST)
    records["high"], records["low"], records["doc"] = digests[firsts, 0], digests[firsts, 1], firsts + starts[shard]
    write(job.path("digests", shard), [records])


def match_tasks(job: Job) -> int:
    """Parts of the digests' range."""
    return parts(job, int(job.starts()[-1]), RECORD) if job.exact else 0


def match_digests(job: Job, part: int) -> None:
    """Of the shards' first documents those with a digest that an earlier shard has."""
    files = [Run(job.path("digests", shard), _DIGEST, "high") for shard in range(job.shards)]
    found = []
    for records, _ in pieces(files, *bounds(part, match_tasks(job)), job.room // RECORD):
        _, first = first_rows(np.stack((records["high"], records["low"]), axis=1))
        later = np.flatnonzero(first != np.arange(len(first)))
        same = np.empty(len(later), _SAME)
        same["doc"], same["of"] = records["doc"][later], records["doc"][first[later]]
        found.append(same)
    same = np.concatenate([np.empty(0, _SAME), *found])
    write(job.path("same", part), [same[np.argsort(same["doc"])]])


def equal_to(job: Job, shard: int, digests: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """For each document of a shard the one that it is an exact duplicate of; ``NONE`` if it stays (documents,)."""
    starts = job.starts()
    equal = np.full(len(digests), NONE, np.uint32)
    if job.exact:
        for part in range(match_tasks(job)):
            same = Run(job.path("same", part), _SAME, "doc").between(int(starts[shard]), int(starts[shard + 1]))
            equal[same["doc"] - np.uint32(starts[shard])] = same["of"]
        _, first = first_rows(digests)
        inner = np.flatnonzero(first != np.arange(len(first)))
        outer = equal[first[inner]]
        equal[inner] = np.where(outer == NONE, first[inner] + starts[shard], outer)
    return equal
