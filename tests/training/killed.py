"""Runs in processes of their own, to be killed: a server imports once, then forks for each of them; each leaves a log of what it did, line by line.

L step loss    an update was done, the loss in hexadecimal
S step         the checkpoint of that step is begun
E step         and is on the disk
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SERVER = """
import json, os, pathlib, signal, sys
import torch
torch.set_num_threads(1)
from training.small import SIZE, rows
from nabi import Plan, fit, fitting
from nabi.training import runs
from nabi.training.progress import Progress
from nabi.training.saving import Save

def counted(real, ours, moment):
    count = [0]
    def inner(*args, **kwargs):
        count[0] += ours(args)
        if count[0] == moment and ours(args):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return inner

def logged(path):
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    train, write = fitting.train, Save.write
    def train_and_tell(*args, **given):
        for step in train(*args, **given):
            os.write(log, f"L {step.number} {step.loss.hex()}\\n".encode())
            yield step
    def write_and_tell(save, *args):
        os.write(log, f"S {save.step}\\n".encode())
        write(save, *args)
        os.write(log, f"E {save.step}\\n".encode())
    fitting.train, Save.write = train_and_tell, write_and_tell

def run(out, tokenizer, plan, resume, stop, moment, log):
    if log:
        logged(log)
    if stop:  # killed before this many states and one more are written
        save = runs.RunFolder.save_last
        def save_and_wait(folder, *args):
            save(folder, *args)
            folder.wait()
        runs.RunFolder.save_last = counted(save_and_wait, lambda args: True, stop + 1)
    if moment:  # killed at this rename of a file or folder of the run
        trap = counted(os.rename, lambda args: out in str(args[0]), moment)
        os.rename, os.replace, pathlib.Path.replace = trap, trap, lambda self, target: trap(self, target)
    size = {**SIZE, "hidden_dropout": 0.2, "attention_dropout": 0.2}
    given = {"dev": rows(20, 1), "family": "bert", "size": size, "tokenizer": tokenizer, "progress": Progress("quiet", open(os.devnull, "w"))}
    fit("text_classification", rows(60), out=out, plan=Plan(**plan), resume=resume, **given)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            run(**json.loads(line))
            os._exit(0)
        except SystemExit as stopped:
            os._exit(stopped.code)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Runs:
    """Runs in processes of their own."""

    def __init__(self, tokenizer: Path) -> None:
        self.tokenizer = str(tokenizer)
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )

    def start(
        self, out: Path, plan: Mapping[str, Any], *, resume: bool = False, stop: int | None = None, moment: int | None = None, log: Path | None = None
    ) -> int:
        """Begin a run; its process id."""
        assert self.server.stdin is not None
        order = {"out": str(out), "tokenizer": self.tokenizer, "plan": dict(plan), "resume": resume, "stop": stop, "moment": moment, "log": log and str(log)}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return self._number()

    def wait(self) -> int:
        """The exit code of the run that was begun."""
        return self._number()

    def whole(self, *args: Any, **kwargs: Any) -> int:
        """Begin and wait."""
        self.start(*args, **kwargs)
        return self.wait()

    def _number(self) -> int:
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@contextlib.contextmanager
def server(tokenizer: Path) -> Iterator[Runs]:
    """Runs with this tokenizer."""
    found = Runs(tokenizer)
    yield found
    assert found.server.stdin is not None
    found.server.stdin.close()
    found.server.wait()


@dataclass
class Log:
    """What the log of one run says, over all of its processes.

    Attributes:
        losses: step -> every loss that was seen there.
        committed: the newest step whose checkpoint is on the disk.
        saving: whether a checkpoint was being written when the log ended.
    """

    losses: dict[int, set[str]] = field(default_factory=dict)
    committed: int = 0
    saving: bool = False

    @classmethod
    def read(cls, path: Path) -> Log:
        """From the file; none is an empty one."""
        found = cls()
        for kind, step, *loss in map(str.split, path.read_text().splitlines() if path.exists() else []):
            if kind == "L":
                found.losses.setdefault(int(step), set()).update(loss)
            else:
                found.saving = kind == "S"
                found.committed = max(found.committed, int(step)) if kind == "E" else found.committed
        return found
