"""What befalls a run: a loss that is not finite or leaps up, a signal, a second run, a disk that fills; each is named and nothing good is lost."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from nabi import Plan, checkpoint, fit
from nabi.errors import OptionError, StorageError, TrainingError
from nabi.training import loop, manifest, saving
from nabi.training.faults import PERSIST, Spikes, Stopping
from nabi.training.lock import LOCK, Lock
from nabi.training.progress import Progress
from nabi.training.runs import RunFolder
from nabi.training.saving import Behind
from training.small import SIZE, rows, same, weights

ROOT = Path(__file__).parents[2]
PLAN: dict[str, Any] = {"steps": 24, "batch": 8, "tokens": 60, "learning_rate": 3e-3, "evaluate_every": 0.5, "seed": 2}


def run(out: Path | None, tokenizer: Path, plan: Mapping[str, Any] | None = None, said: io.StringIO | None = None, **kwargs: Any) -> Any:
    given = {"dev": rows(20, 1), "family": "bert", "size": SIZE, "tokenizer": tokenizer, **kwargs}
    return fit("text_classification", rows(60), out=out, plan=Plan(**(plan or PLAN)), progress=Progress("quiet", said or io.StringIO()), **given)


def leaps(monkeypatch: pytest.MonkeyPatch, at: int, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """From the update ``at`` on, counted from 1, the losses are something else."""
    real, count = loop.backward, [0]
    step = loop._step

    def counted(model: Any, optimizer: Any, feed: Any, plan: Any, n: int, *args: Any) -> Any:
        count[0] = n + 1
        return step(model, optimizer, feed, plan, n, *args)

    def changed(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        found = real(*args, **kwargs)
        return {name: change(x) if count[0] >= at else x for name, x in found.items()}

    monkeypatch.setattr(loop, "_step", counted)
    monkeypatch.setattr(loop, "backward", changed)


# ---- what is not finite, and what leaps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 4, 5, 7, 11, 13, 18, 23, 24])
def test_a_loss_that_is_not_finite(at: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaps(monkeypatch, at, lambda x: x * math.nan)
    with pytest.raises(TrainingError) as caught:
        run(tmp_path / "out", tokenizer)
    saved = (at - 1) // 4 * 4
    where = f"The last good checkpoint is {tmp_path / 'out' / 'last'}, of step {saved}." if saved else "No checkpoint had been saved yet."
    assert str(caught.value).startswith(f"step {at}: the loss is nan") and "examples [" in str(caught.value) and str(caught.value).endswith(where)
    assert caught.value.exit_code == 1
    good(tmp_path / "out", saved)


@pytest.mark.parametrize("at", [21, 22, 23, 24, 25, 27, 30, 33, 36, 38])
def test_a_loss_that_leaps_up_and_stays_there(at: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoints of the steps that were already too high are not written: the last one is from before."""
    leaps(monkeypatch, at, lambda x: x * 0 + 400.0)
    plan = {**PLAN, "steps": 48, "save_every": 5, "evaluate_every": 100, "spike": 10}
    with pytest.raises(TrainingError) as caught:
        run(tmp_path / "out", tokenizer, plan, dev=None)
    what = rf"step {at + PERSIST - 1}: the loss is \S+ and was .*plan.spike.*; it began at step {at}, with examples \[\d"
    assert re.match(what, str(caught.value)), caught.value
    assert str(caught.value).endswith(f"The last good checkpoint is {tmp_path / 'out' / 'last'}, of step {(at - 1) // 5 * 5}.") and caught.value.exit_code == 1
    good(tmp_path / "out", (at - 1) // 5 * 5)


def good(out: Path, step: int) -> None:
    for folder in [f for f in (out / "last", out / "previous", out / "best") if f.is_dir()]:
        assert all(torch.isfinite(x).all() for x in checkpoint.load(folder).state_dict().values())
    assert not step or manifest.verified(out / "last").step == step


def test_control_without_the_setting_the_leap_is_saved(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaps(monkeypatch, 21, lambda x: x * 0 + 400.0)
    run(tmp_path / "out", tokenizer, {**PLAN, "steps": 28, "save_every": 1, "evaluate_every": 100}, dev=None)
    assert manifest.verified(tmp_path / "out" / "last").step == 28


def test_what_counts_as_a_leap() -> None:
    dice = random.Random(0)

    def told(losses: list[float], limit: float | None = 10) -> list[int]:
        spikes, found = Spikes(limit), []
        for i, loss in enumerate(losses):
            spikes = Spikes(limit, json.loads(json.dumps(spikes.state())))  # broken off and gone on with at every step
            found += [i] if spikes.add(loss) else []
        return found

    calm = [1 + 0.1 * dice.random() for _ in range(60)]
    assert told(calm) == [] and told([*calm, 9.0, *calm]) == [] and told([*calm, *[9.0] * (PERSIST - 1), *calm]) == []
    assert told([*calm, *[9.0] * PERSIST])[:1] == [60 + PERSIST - 1] and told([*calm, *[9.0] * 50], None) == []
    assert told([*calm[:12], *[9.0] * (PERSIST + 2)]) == [], "too little was seen to know what is usual"
    assert told([10 * 0.97**i for i in range(300)]) == [] and told([1.0] * 50 + [1.2] * 10) == [], "a flat course has no deviation of its own"
    with pytest.raises(OptionError, match="spike is 0"):
        Plan(spike=0)


# ---- signals -------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, and then it is not ours to take."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signalled(io.StringIO):
    """Sends a signal to this process while the run tells of its first evaluation."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number: int | None = number

    def write(self, text: str) -> int:
        if self.number is not None:
            number, self.number = self.number, None
            os.kill(os.getpid(), number)
        return super().write(text)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "end", "code"), [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)])
def test_a_signal_saves_and_ends(number: int, end: type[BaseException], code: int | None, tokenizer: Path, tmp_path: Path) -> None:
    before, said = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)], Signalled(number)
    run(tmp_path / "whole", tokenizer)
    with pytest.raises(end) as caught:
        run(tmp_path / "out", tokenizer, {**PLAN, "save_every": 100}, said)
    assert getattr(caught.value, "code", None) == code and [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    step = manifest.verified(tmp_path / "out" / "last").step
    saved = f"step {step} is saved in {tmp_path / 'out' / 'last'}: go on with --resume"
    assert f"Stopped by {signal.Signals(number).name} after step {step}; {saved}" in said.getvalue()
    run(tmp_path / "out", tokenizer, resume=True)
    assert same(weights(nabi.load(tmp_path / "out" / "last")), weights(nabi.load(tmp_path / "whole" / "last")))


def test_the_command_ends_with_143(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(60)))
    args = ["train", "--task", "text_classification", "--data", "train.jsonl", "--family", "bert", "--tokenizer", str(tokenizer), "--out", "out"]
    args += ["--set", "plan.steps=100000", "--set", "plan.save_every=5"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "nabi", *args], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic() + 50
    while not (tmp_path / "out" / "last").is_dir() and time.monotonic() < waited and process.poll() is None:
        time.sleep(0.05)
    with pytest.raises(OptionError, match=rf"another run is writing into this folder \(process {process.pid} on "):
        RunFolder(tmp_path / "out", resume=True)
    process.terminate()
    said = process.communicate(timeout=50)[1]
    assert process.returncode == 143 and "Stopped by SIGTERM after step" in said and "--resume" in said and "Traceback" not in said, said
    step = int(re.search(r"after step (\d+); step \1 is saved", said)[1])  # type: ignore[index]
    assert manifest.verified(tmp_path / "out" / "last").step == step and not (tmp_path / "out" / LOCK).exists()


@pytest.mark.usefixtures("interruptible")
def test_signals_are_taken_in_the_main_thread_alone_and_not_from_a_caller_who_has_his_own() -> None:
    mine: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: mine.append(number))
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGTERM)
            assert mine == [signal.SIGTERM] and not stopping.asked
    finally:
        signal.signal(signal.SIGTERM, before)

    def elsewhere() -> None:
        with Stopping():
            mine.append(-1 if signal.getsignal(signal.SIGTERM) == before else 0)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert mine[-1] == -1
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked and stopping.signal == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.asked
        os.kill(os.getpid(), signal.SIGINT)


# ---- two runs, and what a save behind training meets ---------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(tokenizer: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "out", resume=False) as first:
        first.make()
        for resume in (False, True):
            with pytest.raises(OptionError, match=rf"another run is writing into this folder \(process {os.getpid()} on \S+, since 20"):
                RunFolder(tmp_path / "out", resume=resume)
    assert list((tmp_path / "out").iterdir()) == []
    with RunFolder(tmp_path / "out", resume=False) as one, RunFolder(tmp_path / "out", resume=False) as other:
        one.make()
        with pytest.raises(OptionError, match="another run"):
            other.make()  # both had found the folder free
    (tmp_path / "out" / LOCK).write_text("left by a killed run, who holds nothing")
    run(tmp_path / "out", tokenizer, {**PLAN, "steps": 4})
    assert not (tmp_path / "out" / LOCK).exists()


def test_a_lock_whose_file_was_removed_in_between_is_taken_anew(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    handle = os.open(tmp_path / LOCK, os.O_RDWR)  # a second one that had opened the file just before it went
    first.release()
    second.take()
    assert os.fstat(handle).st_ino != (tmp_path / LOCK).stat().st_ino or os.fstat(handle).st_nlink == 0
    with pytest.raises(OptionError):
        Lock(tmp_path).take()
    second.release()
    os.close(handle)


def test_a_lock_whose_file_goes_between_opening_and_locking_it_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, real = Lock(tmp_path), Lock(tmp_path), fcntl.flock
    first.take()

    def late(handle: int, how: int) -> None:
        first.release()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second.take()
    with pytest.raises(OptionError, match="another run"):
        Lock(tmp_path).take()
    second.release()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_leaves_the_file_of_the_run_that_came_after_it(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.take()
    (tmp_path / LOCK).unlink()  # by hand
    second.take()
    first.release()
    with pytest.raises(OptionError, match="another run"):
        Lock(tmp_path).take()
    second.release()


def test_a_save_behind_training_that_fails_is_told_by_the_next_call(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = saving.Contents.write_weights, [0]

    def full(self: Any, folder: Path, *args: int) -> Any:
        count[0] += 1
        if count[0] == 3:  # of the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, folder, *args)

    monkeypatch.setattr(saving.Contents, "write_weights", full)
    with pytest.raises(StorageError, match="No space left on device"):
        run(tmp_path / "out", tokenizer)
    good(tmp_path / "out", 4)
    behind, done = Behind(), []
    behind.begin(lambda: (_ for _ in ()).throw(StorageError("full")))
    with pytest.raises(StorageError, match="full"):
        behind.begin(lambda: done.append(1))
    behind.begin(lambda: done.append(2))
    behind.wait()
    behind.wait()
    assert done == [2]


def test_what_is_saved_behind_training_is_of_the_step_that_it_says(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is held up until training is over: what it writes is a copy."""
    run(tmp_path / "waits", tokenizer, {**PLAN, "keep_every": 4, "save_waits": True})
    real = saving.Save.write

    def late(self: Any, *args: Any) -> None:
        time.sleep(0.3)
        real(self, *args)

    monkeypatch.setattr(saving.Save, "write", late)
    run(tmp_path / "behind", tokenizer, {**PLAN, "keep_every": 4})
    for step in range(4, 25, 4):
        a, b = (checkpoint.load(tmp_path / name / f"step-{step:06d}") for name in ("waits", "behind"))
        assert same(weights(a), weights(b))


def test_an_older_run_without_a_manifest_goes_on(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", tokenizer, {**PLAN, "steps": 8})
    last = tmp_path / "out" / "last"
    facts = json.loads((last / "training.json").read_text())
    (last / "training.json").write_text(json.dumps({key: facts[key] for key in ("step", "given", "extra")}))
    for name in ("last", "best"):
        (tmp_path / "out" / name / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "out" / "previous")
    run(tmp_path / "out", tokenizer, {**PLAN, "steps": 8}, said, resume=True)
    assert said.getvalue().count("is of an older version and has no manifest") == 1
    assert not checkpoint.load(tmp_path / "out").check_golden()


def test_other_ways_of_saving_are_no_other_settings(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path / "out", tokenizer, {**PLAN, "save_every": 3}, Signalled(signal.SIGTERM))
    run(tmp_path / "out", tokenizer, {**PLAN, "save_every": 5, "keep_every": 6, "save_waits": True, "spike": 50}, resume=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["last", *(f"step-{i:06d}" for i in (6, 12, 18, 24))]


# ---- a full disk ---------------------------------------------------------------------------------------------------------------------------------


def test_too_little_room_is_noticed_before_anything_is_written(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(saving.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match=r"last could not be written \(it takes [\d,]+ bytes\): not begun, only 5,000 bytes are free"):
            run(tmp_path / "out", tokenizer)
    assert list((tmp_path / "out").iterdir()) == []
