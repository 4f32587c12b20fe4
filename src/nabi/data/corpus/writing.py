"""The last stages: which row goes into which file of the result (``place``), and writing each file (``write``).

A row's place is the bytes of text before it in its split, in the order of the plan; file K holds those that begin in [K, K + 1) times the size of a shard. So a
file can be written by itself, by anyone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.counts import Tally, tally
from nabi.data.corpus.duplicates import dropped
from nabi.data.corpus.marks import docs_path
from nabi.data.corpus.packed import LineWriter
from nabi.data.corpus.work import Work
from nabi.files import whole

SPLITS = ("train", "dev")
FACTS = ("language", "license")


def rows(work: Work, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of a task's rows: their bytes, and their split (0 train, 1 dev, -1 left out as a duplicate)."""
    marked: NDArray[np.int64] = np.load(work.path("read", number, ".npy"))
    sides = marked & 1
    if work.recipe.exact or work.recipe.near:
        sides[dropped(work.job, number)["reason"] != 0] = -1
    return marked >> 1, sides


def sizes(work: Work, number: int) -> NDArray[np.int64]:
    """The bytes of text of a task's rows."""
    marked: NDArray[np.int64] = np.load(work.path("read", number, ".npy"))
    return marked >> 1


def place(work: Work, number: int) -> dict[str, Any]:
    """Where each task's rows begin in their split, and which tasks each file reads."""
    begins = np.zeros((work.plan.tasks, len(SPLITS)), np.int64)
    at = np.zeros(len(SPLITS), np.int64)
    shards: list[dict[int, list[int]]] = [{} for _ in SPLITS]
    for task in range(work.plan.tasks):
        begins[task] = at
        lengths, sides = rows(work, task)
        for side, reach in enumerate(shards):
            places = starts(lengths[sides == side], at[side]) // work.recipe.shard
            for shard in np.unique(places).tolist():
                reach.setdefault(shard, [task, task])[1] = task
            at[side] += int(lengths[sides == side].sum())
    with whole(work.path("place", 0, ".npy")) as draft, draft.open("wb") as file:
        np.save(file, begins)
    # a text longer than a shard leaves a number without a row: names are counted anew
    return {"files": [[side, place, *reach] for side, each in enumerate(shards) for place, reach in sorted(each.items())]}


def starts(lengths: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Where each begins, if they lie end to end from ``first`` on."""
    ends = np.cumsum(lengths)
    return ends - lengths + first


def name_of(files: list[list[int]], number: int) -> str:
    """``train-00000.jsonl.zst`` of a file's number."""
    side = files[number][0]
    first = next(i for i, file in enumerate(files) if file[0] == side)
    return f"{SPLITS[side]}-{number - first:05d}.jsonl.zst"


def write(work: Work, number: int) -> dict[str, Any]:
    """One file of the result."""
    files = work.facts("place", 0)["files"]
    side, which, first, last = files[number]
    begins = np.load(work.path("place", 0, ".npy"), mmap_mode="r")
    name, size = name_of(files, number), 0
    tables: dict[str, Tally] = {fact: {} for fact in (*FACTS, "extension")}
    sources: Tally = {}
    with whole(work.out / name) as draft, LineWriter(draft) as writer:
        for task in range(first, last + 1):
            lengths, sides = rows(work, task)
            chosen = sides == side
            places = np.full(len(lengths), -1, np.int64)
            places[chosen] = starts(lengths[chosen], int(begins[task, side])) // work.recipe.shard
            chosen = places == which
            if not chosen.any():
                continue
            source = str(work.task(task).source)
            for line, length in _picked(work, task, chosen, lengths):
                writer.write(line)
                size += length
                tally(sources, source, 1, length)
                count(tables, line, length)
    shard = {"name": name, "split": SPLITS[side], "documents": writer.lines, "bytes": size, "size": writer.packed, "sha256": writer.sha256}
    return {"shard": shard, "sources": sources, "tables": tables}


def _picked(work: Work, task: int, chosen: NDArray[np.bool_], lengths: NDArray[np.int64]) -> Iterator[tuple[bytes, int]]:
    left = int(chosen.sum())
    with docs_path(work.docs, task).open("rb") as file:
        for line, wanted, size in zip(file, chosen.tolist(), lengths.tolist(), strict=False):
            if wanted:
                yield line, size
                left -= 1
                if not left:
                    return


def count(tables: dict[str, Tally], line: bytes, size: int) -> None:
    """Count a row by its facts."""
    row = json.loads(line)
    for fact in FACTS:
        tally(tables[fact], str(row.get(fact, "")), 1, size)
    tally(tables["extension"], extension(row["path"]), 1, size)


def extension(path: str) -> str:
    """``.py`` of ``dump.zip!a/b.py``; empty if there is none, or if it is no name of a kind."""
    ending = PurePosixPath(path.rpartition("!")[2]).suffix.lower()
    return ending if len(ending) <= 10 and ending[1:].isalnum() else ""
