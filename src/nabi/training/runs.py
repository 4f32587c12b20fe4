"""The checkpoints of a run: ``last`` to go on from and ``best`` to keep, each written under another name, made durable, then renamed.

    DIR/last/    model folder + training.safetensors + training.json     replaced after each evaluation
    DIR/best/    model folder                                              replaced when the figure is better
    DIR/         the best model folder itself                              once the run is over

Until the run is over, loading ``DIR`` is refused with a sentence that names ``DIR/best``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nabi.checkpoint import write_folder
from nabi.config import read_file, to_dict
from nabi.errors import CheckpointError, OptionError, StorageError
from nabi.model import Model
from nabi.training.loop import State
from nabi.training.plan import Plan
from nabi.weights import atomic_folder, recover

_TENSORS, _FACTS = "training.safetensors", "training.json"


class RunFolder:
    """The folder of one run.

    Args:
        path: nothing is written to it before :meth:`make`.
        resume: go on with the run that is there.

    Raises:
        OptionError: the folder is a file, or not empty and ``resume`` is False, or it holds other things than a run and ``resume`` is True.
    """

    def __init__(self, path: str | Path, *, resume: bool) -> None:
        self.path = Path(path)
        if self.path.is_file():
            raise OptionError("--out is a file", value=str(path), expected="a folder that is made for the run")
        for name in ("last", "best"):
            recover(self.path / name)
        if not resume and self.path.is_dir() and any(self.path.iterdir()):
            raise OptionError("the output folder is not empty", value=str(path), fix="choose another, or give --resume to go on with the run that is there")
        held = {p.name for p in self.path.iterdir()} if self.path.is_dir() else set()
        if resume and held and not held & {"last", "best"}:
            raise OptionError("there is no run to go on with", value=str(path), expected="a folder with last/ in it", fix="choose the folder of the run")

    def make(self) -> None:
        """Make the folder, once nothing is left that the input could be refused for.

        Raises:
            StorageError: it can't be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise StorageError(f"the output folder {self.path} can't be made: {problem}") from problem

    @property
    def last(self) -> Path:
        """Where the run goes on from."""
        return self.path / "last"

    @property
    def finished(self) -> bool:
        """Whether the best model lies in the folder itself."""
        return (self.path / "config.json").is_file()

    def save_last(self, model: Model, state: State, plan: Plan, given: Mapping[str, Any]) -> None:
        """Replace ``last``: the model, the optimizer, the step and the caller's own facts.

        Args:
            given: what else the run was begun with, plain data; checked on resuming.

        Raises:
            StorageError: it could not be written; the old one is still there.
        """
        with atomic_folder(self.last) as folder:
            write_folder(model, folder)
            try:
                save_file(state.optimizer, folder / _TENSORS)
                facts = {"step": state.step, "given": {**_flat("plan", to_dict(plan)), **given}, "extra": state.extra}
                (folder / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
            except (OSError, SafetensorError) as problem:
                raise StorageError(f"the state of training could not be written to {folder}: {problem}") from problem

    def load_last(self, plan: Plan, given: Mapping[str, Any]) -> State:
        """The state to go on from.

        Raises:
            CheckpointError: there is none or it is broken.
            OptionError: it was begun with another plan or other things given; each difference is named.
        """
        facts = read_file(self.last / _FACTS, CheckpointError)
        saved, mine = facts.get("given", {}), json.loads(json.dumps({**_flat("plan", to_dict(plan)), **given}))
        differing = [f"{k} was {saved.get(k)!r} and is {mine.get(k)!r}" for k in sorted(saved.keys() | mine.keys()) if saved.get(k) != mine.get(k)]
        if differing:
            raise OptionError(
                "this run was begun with other settings", value="; ".join(differing), fix="give the same ones, or begin a new run in another folder"
            )
        try:
            tensors = load_file(self.last / _TENSORS)
        except (OSError, SafetensorError) as problem:
            raise CheckpointError("the state of training can't be read", value=f"{self.last / _TENSORS} ({problem})", fix="begin the run again") from None
        return State(int(facts["step"]), tensors, dict(facts.get("extra", {})))

    def save_best(self, model: Model) -> None:
        """Replace ``best``.

        Raises:
            StorageError: it could not be written; the old one is still there.
        """
        with atomic_folder(self.path / "best") as folder:
            write_folder(model, folder)

    def publish(self) -> None:
        """Put the best model into the folder itself; config.json goes last, so that half a model is never taken for a whole one.

        Raises:
            StorageError: a file could not be put there; running it again goes on.
        """
        best = self.path / "best"
        if not best.is_dir():
            return
        try:
            for file in sorted(best.iterdir(), key=lambda f: f.name == "config.json"):
                draft = self.path / f".{file.name}.new"  # best stays whole until all is there, since a resumed run reads it
                draft.unlink(missing_ok=True)
                try:
                    draft.hardlink_to(file)
                except OSError:  # some file systems have no links
                    shutil.copyfile(file, draft)
                draft.replace(self.path / file.name)
                draft.unlink(missing_ok=True)  # still there if the file was put in place before: a rename between two links of one file does nothing
            shutil.rmtree(best)
        except OSError as problem:
            raise StorageError(f"the best model could not be put from {best} into {self.path}: {problem}") from problem


def _flat(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in values.items()}
