"""Batch inference over a file: `nabi predict --data --out` beside the incumbent's pipeline over the same file: speed, memory, and whether the answers agree.

The incumbent's side is as its documentation says: a pipeline over a generator of the file's rows with a ``batch_size``, or over ``KeyDataset`` of a data set,
the answers written as JSON lines. Each side runs in a process of its own, the sides in turn; memory is the process's peak. The file is synthetic: real messages
in random order, or FILE. Its pipeline keeps nothing if it is ended; nabi's side synchronises a part after each 2048 rows.

    python benchmarks/predict_file.py MODEL [--data FILE] [--rows 20000] [--batch-sizes 1 8 32] [--rounds 3]

MODEL is a folder of text classification that both read, such as one that `nabi train` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import machine

from nabi.data.shipped import sms_spam

NABI = """
import sys, time
from nabi import predict_file
from nabi.memory import peak
began = time.perf_counter()
predict_file(sys.argv[1], sys.argv[2], sys.argv[3], overwrite=True)
print(time.perf_counter() - began, peak())
"""
PEER = """
import json, sys, time
from nabi.memory import peak
from transformers import pipeline
began = time.perf_counter()
pipe = pipeline("text-classification", model=sys.argv[1], device="cpu", batch_size=int(sys.argv[4]))
def texts():
    with open(sys.argv[2], encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]
if sys.argv[5] == "KeyDataset":
    from datasets import load_dataset
    from transformers.pipelines.pt_utils import KeyDataset
    given = KeyDataset(load_dataset("json", data_files=sys.argv[2], split="train"), "text")
else:
    given = texts()
with open(sys.argv[3], "w", encoding="utf-8") as file:
    for answer in pipe(given, truncation=True):
        file.write(json.dumps(answer, ensure_ascii=False) + "\\n")
print(time.perf_counter() - began, peak())
"""


def measured(code: str, *args: Any) -> tuple[float, float]:
    """(seconds, bytes at most) of a side."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def answers(path: Path) -> Iterator[tuple[str, float]]:
    """(label, score) of each line."""
    with path.open(encoding="utf-8") as file:
        yield from ((row["label"], row["score"]) for row in map(json.loads, file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        data, ours = given.data or Path(folder, "rows.jsonl"), Path(folder, "nabi.jsonl")
        if given.data is None:
            texts = [row["text"] for row in sms_spam()[0]]
            data.write_text("".join(json.dumps({"text": text}) + "\n" for text in random.Random(0).choices(texts, k=given.rows)), encoding="utf-8")
        with data.open(encoding="utf-8") as file:
            count = sum(1 for _ in file)
        sides: dict[str, tuple[Any, ...]] = {"nabi predict --data --out": (NABI, given.model, data, ours)}
        for size in given.batch_sizes:
            for kind in ("generator", "KeyDataset"):
                sides[f"the incumbent, {kind}, batch_size={size}"] = (PEER, given.model, data, Path(folder, f"{kind}-{size}.jsonl"), size, kind)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, (code, *args) in sides.items():
                found[name].append(measured(code, *args))
        print(f"{count:,} rows; median of {given.rounds}, loading the model included")
        for name, (_, *args) in sides.items():
            seconds = statistics.median(s for s, _ in found[name])
            line = f"  {name:<44} {count / seconds:>8,.0f} rows/s  peak {max(p for _, p in found[name]) / 1e6:>6,.0f} MB"
            if args[2] != ours:
                pairs = list(zip(answers(ours), answers(args[2]), strict=True))
                line += f"  labels differ in {sum(a[0] != b[0] for a, b in pairs)} rows, scores by at most {max(abs(a[1] - b[1]) for a, b in pairs):.1e}"
            print(line)


if __name__ == "__main__":
    main()
