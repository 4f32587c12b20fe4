"""A model and its batches under Accelerate's own ``prepare``, alone and on two processes: the same gradient as ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.small import vocabulary
from training.together import ROOT, free_port

pytestmark = pytest.mark.slow
SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from accelerate import Accelerator
from nabi import Plan
from training.small import feed, model, rows

torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
plan = Plan(steps=6, batch=8, tokens=60, seed=3)
built = model(Path(sys.argv[1]), dropout=0.0, init_std=0.2)
ours = feed(built, rows(40), plan)
optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
wrapped, optimizer = accelerator.prepare(built, optimizer)
losses = []
for n in range(plan.steps):
    batches = ours.step(n, accelerator.process_index, accelerator.num_processes)
    count = sum(built.task.counts(batch.targets)["label"] for batch in batches if batch.real)
    count = float(accelerator.reduce(torch.tensor(count), "sum"))
    total = torch.zeros(())
    for i, batch in enumerate(batches):
        with accelerator.no_sync(wrapped) if i + 1 < len(batches) else torch.enable_grad():
            loss = wrapped(batch.to(accelerator.device))["label"] * (1.0 if batch.real else 0.0)
            accelerator.backward(loss * accelerator.num_processes / count)  # its DDP gives the mean over processes
            total += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(float(accelerator.reduce(total, "sum")) / count)
if accelerator.is_main_process:
    Path(sys.argv[2]).write_text(json.dumps(losses))
accelerator.end_training()
"""


def run(folder: Path, world: int) -> list[float]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    script, out = folder / "script.py", folder / f"losses{world}.json"
    script.write_text(SCRIPT)
    shared = {**os.environ, "PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    places: list[dict[str, Any]] = [{"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(world)} for i in range(world)] if world > 1 else [{}]
    each = [subprocess.Popen([sys.executable, str(script), str(folder), str(out)], env={**shared, **place}) for place in places]
    assert [process.wait(120) for process in each] == [0] * world
    found: list[float] = json.loads(out.read_text())
    return found


def test_prepared_by_accelerate_it_trains_alone_and_on_two_processes(tmp_path: Path) -> None:
    vocabulary(tmp_path)
    alone, two = run(tmp_path, 1), run(tmp_path, 2)
    assert alone[-1] != alone[0] and two == pytest.approx(alone, abs=2e-6)
