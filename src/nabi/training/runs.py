"""The folder of a run: its checkpoints, its best model, its lock.

    DIR/last/          model folder + training.safetensors + training.json + manifest.json, replaced at each save
    DIR/previous/      the one before, in case that the last is damaged
    DIR/step-000120/   every Nth, kept for good (``plan.keep_every``)
    DIR/best/          model folder + manifest.json, replaced when the figure is better
    DIR/               the best model folder itself, once the run is over; last/ stays

Until the run is over, loading ``DIR`` is refused with a sentence that names ``DIR/best``. Of several processes each writes a shard of ``last`` (``saving``).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nabi.checkpoint import Contents, contents
from nabi.config import read_file, to_dict
from nabi.errors import CheckpointError, OptionError, StorageError, shortened
from nabi.files import sync
from nabi.model import Model
from nabi.ranks import ALONE, Ranks
from nabi.training import manifest
from nabi.training.lock import LOCK, Lock
from nabi.training.loop import State
from nabi.training.manifest import MANIFEST, Manifest
from nabi.training.plan import Plan
from nabi.training.saving import FACTS, STEM, Behind, Save
from nabi.weights import recover

FORMAT = 1  # of training.json; the first one has no such field, and no manifest beside it
_KEPT = re.compile(r"step-(\d{6,})")
_DRAFT = re.compile(r"\.(.+)\.(?:new|old)-[0-9a-f]{8}")  # as atomic_folder names them
_FILE = re.compile(r"\..+\.[0-9a-f]{8}")  # as files.whole does
# how a run is saved and watched, not what it computes: a resumed run may have others
_FREE = frozenset({"plan.save_every", "plan.keep_every", "plan.save_waits", "plan.spike", "plan.parallel", "plan.recompute"})


class RunFolder:
    """The folder of one run, to be closed when the run is over; a context manager.

    Args:
        path: nothing is written to it before :meth:`make`, save the lock if it is there.
        resume: go on with the run that is there.
        ranks: the processes of the run.
        behind: the same processes through a connection of its own, for saves that go on while training does; ``ranks`` if None.

    Attributes:
        notes: what the user should be told, one sentence each.
        source: the checkpoint that :meth:`load_last` has taken.
        saved: the last checkpoint that is known to be whole, and its step.

    Raises:
        OptionError: the folder is a file, or another run is writing to it, or it is not empty and ``resume`` is False, or it holds other things than a run
            and ``resume`` is True.
    """

    def __init__(self, path: str | Path, *, resume: bool, ranks: Ranks | None = None, behind: Ranks | None = None) -> None:
        self.path, self.resume = Path(path), resume
        self.ranks: Ranks = ranks or ALONE
        self.notes: list[str] = []
        self.source = self.last
        self.saved: tuple[Path, int] | None = None
        self._lock, self._behind, self._thread = Lock(self.path), behind or self.ranks, Behind()
        self._damaged = False  # whether what lies in last is not worth keeping
        self._adopted: Manifest | None = None
        self._best_step: int | None = None
        self.ranks.together(lambda: self._open(make=False))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, and let the folder go.

        Raises:
            StorageError: the last save could not be written.
        """
        try:
            self._thread.wait()
        finally:
            self._lock.release()

    def make(self) -> None:
        """Make the folder, once nothing is left that the input could be refused for.

        Raises:
            StorageError: it can't be made.
            OptionError: another run was faster.
        """
        self.ranks.together(lambda: self._open(make=True))

    def _open(self, *, make: bool) -> None:
        if self.ranks.rank > 0:
            return
        if self.path.is_file():
            raise OptionError("--out is a file", value=str(self.path), expected="a folder that is made for the run")
        try:
            if make:
                new = [path for path in (self.path, *self.path.parents) if not path.exists()]
                self.path.mkdir(parents=True, exist_ok=True)
                for path in new:  # or the whole run could be gone after a loss of power
                    sync(path.parent)
            if not self.path.is_dir():
                return
            if make or self.resume or (self.path / LOCK).exists():  # a folder that is someone else's is not touched
                self._lock.take()
        except OSError as problem:
            raise StorageError(f"the output folder {self.path} can't be made: {problem}") from problem
        try:
            self._tidy()
            held = {p.name for p in self.path.iterdir()} - {LOCK}
            if held and not self.resume:
                fix = "choose another, or give --resume to go on with the run that is there"
                raise OptionError("the output folder is not empty", value=str(self.path), fix=fix)
            if held and not (held & {"last", "previous", "best"} or any(map(_KEPT.fullmatch, held))):
                fix = "choose the folder of the run"
                raise OptionError("there is no run to go on with", value=str(self.path), expected="a folder with last/ in it", fix=fix)
            if make and self._adopted is not None:
                self._adopted.write(self.best)
        except BaseException:
            self._lock.release()
            raise

    def _tidy(self) -> None:
        """Put back or remove what a killed process left of its writing."""
        left = [_DRAFT.fullmatch(path.name) for path in self.path.iterdir()]
        for name in {match[1] for match in left if match}:
            recover(self.path / name)
        for path in self.path.iterdir():
            if _FILE.fullmatch(path.name) and path.is_file():
                path.unlink()

    @property
    def last(self) -> Path:
        """Where the run goes on from."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """Where the best model lies until the run is over."""
        return self.path / "best"

    @property
    def finished(self) -> bool:
        """Whether the best model lies in the folder itself."""
        return (self.path / "config.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return next(self._checkpoints(), None) is not None

    def _checkpoints(self) -> Iterator[Path]:
        """Those that are there, the one to take first before the others."""
        kept = sorted((p for p in self.path.glob("step-*") if _KEPT.fullmatch(p.name)), key=lambda p: int(p.name.removeprefix("step-")), reverse=True)
        return (p for p in (self.last, self.path / "previous", *kept) if p.is_dir())

    def save_last(self, model: Model, state: State, plan: Plan, given: Mapping[str, Any], best: bool = False, wait: bool = True) -> None:
        """Replace ``last``: the model, the optimizer, the step and the caller's own facts.

        Args:
            state: its tensors are this process's share; they are not copied, so they must not change, as those of ``Step.state`` do not.
            given: what else the run was begun with, plain data; checked on resuming.
            best: replace ``best`` too.
            wait: return when it is on the disk; otherwise it is written while training goes on, from a copy of the weights.

        Raises:
            StorageError: it could not be written, or the one before that was not waited for could not; the old one is still there.
        """
        self._best_step = state.step if best else self._best_step
        facts = {"format": FORMAT, "step": state.step, "best_step": self._best_step, "given": {**_flat("plan", to_dict(plan)), **given}, "extra": state.extra}
        taken: list[Contents] = []
        self.ranks.together(lambda: taken.append(contents(model, golden=self.ranks.rank == 0)))
        kept = self.path / f"step-{state.step:06d}" if plan.keep_every and state.step % plan.keep_every == 0 else None
        aside = None if self._damaged else self.path / "previous"
        save = Save(
            taken[0] if wait else taken[0].copied(), state.optimizer, json.dumps(facts, indent=1), state.step, self.best if best else None, aside, kept
        )

        def write() -> None:
            save.write(self.last, self._behind)
            self.saved, self._damaged = (self.last, save.step), False

        self._thread.begin(write)
        if wait:
            self._thread.wait()

    def wait(self) -> None:
        """Return once what was saved is on the disk.

        Raises:
            StorageError: it could not be written.
        """
        self._thread.wait()

    def load_last(self, plan: Plan, given: Mapping[str, Any]) -> State:
        """The state to go on from, of the newest checkpoint that is whole; ``source`` and ``notes`` say which one and what is wrong with those before it.

        The tensors are those of all processes that wrote it, however many they were.

        Raises:
            CheckpointError: none is whole, or the best model is not; says what is wrong with each.
            OptionError: it was begun with another plan or other things given; each difference is named.
        """
        name, notes = self.ranks.together(self._chosen)[0]
        self.source, self.notes = self.path / name, [*self.notes, *notes]
        facts = read_file(self.source / FACTS, CheckpointError)
        saved, mine = facts.get("given", {}), json.loads(json.dumps({**_flat("plan", to_dict(plan)), **given}))
        keys = sorted((saved.keys() | mine.keys()) - _FREE)
        differing = [f"{k} was {saved.get(k)!r} and is {mine.get(k)!r}" for k in keys if saved.get(k) != mine.get(k)]
        if differing:
            raise OptionError(
                "this run was begun with other settings", value="; ".join(differing), fix="give the same ones, or begin a new run in another folder"
            )
        step, self._best_step = int(facts["step"]), facts.get("best_step")
        self.saved, self._damaged = (self.source, step), self.source != self.last
        files = manifest.read(self.source).named(STEM) if "format" in facts else [f"{STEM}.safetensors"]
        return State(step, _joined([self.source / file for file in files]), dict(facts.get("extra", {})))

    def _chosen(self) -> tuple[str, list[str]]:
        """The name of the checkpoint to go on from, and what to say about it; looked for by the first process alone."""
        if self.ranks.rank > 0:
            return "", []
        problems: list[str] = [] if self.last.is_dir() else [f"{self.last} is missing"]
        for path in self._checkpoints():
            try:
                notes = []
                if not (path / MANIFEST).exists() and "format" not in read_file(path / FACTS, CheckpointError):
                    notes = [f"{path} is of an older version and has no manifest, so its files were not checked."]
                else:
                    manifest.verified(path)
                facts = read_file(path / FACTS, CheckpointError)
                self._check_best(facts)
            except _BestLost:
                raise
            except CheckpointError as problem:
                problems.append(f"{path.name}: {problem}")
                continue
            if problems:
                notes.append(f"The last checkpoint can't be used ({' '.join(problems)}): the run goes on from {path}, step {facts.get('step')}.")
            return path.name, notes
        raise CheckpointError(f"no checkpoint of the run is whole: {' '.join(problems)}", value=str(self.path), fix="begin the run again")

    def _check_best(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on if the best model, which comes out in the end, is not what was saved."""
        if "format" not in facts:
            self._adopted = manifest.made(self.best, 0, 1) if self.best.is_dir() and not (self.best / MANIFEST).exists() else None
        elif facts.get("best_step") is not None:
            try:
                manifest.verified(self.best)
            except CheckpointError as problem:
                fix = f"{self.last} holds the newest weights; begin the run again in another folder, if need be from them"
                raise _BestLost(f"the best model so far is damaged or gone: {str(problem).rstrip('.')}", fix=fix) from None

    def load_best(self) -> Path | None:
        """The folder of the best model, checked; None if there is none."""
        self._thread.wait()
        if not self.best.is_dir():
            return None
        self.ranks.together(lambda: self.ranks.rank == 0 and bool(manifest.verified(self.best)))
        return self.best

    def publish(self) -> None:
        """Put the best model into the folder itself; config.json goes last, so that half a model is never taken for a whole one.

        Raises:
            StorageError: a file could not be put there; running it again goes on.
        """
        self._thread.wait()
        self.ranks.together(lambda: self._publish() if self.ranks.rank == 0 and self.best.is_dir() else None)

    def _publish(self) -> None:
        try:
            files = [file for file in self.best.iterdir() if file.name != MANIFEST]
            for file in sorted(files, key=lambda f: f.name == "config.json"):
                draft = self.path / f".{file.name}.new"  # best stays whole until all is there, since a resumed run reads it
                draft.unlink(missing_ok=True)
                try:
                    draft.hardlink_to(file)
                except OSError:  # some file systems have no links
                    shutil.copyfile(file, draft)
                    sync(draft)
                if file.name == "config.json":
                    sync(self.path)  # the others' names first
                draft.replace(self.path / file.name)
                draft.unlink(missing_ok=True)  # still there if the file was put in place before: a rename between two links of one file does nothing
            sync(self.path)
            for folder in (self.best, self.path / "previous"):
                if folder.is_dir():
                    shutil.rmtree(folder)
        except OSError as problem:
            raise StorageError(f"the best model could not be put from {self.best} into {self.path}: {problem}") from problem


class _BestLost(CheckpointError):
    """The best model is not what was saved: no other checkpoint helps."""


def _joined(files: list[Path]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            part = load_file(file)
        except (OSError, SafetensorError) as problem:
            raise CheckpointError("the state of training can't be read", value=f"{file} ({problem})", fix="begin the run again") from None
        if twice := sorted(found.keys() & part.keys()):
            raise CheckpointError("two files hold the same part of the state of training", value=f"{shortened(twice[0])} is in {file.name} and before")
        found |= part
    return found


def _flat(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in values.items()}
