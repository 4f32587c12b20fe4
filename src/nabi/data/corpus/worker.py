"""One worker process of the local executor: told (stage, task) on standard input, a JSON line each; answers on standard output when it is done.

Unusual: a thread reads the orders, and at the end of the input it ends the process at once, in the middle of a task if need be. The pipe closes however the
parent ends, kill -9 included, so no worker outlives it.

    python -m nabi.data.corpus.worker FOLDER
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

from nabi.data.corpus.stages import stage
from nabi.data.corpus.work import Work
from nabi.errors import NabiError
from nabi.memory import peak


def problem(error: BaseException) -> dict[str, Any]:
    """What went wrong, for the parent: a kind of ours with its message, or where a bug is."""
    # of a kind that only one source knows: what it is a kind of
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


def _orders(into: queue.SimpleQueue[Any]) -> None:
    for line in sys.stdin.buffer:
        into.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Do what is told until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, and it ends us
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a package prints is no answer
    work = Work(sys.argv[1])
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_orders, args=(orders,), daemon=True).start()
    while True:
        name, number = orders.get()
        answer: dict[str, Any] = {}
        try:
            stage(work.recipe, name).do(work, number)
        except Exception as error:  # noqa: BLE001 (whatever it is, the parent tells it)
            answer = problem(error)
        answers.write(json.dumps({"task": number, "peak": peak(), **answer}).encode() + b"\n")


if __name__ == "__main__":
    main()
