"""What a corpus is made of: the frozen ``Recipe`` of a build, from TOML, JSON or Python.

Unusual: some settings say only how the work is done (``workers``, ``executor``, ``memory``, ``slurm``); the bytes do not depend on them, so a build may be
resumed with others. All else is the corpus' identity.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nabi.config import from_dict, read_file, to_dict
from nabi.data.corpus.cleaning import Cleaning
from nabi.data.corpus.documents import Origin
from nabi.data.corpus.jobs import BASE, LEAST
from nabi.data.corpus.minhash import Near
from nabi.errors import OptionError

LEAST_MEMORY = BASE + LEAST  # of one worker, as the search for duplicates counts it
OURS = 64 << 20  # of the process that tells the workers what to do
HOW = ("workers", "executor", "memory", "slurm")  # settings that leave the bytes as they are
LEAST_SHARD = 1 << 10


@dataclass(frozen=True)
class Slurm:
    """What a Slurm cluster wants to know of a job.

    Attributes:
        partition: to run in.
        time: limit of one task.
        setup: a line of shell that makes ``nabi`` available on a node, such as ``source /shared/env/bin/activate``.
        options: further ``#SBATCH`` options, such as ``{account = "mine"}``.
        poll: seconds between two looks at what is done.
    """

    partition: str = ""
    time: str = "24:00:00"
    setup: str = ""
    options: dict[str, str] = field(default_factory=dict)
    poll: float = 30.0


@dataclass(frozen=True)
class Recipe:
    """All that a build depends on.

    Attributes:
        sources: what to read, in this order; of equal documents the first is kept.
        cleaning: what changes or drops a document by itself.
        exact: leave out documents that are equal to an earlier one but for white space.
        near: leave out those that are nearly equal to an earlier one, too; None keeps them.
        dev: share of documents that go into dev instead of train, by the hash of their text; 0 is no dev.
        memory: bytes for the whole build, all workers together; on a cluster for one worker.
        workers: processes; 0 is one a core.
        executor: who runs the tasks: this machine, Ray or Slurm.
        shard: bytes of text in one file of the result.
        task: bytes of input that one worker takes at a time; a larger unit of a source is one task.
        slurm: for ``executor = "slurm"``.
    """

    sources: tuple[Origin, ...]
    cleaning: Cleaning = field(default_factory=Cleaning)
    exact: bool = True
    near: Near | None = None
    dev: float = 0.0
    memory: int = 1_000_000_000
    workers: int = 0
    executor: Literal["local", "ray", "slurm"] = "local"
    shard: int = 256 << 20
    task: int = 48 << 20
    slurm: Slurm = field(default_factory=Slurm)

    def __post_init__(self) -> None:
        if not self.sources:
            raise OptionError("the recipe has no sources", fix='give at least one: [[sources]] with path = "FOLDER"')
        if not 0 <= self.dev < 1:
            raise OptionError("the dev share is out of range", value=self.dev, expected="at least 0 and below 1, such as 0.01")
        if self.workers < 0:
            raise OptionError("the number of workers is out of range", value=self.workers, expected="1 or more, or 0 for one a core")
        for name in ("shard", "task"):
            if getattr(self, name) < LEAST_SHARD:
                raise OptionError(f"'{name}' is too small", value=getattr(self, name), expected=f"{LEAST_SHARD} bytes or more")
        if self.executor == "slurm" and not self.slurm.partition:
            raise OptionError("Slurm needs a partition", fix='add [slurm] with partition = "NAME" to the recipe')
        processes = self.processes if self.executor == "local" else 1
        if self.memory < (needed := processes * LEAST_MEMORY + OURS):
            least = f"{needed:,} or more ({LEAST_MEMORY >> 20} MiB a worker)"
            raise OptionError(f"the memory is too small for {processes} workers", value=f"{self.memory:,} bytes", expected=least, fix="take fewer or give more")

    @property
    def processes(self) -> int:
        """How many workers there are."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def share(self) -> int:
        """Bytes of memory that one worker may take."""
        return (self.memory - OURS) // self.processes if self.executor == "local" else self.memory

    def identity(self) -> dict[str, Any]:
        """The settings that the bytes depend on."""
        return {name: value for name, value in to_dict(self).items() if name not in HOW}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML or JSON file; paths in it are as seen from the current folder.

    Raises:
        OptionError: no such file, not TOML or JSON, unknown keys, impossible values.
    """
    return from_dict(Recipe, read_file(path), f"the recipe {path}")


def located(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths, for workers that stand elsewhere."""
    sources = [origin if origin.kind == "github" else dataclasses.replace(origin, path=_absolute(origin.path)) for origin in recipe.sources]
    cleaning = recipe.cleaning
    if cleaning.unsafe:
        cleaning = dataclasses.replace(cleaning, unsafe=dataclasses.replace(cleaning.unsafe, words=_absolute(cleaning.unsafe.words)))
    if cleaning.contamination:
        tests = tuple(_absolute(path) for path in cleaning.contamination.files)
        cleaning = dataclasses.replace(cleaning, contamination=dataclasses.replace(cleaning.contamination, files=tests))
    return dataclasses.replace(recipe, sources=tuple(sources), cleaning=cleaning)


def files_of(recipe: Recipe) -> list[Path]:
    """What the steps read beside the sources: the result depends on these files, too."""
    unsafe, contamination = recipe.cleaning.unsafe, recipe.cleaning.contamination
    return [Path(path) for path in (*([unsafe.words] if unsafe else []), *(contamination.files if contamination else ()))]


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
