"""SIGKILL at random moments: no committed checkpoint is lost, no replayed step has another loss, and the model that comes out is the same to the byte."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nabi.training import manifest
from nabi.weights import file_sha256, recover
from training.killed import Log, Runs, server
from training.small import vocabulary

# several saves a second: a kill is to fall into one often
PLAN: dict[str, Any] = {"steps": 30, "batch": 8, "tokens": 60, "learning_rate": 3e-3, "evaluate_every": 2.5, "seed": 2, "save_every": 2}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with server(vocabulary(tmp_path_factory.mktemp("tokenizer"))) as found:
        yield found


def wait_for_a_save(log: Path) -> None:
    """Until a save has begun, or for as long as a few of them are apart."""
    end = time.monotonic() + 2
    while time.monotonic() < end and not (log.exists() and Log.read(log).saving):
        time.sleep(0.001)


def killed(processes: Runs, folder: Path, wanted: int, kills_of_a_run: int) -> None:
    """Kill runs ``wanted`` times, each run a few times, and look at what is left after every kill and at the end."""
    began = time.monotonic()
    assert processes.whole(folder / "unbroken", PLAN, log=folder / "unbroken.log") == 0
    usual, unbroken = time.monotonic() - began, Log.read(folder / "unbroken.log")
    assert sorted(unbroken.losses) == list(range(1, PLAN["steps"] + 1)) and all(len(found) == 1 for found in unbroken.losses.values())
    models = {folder / "unbroken": file_sha256(folder / "unbroken" / "model.safetensors")}
    dice, kills, inside, number = random.Random(0), 0, 0, 0
    while kills < wanted:
        number += 1
        out, log, code, reached, of_this = folder / f"run{number}", folder / f"run{number}.log", -1, 0, 0
        plan = {**PLAN, "save_waits": number % 2 == 0}
        while code != 0:
            pid = processes.start(out, plan, resume=True, log=log)
            if of_this < kills_of_a_run:
                time.sleep(dice.uniform(0.05, 0.6) * usual)
                if dice.random() < 0.4:  # saves take so little of the time that some kills wait for one to begin
                    wait_for_a_save(log)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = processes.wait()
            usual *= 1.05 if code == -signal.SIGKILL else 0.8  # the machine may have become slower or faster than when it was timed
            if code != -signal.SIGKILL:
                break
            kills, of_this = kills + 1, of_this + 1
            seen = Log.read(log)
            inside += seen.saving
            assert all(found == unbroken.losses[step] for step, found in seen.losses.items()), "a replayed step has another loss"
            if (out / "config.json").exists():  # while the best model was put in place
                break
            if seen.committed:
                recover(out / "last")
                step = manifest.verified(out / "last").step
                assert step >= max(seen.committed, reached), f"step {seen.committed} was committed, step {step} is there"
                reached = step
        assert code in (0, -signal.SIGKILL) and sorted(Log.read(log).losses) == sorted(unbroken.losses)
        models[out] = file_sha256(out / "model.safetensors")
        print(f"run {number}: {of_this} kills, up to step {reached}, exit code {code}")
    print(f"{kills} kills, {inside} inside a save ({inside / kills:.0%}); {number} runs; {time.monotonic() - began:.0f} s")
    assert number > 1 and len(set(models.values())) == 1, models
    assert inside >= 0.2 * kills, "too few kills fell inside a save to say anything"


def test_killed_at_random_moments_a_run_goes_on(processes: Runs, tmp_path: Path) -> None:
    killed(processes, tmp_path, wanted=15, kills_of_a_run=5)


@pytest.mark.slow
def test_two_hundred_kills(processes: Runs, tmp_path: Path) -> None:
    killed(processes, tmp_path, wanted=200, kills_of_a_run=8)
