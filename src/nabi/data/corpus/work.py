"""The folder of a build: what lies where, what is planned, and what is done.

    OUT/work/recipe.json            the recipe as it was given, and with absolute paths
    OUT/work/lists/N/               what source N keeps of its listing
    OUT/work/plan.jsonl             a line a task: its source and its units
    OUT/work/plan.json              written last: the plan is whole
    OUT/work/STAGE/TASK.json        written last: the task is done; what it found
    OUT/work/STAGE/TASK.*           what it made for later stages
    OUT/work/docs/                  the documents that were read, and files of the search for duplicates
    OUT/train-00000.jsonl.zst       the result
    OUT/manifest.json               written last of all: the build is done

Unusual: nothing is marked as done but by the file itself, under its final name, written whole. So a kill at any moment leaves either a task that is done or one
that is not, and a task that two workers do at once is the same bytes twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nabi.config import from_dict
from nabi.data.corpus.cleaning import open_steps
from nabi.data.corpus.documents import Step, Unit
from nabi.data.corpus.jobs import Job
from nabi.data.corpus.recipe import Recipe, files_of
from nabi.data.corpus.sources import kind_of, open_origin
from nabi.errors import DataError, OptionError, StorageError
from nabi.files import whole

MANIFEST = "manifest.json"
VERSION: str = sys.modules[__name__.partition(".")[0]].__version__
DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")  # as ``files.whole`` names them
MOST_UNITS = 20_000  # in a task, however small they are


@dataclass(frozen=True)
class Plan:
    """What is to be read.

    Attributes:
        tasks: how many.
        units: how many in all.
        size: bytes, as the sources estimate them.
        digest: of the listing.
        kinds: of the sources.
        share: bytes of memory a worker may take: files of the search for duplicates are cut by it.
    """

    tasks: int
    units: int
    size: int
    digest: str
    kinds: tuple[str, ...]
    share: int


@dataclass(frozen=True)
class Task:
    """What one worker reads in one go: units of one source."""

    source: int
    units: tuple[Unit, ...]

    @property
    def size(self) -> int:
        """Bytes, as the source estimates them."""
        return sum(unit.size for unit in self.units)


class Work:
    """The folder ``out`` of a build."""

    def __init__(self, out: Path | str) -> None:
        self.out = Path(out)
        self.folder = self.out / "work"

    @cached_property
    def recipe(self) -> Recipe:
        """With absolute paths."""
        found = self._json(self.folder / "recipe.json")
        del found["given"]
        if (version := found.pop("nabi", None)) != VERSION:
            fix = "build in another folder, or use that version"
            raise OptionError("another version of nabi began this build", value=version, expected=VERSION, fix=fix)
        return from_dict(Recipe, found, "the recipe of the build")

    @cached_property
    def given(self) -> Recipe:
        """With the paths as they were given."""
        return from_dict(Recipe, self._json(self.folder / "recipe.json")["given"], "the recipe of the build")

    @cached_property
    def plan(self) -> Plan:
        """Of a folder that is planned."""
        return from_dict(Plan, self._json(self.folder / "plan.json"), "the plan of the build")

    @property
    def planned(self) -> bool:
        """Whether the plan is whole."""
        return (self.folder / "plan.json").exists()

    @property
    def finished(self) -> bool:
        """Whether the build is done."""
        return (self.out / MANIFEST).exists()

    @property
    def docs(self) -> Path:
        """The folder of the documents between reading and writing, and of the search for duplicates."""
        return self.folder / "docs"

    @cached_property
    def job(self) -> Job:
        """The search for duplicates."""
        return Job(self.docs, self.plan.tasks, self.recipe.near, self.plan.share, self.recipe.exact)

    @cached_property
    def steps(self) -> list[Step]:
        """Of the recipe; opened once, since some read large files."""
        return open_steps(self.recipe.cleaning)

    @cached_property
    def _lines(self) -> Any:
        """Where each line of the plan begins."""
        return np.load(self.folder / "plan.npy", mmap_mode="r")

    def task(self, number: int) -> Task:
        """A task of the plan."""
        with (self.folder / "plan.jsonl").open("rb") as file:
            file.seek(int(self._lines[number]))
            source, units = json.loads(file.readline())
        return Task(source, tuple(Unit(*unit) for unit in units))

    def path(self, stage: str, number: int, ending: str = ".json") -> Path:
        """A file of a task."""
        return self.folder / stage / f"{number:05d}{ending}"

    def done(self, stage: str, number: int) -> bool:
        """Whether a task is done."""
        return self.path(stage, number).exists()

    def facts(self, stage: str, number: int) -> Any:
        """What a task found."""
        return self._json(self.path(stage, number))

    def finish(self, stage: str, number: int, facts: dict[str, Any]) -> None:
        """Say that a task is done.

        Raises:
            StorageError: the file could not be written.
        """
        write_json(self.path(stage, number), facts)

    def make(self, stage: str) -> None:
        """The folder of a stage.

        Raises:
            StorageError: it could not be made.
        """
        make_folder(self.folder / stage)

    def drafts(self) -> Iterator[Path]:
        """Files that were being written when a build was killed."""
        for folder in (self.out, self.folder, *(p for p in self.folder.glob("*") if p.is_dir())):
            yield from (path for path in folder.glob(".*") if DRAFT.fullmatch(path.name) and path.is_file())

    @staticmethod
    def _json(path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise StorageError(f"{path} could not be read: {problem}. Build in another folder.") from problem


def make_folder(path: Path) -> None:
    """A folder and those above it.

    Raises:
        StorageError: it could not be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StorageError(f"{path} could not be made: {problem}") from problem


