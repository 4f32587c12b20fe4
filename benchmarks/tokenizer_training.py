"""Training of tokenizers: time against the library's own call, memory and fertility where the bound bites, and a code tokenizer against GPT-2's.

    python benchmarks/tokenizer_training.py [--part time|memory|code] [--megabytes 20] [--lines] [--source FOLDER] [--gpt2 FOLDER]

- time: byte-level BPE on the standard library's files (with --lines on their lines), nabi's call and the library's by turns: the medians of the ratios of each
  turn, of wall and of CPU time (RAYON_NUM_THREADS=1 makes both steadier); ids must be equal.
- memory: texts without spaces in lines of 80 characters, each run in a process of its own; the peak must stay under the bound, the fertility within 1 % of
  training without one (--alone leaves that out). Words are made up, or those of the .jsonl.gz and .txt.gz files in FOLDER, each followed by one that follows
  it there.
- code: files of the standard library, a tenth held back by hash; tokens a file against GPT-2's (``gpt2_encoder.json.gz`` and ``gpt2_vocab.bpe.gz`` in FOLDER).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nabi.memory import peak
from nabi.text import Tokenizer
from nabi.text.measuring import keywords
from nabi.text.training import TokenizerSettings, train_tokenizer, trained, trainer, untrained


def files() -> list[str]:
    """The standard library's .py files that are UTF-8, in the order of their paths."""
    texts = []
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
    return texts


def held_back(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] < 26


LINE, LINES, WALKS = 80, 25, 512


