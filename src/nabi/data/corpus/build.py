"""``build``: from a recipe to a folder with a corpus and its manifest; killed at any moment, it goes on where it was.

The input is listed and cut into tasks once. Then each stage's tasks run, in any order, on any number of workers, and leave files; the manifest is written last.
So the result depends on the recipe and the input alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nabi.config import from_dict, to_dict
from nabi.data.corpus.cleaning import open_steps
from nabi.data.corpus.duplicates import LEFTOVERS, dropped_path
from nabi.data.corpus.executors import Executor, Local
from nabi.data.corpus.manifest import gather, read_manifest
from nabi.data.corpus.packed import zstandard
from nabi.data.corpus.recipe import Recipe, located
from nabi.data.corpus.sources import open_origin
from nabi.data.corpus.stages import Stage, stages
from nabi.data.corpus.work import DRAFT, MANIFEST, VERSION, Work, check_listing, make_folder, make_plan, write_json
from nabi.errors import OptionError, StorageError, UserError
from nabi.memory import peak
from nabi.progress import Telling, clock


def build(recipe: Recipe | None, out: str | Path, *, keep_work: bool = False, progress: Telling | None = None) -> dict[str, Any]:
    """Build a corpus in a folder, or go on with the build that was begun there.

    Args:
        recipe: what to build; None takes the one that the folder was begun with.
        out: a new or empty folder, or one that was begun with the same recipe and input.
        keep_work: leave the files between the stages where they are.
        progress: how it is told.

    Returns:
        The manifest.

    Raises:
        OptionError: a setting that can't be, a package that is missing, a folder that was begun with another recipe.
        DataError: nothing to read, a source that can't be read, an input that changed since the build was begun.
        StorageError: a file could not be written; free some space and call again.
        WorkError: a worker was lost twice.
    """
    work, telling = Work(out), progress or Telling("quiet")
    began = time.monotonic()
    if work.finished:
        manifest = _standing(work, recipe, telling)
        if not keep_work:  # it may have been killed between the two
            shutil.rmtree(work.folder, ignore_errors=True)
        return manifest
    with _alone(work):
        planned = work.planned
        try:
            work = _begin(work, recipe, telling)
        except UserError:
            if not planned and not list(work.folder.glob("lists/*/github-*")):  # what can't be begun leaves nothing behind, unless it was fetched
                shutil.rmtree(work.folder, ignore_errors=True)
                with contextlib.suppress(OSError):
                    work.out.rmdir()
            raise
        except StorageError as problem:
            raise _with_room(problem, work) from problem
        recipe = work.recipe
        executor = _executor(recipe, telling)
        try:
            seconds = _run(work, executor, telling)
            manifest = gather(work)
        except StorageError as problem:
            raise _with_room(problem, work) from problem
        finally:
            executor.close()
        memory = executor.peak and executor.peak + peak()
        manifest["timing"] = {"seconds": round(time.monotonic() - began, 1), "stages": seconds, "peak_memory": memory, "workers": recipe.processes}
        write_json(work.out / MANIFEST, manifest)
    if not keep_work:
        shutil.rmtree(work.folder, ignore_errors=True)
    return manifest


def _standing(work: Work, recipe: Recipe | None, telling: Telling) -> dict[str, Any]:
    """The manifest of a build that is done, if it is the one that is wanted."""
    manifest = read_manifest(work.out)
    if recipe is not None:
        _compare(located(recipe).identity(), located(from_dict(Recipe, manifest["recipe"], "the manifest's recipe")).identity(), work.out)
    telling.say(f"{work.out} is built already")
    return manifest


@contextlib.contextmanager
def _alone(work: Work) -> Iterator[None]:
    """Holds the folder, so that no other build works in it."""
    begun = (work.folder / "recipe.json").exists()
    others = [path for folder in (work.out, work.folder) if folder.is_dir() for path in folder.iterdir() if path.name not in ("work", "lock")]
    if not begun and any(not DRAFT.fullmatch(path.name) for path in others):
        raise OptionError("the folder for the corpus is not empty", value=str(work.out), expected="a new or empty folder, or one of a build that was begun")
    make_folder(work.folder)
    try:
        file = (work.folder / "lock").open("a")
    except OSError as problem:
        raise StorageError(f"{work.folder / 'lock'} could not be written: {problem}") from problem
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OptionError("another build is at work in this folder", value=str(work.out), fix="wait for it, or build in another folder") from None
        yield


def _begin(work: Work, recipe: Recipe | None, telling: Telling) -> Work:
    """The recipe and the plan, made now or found."""
    zstandard()  # missing packages are told before any work
    if work.planned and recipe is not None:
        _compare(located(recipe).identity(), work.recipe.identity(), work.out)
    if recipe is not None:
        if not work.planned and (work.folder / "recipe.json").exists() and located(recipe).identity() != work.recipe.identity():
            shutil.rmtree(work.folder / "lists", ignore_errors=True)
        _write_recipe(work, recipe)  # with the workers and the executor of now
        work = Work(work.out)
    elif not (work.folder / "recipe.json").exists():
        raise OptionError("there is no build to go on with in this folder", value=str(work.out), fix="give a recipe or sources")
    for origin in work.recipe.sources:
        open_origin(origin)  # its errors are better told before any work
    open_steps(work.recipe.cleaning)
    for draft in work.drafts():
        draft.unlink(missing_ok=True)
    if work.planned:
        telling.say("going on with the build that was begun here")
        check_listing(work, work.plan.digest)
        _fit(work)
        return work
    telling.say("listing the sources")
    plan = make_plan(work)
    telling.say(f"{plan.units:,} units, {plan.size / 1e6:,.1f} MB, {plan.tasks:,} tasks", units=plan.units, bytes=plan.size, tasks=plan.tasks)
    return work


def _fit(work: Work) -> None:
    """Files of the search for duplicates are cut by the memory of a worker: with another memory the search begins again."""
    if work.plan.share != work.recipe.share:
        for pattern in (*LEFTOVERS, dropped_path(work.job, 0).name.replace("00000", "*")):
            for path in work.docs.glob(pattern):
                path.unlink()
        write_json(work.folder / "plan.json", to_dict(dataclasses.replace(work.plan, share=work.recipe.share)))
        del work.plan, work.job


def _write_recipe(work: Work, recipe: Recipe) -> None:
    write_json(work.folder / "recipe.json", to_dict(located(recipe)) | {"given": to_dict(recipe), "nabi": VERSION})


def _compare(wanted: dict[str, Any], begun: dict[str, Any], out: Path) -> None:
    other = [name for name in wanted if wanted[name] != begun.get(name)]
    if other:
        raise OptionError("the folder was begun with another recipe", value=f"{out} ({', '.join(other)})",
                          fix="give the same recipe or none, or build in another folder")  # fmt: skip


def _executor(recipe: Recipe, telling: Telling) -> Executor:
    if recipe.executor == "local":
        return Local(recipe.processes, telling.say)
    from nabi.data.corpus.clusters import Ray, Slurm

    cluster: Executor = Ray(recipe, telling.say) if recipe.executor == "ray" else Slurm(recipe, telling.say)
    return cluster


def _run(work: Work, executor: Executor, telling: Telling) -> dict[str, float]:
    """All stages; gives the seconds of each."""
    seconds = {}
    for folder in ("read", "docs", "place", "write"):
        make_folder(work.folder / folder)
    for stage in stages(work.recipe):
        began, count = time.monotonic(), stage.tasks(work)
        missing = [number for number in range(count) if not stage.output(work, number).exists()]
        if missing:
            executor.run(work, stage, missing, _Meter(work, stage, count, missing, telling))
        seconds[stage.name] = round(time.monotonic() - began, 2)
    return seconds


class _Meter:
    """Tells how a stage goes."""

    def __init__(self, work: Work, stage: Stage, count: int, missing: list[int], telling: Telling) -> None:
        self.work, self.stage, self.count, self.left, self.telling = work, stage, count, len(missing), telling
        self.began, self.first, self.size = time.monotonic(), len(missing), 0

    def __call__(self, number: int) -> None:
        self.left -= 1
        self.size += self.stage.size(self.work, number)
        if not self.telling.due():
            return
        seconds = time.monotonic() - self.began
        left, rate = seconds / (self.first - self.left) * self.left, self.size / seconds
        if self.telling.style == "json":
            self.telling.event("stage", stage=self.stage.name, done=self.count - self.left, tasks=self.count, bytes_per_second=rate, seconds_left=left)
            return
        speed = f"  {rate / 1e6:,.1f} MB/s" if self.size else ""
        self.telling.tell(f"{self.stage.name} {self.count - self.left}/{self.count}{speed}  {clock(left)} left")


def _with_room(problem: StorageError, work: Work) -> StorageError:
    """The error with what is free and what is needed."""
    try:
        free = shutil.disk_usage(work.out).free
        # documents lie unpacked between the stages; the result is packed, at worst to as much
        need = sum(work.task(n).size for n in range(work.plan.tasks) if not work.done("read", n)) + work.plan.size // 2 if work.planned else 0
    except (OSError, StorageError):
        return problem
    wanted = f"; what is left to do needs up to {need:,} bytes" if need else ""
    return StorageError(f"{problem} There are {free:,} bytes free{wanted}. What is done stays done: make room and run it again.")
