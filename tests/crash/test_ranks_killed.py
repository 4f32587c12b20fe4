"""One process of a group is killed at a random moment and the group begins again: nothing committed is lost and the run is the unbroken one, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from training.small import vocabulary
from training.together import Together

PLAN = {"steps": 60, "batch": 8, "tokens": 60, "learning_rate": 3e-3, "evaluate_every": 2, "save_every": 2, "save_waits": True, "seed": 2}
WORLD = 2


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    found = Together(tmp_path_factory.mktemp("together"))
    yield found
    found.close()


def lines(losses: Path) -> list[str]:
    return losses.read_text().splitlines() if losses.exists() else []


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def saving(out: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return out.is_dir() and any(".new-" in path.name or ".old-" in path.name for path in out.iterdir())


def committed(out: Path) -> int:
    """The step of the newest checkpoint."""
    for name in ("last", "previous"):
        if (out / name / "manifest.json").exists():
            return int(json.loads((out / name / "training.json").read_text())["step"])
    return 0


def survive(together: Together, tokenizer: Path, folder: Path, parallel: str, kills: int, seed: int) -> None:
    plan: dict[str, Any] = {**PLAN, "parallel": parallel}
    given: dict[str, Any] = {"tokenizer": str(tokenizer), "plan": plan}
    whole = together("fitted", WORLD, out=str(folder / "whole"), losses=str(folder / "whole.txt"), resume=False, **given)
    assert whole[0] == whole[1] and whole[0]["accuracy"] > 0.4
    expected = lines(folder / "whole.txt")
    assert len(expected) == PLAN["steps"]

    dice, out, losses = random.Random(seed), folder / "killed", folder / "killed.txt"
    done = inside = steps_seen = 0
    resume = False
    while True:
        before = committed(out)
        results, pids = together.begin("fitted", WORLD, out=str(out), losses=str(losses), resume=resume, **given)
        if done < kills:
            begun, enough = len(lines(losses)), dice.randint(1, 6)
            wish = done % 2 == 0  # every other kill waits for a save to begin, since saves take a small part of the time
            deadline = time.monotonic() + 60
            while len(lines(losses)) < begun + enough or (wish and not saving(out)):
                assert time.monotonic() < deadline, "the run does not advance"
                if len(lines(losses)) > 0 and lines(losses)[-1].startswith(f"{PLAN['steps']} "):
                    break
                time.sleep(0.001)
            inside += saving(out)
            os.kill(dice.choice(pids), signal.SIGKILL)
            steps_seen += len(lines(losses)) - begun
            done += 1
        ends = together.end(results, WORLD)
        assert committed(out) >= before  # nothing that was committed is lost
        resume = True
        if all(isinstance(end, dict) for end in ends):
            break
    assert done == kills and steps_seen >= kills and inside >= 0.2 * kills, (done, steps_seen, inside)
    assert set(lines(losses)) == set(expected)  # each step that was done again gave the loss that it had given
    assert len(lines(losses)) > len(expected)  # and some were
    assert digest(out) == digest(folder / "whole") and ends[0] == whole[0]
    print(f"{parallel}: {kills} kills, {inside} inside a save, {len(lines(losses)) - len(expected)} steps done again")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_group_whose_processes_are_killed_ends_as_the_unbroken_one(parallel: str, together: Together, tmp_path: Path) -> None:
    survive(together, vocabulary(tmp_path / "tokenizer"), tmp_path, parallel, kills=3, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_twenty_kills(parallel: str, together: Together, tmp_path: Path) -> None:
    survive(together, vocabulary(tmp_path / "tokenizer"), tmp_path, parallel, kills=20, seed=6)