def words(source: Path | None) -> list[str]:
    """The words of a folder's texts in their order, or 200,000 of 20,000 Korean-like ones with Zipf's frequencies."""
    if source is None:
        dice = np.random.default_rng(0)
        syllables = dice.choice(np.arange(0xAC00, 0xD7A4), 900, replace=False)
        weights = 1 / np.arange(1, 901)
        made = ["".join(map(chr, dice.choice(syllables, dice.integers(1, 5), p=weights / weights.sum()))) for _ in range(20_000)]
        ranks = 1 / np.arange(1, 20_001)
        return [made[i] for i in dice.choice(20_000, 200_000, p=ranks / ranks.sum())]
    found: list[str] = []
    for path in sorted(source.rglob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            if path.name.endswith(".txt.gz"):
                found += file.read().split()
            elif path.name.endswith(".jsonl.gz"):
                for line in file:
                    found += " ".join(value for value in json.loads(line).values() if isinstance(value, str)).split()
    return found


def spaceless(source: Path | None, seed: int, characters: int) -> Iterator[str]:
    """Texts of words run together, in lines."""
    spoken = words(source)
    kinds, ids = np.unique(np.array(spoken, object), return_inverse=True)
    order = np.argsort(ids, kind="stable")
    counts = np.bincount(ids)
    begins = np.cumsum(counts) - counts
    dice = np.random.default_rng(seed)
    at = dice.integers(0, len(ids) - 1, WALKS)
    waiting = [""] * WALKS
    while True:
        walk = []
        for _ in range(64):
            word = ids[(at + 1) % len(ids)]
            walk.append(word)
            at = order[begins[word] + (dice.random(WALKS) * counts[word]).astype(np.int64)]
        for number, path in enumerate(np.stack(walk, 1)):
            waiting[number] += "".join(kinds[path])
            while len(waiting[number]) >= LINE * LINES:
                text, waiting[number] = waiting[number][: LINE * LINES], waiting[number][LINE * LINES :]
                yield "\n".join(text[start : start + LINE] for start in range(0, len(text), LINE))
                characters -= len(text)
                if characters <= 0:
                    return


def measure_time(megabytes: float, rounds: int, vocab_size: int, lines: bool) -> None:
    texts, size = [], 0
    for text in files():
        size += len(text)
        if size > megabytes * 1e6:
            break
        texts += text.splitlines(keepends=True) if lines else [text]
    settings = TokenizerSettings(vocab_size=vocab_size)

    def library() -> Any:
        plain = untrained(settings)
        plain.train_from_iterator(iter(texts), trainer(settings))
        return plain.get_vocab()

    def ours() -> Any:
        return train_tokenizer(iter(texts), settings).library.get_vocab()

    taken: dict[str, list[tuple[float, float]]] = {"library": [], "nabi": []}
    for turn in range(rounds + 1):
        made = {}
        for name, run in [("library", library), ("nabi", ours)][:: 1 if turn % 2 else -1]:
            began = time.perf_counter(), time.process_time()
            made[name] = run()
            taken[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
        assert made["library"] == made["nabi"]
    both = np.array([taken["library"][1:], taken["nabi"][1:]])  # the first turn warms up
    seconds, ratios = np.median(both, axis=1), np.median(both[1] / both[0], axis=0)
    print(f"time: {sum(map(len, texts)) / 1e6:.1f} M characters in {len(texts):,} texts, {vocab_size} tokens, {rounds} turns: "
          f"library {seconds[0, 0]:.2f} s (CPU {seconds[0, 1]:.2f}), nabi {seconds[1, 0]:.2f} s (CPU {seconds[1, 1]:.2f}), "
          f"ratio {ratios[0]:.3f} (CPU {ratios[1]:.3f}); ids equal")  # fmt: skip


def one(kind: str, megabytes: float, memory: str, vocab_size: int, source: Path | None) -> None:
    """One training, in a process of its own: peak and fertility as JSON. Texts lie in a file, for making them takes memory too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts"
        make = [sys.executable, __file__, "--write", str(path), "--megabytes", str(megabytes), *(["--source", str(source)] if source else [])]
        subprocess.run(make, check=True)

        def read(name: str) -> Iterator[str]:
            with (path.parent / name).open(encoding="utf-8") as file:
                while lines := [line for _, line in zip(range(LINES), file)]:  # noqa: B905
                    yield "".join(lines)[:-1]

        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = TokenizerSettings(kind, vocab_size)  # type: ignore[arg-type]
            done = trained(lambda: read("texts"), settings, memory=None if memory == "none" else memory)
        seconds, held = time.perf_counter() - began, peak()
        other = list(read("texts.dev"))
        encodings = done.tokenizer.encode_batch(other, special=False)
    tokens = sum(map(len, encodings))
    unknown = sum(encoding.ids.count(done.tokenizer.unk_id) for encoding in encodings) / tokens
    facts = {"peak": held, "fertility": tokens / sum(map(len, other)), "unknown": unknown, "share": done.fed.share, "seconds": seconds}
    print(json.dumps(facts))


def write(path: Path, megabytes: float, source: Path | None) -> None:
    """The texts of ``megabytes`` and others to measure on."""
    for name, seed, size in ((path, 1, int(megabytes * 1e6)), (path.with_suffix(".dev"), 2, 600_000)):
        with name.open("w", encoding="utf-8") as file:
            for text in spaceless(source, seed, size):  # ends below, for characters differ in bytes
                file.write(text + "\n")
                if file.tell() >= size:
                    break


def measure_memory(megabytes: float, memory: str, vocab_size: int, source: Path | None, alone: bool) -> None:
    rows = []
    for kind in ("byte_bpe", "wordpiece", "unigram"):
        results = {}
        for bound in (memory,) if alone else (memory, "none"):
            command = [sys.executable, __file__, "--one", kind, "--megabytes", str(megabytes), "--memory", bound, "--vocab-size", str(vocab_size)]
            command += ["--source", str(source)] if source else []
            results[bound] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for bound, found in results.items():
            against = f"{found['fertility'] / results['none']['fertility'] - 1:+.2%}" if bound != "none" and "none" in results else ""
            cells = (kind, bound, f"{found['peak'] / 1e6:.0f} MB", f"{found['share']:.1%}", f"{found['fertility']:.4f}", against, f"{found['unknown']:.2%}",
                     f"{found['seconds']:.0f} s")  # fmt: skip
            rows.append("| " + " | ".join(cells) + " |")
            print(rows[-1], file=sys.stderr, flush=True)
    print(f"memory: {megabytes} MB without spaces, {vocab_size} tokens")
    print("| kind | bound | peak | trained on | tokens a character | against no bound | unknown | time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", *rows, sep="\n")


def gpt2(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer, from its packed files."""
    with tempfile.TemporaryDirectory() as there:
        for packed, name in (("gpt2_encoder.json.gz", "vocab.json"), ("gpt2_vocab.bpe.gz", "merges.txt")):
            (Path(there) / name).write_bytes(gzip.decompress((folder / packed).read_bytes()))
        (Path(there) / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        return Tokenizer.load(Path(there))


def measure_code(megabytes: float, vocab_size: int, folder: Path) -> None:
    texts, size = [], 0
    for text in sorted(files(), key=lambda text: hashlib.sha256(text.encode()).digest()[::-1]):
        size += len(text)
        if size > megabytes * 1e6:
            break
        texts.append(text)
    kept, other = [text for text in texts if not held_back(text)], [text for text in texts if held_back(text)]
    ours, theirs = train_tokenizer(kept, TokenizerSettings(vocab_size=vocab_size)), gpt2(folder)
    counts = [[len(encoding) for encoding in made.encode_batch(other)] for made in (ours, theirs)]
    ratios = [a / b for a, b in zip(*counts, strict=True) if b]
    print(f"code: trained on {len(kept)} files ({sum(map(len, kept)) / 1e6:.1f} M characters), {len(other)} held back: {sum(counts[0]):,} tokens "
          f"against GPT-2's {sum(counts[1]):,}, ratio {sum(counts[0]) / sum(counts[1]):.3f} (median a file {statistics.median(ratios):.3f})")  # fmt: skip
    for name, made in ((f"ours ({made_size(ours)})", ours), (f"GPT-2 ({made_size(theirs)})", theirs)):
        found = keywords(made)
        print(f"code: {name} lacks {' '.join(found['lacking_alone']) or 'none'} alone; {' '.join(found['lacking_behind_a_space']) or 'none'} behind a space")


def made_size(made: Tokenizer) -> str:
    return f"{made.vocab_size:,} tokens"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=["time", "memory", "code"])
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--vocab-size", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gpt2", type=Path, help="the folder with GPT-2's files; without it that comparison is left out")
    parser.add_argument("--lines", action="store_true", help="time: give single lines")
    parser.add_argument("--source", type=Path, help="memory: the folder with the texts whose words are taken")
    parser.add_argument("--alone", action="store_true", help="memory: no training without a bound")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.megabytes, given.memory, given.vocab_size, given.source)
        sys.exit()
    if given.write:
        write(given.write, given.megabytes, given.source)
        sys.exit()
    if given.part in (None, "time"):
        measure_time(given.megabytes, given.rounds, given.vocab_size, given.lines)
    if given.part in (None, "memory"):
        measure_memory(given.megabytes, given.memory, given.vocab_size, given.source, given.alone)
    if given.part == "code" or (given.part is None and given.gpt2):
        if given.gpt2 is None:
            parser.error("--part code needs --gpt2 FOLDER")
        measure_code(given.megabytes, given.vocab_size, given.gpt2)
