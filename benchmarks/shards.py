"""Writing token shards beside ``datasets.map``, from the same JSON lines to ids on the disk; and how fast the order of reading is.

    python benchmarks/shards.py [--mb 20] [--rounds 3] [--rows 5000000]

The texts are the standard library's Python files, as many as make ``--mb``, and from the beginning again if they do not. The tokenizer is a byte-level BPE of
8,000 tokens, trained on the first 2 MB. Each side runs in a process of its own, in turn: ``write_shards`` from the file to a finished folder, hashes and
fsync included; ``datasets`` reads the file (its cache is empty) and maps the same tokenizer over it in batches of 1,000, which writes Arrow files of lists of
ids. Both use the tokenizer library's threads. Printed: the median with the smallest and largest, tokens a second, and the peak memory of the process.

Needs the package datasets for its side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

from machine import machine

SIDE = """
import json, sys, time
from nabi.memory import peak
side, file, words, out = sys.argv[1:]
if side == "nabi":
    from nabi.data.sharding import write_shards
    began = time.perf_counter()
    tokens = write_shards(file, words, out).tokens
else:
    import datasets
    from tokenizers import Tokenizer
    tokenizer, end = Tokenizer.from_file(f"{words}/tokenizer.json"), 0
    def encoded(rows):
        return {"ids": [[*x.ids, end] for x in tokenizer.encode_batch_fast(rows["text"], add_special_tokens=False)]}
    datasets.disable_progress_bars()
    began = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=out)
    made = rows.map(encoded, batched=True, batch_size=1000, remove_columns=rows.column_names)
    seconds = time.perf_counter() - began
    tokens = sum(map(len, made["ids"]))
    began = time.perf_counter() - seconds
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "tokens": tokens, "peak": peak() / 2**20}))
"""


def texts(size: int) -> Iterator[str]:
    """Python files of the standard library, until they come to ``size`` characters."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    read = [text for text in (file.read_text(encoding="utf-8", errors="replace") for file in files if "site-packages" not in file.parts) if text]
    for text in cycle(read):
        if size <= 0:
            return
        yield text
        size -= len(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5_000_000)
    given = parser.parse_args()
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from nabi.data.order import Order, permuted_many

    print(machine())
    sides = [side for side in ("nabi", "datasets") if side == "nabi" or find_spec("datasets")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=8000, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        library.train_from_iterator(texts(2_000_000), trainer)
        (folder / "words").mkdir()
        library.save(str(folder / "words" / "tokenizer.json"))
        (folder / "words" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
        with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
            for text in texts(int(given.mb * 1e6)):
                print(json.dumps({"text": text}), file=file)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for turn in range(given.rounds):
            for side in sides:
                call = [sys.executable, "-c", SIDE, side, str(folder / "train.jsonl"), str(folder / "words"), str(folder / f"{side}-{turn}")]
                found[side].append(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))
        for side, runs in found.items():
            seconds = sorted(run["seconds"] for run in runs)
            middle, tokens = statistics.median(seconds), runs[0]["tokens"]
            peak = max(run["peak"] for run in runs)
            rate = f"{tokens / middle / 1e6:6.2f} M tokens/s  {tokens:,} tokens"
            print(f"{side:9} {middle:6.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})  {rate}  {peak:,.0f} MiB")
        assert len({run["tokens"] for runs in found.values() for run in runs}) == 1, "the sides gave different numbers of tokens"
    began = time.perf_counter()
    permuted_many(0, given.rows, given.rows, 1)
    print(f"order of {given.rows:,} rows: {time.perf_counter() - began:.2f} s for all of them at once")
    order, began = Order(given.rows), time.perf_counter()
    first = [next(order.read(i * given.rows // 1000, rank=1, world=4, worker=1, workers=3, run=8)) for i in range(1000)]
    print(f"going on from {len(first)} positions: {(time.perf_counter() - began) / len(first) * 1e6:.0f} µs each to the first id")


if __name__ == "__main__":
    main()
