"""Near duplicates: buckets of documents that share a band key, clusters of buckets that share documents, and the visit of each cluster in order."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.exact import equal_to
from nabi.data.corpus.jobs import NONE, PIECE, Job, bounds, need, parts
from nabi.data.corpus.marks import ShardReader
from nabi.data.corpus.minhash import Hashes, MinHash, jaccard
from nabi.data.corpus.runs import Run, pieces, write
from nabi.files import whole

REMEMBERED, TRIES = 128, 64
RECORD = 96  # bytes of work for a record that is sorted
_KEY = np.dtype([("key", "<u8"), ("doc", "<u4")])
_DEALT = np.dtype([("key", "<u8"), ("doc", "<u4"), ("task", "<u4")])
NEAR_PAIR = np.dtype([("doc", "<u4"), ("of", "<u4"), ("jaccard", "<f4")])


def sort_keys(job: Job, shard: int) -> None:
    """The keys of a shard's documents in order, exact duplicates left out; and which those are."""
    starts = job.starts()
    with ShardReader(job.folder, shard) as reader:
        marks = reader.marks()
    equal = equal_to(job, shard, marks["digest"].astype(np.uint64))
    write(job.path("equal", shard), [equal])
    rows = np.flatnonzero((equal == NONE) & (marks["keys"][:, 0] != 0)) if job.near else np.empty(0, np.intp)
    keys = marks["keys"][rows].reshape(-1)
    order = np.argsort(keys, kind="stable")
    records = np.empty(len(keys), _KEY)
    records["key"], records["doc"] = keys[order], np.repeat(rows + starts[shard], marks["keys"].shape[1])[order]
    write(job.path("keys", shard), [records])


def bucket_tasks(job: Job) -> int:
    """Parts of the keys' range."""
    return parts(job, int(job.starts()[-1]) * job.near.bands, RECORD) if job.near else 0


def fill_buckets(job: Job, part: int) -> None:
    """The keys that two or more documents have, with their documents, in order."""
    files = [Run(job.path("keys", shard), _KEY, "key") for shard in range(job.shards)]

    def buckets() -> Iterator[NDArray[Any]]:
        for records, one_key in pieces(files, *bounds(part, bucket_tasks(job)), job.room // RECORD):
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


def find_clusters(job: Job, _: int) -> None:
    """Which documents hang together through shared keys, and which task has which of these clusters."""
    starts = job.starts()
    documents = int(starts[-1])
    parent, weight = np.arange(documents, dtype=np.uint32), np.zeros(documents, np.uint32)
    for part in range(bucket_tasks(job)):
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


def deal(job: Job, part: int) -> None:
    """A part's buckets by task, in sorted stretches of ``PIECE`` records."""
    task_of = np.fromfile(job.path("tasks", 0), np.uint32)

    def dealt() -> Iterator[NDArray[Any]]:
        for records in Run(job.path("buckets", part), _KEY, "key").blocks(PIECE):
            tasks = task_of[records["doc"]]
            order = np.argsort(tasks, kind="stable")
            block = np.empty(len(records), _DEALT)
            block["key"], block["doc"], block["task"] = records["key"][order], records["doc"][order], tasks[order]
            yield block

    write(job.path("dealt", part), dealt())


def visit_tasks(job: Job) -> int:
    """Into how many tasks the clusters were dealt."""
    return int(json.loads((job.folder / "clusters.json").read_text())["tasks"]) if job.near else 0


class Texts:
    """The shingles of documents by their numbers; those that were read lately are held, up to so many bytes."""

    def __init__(self, job: Job, hashing: MinHash, room: int) -> None:
        self.job, self.hashing, self.room, self.starts = job, hashing, room, job.starts()
        self.readers: OrderedDict[int, ShardReader] = OrderedDict()
        self.held: OrderedDict[int, Hashes] = OrderedDict()

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


def visit(job: Job, task: int) -> None:
    """Visit a task's documents in order: drop each that is too much like one that was kept, by a key that they share and by measurement."""
    assert job.near is not None
    found = []
    for part in range(bucket_tasks(job)):
        run = Run(job.path("dealt", part), _DEALT, "task")
        found += [run.between(task, task + 1, start, min(start + PIECE, run.count)) for start in range(0, run.count, PIECE)]
    records = np.concatenate([np.empty(0, _DEALT), *found])
    found.clear()
    records = records[np.argsort(records["doc"], kind="stable")]
    _, bucket, sizes = np.unique(records["key"], return_inverse=True, return_counts=True)
    begins = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.minimum(sizes, REMEMBERED))))
    kept = np.empty(int(begins[-1]), np.uint32)  # the kept documents of each bucket, one bucket after the other
    filled = begins[:-1].copy()
    full = np.zeros(len(sizes), bool)
    docs, rows = np.unique(records["doc"], return_index=True)
    rows = np.append(rows, len(records))
    texts = Texts(job, MinHash(job.near), job.room // 4)
    drops, dropped, compared, capped = np.empty(len(docs), NEAR_PAIR), 0, 0, 0
    for i in range(len(docs)):
        doc = int(docs[i])
        mine = bucket[rows[i] : rows[i + 1]]
        met = np.concatenate([kept[begins[b] : filled[b]] for b in mine.tolist()])
        of, similarity, tried = -1, 0.0, 0
        if len(met):
            own = texts.shingles(doc)
            others, shared = np.unique(met, return_counts=True)
            for other in others[np.argsort(-shared, kind="stable")][:TRIES].tolist():
                tried += 1
                similarity = jaccard(own, texts.shingles(other))
                if similarity >= job.near.threshold:
                    of = other
                    break
            compared += tried
            capped += of < 0 and (len(others) > TRIES or bool(full[mine].any()))
        if of >= 0:
            drops[dropped] = doc, of, similarity
            dropped += 1
            continue
        space = filled[mine] < begins[mine + 1]
        full[mine[~space]] = True
        kept[filled[mine[space]]] = doc
        filled[mine[space]] += 1
    texts.close()
    with whole(job.folder / f"visited-{task:05d}.json") as draft:
        draft.write_text(json.dumps({"documents": len(docs), "compared": compared, "capped": capped}))
    write(job.path("near", task), [drops[:dropped]])
