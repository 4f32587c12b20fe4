"""Writing one checkpoint: by one process or several, in the foreground or behind training.

The order is what makes it safe. A draft folder is filled, the manifest last; each file is put onto the disk, then the draft's names; then the draft takes the
checkpoint's name, and the folder around it is put onto the disk. Only then is the checkpoint before the last one deleted. So at each moment, whatever is killed
or loses power, a whole checkpoint is there. Unusual: tensors are not cut. Each process writes whole tensors (``weights.dealt``), so the shards are ordinary
files of the hub's format and any number of processes reads them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nabi.checkpoint import Contents
from nabi.errors import StorageError
from nabi.ranks import Ranks
from nabi.training.manifest import Held, made
from nabi.weights import atomic_folder, shard_name, write_tensors

STEM, FACTS = "training", "training.json"
SLACK = 4 << 20  # bytes of a checkpoint besides its tensors: tokenizer, configuration, the file system's own


@dataclass(frozen=True)
class Save:
    """One checkpoint to write.

    Attributes:
        contents: the model; on every process all of it.
        optimizer: this process's share of the optimizer's tensors.
        facts: the text of training.json.
        step: updates done.
        best: the folder that becomes a model folder with these weights too, written before the checkpoint, so that the facts never promise more than is there.
        aside: where the checkpoint that is replaced goes; it is deleted if None.
        keep: a folder that the checkpoint is kept under for good.
    """

    contents: Contents
    optimizer: Mapping[str, Tensor]
    facts: str
    step: int
    best: Path | None
    aside: Path | None
    keep: Path | None

    def write(self, path: Path, ranks: Ranks) -> None:
        """Write it to ``path``.

        Raises:
            StorageError: on every process, if it could not be written on one; names path and bytes. What was there is still there.
        """
        weights, states = sum(self.contents.sizes.values()), ranks.all(sum(x.nbytes for x in self.optimizer.values()))
        needed = weights * (1 if self.best is None else 2) + sum(states) + SLACK
        rank, world = ranks.rank, ranks.world
        with contextlib.ExitStack() as drafts:

            def begin() -> str:
                if rank > 0:
                    return ""
                with _explained(path, needed):
                    if (free := shutil.disk_usage(path.parent).free) < needed:
                        raise OSError(f"not begun, only {free:,} bytes are free")
                    if self.best is not None:
                        self._write_best(self.best)
                    return str(drafts.enter_context(atomic_folder(path, keep=self.aside)))

            def share() -> list[Any]:
                with _explained(path, needed):
                    names = [*self.contents.write_weights(draft, rank, world), shard_name(STEM, rank, world)]
                    write_tensors(draft, self.optimizer, file=names[-1])
                    return [(held.name, held.bytes, held.sha256) for held in (Held.of(draft / name) for name in names)]

            def commit() -> None:
                if rank == 0:
                    with _explained(path, needed):
                        self._finish(draft, world, [Held(*held) for part in shares for held in part])
                        drafts.close()
                        if self.keep is not None:
                            _link(path, self.keep)

            draft = Path(ranks.together(begin)[0])
            shares = ranks.together(share)
            ranks.together(commit)

    def _write_best(self, path: Path) -> None:
        with atomic_folder(path) as folder:
            self.contents.write_weights(folder)
            self.contents.write_rest(folder)
            made(folder, self.step, 1).write(folder)

    def _finish(self, draft: Path, world: int, shards: list[Held]) -> None:
        (draft / FACTS).write_text(self.facts, encoding="utf-8")
        self.contents.write_rest(draft, world, {held.name: held.sha256 for held in shards})
        made(draft, self.step, world, shards).write(draft)


@contextlib.contextmanager
def _explained(path: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except (OSError, StorageError) as problem:
        what = f"the checkpoint {path} could not be written (it takes {needed:,} bytes)"
        raise StorageError(f"{what}: {problem}; nothing that was saved before is lost") from problem


def _link(path: Path, kept: Path) -> None:
    """The same files under a second name: nothing is ever written into a file of a checkpoint, so the two can share them."""
    with atomic_folder(kept) as folder:
        for file in path.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:  # some file systems have no links
                shutil.copyfile(file, folder / file.name)


class Behind:
    """One piece of work at a time in a thread; what it raises is raised in the caller by the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Start a piece of work once the one before has ended.

        Raises:
            NabiError: what the one before raised; the new one is not begun.
        """
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as problem:  # noqa: BLE001 - raised by wait
                self._problem = problem

        self._thread = threading.Thread(target=run, name="nabi-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return once nothing is being done.

        Raises:
            NabiError: what the work raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
