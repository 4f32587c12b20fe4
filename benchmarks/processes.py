"""What several processes cost and save: MiniLM trained by one process with two threads, and by two with one thread each, DDP and FSDP2, kept and recomputed.

    python benchmarks/processes.py [--steps 12] [--rounds 3]

Each row is the same updates on the same rows (the messages that ship with nabi), in turn; "peak" is the most memory of one process. Two processes on the cores
of one machine can't be faster than one that uses them all by much: the table says what the exchange costs. Needs the extra ``base``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

from machine import machine

WAYS = {
    "one process, two threads": (1, {}),
    "one process, recomputed": (1, {"recompute": True}),
    "two processes, DDP": (2, {}),
    "two processes, FSDP2": (2, {"parallel": "fsdp"}),
    "two processes, FSDP2, recomputed": (2, {"parallel": "fsdp", "recompute": True}),
}


def worker(way: str, steps: int) -> None:
    """One process of a way: prints the seconds of the updates after the first two, and its peak."""
    from nabi import Plan, checkpoint, memory, ranks, tasks
    from nabi.data.shipped import sms_spam
    from nabi.training.feed import Feed
    from nabi.training.loop import train

    group = ranks.found()
    table, kind = sms_spam()[0], tasks.find("text_classification")
    model = checkpoint.load_for_training("minilm", kind.name, kind.fitted(list(table), table.name, {}))
    plan = Plan(steps=steps, batch=32, tokens=512, seed=1, **WAYS[way][1])
    rows = [model.encode(table[i], model.options(), "train", table.where(i), i) for i in range(32 * steps)]
    began = 0.0
    for step in train(model, Feed(model, rows, plan), plan, ranks=group):
        if step.number == 2:
            began = time.perf_counter()
    seconds, peaks = time.perf_counter() - began, group.all(memory.peak())
    if group.first:
        print(json.dumps({"seconds": seconds / (steps - 2), "peak": max(peaks)}))


def run(way: str, steps: int) -> dict[str, float]:
    world = WAYS[way][0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": str(2 // world), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, "--worker", way, "--steps", str(steps)]
    each = [subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True) for rank in range(world)]
    said = [process.communicate()[0] for process in each]
    if any(process.returncode for process in each):
        sys.exit(f"{way}: a process failed")
    found: dict[str, float] = json.loads(said[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen.worker, chosen.steps)
        return
    print(machine())
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(chosen.rounds):
        for way, times in found.items():
            times.append(run(way, chosen.steps))
    first = statistics.median(each["seconds"] for each in found["one process, two threads"])
    print("| | seconds an update | against one process | peak |\n|---|---|---|---|")
    for way, times in found.items():
        seconds = statistics.median(each["seconds"] for each in times)
        print(f"| {way} | {seconds:.3f} | {seconds / first:.2f} | {statistics.median(each['peak'] for each in times) / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
