"""The first stage: read a task's documents, clean them, and keep what later stages need of each.

A task leaves a shard of rows with their marks (``marks``), ``read/N.npy`` (for each row its bytes of text, times two, plus one if it belongs to dev) and its
counts.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from nabi.data.corpus.counts import StepCount
from nabi.data.corpus.documents import Document, Step, Trouble
from nabi.data.corpus.marks import ShardWriter
from nabi.data.corpus.packed import row_of
from nabi.data.corpus.sources import open_origin
from nabi.data.corpus.work import Work
from nabi.files import whole

NAME = "read"


def do(work: Work, number: int) -> dict[str, Any]:
    """One task of the plan."""
    recipe, task = work.recipe, work.task(number)
    origin = recipe.sources[task.source]
    source, trouble = open_origin(origin), Trouble()
    cleaning = Cleaner(work.steps)
    read = [0, 0]
    sizes: list[int] = []
    with ShardWriter(work.docs, number, recipe.near) as writer:
        for unit in task.units:
            for document in source.read(unit, trouble):
                size = measured(document.text)
                if size is None:
                    trouble.add("not UTF-8", document.path, "half of a surrogate pair")
                    continue
                read[0] += 1
                read[1] += size
                if origin.license:
                    document.facts.setdefault("license", origin.license)
                kept = cleaning(document, size)
                if kept is None:
                    continue
                writer.add(row_of(document), document.text)
                sizes.append(2 * kept + is_dev(document.text, recipe.dev))
    with whole(work.path(NAME, number, ".npy")) as draft, draft.open("wb") as file:
        np.save(file, np.array(sizes, np.int64))
    return {
        "source": task.source,
        "read": read,
        "kept": [len(sizes), sum(size >> 1 for size in sizes)],
        "unreadable": {"counts": dict(trouble.counts), "examples": trouble.examples},
        "steps": [count.facts() for count in cleaning.counts],
    }


class Cleaner:
    """Puts a document through the steps and counts what each did."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.counts = [StepCount(step.name) for step in steps]

    def __call__(self, document: Document, size: int) -> int | None:
        """The bytes of its text afterwards; None if it was dropped."""
        for step, count in zip(self.steps, self.counts, strict=True):
            before = document.text
            count.documents[0] += 1
            count.bytes[0] += size
            document.changed.clear()
            reason = step(document)
            for name, times in document.changed.items():
                count.changed[name] = count.changed.get(name, 0) + times
            if reason is not None:
                count.drop(reason, document.path, size)
                return None
            if document.text is not before:
                size = len(document.text.encode())
            count.documents[1] += 1
            count.bytes[1] += size
        return size


def measured(text: str) -> int | None:
    """Its bytes as UTF-8, or None if it can't be UTF-8."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def is_dev(text: str, share: float) -> bool:
    """Whether a text belongs to dev: by its hash alone, so equal texts are never on both sides."""
    if not share:
        return False
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"nabi dev").digest(), "big") < share * 2**64
