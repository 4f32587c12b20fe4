"""Kills a `nabi predict --data --out` again and again and goes on with it; a script, so that the many processes are forked from one that has imported torch.

A kill falls at a random moment (the parent sends it once so many parts are done, after a random time), or inside a write: at a random file operation the
process kills itself before it, after it, or in the middle of a line of the journal.

    python killing.py '{"args": [...], "kills": 50, "parts": 489, "seed": 0, "log": "FILE"}'       prints what happened as JSON
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nabi import cli
from nabi.predicting import running
from nabi.predicting.work import Work

DONE, INSIDE, EVENTS = 0, 4, 8  # places in the shared memory: parts that were committed, whether the process is in a file operation, how many there were


class Shared:
    """What a child tells its parent, whatever becomes of it."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 16)

    def __getitem__(self, place: int) -> int:
        return int.from_bytes(self._map[place : place + 4], "little")

    def __setitem__(self, place: int, value: int) -> None:
        self._map[place : place + 4] = value.to_bytes(4, "little")


def watched(shared: Shared, kill_at: int, log: Path | None) -> None:
    """Count the file operations of this process; it kills itself at operation ``kill_at`` (never at 0)."""

    def event() -> None:
        shared[EVENTS] += 1
        if shared[EVENTS] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(what: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            shared[INSIDE] += 1
            event()
            found = what(*args, **kwargs)
            event()
            shared[INSIDE] -= 1
            return found

        return operation

    note, commit, answer = Work._note, Work.commit, running.Parts.__call__

    def noted(self: Work, facts: dict[str, Any]) -> None:
        shared[INSIDE] += 1
        if shared[EVENTS] + 1 == kill_at:
            line = json.dumps(facts).encode()
            with (self.folder / "journal.jsonl").open("ab") as file:
                file.write(line[: len(line) // 2])
        event()
        note(self, facts)
        shared[INSIDE] -= 1

    def committed(self: Work, number: int, facts: dict[str, Any]) -> None:
        commit(self, number, facts)
        shared[DONE] += 1
        write(f"c {number}")

    def answered(self: Any, number: int) -> Any:
        write(f"a {number}")
        return answer(self, number)

    def write(line: str) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(line + "\n")

    os.fsync, Path.replace, Path.rename = around(os.fsync), around(Path.replace), around(Path.rename)  # type: ignore[assignment,method-assign]
    Work._note, Work.commit, running.Parts.__call__ = noted, committed, answered  # type: ignore[method-assign]


def attempt(args: list[str], shared: Shared, kill_at: int, log: Path | None, errors: Path) -> int:
    """Start the command in a process of its own; gives its number."""
    for place in (DONE, INSIDE, EVENTS):
        shared[place] = 0
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    watched(shared, kill_at, log)
    os._exit(cli._run(lambda: cli.cli.main(args=args, prog_name="nabi", standalone_mode=False)))


def main(given: dict[str, Any]) -> dict[str, Any]:
    """Kill it ``kills`` times, then let it end."""
    shared, dice, args = Shared(), random.Random(given["seed"]), [str(a) for a in given["args"]]
    log, errors, began = Path(given["log"]), Path(given["log"] + ".err"), time.monotonic()
    killed = inside = fruitful = 0
    attempts = []
    while True:
        more = killed < given["kills"]
        share = 2 * given["parts"] / (given["kills"] + 10)  # parts that an attempt does, twice the mean
        at = dice.randint(0, round(share))
        in_write = more and dice.random() < 0.4
        child = attempt(args, shared, at * 9 + dice.randint(1, 9) if in_write else 0, log, errors)
        if more and not in_write:
            while shared[DONE] < at and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(0.001)
            time.sleep(dice.random() * given["delay"])
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        attempts.append((code, shared[DONE], shared[EVENTS]))
        if code == -signal.SIGKILL:
            killed += 1
            inside += shared[INSIDE] > 0
            fruitful += shared[DONE] > 0
            continue
        return {"code": code, "killed": killed, "inside": inside, "fruitful": fruitful, "seconds": time.monotonic() - began, "attempts": attempts}


def every(given: dict[str, Any]) -> dict[str, Any]:
    """Kill a run from the beginning at each of its file operations, or every ``step``-th; each time it then goes on to its end, and the file is compared."""
    shared, args = Shared(), [str(a) for a in given["args"]]
    log, errors, out, wanted = Path(given["log"]), Path(given["log"] + ".err"), Path(given["out"]), Path(given["wanted"]).read_bytes()
    kill_at, killed, different, left = 1 - given["step"], 0, 0, 0
    while True:
        kill_at += given["step"]
        code = os.waitstatus_to_exitcode(os.waitpid(attempt(args, shared, kill_at, log, errors), 0)[1])
        if code == 0:
            out.unlink()
            return {"killed": killed, "different": different, "left": left}
        again = os.waitstatus_to_exitcode(os.waitpid(attempt(args, shared, 0, log, errors), 0)[1])
        killed += 1
        # after its very last step there is nothing to go on with: the file is there, and the command is refused
        different += not (out.exists() and out.read_bytes() == wanted and again in (0, 2))
        left += any(path.name.startswith(f".{out.name}") for path in out.parent.iterdir())
        out.unlink(missing_ok=True)


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps((every if "wanted" in task else main)(task)))