def write_json(path: Path, value: Any) -> None:
    """Write plain data, whole or not at all.

    Raises:
        StorageError: it could not be written.
    """
    with whole(path) as draft:
        draft.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", errors="backslashreplace")


def make_plan(work: Work) -> Plan:
    """List the input and cut it into tasks, from the input alone.

    Raises:
        DataError: nothing to read, or a source that can't be read.
        StorageError: the plan could not be written.
    """
    tasks = units = size = 0
    listing, starts = Listing(), [0]
    with whole(work.folder / "plan.jsonl") as draft, draft.open("wb") as file:
        for number, origin in enumerate(work.recipe.sources):
            lists = work.folder / "lists" / str(number)
            for task in _tasks(work, number, lists):
                listing.add(task, origin.path, lists)
                file.write(json.dumps([task.source, [[u.key, u.start, u.stop, u.size] for u in task.units]]).encode() + b"\n")
                starts.append(file.tell())
                tasks, units, size = tasks + 1, units + len(task.units), size + task.size
            listing.add_lists(lists)
    listing.add_files(files_of(work.recipe))
    if not tasks:
        paths = ", ".join(origin.path for origin in work.recipe.sources)
        raise DataError("there is nothing to read in the sources", value=paths, fix="check the paths, include and exclude")
    with whole(work.folder / "plan.npy") as draft, draft.open("wb") as file:
        np.save(file, np.array(starts[:-1], np.int64))
    kinds = [origin.kind or kind_of(origin.path) for origin in work.recipe.sources]
    facts = {"tasks": tasks, "units": units, "size": size, "digest": listing.digest, "kinds": kinds, "share": work.recipe.share}
    write_json(work.folder / "plan.json", facts)
    return work.plan


def check_listing(work: Work, digest: str) -> None:
    """List the input again and compare.

    Raises:
        DataError: the input is not what it was when the plan was made.
    """
    again, listing = work.folder / "again", Listing()
    for number, origin in enumerate(work.recipe.sources):
        # what was fetched is the input, whatever the server has now
        lists = (work.folder / "lists" if origin.kind == "github" else again) / str(number)
        for task in _tasks(work, number, lists):
            listing.add(task, origin.path, lists)
        listing.add_lists(lists)
    listing.add_files(files_of(work.recipe))
    shutil.rmtree(again, ignore_errors=True)
    if listing.digest != digest:
        raise DataError("the input is not what it was when this build was begun", value=str(work.out), expected="the same files with the same sizes",
                        fix="build in another folder, or remove this one")  # fmt: skip


class Listing:
    """What was found to read, as one hash: the same wherever the sources and the build's folder lie."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, task: Task, origin: str, lists: Path) -> None:
        """The units of a task; a unit's key may begin with the path of its source, or name a file among the ``lists``."""
        for unit in task.units:
            key = "" if unit.key.startswith(str(lists)) else unit.key.removeprefix(origin)
            self._hash.update(json.dumps([task.source, key, unit.start, unit.stop, unit.size]).encode() + b"\n")

    def add_lists(self, folder: Path) -> None:
        """The lists that a source left in its folder."""
        self.add_files(sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl")))

    def add_files(self, paths: Iterable[Path]) -> None:
        """What files hold."""
        for path in paths:
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    self._hash.update(piece)

    @property
    def digest(self) -> str:
        """In hexadecimal."""
        return self._hash.hexdigest()


def _tasks(work: Work, source: int, lists: Path) -> Iterator[Task]:
    """The tasks of a source: neighbouring units of about ``recipe.task`` bytes together."""
    make_folder(lists)
    units: list[Unit] = []
    size = 0
    for unit in open_origin(work.recipe.sources[source]).units(lists):
        if units and (size + unit.size > work.recipe.task or len(units) >= MOST_UNITS):
            yield Task(source, tuple(units))
            units, size = [], 0
        units.append(unit)
        size += unit.size
    if units:
        yield Task(source, tuple(units))
