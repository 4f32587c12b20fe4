"""What it costs to open a large JSONL file and to read it once, beside the `datasets` library; and what a second run costs.

Each figure is measured in a process of its own, the two libraries in turn; memory is the process's peak less what its imports took. `load_dataset` has a cache
folder of its own, `map` the same tokenizer and one process. The file is synthetic: rows of 60 words and a label.

    python benchmarks/door.py [--mb 300] [--rounds 3]
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
from pathlib import Path

NABI = """
import sys, time
from nabi.memory import peak
from nabi.data import read_table
before = peak()
began = time.perf_counter()
table = read_table(sys.argv[1], required=["text", "label"])
opened = time.perf_counter()
count = sum(len(row["text"]) for row in table)
done = time.perf_counter()
places = [(i * 7919) % len(table) for i in range(20000)]
[table[i] for i in places]
print(opened - began, done - opened, (time.perf_counter() - done) / 20000 * 1e6, (peak() - before) / 1e6, count)
"""
PEER = """
import sys, time
from nabi.memory import peak
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar
disable_progress_bar()
before = peak()
began = time.perf_counter()
table = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
opened = time.perf_counter()
count = sum(len(row["text"]) for row in table)
done = time.perf_counter()
places = [(i * 7919) % len(table) for i in range(20000)]
[table[i] for i in places]
print(opened - began, done - opened, (time.perf_counter() - done) / 20000 * 1e6, (peak() - before) / 1e6, count)
"""
ENCODE = """
import sys, time
from nabi import create
from nabi.data import read_table
from nabi.tasks.text_classification import ClassificationSettings
from nabi.training.encoded import encoded
size = {"vocab_size": 1, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 128}
model = create("bert", size, "text_classification", ClassificationSettings(labels=("0", "1")), sys.argv[3])
table = read_table(sys.argv[1])[: int(sys.argv[4])]
table.sha256
began = time.perf_counter()
rows = encoded(model, table, model.options(), "train", print)
made = time.perf_counter()
tokens = sum(row.tokens for of_example in rows for row in of_example)
print(made - began, time.perf_counter() - made, tokens)
"""
MAP = """
import sys, time
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar
from nabi.text import Tokenizer
from pathlib import Path
disable_progress_bar()
tokenizer = Tokenizer.load(Path(sys.argv[3]))
table = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2]).select(range(int(sys.argv[4])))
def encode(row):
    found = tokenizer.encode(row["text"])
    return {"tokens": found.ids, "segments": found.segments}
began = time.perf_counter()
rows = table.map(encode, remove_columns=["text"], new_fingerprint="door")
made = time.perf_counter()
tokens = sum(len(row["tokens"]) for row in rows)
print(made - began, time.perf_counter() - made, tokens)
"""


def measured(code: str, *args: str, cache: Path) -> list[float]:
    """The figures that a program prints, in a process of its own."""
    env = {**os.environ, "NABI_CACHE": str(cache / "nabi"), "HF_HOME": str(cache / "hub"), "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, args[0], str(cache / "peer"), *args[1:]], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(x) for x in done.stdout.splitlines()[-1].split()]


def made(path: Path, megabytes: int) -> None:
    """A file of rows of 60 words."""
    chance, words, size = random.Random(0), [f"word{i}" for i in range(5000)], 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            size += file.write(json.dumps({"text": " ".join(chance.choices(words, k=60)), "label": chance.randrange(2)}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000, help="to tokenise")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made(folder / "rows.jsonl", args.mb)
        words = folder / "words"
        words.mkdir()
        (words / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(5000))]), encoding="utf-8")
        figures: dict[str, list[list[float]]] = {}
        for turn in range(args.rounds):
            for when in ("first", "second"):
                for library, code in (("nabi", NABI), ("datasets", PEER)):
                    figures.setdefault(f"{library:<9} {when} run", []).append(measured(code, str(folder / "rows.jsonl"), cache=folder / f"{library}{turn}"))
        print(f"{args.mb} MB, median of {args.rounds} rounds          open      one epoch   a row at random   peak memory")
        for what, found in figures.items():
            opened, epoch, row, memory, _ = map(statistics.median, zip(*found, strict=True))
            print(f"  {what:<26} {opened:>12.2f} s {epoch:>11.2f} s {row:>14.0f} us {memory:>10.0f} MB")
        assert len({found[-1] for each in figures.values() for found in each}) == 1, "the two read different rows"
        print(f"{args.rows:,} rows tokenised                     encode    read back once")
        for when in ("first", "second"):
            for library, code in (("nabi", ENCODE), ("datasets", MAP)):
                encode, back, _ = measured(code, str(folder / "rows.jsonl"), str(words), str(args.rows), cache=folder / f"{library}0")
                print(f"  {library:<9} {when:<6} run          {encode:>12.2f} s {back:>11.2f} s")


if __name__ == "__main__":
    main()
