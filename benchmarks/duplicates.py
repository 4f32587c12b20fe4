"""Near-duplicate finding: recall beside the formula, precision, and the speed of signatures beside rensa's and datatrove's.

    python benchmarks/duplicates.py [--files 20000] [--rounds 5]

Half of the files are Python files of this interpreter's library and packages, half are planted pairs: identifiers of those files in random order, and the
same with some exchanged, so that the Jaccard similarity of their 5-token shingles is exactly .3, .45, .7, .8, .9 or .95. The speeds are of one process, in CPU
seconds (other load on the machine counts less), alternating. Needs the packages rensa and datatrove.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import statistics
import sysconfig
import tempfile
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from nabi.data.corpus.duplicates import EXACT, NEAR, STAGES, Job, dropped, summary
from nabi.data.corpus.marks import ShardWriter
from nabi.data.corpus.minhash import MinHash, Near
from nabi.memory import peak

# Jaccard similarity: shingles of a text, exchanged tokens (each takes five shingles from either text), share of the planted pairs
LEVELS = {0.3: (325, 35, 0.06), 0.45: (290, 22, 0.06), 0.7: (340, 12, 0.50), 0.8: (360, 8, 0.18), 0.9: (380, 4, 0.10), 0.95: (390, 2, 0.10)}
SIGNS = r"\u1680\u2000-\u206f\u3000-\u303f\ufe00-\ufe0f\ufeff\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
TOKEN = re.compile(rf"[0-9A-Za-z_\u00c0-\u07ff]+|[^\u0000-\u07ff{SIGNS}]")
SHARDS = 8


def python_files(count: int) -> list[str]:
    """Texts of Python files of this interpreter, in random order."""
    paths = sorted({path for key in ("stdlib", "purelib", "platlib") for path in Path(sysconfig.get_path(key)).rglob("*.py")})
    random.Random(0).shuffle(paths)
    texts = []
    for path in paths:
        if len(texts) < count and path.stat().st_size < 1 << 20:
            try:
                texts.append(path.read_text("utf-8"))
            except UnicodeDecodeError:
                continue
    return texts


def shingles(text: str) -> set[tuple[str, ...]]:
    """The slow form: what a text's shingles are, as words."""
    words = TOKEN.findall(unicodedata.normalize("NFC", text))
    return set(zip(*(words[i:] for i in range(5)), strict=False))


def slow_jaccard(a: str, b: str) -> float:
    one, other = shingles(a), shingles(b)
    return len(one & other) / len(one | other)


def planted(count: int, exchanged: int, words: list[str], draw: random.Random) -> tuple[str, str]:
    """Two texts of ``count`` different shingles each, alike but for ``exchanged`` tokens that lie five or more apart."""
    tokens = draw.choices(words, k=count + 4)
    slots = sorted(draw.sample(range(count - 4 - 4 * (exchanged - 1)), exchanged))
    other = tokens.copy()
    for i, slot in enumerate(slots):
        other[slot + 4 * i + 4] = f"other_{draw.getrandbits(40):x}"

    def laid_out(tokens: list[str]) -> str:
        return "".join(f"    {token} = (" if i % 7 == 0 else f"{token})\n" if i % 7 == 6 else f"{token}, " for i, token in enumerate(tokens))

    return laid_out(tokens), laid_out(other)


