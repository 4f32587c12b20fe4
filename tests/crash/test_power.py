"""A loss of power at every moment of saving: a whole checkpoint is found, and none that had been committed is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import nabi
from crash.kit import GIVEN, model, save
from crash.power import Disk, key, put
from nabi.errors import NabiError
from nabi.training import manifest
from nabi.training.plan import Plan
from nabi.training.runs import RunFolder

PLAN = Plan(keep_every=20)
STEPS = (10, 20, 30)  # the third is the first to have one to delete


def losses(tokenizer: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, ignored: Callable[[Path], bool] = lambda path: False) -> tuple[int, list[str]]:
    """How many disks were tried, and what was wrong: three saves and the publication, cut off after each call to the file system."""
    out, tried, problems = folder / "run", 0, []
    out.mkdir()
    disk, seen = Disk(out, ignored), {}
    with disk.watched() as record, RunFolder(out, resume=False) as run:
        disk.mark = 0
        run.make()
        for step in STEPS:
            save(run, model(tokenizer, step), step, PLAN, best=step != 20)
            disk.mark = step  # committed
        run.publish()
        disk.mark = "over"
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what is looked at below has no power to lose
    for number, (call, committed, picture) in enumerate(record):
        for what, tree in disk.after(picture):
            tried += 1
            name = (committed, key(tree))
            if name not in seen:
                put(tree, folder / "after")
                seen[name] = checked(folder / "after", committed)
                shutil.rmtree(folder / "after")
            if problem := seen[name]:
                problems.append(f"after call {number} ({call}; committed {committed}), {what}: {problem}")
        if problems:
            break  # one is enough to know
    disk.close()
    monkeypatch.undo()
    print(f"{tried} disks, {len(seen)} of them different, {len(record)} calls")
    return tried, problems


def checked(out: Path, committed: int | str) -> str | None:
    """What is wrong with the run that is left on the disk."""
    if (out / "config.json").is_file():  # the last file to come: all others are there and whole
        try:
            nabi.load(out)
        except NabiError as problem:
            return f"published and broken: {problem}"
        return None
    if committed == "over":
        return "published and lost"
    with RunFolder(out, resume=True) as run:
        if not run.begun:
            return f"step {committed} is lost" if committed else None
        try:
            state = run.load_last(PLAN, GIVEN)
        except NabiError as problem:
            return str(problem)
        if state.step < int(committed) or manifest.verified(run.source).step != state.step:
            return f"step {committed} is lost, step {state.step} found"
        return "; ".join(run.notes) or None


def test_a_loss_of_power_after_each_call_loses_nothing(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, problems = losses(tokenizer, tmp_path, monkeypatch)
    assert not problems, "\n".join(problems[:10])
    assert tried > 500


@pytest.mark.parametrize(
    "ignored",
    [
        lambda path: "model.safetensors" in path.name and ".last.new-" in str(path.parent),
        lambda path: "manifest.json" in path.name,
        lambda path: path.name.startswith(".last.new-"),
        lambda path: path.name.startswith(".best.new-"),
        lambda path: path.name == "run",
    ],
    ids=["the weights", "the manifest", "the names in the draft", "the names in the draft of the best", "the names in the run's folder"],
)
def test_control_each_sync_that_is_left_out_is_noticed(
    ignored: Callable[[Path], bool], tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert losses(tokenizer, tmp_path, monkeypatch, ignored)[1]


def test_the_name_of_the_runs_own_folder_is_put_on_the_disk(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = [], os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with RunFolder(tmp_path / "a" / "b" / "run", resume=False) as run:
        run.make()
    assert synced == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
