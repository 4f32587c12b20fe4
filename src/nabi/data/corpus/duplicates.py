"""Duplicates among any number of documents, by many processes with little memory each.

Exact: of documents with an equal digest (text in NFC without white space) the first stays. Near: the documents that are left are visited in order, and one is
dropped if an earlier document that was *kept* shares a band key with it (``minhash``) and the Jaccard similarity of their shingles, measured, reaches the
threshold. So nothing is merged through a chain of others, and what a document is dropped for is there to be seen.

Unusual: the visit in order runs in parallel. Documents that share a key hang together in clusters (a forest in numpy arrays: union by the lowest number); what
happens in one cluster touches no other, so clusters are dealt to tasks. Everything else is sorting files: each task reads the sorted files of the tasks before
and writes its own, whole or not at all, so it may be killed and repeated. The result depends on the documents and ``near`` alone, not on memory or tasks.

Many thousand files of one make share their keys, so two caps keep time linear: a key remembers its first ``REMEMBERED`` kept documents, and a document is
measured against ``TRIES`` at most, those with the most shared keys first. A document that is kept although candidates were left out is counted as ``capped``.

Memory a task needs, in bytes: ``BASE`` (the interpreter, numpy, a block) + the largest of 8 x documents; (64 + 48 x bands) x documents of the longest shard;
256 x (documents x keys shared) of the largest cluster. So 20 million documents fit 512 MB.
"""

from __future__ import annotations

import heapq
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.marks import ShardReader, shard_head
from nabi.data.corpus.minhash import Hashes, MinHash, Near, jaccard, mixed
from nabi.data.corpus.runs import Run, pieces, write
from nabi.errors import OptionError
from nabi.files import whole

KEPT, EXACT, NEAR = 0, 1, 2
DROPPED = np.dtype([("reason", "u1"), ("shard", "<u4"), ("row", "<u4"), ("jaccard", "<f4")])  # shard and row of the document that it equals
REMEMBERED, TRIES = 128, 64
BASE = 128 << 20
PIECE = 1 << 18  # records of a sorted stretch of a dealt file, and of a block in passing over long arrays
NONE = 0xFFFFFFFF
_DIGEST = np.dtype([("high", "<u8"), ("low", "<u8"), ("doc", "<u4")])
_SAME = np.dtype([("doc", "<u4"), ("of", "<u4")])
_KEY = np.dtype([("key", "<u8"), ("doc", "<u4")])
_DEALT = np.dtype([("key", "<u8"), ("doc", "<u4"), ("task", "<u4")])
_NEAR = np.dtype([("doc", "<u4"), ("of", "<u4"), ("jaccard", "<f4")])


@dataclass(frozen=True)
class Job:
    """What is looked for, where; the same from the first stage to the last.

    Attributes:
        folder: with the shards 0 to ``shards`` - 1, as ``ShardWriter`` leaves them; everything is written there.
        shards: how many.
        near: as the shards were marked with; no near duplicates if None.
        memory: bytes that one process may take.
        exact: whether exact duplicates are looked for.
    """

    folder: Path
    shards: int
    near: Near | None
    memory: int = 1 << 30
    exact: bool = True

    def path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:05d}.bin"

    @property
    def room(self) -> int:
        """Bytes for arrays."""
        return self.memory - BASE

    def starts(self) -> NDArray[np.int64]:
        """The number of each shard's first document, and of all documents at the end (shards + 1,)."""
        heads = [shard_head(self.folder, shard) for shard in range(self.shards)]
        bands = self.near.bands if self.near else 0
        for shard, head in enumerate(heads):
            if head[1] != bands:
                raise OptionError(f"band keys of shard {shard}", value=head[1], expected=f"{bands}, as the job has it", fix="build it anew")
        return np.cumsum([0, *(head[0] for head in heads)])


@dataclass(frozen=True)
class Stage:
    """One step of the search; the tasks of a stage may run at the same time, in any order, once all tasks of the stage before are done.

    Attributes:
        name: for progress.
        tasks: how many there are; may read what the stage before left.
        run: does one of them.
        output: the file that is there once a task is done.
    """

    name: str
    tasks: Callable[[Job], int]
    run: Callable[[Job, int], None]
    output: Callable[[Job, int], Path]