def find(folder: Path, texts: list[str], near: Near) -> tuple[list[tuple[int, int, float]], dict[str, int], float]:
    """For each text the reason, the number of the text that it equals, the similarity; counts; seconds."""
    began = time.perf_counter()
    for shard in range(SHARDS):
        with ShardWriter(folder, shard, near) as writer:
            for text in texts[shard * len(texts) // SHARDS : (shard + 1) * len(texts) // SHARDS]:
                writer.add(json.dumps({"text": text}).encode(), text)
    job = Job(folder, SHARDS, near, memory=512 << 20)
    spent = {"write and mark": time.perf_counter() - began}
    for stage in STAGES:
        began = time.perf_counter()
        for task in range(stage.tasks(job)):
            stage.run(job, task)
        spent[stage.name] = time.perf_counter() - began
    print("  seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items()))
    starts, result = job.starts(), np.concatenate([dropped(job, shard) for shard in range(SHARDS)])
    of = starts[result["shard"]] + result["row"]
    return list(zip(result["reason"].tolist(), of.tolist(), result["jaccard"].tolist(), strict=True)), summary(job), sum(spent.values())


def quality(files: int) -> None:
    draw = random.Random(1)
    real = python_files(files // 2)
    words = sorted({word for text in real[:2000] for word in TOKEN.findall(text) if word.isascii() and word.isidentifier()})
    texts: list[str] = list(real)
    pairs: list[tuple[int, int, float]] = []
    for similarity, (count, exchanged, share) in LEVELS.items():
        for _ in range(round(share * (files - len(real)) / 2)):
            a, b = planted(count, exchanged, words, draw)
            assert math.isclose(slow_jaccard(a, b), similarity), (similarity, slow_jaccard(a, b))
            pairs.append((len(texts), len(texts) + 1, similarity))
            texts += [a, b]
    order = list(range(len(texts)))
    draw.shuffle(order)
    at = {old: new for new, old in enumerate(order)}
    texts = [texts[i] for i in order]
    print(f"{len(texts)} files, {sum(len(t.encode()) for t in texts) / 1e6:.0f} MB, {len(pairs)} planted pairs")
    for threshold in (0.65, 0.8):
        near = Near(threshold=threshold)
        with tempfile.TemporaryDirectory() as folder:
            found, counts, _ = find(Path(folder), texts, near)
        print(f"threshold {threshold}: {counts['exact']} exact, {counts['near']} near, {counts['compared']} pairs measured, {counts['capped']} capped")
        for similarity in LEVELS:
            planted_here = [(min(at[a], at[b]), max(at[a], at[b])) for a, b, s in pairs if s == similarity]
            recall = sum(found[b][0] == NEAR and found[b][1] == a for a, b in planted_here) / len(planted_here)
            formula = near.probability(similarity) if similarity >= threshold else 0.0
            error = math.sqrt(formula * (1 - formula) / len(planted_here))
            beside = f"formula {formula:.4f}, difference {recall - formula:+.4f}, standard error {error:.4f}"
            print(f"  Jaccard {similarity:.2f}: recall {recall:.4f}, {beside}, {len(planted_here)} pairs")
        measured = [slow_jaccard(texts[i], texts[of]) for i, (reason, of, _) in enumerate(found) if reason == NEAR]
        precise = sum(j >= threshold for j in measured) / len(measured)
        low = sum(j < 0.5 for j in measured)
        print(f"  merges {len(measured)}, share with a slow Jaccard >= {threshold} {precise:.4f}, under .5 {low}, least {min(measured):.3f}")
        plain: dict[str, int] = {}
        folded = [hashlib.sha256("".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest() for text in texts]
        firsts = [plain.setdefault(key, i) for i, key in enumerate(folded)]
        agree = sum((of if reason == EXACT else i) == first for i, ((reason, of, _), first) in enumerate(zip(found, firsts, strict=True)))
        print(f"  exact duplicates {counts['exact']}; {agree} of {len(texts)} files as a plain hash of the text without white space says")
    print(f"peak memory of this process (it holds all texts) {peak() / 2**20:.0f} MB")


def speed(rounds: int) -> None:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig, create_hash_func
    from rensa import RMinHash

    texts = python_files(800)
    size = sum(len(text.encode()) for text in texts) / 1e6
    ours = MinHash(Near())
    peer = object.__new__(MinhashDedupSignature)  # its constructor wants spaCy, which is slower than the split that stands in for it here
    peer.config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))  # its default, xxhash, fails with xxhash 4
    peer.num_hashes, peer._parameters = 112, None
    peer._hash_func, peer.word_tokenizer = create_hash_func(peer.config.hash_config), SimpleNamespace(word_tokenize=str.split)

    def with_rensa(text: str) -> None:
        words = re.findall(r"\w+", text)
        minhash = RMinHash(num_perm=112, seed=0)
        minhash.update([" ".join(gram) for gram in zip(*(words[i:] for i in range(5)), strict=False)])
        minhash.digest()

    def with_datatrove(text: str) -> None:
        found = peer.get_shingles(text)
        if found.size:
            peer.get_signature(found)

    sides = {"nabi": ours.keys, "nabi, the set of shingles": ours.shingles, "rensa": with_rensa, "datatrove": with_datatrove}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, sign in sides.items():
            began = time.process_time()
            for text in texts:
                sign(text)
            if number:  # the first round warms up
                spent[name].append(time.process_time() - began)
    print(f"signatures of {len(texts)} Python files, {size:.1f} MB, 5-token shingles, 112 permutations, {rounds} rounds, alternating, MB a CPU second:")
    for name, seconds in spent.items():
        print(f"  {name:<28} median {size / statistics.median(seconds):6.1f} ({size / max(seconds):.1f} to {size / min(seconds):.1f})")
    for name in ("rensa", "datatrove"):
        print(f"  nabi is {statistics.median(b / a for a, b in zip(spent['nabi'], spent[name], strict=True)):.1f}x as fast as {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from machine import machine

    print(machine())
    speed(options.rounds)
    quality(options.files)


if __name__ == "__main__":
    main()
