"""A build: the same bytes however it is run, stopped and resumed; nothing half-written counts; wrong folders, files and disks each say so."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from data.corpus.builds import built, command, content, recipe, rows, text_of, tree
from nabi.config import to_dict


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an unbroken build of the files gives."""
    out = tmp_path_factory.mktemp("whole") / "out"
    built(recipe(files), out)
    return content(out)


def test_each_document_comes_out_once(files: Path, tmp_path: Path) -> None:
    manifest = built(recipe(files), tmp_path / "out")
    found = rows(tmp_path / "out")
    assert len(found) == manifest["documents"]["out"] == 42 and len({row["path"] for row in found}) == 42
    assert all(row["text"] == next(files.rglob(row["path"])).read_text() for row in found)
    texts = {hashlib.sha256(text_of(n).encode()).hexdigest() for n in range(60) if n % 10 not in (1, 7, 8, 9)}
    assert texts <= {hashlib.sha256(row["text"].encode()).hexdigest() for row in found}, "a text is lost that has no duplicate"
    assert manifest["documents"] == {"in": 54, "dropped by steps": 0, "exact duplicates": 6, "near duplicates": 6, "out": 42}
    assert len(rows(tmp_path / "out", "dev")) == manifest["splits"]["dev"]["documents"] > 0
    assert not (tmp_path / "out" / "work").exists()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bytes_do_not_depend_on_the_workers(workers: int, files: Path, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", str(workers))
    built(recipe(files, workers=workers), tmp_path / "out")
    assert len(whole) > 4 and content(tmp_path / "out") == whole


def test_control_another_recipe_gives_other_bytes(files: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    built(recipe(files, near=None), tmp_path / "out")
    assert content(tmp_path / "out") != whole


def kill_and_resume(kills: int, folder: Path, whole: dict[str, Any], files: Path) -> None:
    """Kills builds of the files at random moments, so often while one was at work; each that ends must be the unbroken one."""
    dice, met, ended, made = random.Random(kills), 0, 0, 0
    (folder / "recipe.json").write_text(json.dumps(to_dict(recipe(files))))
    while met < kills or not ended:
        out = folder / f"out{ended}"
        before = done(out)
        running = command("build", folder / "recipe.json", "--out", out, "--log", "quiet")
        # one in five may be killed before it gets to work, the others later
        moment = dice.random() * (0.5 if dice.random() < 0.2 else 2)
        while moment >= 0.5 and running.poll() is None and done(out) == before:
            time.sleep(0.01)
        try:
            # once enough were killed the last build runs to its end
            _, said = running.communicate(timeout=moment - 0.5 if moment >= 0.5 and met < kills else moment if met < kills else 120)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()
            finished, after = (out / "manifest.json").exists(), done(out)
            assert finished or before <= after, "what was done is not done any more"
            met += bool(after) and not finished
            made += not finished and len(after - before)
            continue
        assert running.returncode == 0, said
        assert content(out) == whole, "a build that was killed differs from the unbroken one"
        assert not list(out.glob(".*")), "drafts are left"
        ended += 1
    assert met >= kills and made >= met / 2, (met, made)


def done(out: Path) -> set[str]:
    """The results of tasks that are there."""
    return {str(path.relative_to(out)) for path in (out / "work").glob("*/*") if path.suffix in (".json", ".bin") and not path.name.startswith(".")}


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(files: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    kill_and_resume(5, tmp_path, whole, files)


@pytest.mark.slow
def test_fifty_kills(files: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    kill_and_resume(50, tmp_path, whole, files)


def test_control_a_result_that_lost_a_row_is_seen(files: Path, whole: dict[str, Any], tmp_path: Path) -> None:
    built(recipe(files), tmp_path / "out", keep_work=True)
    (tmp_path / "out" / "manifest.json").unlink()
    victim = next((tmp_path / "out" / "work" / "write").glob("*.json"))
    facts = json.loads(victim.read_text())
    facts["shard"]["documents"] -= 1
    victim.write_text(json.dumps(facts))
    built(recipe(files), tmp_path / "out")
    assert content(tmp_path / "out") != whole
