"""``nabi train --processes 2`` and ``torchrun -m nabi train``: real launches, of which one loses a process, one is told to end, one was typed wrongly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.small import rows, vocabulary
from training.together import ROOT, Together

SETTINGS = ("plan.steps=60", "plan.batch=8", "plan.tokens=60", "plan.save_every=2", "plan.evaluate_every=4", "plan.learning_rate=3e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = vocabulary(tmp_path_factory.mktemp("launched"))
    for name, count, seed in (("train", 60, 0), ("dev", 20, 1)):
        (found / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count, seed)))
    return found


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights that two processes give when nothing happens."""
    together = Together(tmp_path_factory.mktemp("together"))
    assert together("commanded", 2, words=words(folder, "whole")) == [0, 0]
    together.close()
    return digest(folder / "whole")


def words(folder: Path, out: str, **other: str) -> list[str]:
    given = {"data": "train.jsonl", "dev": "dev.jsonl", **other}
    return [
        *("train", "--task", "text_classification", "--family", "bert", "--size", "tiny", "--tokenizer", str(folder), "--out", str(folder / out)),
        *(word for name, path in given.items() for word in (f"--{name}", str(folder / path))),
        *(word for setting in SETTINGS for word in ("--set", setting)),
    ]


def digest(out: Path) -> str:
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


def begun(*command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", *command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that train, below the one that was started."""
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            ours = path.name.isdigit() and int((path / "stat").read_text().rpartition(")")[2].split()[1]) == launcher.pid
            if ours and b"nabi\0train" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def step_of(out: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads((out / "last" / "training.json").read_text())["step"])
    return 0


def wait_for(out: Path, step: int, launcher: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    while step_of(out) < step:
        assert launcher.poll() is None and time.monotonic() - began < 120, launcher.communicate()
        time.sleep(0.01)


def test_a_process_that_dies_is_begun_again_with_its_group(folder: Path, unbroken: str) -> None:
    launcher = begun("nabi", *words(folder, "killed"), "--processes", "2", "--json")
    wait_for(folder / "killed", 6, launcher)
    os.kill(workers(launcher)[-1], signal.SIGKILL)
    out, err = launcher.communicate(timeout=180)
    assert launcher.returncode == 0, err
    assert json.loads(out)["metrics"]  # one document, from one of the two
    assert digest(folder / "killed") == unbroken


def test_told_to_end_it_saves_and_goes_on_from_there(folder: Path, unbroken: str) -> None:
    launcher = begun("nabi", *words(folder, "ended"), "--processes", "2")
    wait_for(folder / "ended", 6, launcher)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 143 and "go on with --resume" in err and not (folder / "ended" / "config.json").exists()
    stopped = step_of(folder / "ended")
    assert 6 <= stopped < 60
    resumed = begun("torch.distributed.run", "--nproc-per-node", "2", "-m", "nabi", *words(folder, "ended"), "--resume")  # torchrun as it comes
    _, err = resumed.communicate(timeout=180)
    assert resumed.returncode == 0, err
    assert digest(folder / "ended") == unbroken


def test_what_was_typed_wrongly_is_said_once_and_not_tried_again(folder: Path) -> None:
    launcher = begun("nabi", *words(folder, "wrong", data="nothing.jsonl"), "--processes", "2")
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 2 and err.count("error:") == 1 and "nothing.jsonl" in err and not (folder / "wrong").exists()


def test_a_folder_that_is_not_empty_is_refused_once(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    launcher = begun("nabi", *words(folder, "full"), "--processes", "2")
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 2 and err.count("error:") == 1 and "the output folder is not empty" in err
    assert [path.name for path in (folder / "full").iterdir()] == ["mine.txt"]
