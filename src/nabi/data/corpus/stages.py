"""The stages of a build in their order: name, how many tasks, what a task does. A stage begins when the one before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nabi.data.corpus import duplicates, jobs, reading, writing
from nabi.data.corpus.recipe import Recipe
from nabi.data.corpus.work import Work


def _nothing(work: Work, number: int) -> int:
    return 0


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: for progress; of its folder, if it has one of its own.
        tasks: how many there are, once the stages before it are done.
        do: one task, to the end.
        output: the file that is there once a task is done.
        size: bytes that a task goes through, for progress; 0 if that says nothing.
    """

    name: str
    tasks: Callable[[Work], int]
    do: Callable[[Work, int], None]
    output: Callable[[Work, int], Path]
    size: Callable[[Work, int], int] = _nothing


def stages(recipe: Recipe) -> list[Stage]:
    """Those that a recipe needs."""
    search = [_of_search(each) for each in duplicates.STAGES] if recipe.exact or recipe.near else []
    return [
        _own("read", lambda work: work.plan.tasks, reading.do, lambda work, number: work.task(number).size),
        *search,
        _own("place", lambda work: 1, writing.place),
        _own("write", lambda work: len(work.facts("place", 0)["files"]), writing.write),
    ]


def _own(name: str, tasks: Callable[[Work], int], do: Callable[[Work, int], dict[str, Any]], size: Callable[[Work, int], int] = _nothing) -> Stage:
    def run(work: Work, number: int) -> None:
        work.finish(name, number, do(work, number))

    return Stage(name, tasks, run, lambda work, number: work.path(name, number), size)


def _of_search(stage: jobs.Stage) -> Stage:
    return Stage(
        stage.name,
        lambda work: stage.tasks(work.job),
        lambda work, number: stage.run(work.job, number),
        lambda work, number: stage.output(work.job, number),
    )


def stage(recipe: Recipe, name: str) -> Stage:
    """The one of this name."""
    return next(each for each in stages(recipe) if each.name == name)
