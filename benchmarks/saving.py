"""What a checkpoint costs: MiniLM is trained and saved every few updates, with training standing still meanwhile and with it going on.

    python benchmarks/saving.py [--steps 24] [--every 6] [--runs 3]

Each run is the same updates on the same rows (the messages that ship with nabi). "Blocked" is the time that the loop spends in the call that saves, as a
share of all its time, the wait for the last save included; "per save" that time for one checkpoint (weights, both moments of AdamW, manifest, all put on the
disk); "against none" how much longer the whole loop takes than without saving. Needs the extra ``base``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from machine import machine

from nabi import Plan, checkpoint, tasks
from nabi.data.shipped import sms_spam
from nabi.training.feed import Feed
from nabi.training.loop import train
from nabi.training.runs import RunFolder


def run(mode: str, steps: int, every: int) -> tuple[float, float, int]:
    """Seconds in all, seconds blocked, bytes of a checkpoint."""
    table, kind = sms_spam()[0], tasks.find("text_classification")
    model = checkpoint.load_for_training("minilm", kind.name, kind.fitted(list(table), table.name, {}))
    plan = Plan(steps=steps, batch=16, seed=1)
    rows = [model.encode(table[i], model.options(), "train", table.where(i), i) for i in range(16 * steps)]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary, RunFolder(Path(temporary) / "run", resume=False) as folder:
        folder.make()
        began, blocked = time.perf_counter(), 0.0
        for step in train(model, Feed(model, rows, plan), plan):
            if mode != "none" and step.number % every == 0:
                asked = time.perf_counter()
                folder.save_last(model, step.state(), plan, {}, False, mode == "waits")
                blocked += time.perf_counter() - asked
        asked = time.perf_counter()
        folder.wait()
        over = time.perf_counter()
        size = sum(file.stat().st_size for file in folder.last.iterdir()) if folder.last.is_dir() else 0
        return over - began, blocked + over - asked, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    print(machine())
    found: dict[str, list[tuple[float, float, int]]] = {"none": [], "waits": [], "behind": []}
    for _ in range(chosen.runs):  # in turn, so that a busy moment of the machine strikes all alike
        for mode, times in found.items():
            times.append(run(mode, chosen.steps, chosen.every))
    plain = statistics.median(total for total, _, _ in found["none"])
    print(f"{chosen.steps} updates of 16 messages, a checkpoint of {found['waits'][0][2] / 1e6:.0f} MB every {chosen.every}; medians of {chosen.runs}\n")
    print(f"| {'training':14} | seconds | blocked | per save | against none |\n|---|---|---|---|---|")
    for mode, name in (("none", "without saves"), ("waits", "stands still"), ("behind", "goes on")):
        total, blocked = (statistics.median(times[i] for times in found[mode]) for i in (0, 1))
        saves = chosen.steps // chosen.every
        print(f"| {name:14} | {total:.1f} | {blocked / total:.1%} | {blocked / saves:.2f} s | {total / plain - 1:+.1%} |")


if __name__ == "__main__":
    main()
