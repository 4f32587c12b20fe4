"""What can go wrong around a build: another recipe, other input, files that vanish, a full disk, lost workers, little memory. Nothing half-written counts."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.corpus.builds import built, command, content, recipe, rows, text_of, tree
from nabi import pool
from nabi.config import to_dict
from nabi.data.corpus import build as build_module
from nabi.data.corpus import executors
from nabi.data.corpus.documents import Origin
from nabi.data.corpus.recipe import Recipe, read_recipe
from nabi.errors import DataError, OptionError, StorageError, WorkError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tree(tmp_path / "files", 16)


def stopped(files: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """A build that stopped after its first task."""

    class Once(executors.Local):
        def run(self, work: Any, stage: Any, tasks: Any, done: Any) -> None:
            super().run(work, stage, list(tasks)[:1], done)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "Local", Once)
        with pytest.raises(KeyboardInterrupt):
            built(recipe(files, **settings), out)
    assert len(list((out / "work" / "read").glob("*.json"))) == 1 and not (out / "manifest.json").exists()


def test_a_changed_recipe_is_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(files, tmp_path / "out", monkeypatch)
    with pytest.raises(OptionError, match=r"begun with another recipe: .*out \(dev, shard\)"):
        built(recipe(files, dev=0.1, shard=50_000), tmp_path / "out")
    # who does the work, and with how much memory, may change; with no recipe it is the old one
    built(recipe(files, workers=1, memory=600_000_000), tmp_path / "out")
    built(recipe(files), tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")
    before = content(tmp_path / "out")
    built(recipe(files), tmp_path / "out")  # it is done already
    assert content(tmp_path / "out") == before
    with pytest.raises(OptionError, match="begun with another recipe"):
        built(recipe(files, dev=0.1), tmp_path / "out")


def test_a_changed_input_is_refused(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(files, tmp_path / "out", monkeypatch)
    some = next(files.rglob("*.py"))
    before = some.read_bytes()
    some.write_bytes(before + b"more")
    with pytest.raises(DataError, match="the input is not what it was when this build was begun"):
        built(None, tmp_path / "out")
    some.write_bytes(before)
    assert built(None, tmp_path / "out")["documents"]["out"]


def test_files_that_vanish_or_change_after_the_listing_are_counted(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, grown, *_ = sorted(path for path in files.rglob("*.py") if b"\xff" not in path.read_bytes())
    plan = build_module.make_plan

    def planned(work: Any) -> Any:
        made = plan(work)
        gone.unlink()
        grown.write_text("x" * 2_000_000)
        return made

    monkeypatch.setattr(build_module, "make_plan", planned)
    manifest = built(recipe(files), tmp_path / "out")
    told = {reason: each for source in manifest["sources"] for reason, each in source["unreadable"].items()}
    assert told["vanished"]["count"] == told["too long"]["count"] == 1 and gone.name in told["vanished"]["examples"][0]
    assert manifest["documents"]["in"] == 13 and not {gone.name, grown.name} & {row["path"] for row in rows(tmp_path / "out")}


def test_a_full_disk_is_told_and_the_build_goes_on_afterwards(tmp_path: Path) -> None:
    files = tree(tmp_path / "files", 16, length=4000)
    (tmp_path / "recipe.json").write_text(json.dumps(to_dict(recipe(files))))
    args = ["build", tmp_path / "recipe.json", "--out", tmp_path / "out", "--log", "quiet"]
    # a file may not be longer than this: what a task writes does not fit, as on a disk that is full
    full = command(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    _, said = full.communicate(timeout=60)
    assert full.returncode == 1 and "Traceback" not in said, said
    assert f"{tmp_path}/out/work/docs/docs-0000" in said and "could not be written" in said and "bytes free" in said and "needs up to" in said, said
    assert not list((tmp_path / "out").rglob(".docs*")) and not (tmp_path / "out" / "manifest.json").exists()
    again = command(*args)
    _, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    built(recipe(files), tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_a_folder_that_cannot_be_written_is_told(files: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="file/out/work could not be made"):
        built(recipe(files), tmp_path / "file" / "out")


def test_a_folder_with_other_things_in_it_is_refused(files: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the folder for the corpus is not empty"):
        built(recipe(files), files)
    with pytest.raises(OptionError, match="there is no build to go on with"):
        built(None, tmp_path / "out")
    (tmp_path / "other" / "work").mkdir(parents=True)
    (tmp_path / "other" / "work" / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="the folder for the corpus is not empty"):
        built(recipe(files), tmp_path / "other")


def test_two_builds_in_one_folder_are_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "work").mkdir(parents=True)
    with (tmp_path / "out" / "work" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OptionError, match="another build is at work in this folder"):
            built(recipe(files), tmp_path / "out")
    assert built(recipe(files), tmp_path / "out")["documents"]["out"]


def test_an_empty_source_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing to read"):
        built(Recipe((Origin(str(tmp_path / "nothing")),)), tmp_path / "out")
    with pytest.raises(DataError, match="there is no such file or folder"):
        built(Recipe((Origin(str(tmp_path / "nowhere")),)), tmp_path / "out")


def lose(times: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Workers are killed when they are given their task, so many of them; what is said about it."""
    order, left, said = pool.Worker.order, [times], []

    def killing(self: Any, given: Any) -> None:
        if left[0]:
            left[0] -= 1
            self.process.kill()
            self.process.wait()
        order(self, given)

    monkeypatch.setattr(pool.Worker, "order", killing)
    init: Callable[..., None] = executors.Local.__init__
    monkeypatch.setattr(executors.Local, "__init__", lambda self, workers, say: init(self, workers, said.append))
    return said


