"""Who runs the tasks of a stage: processes of this machine, Ray, or Slurm. Each is told the folder, the stage and the numbers of the tasks, and no more.

Ray and Slurm come through datatrove's executors (``clusters``). ``local`` does not: a pool of our own is this one file, needs no package, starts a worker in a
tenth of a second, ends with its parent, tells a worker that the system killed from one that failed, and hands on the error of a task as it was raised.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from nabi import errors
from nabi.data.corpus.stages import Stage
from nabi.data.corpus.work import Work
from nabi.errors import NabiError, StorageError, WorkError

Told = Callable[[int], None]


class Executor(Protocol):
    """Runs tasks."""

    @property
    def peak(self) -> int:
        """Bytes of memory that the workers held at most, together; 0 if that is not known."""

    def run(self, work: Work, stage: Stage, tasks: Iterable[int], done: Told) -> None:
        """Do all of these tasks of a stage; ``done`` is called with each number.

        Raises:
            NabiError: what a task raised.
            WorkError: a worker was lost for good.
        """

    def close(self) -> None:
        """End all workers."""


class Local:
    """Processes of this machine.

    Args:
        workers: how many.
        say: hears of workers that were lost.
    """

    def __init__(self, workers: int, say: Callable[[str], None]) -> None:
        self.workers, self.say = workers, say
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._peaks: dict[int, int] = {}

    @property
    def peak(self) -> int:
        """The sum of what each worker held at most."""
        return sum(sorted(self._peaks.values())[-self.workers :])

    def run(self, work: Work, stage: Stage, tasks: Iterable[int], done: Told) -> None:
        """Do them, up to ``workers`` at a time."""
        waiting, lost = deque(tasks), set[int]()
        with selectors.DefaultSelector() as selector:
            while waiting or self._busy:
                while waiting and len(self._busy) < self.workers:
                    worker = self._idle.pop() if self._idle else _Worker(work.out)
                    self._busy.append(worker)
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
                    worker.order(stage.name, waiting.popleft())
                for key, _ in selector.select():
                    worker = key.data
                    selector.unregister(key.fileobj)
                    self._busy.remove(worker)
                    answer = worker.answer()
                    if answer is None:
                        code, number = worker.process.wait(), worker.task
                        if number in lost:
                            raise _lost(stage, number, code)
                        lost.add(number)
                        self.say(f"a worker ended in task {number} of {stage.name} ({_ending(code)}); the task is tried once more")
                        waiting.appendleft(number)
                        continue
                    self._peaks[worker.process.pid] = answer["peak"]
                    if "error" in answer:
                        worker.end()
                        raise raised(answer, work, stage)
                    self._idle.append(worker)
                    done(answer["task"])

    def close(self) -> None:
        """End all workers, in the middle of a task if need be."""
        for worker in (*self._idle, *self._busy):
            worker.end()
        self._idle, self._busy = [], []


class _Worker:
    """One process and the task that it was given last."""

    def __init__(self, out: Path) -> None:
        source = str(Path(__file__).parents[3])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "nabi.data.corpus.worker", str(out)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.task = -1

    def order(self, stage: str, number: int) -> None:
        self.task = number
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: its answer will be missing
            self.process.stdin.write(json.dumps([stage, number]).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> Any:
        """What it said, or None if it is gone."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def raised(answer: dict[str, Any], work: Work, stage: Stage) -> NabiError:
    """The error that a task raised, in another process."""
    name, message = answer["error"], answer["message"]
    kind = getattr(errors, name, None)
    if answer.get("errno") is not None and (kind is None or kind is StorageError):
        return StorageError(message)
    if name == "MemoryError":
        return WorkError(f"{stage.name}: a worker ran out of memory. Take fewer workers, or a smaller 'max_bytes' of a document.")
    if isinstance(kind, type) and issubclass(kind, NabiError):
        return kind(message)
    return WorkError(f"{stage.name}, task {answer['task']}: {name}: {message} (at {answer.get('where')}). This is a mistake in nabi; what is done stays done.")


def _lost(stage: Stage, number: int, code: int) -> WorkError:
    fix = "Give the machine more memory, or take fewer workers." if code == -signal.SIGKILL else "Run it again to go on where it is."
    return WorkError(f"{stage.name}: a worker ended twice in task {number} ({_ending(code)}). {fix}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}, as the system does when memory runs out" if code == -signal.SIGKILL else f"killed by {name}"
