"""A pool of worker processes of this machine: orders go in as JSON lines on standard input, answers come back on standard output.

It needs no package, starts a worker in a tenth of a second, ends with its parent however that ends, tells a worker that the system killed from one that
failed, and hands on the error of a task as it was raised.

Unusual: in a worker a thread reads the orders, and at the end of the input it ends the process at once, in the middle of a task if need be. The pipe closes
however the parent ends, kill -9 included, so no worker outlives it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nabi import errors
from nabi.errors import NabiError, StorageError, WorkError
from nabi.memory import peak

Order = list[Any]  # plain data: what a worker is to do


class Pool:
    """Processes of this machine.

    Args:
        module: what a worker runs: ``python -m MODULE ARGUMENTS``; it calls :func:`serve`.
        arguments: of the command line.
        workers: how many.
        say: hears of workers that were lost.
        threads: that one worker computes with.
    """

    def __init__(self, module: str, arguments: Sequence[str], workers: int, say: Callable[[str], None], threads: int = 1) -> None:
        self.workers, self.say = workers, say
        self._command, self._threads = [sys.executable, "-m", module, *arguments], threads
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._peaks: dict[int, int] = {}

    @property
    def peak(self) -> int:
        """The sum of what each worker held at most, in bytes."""
        return sum(sorted(self._peaks.values())[-self.workers :])

    def run(self, orders: Iterable[Order], name: Callable[[Order], str]) -> Iterator[tuple[Order, dict[str, Any]]]:
        """(order, answer) of each, as they come; up to ``workers`` at a time. An answer with an ``error`` is the caller's to raise (:func:`raised`).

        Args:
            orders: taken one by one, when a worker is free.
            name: what to call an order.

        Raises:
            WorkError: a worker was lost twice with the same order.
        """
        waiting, source, lost = deque[Order](), iter(orders), set[str]()
        with selectors.DefaultSelector() as selector:
            while True:
                while len(self._busy) < self.workers:
                    order = waiting.popleft() if waiting else next(source, None)
                    if order is None:
                        break
                    worker = self._idle.pop() if self._idle else Worker(self._command, self._threads)
                    self._busy.append(worker)
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
                    worker.order(order)
                if not self._busy:
                    return
                for key, _ in selector.select():
                    worker = key.data
                    selector.unregister(key.fileobj)
                    self._busy.remove(worker)
                    answer = worker.answer()
                    if answer is None:
                        code, what = worker.process.wait(), name(worker.given)
                        if what in lost:
                            raise _lost(what, code)
                        lost.add(what)
                        self.say(f"a worker ended in {what} ({_ending(code)}); the task is tried once more")
                        waiting.appendleft(worker.given)
                        continue
                    self._peaks[worker.process.pid] = answer.pop("peak")
                    self._idle.append(worker)
                    yield worker.given, answer

    def close(self) -> None:
        """End all workers, in the middle of a task if need be."""
        for worker in (*self._idle, *self._busy):
            worker.end()
        self._idle, self._busy = [], []


class Worker:
    """One process and the order that it was given last."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.given: Order = []

    def order(self, order: Order) -> None:
        """Give it something to do."""
        self.given = order
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: its answer will be missing
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> Any:
        """What it said, or None if it is gone."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def raised(answer: Mapping[str, Any], what: str) -> NabiError:
    """The error that a task raised, in another process.

    Args:
        answer: as :func:`problem` made it.
        what: to call the task.
    """
    name, message = answer["error"], answer["message"]
    kind = getattr(errors, name, None)
    if answer.get("errno") is not None and (kind is None or kind is StorageError):
        return StorageError(message)
    if name == "MemoryError":
        return WorkError(f"{what}: a worker ran out of memory. Take fewer workers.")
    if isinstance(kind, type) and issubclass(kind, NabiError):
        return kind(message)
    return WorkError(f"{what}: {name}: {message} (at {answer.get('where')}). This is a mistake in nabi; what is done stays done.")


def problem(error: BaseException) -> dict[str, Any]:
    """What went wrong, for the parent: a kind of ours with its message, or where a bug is."""
    # of a kind that only one module knows: what it is a kind of
    ours = next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == NabiError.__module__), "")
    told: dict[str, Any] = {"error": ours or type(error).__name__, "message": str(error)}
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):
        told["errno"] = cause.errno
    if not isinstance(error, NabiError | OSError | MemoryError):
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        told["where"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return told


def serve(do: Callable[[Order], dict[str, Any]]) -> None:
    """Be a worker: do what is ordered until the input ends.

    Args:
        do: an order -> the facts to answer; what it raises is answered too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, and it ends us
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a package prints is no answer
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        order = orders.get()
        try:
            answer = do(order)
        except Exception as error:  # noqa: BLE001 (whatever it is, the parent tells it)
            answer = problem(error)
        answers.write(json.dumps({**answer, "peak": peak()}).encode() + b"\n")


def _listen(into: queue.SimpleQueue[Order]) -> None:
    for line in sys.stdin.buffer:
        into.put(json.loads(line))
    os._exit(0)


def _lost(what: str, code: int) -> WorkError:
    fix = "Give the machine more memory, or take fewer workers." if code == -signal.SIGKILL else "Run it again to go on where it is."
    return WorkError(f"a worker ended twice in {what} ({_ending(code)}). {fix}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}, as the system does when memory runs out" if code == -signal.SIGKILL else f"killed by {name}"