def test_a_worker_that_is_killed_is_told_and_its_task_done_by_another(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(recipe(files), tmp_path / "other")
    said = lose(1, monkeypatch)
    built(recipe(files), tmp_path / "out")
    assert said == ["a worker ended in task 0 of read (killed by SIGKILL, as the system does when memory runs out); the task is tried once more"]
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_a_task_that_kills_two_workers_ends_the_build(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = lose(2, monkeypatch)
    with pytest.raises(WorkError, match=r"a worker ended twice in task 0 of read \(killed by SIGKILL.* take fewer workers"):
        built(recipe(files, workers=1), tmp_path / "out")
    assert len(said) == 1


def test_another_memory_begins_the_search_again(files: Path, tmp_path: Path) -> None:
    built(recipe(files), tmp_path / "out", keep_work=True)
    before = content(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    keys = tmp_path / "out" / "work" / "docs" / "keys-00000.bin"
    keys.write_bytes(b"of no use")  # it would be used if the search did not begin again
    built(recipe(files, memory=800_000_000), tmp_path / "out", keep_work=True)
    assert content(tmp_path / "out") == before and keys.read_bytes() != b"of no use"


def test_workers_at_work_end_with_their_parent(tmp_path: Path) -> None:
    files = tree(tmp_path / "files", 16, length=40_000)
    running = command("build", *sorted(files.iterdir()), "--out", tmp_path / "out", "--near", "0.8", "--workers", "2")
    while running.poll() is None and not list((tmp_path / "out").glob("work/docs/.docs*")):
        time.sleep(0.01)
    assert running.poll() is None, "it ended before it could be killed"
    running.kill()
    running.communicate()
    with pytest.raises(ProcessLookupError):  # the group has no member any more
        for _ in range(300):
            os.killpg(running.pid, 0)
            time.sleep(0.02)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_idle_worker_ends_with_its_parent(tmp_path: Path) -> None:
    worker = [sys.executable, "-m", "nabi.data.corpus.worker", str(tmp_path)]
    read, write = os.pipe()
    pid = os.posix_spawn(sys.executable, worker, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)])
    os.close(read)
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it waits for orders"
    os.close(write)
    assert os.waitpid(pid, 0)[0] == pid


def test_memory_stays_under_its_limit(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    dice = random.Random(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(f"{dice.random():.7f}" for _ in range(80_000)))
    args = ["build", folder, "--out", tmp_path / "out", "--near", "0.8", "--memory", "400MB", "--workers", "1", "--json", "--log", "quiet"]
    # no process gets more than this of memory of its own (beside the files that it maps)
    limited = command(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (320 << 20, 320 << 20)))
    told, said = limited.communicate(timeout=100)
    assert limited.returncode == 0, said
    facts = json.loads(told)
    assert facts["bytes"]["in"] > 30_000_000 and 0 < facts["timing"]["peak_memory"] < 400_000_000


def test_too_little_memory_is_refused_before_any_work(files: Path) -> None:
    with pytest.raises(OptionError, match="the memory is too small for 2 workers"):
        recipe(files, memory=400_000_000)
    assert recipe(files, memory=403_000_000).share >= 160 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing key 'sources'"),
        ("sources = []", "the recipe has no sources"),
        ('[[sources]]\npath = "x"\nglob = "*.py"', "unknown key 'glob'"),
        ('dev = 1.0\n[[sources]]\npath = "x"', "the dev share is out of range"),
        ('workers = -1\n[[sources]]\npath = "x"', "the number of workers is out of range"),
        ('shard = 5\n[[sources]]\npath = "x"', "'shard' is too small"),
        ('executor = "rya"\n[[sources]]\npath = "x"', "Did you mean 'ray'"),
        ('near = {threshold = 2.0}\n[[sources]]\npath = "x"', "threshold"),
    ],
)
def test_recipes_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(OptionError, match=message):
        read_recipe(tmp_path / "recipe.toml")


def test_control_text_of_two_numbers_differs() -> None:
    assert text_of(1) != text_of(2)
