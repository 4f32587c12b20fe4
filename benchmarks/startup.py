"""Time and memory from process start: ``import nabi``, ``nabi --help`` and the first answer of a saved MiniLM, beside the incumbent's.

    python benchmarks/startup.py [--runs 7]

Whole processes, alternating, after one warm-up each; prints medians with the smallest and largest. The model is a MiniLM classifier that nabi saves and both
sides read. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAVE = """
from nabi.checkpoint import load_for_training, save
from nabi.tasks import find
task = find("text_classification")
save(load_for_training("minilm", task.name, task.Settings(labels=("ham", "spam"))), {folder!r})
"""
ANSWER_NABI = "from nabi import pipeline; print(pipeline('text-classification', {folder!r})('You have won a prize'))"
ANSWER_PEER = "from transformers import pipeline; print(pipeline('text-classification', {folder!r})('You have won a prize'))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary) / "model")
        python = [sys.executable, "-c"]
        # in a process of its own: a child's peak memory counts what its parent held when it was forked, so this process stays small
        subprocess.run([*python, SAVE.format(folder=folder)], check=True)
        commands = {
            "python -c pass": [*python, "pass"],
            "import nabi": [*python, "import nabi"],
            "nabi --help": [sys.executable, "-m", "nabi", "--help"],
            "first answer, nabi": [*python, ANSWER_NABI.format(folder=folder)],
            "first answer, transformers": [*python, ANSWER_PEER.format(folder=folder)],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        memory: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(runs + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                if status:
                    raise SystemExit(f"{name} ended with status {status}")
                if run:  # the first round fills the caches
                    times[name].append(time.perf_counter() - began)
                    memory[name].append(usage.ru_maxrss / 1024)
    from machine import machine  # imports torch, so only now

    print(f"{machine()}; {runs} runs, alternating")
    for name in commands:
        t = times[name]
        print(f"{name:<28} median {statistics.median(t):6.3f} s ({min(t):.3f} to {max(t):.3f})  peak {statistics.median(memory[name]):5.0f} MB")
    ratios = [b / a for a, b in zip(times["first answer, nabi"], times["first answer, transformers"], strict=True)]
    print(f"first answer: nabi is {statistics.median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
