"""Several processes of one command on this machine, begun again together when one dies: torchrun's own agent, called from here.

Unusual: a process that ends with an error of nabi's is not begun again, since it would end with it again; what it says is printed once. torchrun itself
knows only that a process failed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

OUTCOME = "NABI_OUTCOME"  # the folder where each process leaves how it ended
RESTARTS = 3


def launch(processes: int, command: Sequence[str], restarts: int = RESTARTS) -> tuple[int, list[str]]:
    """Run ``python -m nabi COMMAND`` in so many processes; the exit code, and each different error that they left.

    Args:
        processes: how many.
        command: the words after ``nabi``.
        restarts: how often the group may be begun again after one died.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="nabi-") as folder:
        os.environ[OUTCOME] = folder
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=restarts,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        failed = 0
        try:
            elastic_launch(config, sys.executable)("-m", "nabi", *command)
        except ChildFailedError:
            failed = 1
        except SignalException as stop:
            failed = 128 + int(stop.sigval)
        finally:
            del os.environ[OUTCOME]
        ends = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(folder).glob("end-*.json"))]
    errors = list(dict.fromkeys(end["error"] for end in ends if end["error"]))
    own = [error for error in errors if not re.search(r"\(said by process \d+\)\.?$", error)]  # the others only pass on what one of them said
    errors = own or errors
    return failed or max((end["code"] for end in ends), default=1), errors


def leave(code: int, error: str) -> int:
    """What a process of a group ends with: of an error that would come again, only a note of it.

    Args:
        code: the exit code that it would have alone.
        error: what it would have printed.
    """
    folder = os.environ.get(OUTCOME)
    if folder is None:
        return code
    rank = int(os.environ.get("RANK", "0"))
    (Path(folder) / f"end-{rank:05d}.json").write_text(json.dumps({"code": code, "error": error}), encoding="utf-8")
    return 0
