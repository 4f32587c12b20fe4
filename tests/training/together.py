"""Process groups for tests: a server that has imported everything forks as many processes as are asked for, joins them by gloo and runs a function of jobs.py.

Each process writes what its function returns (tensors, plain data) into a folder; nothing is shared but that.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Together:
    """Runs jobs in groups of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        self.server = subprocess.Popen(
            [sys.executable, "-m", "training.together"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )

    def begin(self, job: str, world: int, absent: Sequence[int] = (), environment: Mapping[str, str] | None = None, **given: Any) -> tuple[Path, list[int]]:
        """Begin a job; the folder of its results and the process ids."""
        assert self.server.stdin is not None
        self.count += 1
        out = self.folder / f"job{self.count}"
        out.mkdir(parents=True)
        order = {"job": job, "world": world, "given": given, "out": str(out), "port": free_port(), "absent": list(absent), "env": dict(environment or {})}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return out, json.loads(self._line())

    def end(self, out: Path, world: int) -> list[Any]:
        """What each process returned; the exit code of one that returned nothing, the error of one that could not join, None for one that was absent."""
        codes = json.loads(self._line())
        return [torch.load(out / f"{rank}.pt") if (out / f"{rank}.pt").exists() else codes[rank] for rank in range(world)]

    def __call__(self, job: str, world: int, **given: Any) -> list[Any]:
        out, _ = self.begin(job, world, **given)
        return self.end(out, world)

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()

    def _line(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline()


def _child(order: dict[str, Any], rank: int) -> None:
    os.environ.update(order["env"])
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(order["world"]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(order["port"])})
    from nabi import ranks
    from nabi.errors import NabiError
    from training import jobs

    try:
        try:
            group = ranks.found()
        except NabiError as error:
            found = str(error)
        else:
            found = getattr(jobs, order["job"])(group, **order["given"])
        draft = Path(order["out"]) / f"draft{rank}"
        torch.save(found, draft)
        draft.rename(Path(order["out"]) / f"{rank}.pt")
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fork must not run on in the code of its parent
        traceback.print_exc()
        os._exit(1)


def _serve() -> None:
    import nabi.fitting  # noqa: F401 - imported before the fork, so that a process starts at once
    from training import jobs  # noqa: F401

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a job prints is no answer
    for line in sys.stdin:
        order, pids = json.loads(line), []
        for rank in range(order["world"]):
            if rank in order["absent"]:
                continue
            pid = os.fork()
            if pid == 0:
                _child(order, rank)
            pids.append(pid)
        print(json.dumps(pids), file=answers, flush=True)
        codes: dict[int, int] = {}
        while len(codes) < len(pids):
            for pid in pids:
                if pid not in codes and (done := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(done[1])
                    if codes[pid] != 0:  # as torchrun does: one that died takes the others with it, after a while to say why themselves
                        time.sleep(1)
                        for other in pids:
                            if other not in codes:
                                os.kill(other, signal.SIGKILL)
            time.sleep(0.01)
        ended = iter(codes[pid] for pid in pids)
        print(json.dumps([None if rank in order["absent"] else next(ended) for rank in range(order["world"])]), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
