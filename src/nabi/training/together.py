"""What several processes of a run do together with plain data: the seam between the files of a run and whatever connects the processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from nabi import errors
from nabi.errors import NabiError, StorageError

T = TypeVar("T")


class Ranks(Protocol):
    """The processes of a run.

    Attributes:
        rank: which one this is, from 0.
        world: how many there are.
    """

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def all(self, value: Any) -> list[Any]:
        """The plain data that every process gives, in the order of ranks; every process must come here equally often."""
        ...


class Alone:
    """One process."""

    rank, world = 0, 1

    def all(self, value: Any) -> list[Any]:
        """What it gives."""
        return [value]


def together(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Do a piece of work on every process, and go on only if all have done it.

    Args:
        work: gives plain data. What it raises is raised here, and on every other process as an error of the same kind that names the rank.

    Returns:
        What each process gave.

    Raises:
        NabiError: the first process that failed, by rank; its own kind if it is one of nabi's, StorageError otherwise.
    """
    problem: BaseException | None = None
    value: T | None = None
    try:
        value = work()
    except BaseException as raised:  # noqa: BLE001 - told to the others, who would wait for ever; then raised
        problem = raised
    kind = next((c.__name__ for c in type(problem).__mro__ if getattr(errors, c.__name__, None) is c), None)
    said = ranks.all({"value": value, "problem": None if problem is None else str(problem) if kind else repr(problem), "kind": kind})
    if problem is not None:
        raise problem
    for rank, other in enumerate(said):
        if other["problem"] is not None:
            raised_as: type[NabiError] = getattr(errors, other["kind"] or "", StorageError)
            raise raised_as(f"{other['problem']} (said by rank {rank})")
    return [other["value"] for other in said]