def need(job: Job, starts: NDArray[np.int64], cluster: int = 0) -> None:
    """Refuse a job that its memory can't hold.

    Args:
        cluster: records of the largest cluster.

    Raises:
        OptionError: too little memory, or more documents than can be numbered.
    """
    documents, longest, bands = int(starts[-1]), int(np.diff(starts).max(initial=0)), job.near.bands if job.near else 0
    if documents >= NONE:
        raise OptionError("documents in one search for duplicates", value=documents, expected=f"below {NONE}", fix="build it in parts")
    least = BASE + max(8 * documents, (64 + 48 * bands) * longest, 256 * cluster, 32 << 20)
    if job.memory < least:
        seen = f"{documents} documents, {longest} in the longest shard, {cluster} keys in the largest cluster"
        raise OptionError("memory for finding duplicates, in bytes", value=job.memory, expected=f"at least {least} for {seen}", fix="give more")


def parts(job: Job, records: int, size: int) -> int:
    """In how many tasks so many records, of so many bytes in work, are sorted."""
    return max(1, -(-records * size // job.room), min(64, records >> 20))


def bounds(part: int, count: int) -> tuple[int, int]:
    """Part ``part`` of ``count`` of all 64-bit numbers: from, to."""
    return (part << 64) // count, ((part + 1) << 64) // count


# exact: digests of each shard in order, then equal ones of all shards side by side


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


def _shards_if_exact(job: Job) -> int:
    need(job, job.starts())
    return job.shards if job.exact else 0


def _sort_digests(job: Job, shard: int) -> None:
    starts = job.starts()
    with ShardReader(job.folder, shard) as reader:
        digests = reader.marks()["digest"].astype(np.uint64)
    firsts, _ = first_rows(digests)
    records = np.empty(len(firsts), _DIGEST)
    records["high"], records["low"], records["doc"] = digests[firsts, 0], digests[firsts, 1], firsts + starts[shard]
    write(job.path("digests", shard), [records])


def _exact_parts(job: Job) -> int:
    return parts(job, int(job.starts()[-1]), 96) if job.exact else 0


def _match_digests(job: Job, part: int) -> None:
    files = [Run(job.path("digests", shard), _DIGEST, "high") for shard in range(job.shards)]
    found = []
    for records, _ in pieces(files, *bounds(part, _exact_parts(job)), job.room // 96):
        _, first = first_rows(np.stack((records["high"], records["low"]), axis=1))
        later = np.flatnonzero(first != np.arange(len(first)))
        same = np.empty(len(later), _SAME)
        same["doc"], same["of"] = records["doc"][later], records["doc"][first[later]]
        found.append(same)
    same = np.concatenate([np.empty(0, _SAME), *found])
    write(job.path("same", part), [same[np.argsort(same["doc"])]])


# near: keys of each shard in order, buckets of equal keys, clusters, and the visit


def _sort_keys(job: Job, shard: int) -> None:
    starts = job.starts()
    with ShardReader(job.folder, shard) as reader:
        marks = reader.marks()
    equal = np.full(len(marks), NONE, np.uint32)  # for each document the one that it is an exact duplicate of
    if job.exact:
        for part in range(_exact_parts(job)):
            same = Run(job.path("same", part), _SAME, "doc").between(int(starts[shard]), int(starts[shard + 1]))
            equal[same["doc"] - np.uint32(starts[shard])] = same["of"]
        _, first = first_rows(marks["digest"].astype(np.uint64))
        inner = np.flatnonzero(first != np.arange(len(first)))
        outer = equal[first[inner]]
        equal[inner] = np.where(outer == NONE, first[inner] + starts[shard], outer)
    write(job.path("equal", shard), [equal])
    rows = np.flatnonzero((equal == NONE) & (marks["keys"][:, 0] != 0)) if job.near else np.empty(0, np.intp)
    keys = marks["keys"][rows].reshape(-1)
    records = np.empty(len(keys), _KEY)
    order = np.argsort(keys, kind="stable")
    records["key"], records["doc"] = keys[order], np.repeat(rows + starts[shard], job.near.bands if job.near else 0)[order]
    write(job.path("keys", shard), [records])


def _near_parts(job: Job) -> int:
    return parts(job, int(job.starts()[-1]) * job.near.bands, 64) if job.near else 0


def _fill_buckets(job: Job, part: int) -> None:
    files = [Run(job.path("keys", shard), _KEY, "key") for shard in range(job.shards)]

    def buckets() -> Iterator[NDArray[Any]]:
        for records, one_key in pieces(files, *bounds(part, _near_parts(job)), job.room // 64):
            if one_key:
                yield records
                continue
            ordered = records[np.argsort(records["key"], kind="stable")]
            equal = ordered["key"][1:] == ordered["key"][:-1]
            shared = np.zeros(len(ordered), bool)
            shared[1:] |= equal
            shared[:-1] |= equal
            yield ordered[shared]

    write(job.path("buckets", part), buckets())


def unite(parent: NDArray[np.uint32], a: NDArray[np.uint32], b: NDArray[np.uint32]) -> None:
    """Hang the trees of a[i] and b[i] together, the lower root above; in place."""
    while len(a):
        for side in (a, b):
            while True:
                above = parent[side]
                if np.array_equal(above, side):
                    break
                side[:] = above
        apart = a != b
        low, high = np.minimum(a[apart], b[apart]), np.maximum(a[apart], b[apart])
        parent[high] = low  # of several for one root the last is taken; the rest comes round again
        a, b = low, high


def _find_clusters(job: Job, _: int) -> None:
    starts = job.starts()
    documents = int(starts[-1])
    parent, weight = np.arange(documents, dtype=np.uint32), np.zeros(documents, np.uint32)
    for part in range(_near_parts(job)):
        key, first = 0, np.uint32(0)  # of the bucket that the last block ended in; no key is 0
        for records in Run(job.path("buckets", part), _KEY, "key").blocks(PIECE):
            keys, docs = records["key"], records["doc"]
            new = np.ones(len(keys), bool)
            new[1:] = keys[1:] != keys[:-1]
            firsts = docs[new]
            if int(keys[0]) == key:
                firsts[0] = first
            unite(parent, firsts[np.cumsum(new) - 1], docs.copy())
            np.add.at(weight, docs, np.uint32(1))
            key, first = int(keys[-1]), firsts[-1]

    def is_root(start: int) -> NDArray[np.bool_]:
        block = parent[start : start + PIECE]
        root: NDArray[np.bool_] = block == np.arange(start, start + len(block), dtype=np.uint32)
        return root

    largest = total = 0
    for start in range(0, documents, PIECE):
        block = parent[start : start + PIECE]
        while not np.array_equal(above := parent[block], block):
            block[:] = above
        below = np.flatnonzero(~is_root(start)) + start
        np.add.at(weight, parent[below], weight[below])
    for start in range(0, documents, PIECE):
        sizes = weight[start : start + PIECE][is_root(start)]
        largest, total = max(largest, int(sizes.max(initial=0))), total + int(sizes.sum(dtype=np.int64))
    need(job, starts, largest)
    share = max(1, min(job.room // 512, max(1 << 16, total >> 8)))
    dealt = 0
    for start in range(0, documents, PIECE):  # from here on a root's weight is its cluster's task
        block, root = weight[start : start + PIECE], is_root(start)
        sizes = block[root].astype(np.int64)
        before = dealt + np.cumsum(sizes) - sizes
        dealt += int(sizes.sum())
        block[root] = np.where(sizes > 0, before // share, NONE)
    write(job.path("tasks", 0), (weight[parent[start : start + PIECE]] for start in range(0, documents, PIECE)))
    with whole(job.folder / "clusters.json") as draft:
        draft.write_text(json.dumps({"tasks": -(-total // share), "records": total, "largest": largest}))


def _deal(job: Job, part: int) -> None:
    task_of = np.fromfile(job.path("tasks", 0), np.uint32)

    def dealt() -> Iterator[NDArray[Any]]:
        for records in Run(job.path("buckets", part), _KEY, "key").blocks(PIECE):
            tasks = task_of[records["doc"]]
            order = np.argsort(tasks, kind="stable")
            block = np.empty(len(records), _DEALT)
            block["key"], block["doc"], block["task"] = records["key"][order], records["doc"][order], tasks[order]
            yield block

    write(job.path("dealt", part), dealt())


def _near_tasks(job: Job) -> int:
    return int(json.loads((job.folder / "clusters.json").read_text())["tasks"]) if job.near else 0


class Texts:
    """The shingles of documents by their numbers; those that were read lately are held, up to so many bytes."""

    def __init__(self, job: Job, hashing: MinHash, room: int) -> None:
        self.job, self.hashing, self.room, self.starts = job, hashing, room, job.starts()
        self.readers: OrderedDict[int, ShardReader] = OrderedDict()
        self.held: OrderedDict[int, Hashes] = OrderedDict()
        self.stack = ExitStack()

    def shingles(self, doc: int) -> Hashes:
        if doc in self.held:
            self.held.move_to_end(doc)
            return self.held[doc]
        shard = int(np.searchsorted(self.starts, doc, "right")) - 1
        if shard not in self.readers:
            self.readers[shard] = ShardReader(self.job.folder, shard)
            if len(self.readers) > 64:
                self.readers.popitem(last=False)[1].__exit__()
        found = self.hashing.shingles(self.readers[shard].text(doc - int(self.starts[shard])))
        self.held[doc] = found
        self.room -= found.nbytes + 200
        while self.room < 0 and len(self.held) > 1:
            self.room += self.held.popitem(last=False)[1].nbytes + 200
        return found

    def close(self) -> None:
        for reader in self.readers.values():
            reader.__exit__()


def _visit(job: Job, task: int) -> None:
    assert job.near is not None
    found = []
    for part in range(_near_parts(job)):
        run = Run(job.path("dealt", part), _DEALT, "task")
        found += [run.between(task, task + 1, start, min(start + PIECE, run.count)) for start in range(0, run.count, PIECE)]
    records = np.concatenate([np.empty(0, _DEALT), *found])
    records = records[np.argsort(records["doc"], kind="stable")]
    _, bucket, sizes = np.unique(records["key"], return_inverse=True, return_counts=True)
    begins = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.minimum(sizes, REMEMBERED))))
    kept = np.empty(int(begins[-1]), np.uint32)  # the kept documents of each bucket, one bucket after the other
    filled = begins[:-1].copy()
    full = np.zeros(len(sizes), bool)
    docs, rows = np.unique(records["doc"], return_index=True)
    rows = np.append(rows, len(records))
    texts = Texts(job, MinHash(job.near), job.room // 4)
    drops, compared, capped = [], 0, 0
    for i, doc in enumerate(docs.tolist()):
        mine = bucket[rows[i] : rows[i + 1]]
        met = np.concatenate([kept[begins[b] : filled[b]] for b in mine.tolist()])
        of, similarity, tried = -1, 0.0, 0
        if len(met):
            others, shared = np.unique(met, return_counts=True)
            for other in others[np.argsort(-shared, kind="stable")][:TRIES].tolist():
                tried += 1
                similarity = jaccard(texts.shingles(doc), texts.shingles(other))
                if similarity >= job.near.threshold:
                    of = other
                    break
            compared += tried
            capped += of < 0 and (len(others) > TRIES or bool(full[mine].any()))
        if of >= 0:
            drops.append((doc, of, similarity))
            continue
        space = filled[mine] < begins[mine + 1]
        full[mine[~space]] = True
        kept[filled[mine[space]]] = doc
        filled[mine[space]] += 1
    texts.close()
    with whole(job.folder / f"visited-{task:05d}.json") as draft:
        draft.write_text(json.dumps({"documents": len(docs), "compared": compared, "capped": capped}))
    write(job.path("near", task), [np.array(drops, _NEAR)])


# the end: what became of each document


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
    for task in range(_near_tasks(job)):
        near = Run(job.path("near", task), _NEAR, "doc").between(low, high)
        rows = near["doc"].astype(np.int64) - low
        of[rows], result["reason"][rows], result["jaccard"][rows] = near["of"], NEAR, near["jaccard"]
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
    for task in range(_near_tasks(job)):
        visited = json.loads((job.folder / f"visited-{task:05d}.json").read_text())
        counts["compared"] += visited["compared"]
        counts["capped"] += visited["capped"]
    near_pairs = [{"document": [s, r], "of": [of_s, of_r], "jaccard": round(j, 4)} for _, s, r, of_s, of_r, j in sorted(pairs, key=lambda p: p[1:])]
    return {**counts, "near_pairs": near_pairs}


# what may be deleted in the job's folder once the summary is taken: all but the documents, the marks and the results
LEFTOVERS = (*(f"{name}-*.bin" for name in ("digests", "same", "equal", "keys", "buckets", "tasks", "dealt", "near")), "visited-*.json", "clusters.json")

STAGES: tuple[Stage, ...] = (
    Stage("digests", _shards_if_exact, _sort_digests, lambda job, i: job.path("digests", i)),
    Stage("exact duplicates", _exact_parts, _match_digests, lambda job, i: job.path("same", i)),
    Stage("keys", lambda job: job.shards, _sort_keys, lambda job, i: job.path("keys", i)),
    Stage("buckets", _near_parts, _fill_buckets, lambda job, i: job.path("buckets", i)),
    Stage("clusters", lambda job: int(job.near is not None), _find_clusters, lambda job, _: job.folder / "clusters.json"),
    Stage("deal", _near_parts, _deal, lambda job, i: job.path("dealt", i)),
    Stage("near duplicates", _near_tasks, _visit, lambda job, i: job.path("near", i)),
    Stage("decide", lambda job: job.shards, _decide, dropped_path),
)


def find(job: Job) -> None:
    """Run all stages here and now, one task after the other."""
    for stage in STAGES:
        for task in range(stage.tasks(job)):
            stage.run(job, task)
