"""Training of tokenizers: time against the library's own call, memory and fertility where the bound bites, and a code tokenizer against GPT-2's.

    python benchmarks/tokenizer_training.py [--part time|memory|code] [--megabytes 20] [--gpt2 FOLDER]

- time: byte-level BPE on the standard library's files, nabi's call and the library's by turns, medians; ids must be equal.
- memory: texts without spaces, each run in a process of its own; the peak must stay under the bound, the fertility within 1 % of training without one.
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
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

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


def spaceless(seed: int, characters: int) -> Iterator[str]:
    """Texts of Korean-like words, 20,000 of them with Zipf's frequencies, run together."""
    dice = np.random.default_rng(0)
    syllables = dice.choice(np.arange(0xAC00, 0xD7A4), 900, replace=False)
    weights = 1 / np.arange(1, 901)
    words = ["".join(map(chr, dice.choice(syllables, dice.integers(1, 5), p=weights / weights.sum()))) for _ in range(20_000)]
    ranks = 1 / np.arange(1, 20_001)
    dice = np.random.default_rng(seed)
    while characters > 0:
        text = "".join(words[i] for i in dice.choice(20_000, 2000, p=ranks / ranks.sum()))
        characters -= len(text)
        yield text


def measure_time(megabytes: float, rounds: int, vocab_size: int) -> None:
    texts, size = [], 0
    for text in files():
        size += len(text)
        if size > megabytes * 1e6:
            break
        texts.append(text)
    settings = TokenizerSettings(vocab_size=vocab_size)
    seconds: dict[str, list[float]] = {"library": [], "nabi": []}
    for _ in range(rounds):
        began = time.perf_counter()
        plain = untrained(settings)
        plain.train_from_iterator(iter(texts), trainer(settings))
        seconds["library"].append(time.perf_counter() - began)
        began = time.perf_counter()
        made = train_tokenizer(iter(texts), settings)
        seconds["nabi"].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    assert made.library.get_vocab() == plain.get_vocab()
    print(f"time: {sum(map(len, texts)) / 1e6:.1f} M characters, {vocab_size} tokens, {rounds} rounds: library {medians['library']:.2f} s, "
          f"nabi {medians['nabi']:.2f} s, ratio {medians['nabi'] / medians['library']:.3f}; ids equal")  # fmt: skip


def one(kind: str, megabytes: float, memory: str, vocab_size: int) -> None:
    """One training, in a process of its own: peak and fertility as JSON."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = TokenizerSettings(kind, vocab_size)  # type: ignore[arg-type]
        done = trained(lambda: spaceless(1, int(megabytes * 1e6 / 3)), settings, memory=None if memory == "none" else memory)
    held = peak()
    other = list(spaceless(2, 200_000))
    tokens = sum(len(encoding) for encoding in done.tokenizer.encode_batch(other, special=False))
    print(json.dumps({"peak": held, "fertility": tokens / sum(map(len, other)), "share": done.fed.share, "seconds": time.perf_counter() - began}))


def measure_memory(megabytes: float, memory: str, vocab_size: int) -> None:
    for kind in ("byte_bpe", "wordpiece"):
        results = {}
        for bound in (memory, "none"):
            command = [sys.executable, __file__, "--one", kind, "--megabytes", str(megabytes), "--memory", bound, "--vocab-size", str(vocab_size)]
            results[bound] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"memory: {kind}, {megabytes} MB without spaces, bound {bound}: peak {results[bound]['peak'] / 1e6:.0f} MB, "
                  f"share {results[bound]['share']:.3f}, "
                  f"{results[bound]['fertility']:.4f} tokens a character, {results[bound]['seconds']:.0f} s")  # fmt: skip
        print(f"memory: {kind}: fertility {results[memory]['fertility'] / results['none']['fertility'] - 1:+.2%} against no bound")


def gpt2(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer, from its packed files."""
    import tempfile

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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpt2", type=Path, help="the folder with GPT-2's files; without it that comparison is left out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.megabytes, given.memory, given.vocab_size)
        sys.exit()
    if given.part in (None, "time"):
        measure_time(given.megabytes, given.rounds, given.vocab_size)
    if given.part in (None, "memory"):
        measure_memory(given.megabytes, given.memory, given.vocab_size)
    if given.part == "code" or (given.part is None and given.gpt2):
        if given.gpt2 is None:
            parser.error("--part code needs --gpt2 FOLDER")
        measure_code(given.megabytes, given.vocab_size, given.gpt2)
