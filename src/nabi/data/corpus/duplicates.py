"""Duplicates among any number of documents, by many processes with little memory each.

Exact: of documents with an equal digest (text in NFC without white space) the first stays. Near: the documents that are left are visited in order, and one is
dropped if an earlier document that was *kept* shares a band key with it (``minhash``) and the Jaccard similarity of their shingles, measured, reaches the
threshold. So nothing is merged through a chain of others, and what a document is dropped for is there to be seen.

Unusual: the visit in order runs in parallel. Documents that share a key hang together in clusters (a forest in numpy arrays: union by the lowest number); what
happens in one cluster touches no other, so clusters are dealt to tasks. Everything else is sorting files: each task reads the sorted files of the tasks before
and writes its own, whole or not at all, so it may be killed and repeated. The result depends on the documents and ``near`` alone, not on memory or tasks.

Many thousand files of one make share their keys, so two caps keep time linear: a key remembers its first ``REMEMBERED`` kept documents, and a document is
measured against ``TRIES`` at most, those with the most shared keys first. A document that is kept although candidates were left out is counted as ``capped``.

Memory a task needs, in bytes: ``BASE`` (the interpreter, numpy, a block) + the largest of 8 x documents; (64 + 72 x bands) x documents of the longest shard;
256 x (documents x keys shared) of the largest cluster. So 20 million documents fit 512 MB.
"""

from __future__ import annotations

import heapq
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus import exact, near
from nabi.data.corpus.jobs import NONE, Job, Stage, need
from nabi.data.corpus.minhash import mixed
from nabi.data.corpus.runs import Run
from nabi.files import whole

KEPT, EXACT, NEAR = 0, 1, 2
DROPPED = np.dtype([("reason", "u1"), ("shard", "<u4"), ("row", "<u4"), ("jaccard", "<f4")])  # shard and row of the document that it equals


def dropped_path(job: Job, shard: int) -> Path:
    """A shard's result: an array of ``DROPPED``, one for each document."""
    return job.folder / f"dropped-{shard:05d}.npy"


def _decide(job: Job, shard: int) -> None:
    starts = job.starts()
    low, high = int(starts[shard]), int(starts[shard + 1])
    equal = np.fromfile(job.path("equal", shard), np.uint32)
    result = np.zeros(high - low, DROPPED)
    of = equal.astype(np.int64)
    result["reason"][equal != NONE] = EXACT
    result["jaccard"][equal != NONE] = 1
    for task in range(near.visit_tasks(job)):
        pairs = Run(job.path("near", task), near.NEAR_PAIR, "doc").between(low, high)
        rows = pairs["doc"].astype(np.int64) - low
        of[rows], result["reason"][rows], result["jaccard"][rows] = pairs["of"], NEAR, pairs["jaccard"]
    gone = np.flatnonzero(result["reason"])
    shards = np.searchsorted(starts, of[gone], "right") - 1
    result["shard"][gone], result["row"][gone] = shards, of[gone] - starts[shards]
    with whole(dropped_path(job, shard)) as draft, draft.open("wb") as file:
        np.save(file, result)


def dropped(job: Job, shard: int) -> NDArray[Any]:
    """What became of each document of a shard (documents,), as ``DROPPED``: KEPT, EXACT or NEAR, and which document it equals."""
    result: NDArray[Any] = np.load(dropped_path(job, shard), allow_pickle=False)
    return result


def summary(job: Job, sample: int = 20) -> dict[str, Any]:
    """Counts for the manifest, and a sample of pairs of near duplicates, the same on every run.

    Args:
        sample: pairs, drawn evenly from all.
    """
    counts = dict.fromkeys(("documents", "exact", "near", "compared", "capped"), 0)
    pairs: list[tuple[int, int, int, int, int, float]] = []
    for shard in range(job.shards):
        result = dropped(job, shard)
        counts["documents"] += len(result)
        counts["exact"] += int(np.count_nonzero(result["reason"] == EXACT))
        rows = np.flatnonzero(result["reason"] == NEAR)
        counts["near"] += len(rows)
        lots = mixed(rows.astype(np.uint64) + (np.uint64(shard + 1) << np.uint64(32)))
        pairs += [(lot, shard, row, *result[row].item()[1:]) for lot, row in sorted(zip(lots.tolist(), rows.tolist(), strict=True))[:sample]]
        pairs = heapq.nsmallest(sample, pairs)
    for task in range(near.visit_tasks(job)):
        visited = json.loads((job.folder / f"visited-{task:05d}.json").read_text())
        counts["compared"] += visited["compared"]
        counts["capped"] += visited["capped"]
    near_pairs = [{"document": [s, r], "of": [of_s, of_r], "jaccard": round(j, 4)} for _, s, r, of_s, of_r, j in sorted(pairs, key=lambda p: p[1:])]
    return {**counts, "near_pairs": near_pairs}


def _checked(job: Job) -> int:
    need(job, job.starts())
    return job.shards if job.exact else 0


# what may be deleted in the job's folder once the summary is taken: all but the documents, the marks and the results
_NAMES = ("starts", "digests", "same", "equal", "keys", "buckets", "tasks", "dealt", "near")
LEFTOVERS = (*(f"{name}-*.bin" for name in _NAMES), "visited-*.json", "clusters.json")

STAGES: tuple[Stage, ...] = (
    Stage("digests", _checked, exact.sort_digests, lambda job, i: job.path("digests", i)),
    Stage("exact duplicates", exact.match_tasks, exact.match_digests, lambda job, i: job.path("same", i)),
    Stage("keys", lambda job: job.shards, near.sort_keys, lambda job, i: job.path("keys", i)),
    Stage("buckets", near.bucket_tasks, near.fill_buckets, lambda job, i: job.path("buckets", i)),
    Stage("clusters", lambda job: int(job.near is not None), near.find_clusters, lambda job, _: job.folder / "clusters.json"),
    Stage("deal", near.bucket_tasks, near.deal, lambda job, i: job.path("dealt", i)),
    Stage("near duplicates", near.visit_tasks, near.visit, lambda job, i: job.path("near", i)),
    Stage("decide", lambda job: job.shards, _decide, dropped_path),
)


def find(job: Job) -> None:
    """Run all stages here and now, one task after the other."""
    for stage in STAGES:
        for task in range(stage.tasks(job)):
            stage.run(job, task)
