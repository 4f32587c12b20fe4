"""One search for duplicates: where it runs, in which stages, and what memory it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.marks import shard_head
from nabi.data.corpus.minhash import Near
from nabi.errors import OptionError
from nabi.files import whole

BASE = 128 << 20  # bytes of a process before any array that grows: the interpreter, numpy, a block, one document
LEAST = 32 << 20  # bytes for arrays that any job must have
PIECE = 1 << 18  # records of a sorted stretch of a dealt file, and of a block in passing over long arrays
NONE = 0xFFFFFFFF


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
        """The number of each shard's first document, and of all documents at the end (shards + 1,); asked of the shards once, for tasks are as many as they."""
        bands = self.near.bands if self.near else 0
        kept = self.path("starts", bands)
        if kept.exists():
            return np.fromfile(kept, np.int64)
        heads = [shard_head(self.folder, shard) for shard in range(self.shards)]
        for shard, head in enumerate(heads):
            if head[1] != bands:
                raise OptionError(f"band keys of shard {shard}", value=head[1], expected=f"{bands}, as the job has it", fix="build it anew")
        starts = np.cumsum([0, *(head[0] for head in heads)], dtype=np.int64)
        with whole(kept) as draft:
            starts.tofile(draft)
        return starts


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
    least = BASE + max(8 * documents, (64 + 72 * bands) * longest, 256 * cluster, LEAST)
    if job.memory < least:
        seen = f"{documents} documents, {longest} in the longest shard, {cluster} keys in the largest cluster"
        raise OptionError("memory for finding duplicates, in bytes", value=job.memory, expected=f"at least {least} for {seen}", fix="give more")


def parts(job: Job, records: int, size: int) -> int:
    """In how many tasks so many records, of so many bytes in work, are sorted."""
    return max(1, -(-records * size // job.room), min(64, records >> 20))


def bounds(part: int, count: int) -> tuple[int, int]:
    """Part ``part`` of ``count`` of all 64-bit numbers: from, to."""
    return (part << 64) // count, ((part + 1) << 64) // count
