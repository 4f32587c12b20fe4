"""Who runs the tasks of a stage: processes of this machine, Ray, or Slurm. Each is told the folder, the stage and the numbers of the tasks, and no more.

Ray and Slurm come through datatrove's executors (``clusters``), ``local`` is a pool of our own (``nabi.pool``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from nabi import pool
from nabi.data.corpus.stages import Stage
from nabi.data.corpus.work import Work
from nabi.errors import NabiError, WorkError

Told = Callable[[int], None]


class Executor(Protocol):
    """Runs tasks."""

    @property
    def peak(self) -> int:
        """Bytes of memory that the workers held at most, together; 0 if that is not known."""

    def run(self, work: Work, stage: Stage, tasks: Iterable[int], done: Told) -> None:
        """Do all of these tasks of a stage; ``done`` is called with each number.

        Raises:
            NabiError: what a task raised.
            WorkError: a worker was lost for good.
        """

    def close(self) -> None:
        """End all workers."""


class Local:
    """Processes of this machine.

    Args:
        workers: how many.
        say: hears of workers that were lost.
    """

    def __init__(self, workers: int, say: Callable[[str], None]) -> None:
        self.workers, self.say = workers, say
        self._pool: pool.Pool | None = None

    @property
    def peak(self) -> int:
        """The sum of what each worker held at most."""
        return self._pool.peak if self._pool else 0

    def run(self, work: Work, stage: Stage, tasks: Iterable[int], done: Told) -> None:
        """Do them, up to ``workers`` at a time."""
        self._pool = self._pool or pool.Pool("nabi.data.corpus.worker", [str(work.out)], self.workers, self.say)
        for (_, number), answer in self._pool.run(([stage.name, number] for number in tasks), lambda order: f"task {order[1]} of {order[0]}"):
            if "error" in answer:
                raise raised(answer, stage, number)
            done(number)

    def close(self) -> None:
        """End all workers, in the middle of a task if need be."""
        if self._pool:
            self._pool.close()


def raised(answer: dict[str, Any], stage: Stage, number: int) -> NabiError:
    """The error that a task raised, in another process."""
    if answer["error"] == "MemoryError":
        return WorkError(f"{stage.name}: a worker ran out of memory. Take fewer workers, or a smaller 'max_bytes' of a document.")
    return pool.raised(answer, f"{stage.name}, task {number}")
