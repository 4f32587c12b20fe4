"""Building a corpus: MB/s and peak memory beside datatrove's local pipeline and datasets' map and filter; and a corpus larger than its memory limit.

    python benchmarks/corpus.py [--megabytes 500] [--workers 2] [--rounds 3]
    python benchmarks/corpus.py --large 5 [--memory 1.0]

The input is the Python files of this interpreter's library and packages (up to ``--megabytes``), as files and as JSON lines, which is what the peers read. All
sides write packed JSON lines with ``--workers`` processes. nabi and datatrove look for near duplicates with 14 bands of 8 rows over 5-grams; datatrove in its
four documented stages, with two changes without which it does not run here: its default hash fails with xxhash 4, so SHA-1; its default tokenizer wants spaCy,
so ``str.split``, which is faster (it needs the package orjson, too). ``datasets`` has no near duplicates: its row is exact duplicates by map and filter. Sides
alternate; each run is a process of its own. MB/s is bytes of input by seconds on the clock, from start to end; "peak" is the most that the process and all its
children held at one moment (the sum of their PSS where the system tells it, so shared pages count once), seen every tenth of a second.

``--large GB`` makes a corpus of so many GB (random words; of ten documents one equals an earlier one, one nearly does) and builds it with ``--memory`` GB for
all processes together, each of which may not hold more (RLIMIT_DATA); it needs three times the room on the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT = 1 << 20  # bytes of a file: all sides leave out longer ones
SIDES = ("nabi, files", "nabi", "nabi, exact only", "datatrove", "datasets, exact only")


def prepare(folder: Path, megabytes: float, parts: int) -> tuple[int, int]:
    """The input as files and as JSON lines; the number of files and their bytes."""
    (folder / "files").mkdir(parents=True)
    (folder / "rows").mkdir()
    writers = [(folder / "rows" / f"{part:02}.jsonl").open("w", encoding="utf-8") for part in range(parts)]
    count = size = 0
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            if root == sysconfig.get_path("stdlib") and "site-packages" in path.parts:
                continue
            try:
                data = path.read_bytes()
                text = data.decode()
            except (OSError, UnicodeDecodeError):
                continue
            if not 0 < len(data) <= LIMIT:
                continue
            place = folder / "files" / f"{count // 1000:03}"
            place.mkdir(exist_ok=True)
            (place / f"{count:06}.py").write_bytes(data)
            writers[count % parts].write(json.dumps({"text": text, "id": str(count)}) + "\n")
            count, size = count + 1, size + len(data)
            if size >= megabytes * 1e6:
                break
    for writer in writers:
        writer.close()
    return count, size


def nabi(folder: Path, out: Path, workers: int, side: str) -> int:
    from nabi.data.corpus.build import build
    from nabi.data.corpus.documents import Origin
    from nabi.data.corpus.minhash import Near
    from nabi.data.corpus.recipe import Recipe

    sources = [folder / "files"] if side == "nabi, files" else sorted((folder / "rows").iterdir())
    near = None if "exact" in side else Near()
    recipe = Recipe(tuple(Origin(str(path)) for path in sources), near=near, workers=workers)
    kept: int = build(recipe, out)["documents"]["out"]
    return kept


class Words:
    """What stands in for spaCy."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()


def datatrove(folder: Path, out: Path, workers: int) -> int:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature, minhash
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    minhash.load_word_tokenizer = lambda language: Words()
    config = minhash.MinhashConfig(hash_config=HashConfig(hash_fc="sha1"), n_grams=5, num_buckets=14, hashes_per_bucket=8)
    rows, tasks = str(folder / "rows"), len(list((folder / "rows").iterdir()))
    stages: list[tuple[list[Any], int]] = [
        ([JsonlReader(rows), MinhashDedupSignature(str(out / "signatures"), config)], tasks),
        ([MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config=config)], 1),
        ([JsonlReader(rows), MinhashDedupFilter(str(out / "remove")), JsonlWriter(str(out / "kept"))], tasks),
    ]
    for number, (pipeline, count) in enumerate(stages):
        LocalPipelineExecutor(pipeline, tasks=count, workers=workers, logging_dir=str(out / f"logs{number}")).run()
    stats = json.loads((out / "logs3" / "stats.json").read_text())
    return int(stats[-1]["stats"]["total"]["total"] if isinstance(stats[-1]["stats"]["total"], dict) else stats[-1]["stats"]["total"])


def datasets(folder: Path, out: Path, workers: int) -> int:
    import datasets as library

    library.disable_progress_bars()
    files = [str(path) for path in sorted((folder / "rows").iterdir())]
    rows = library.load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    rows = rows.map(lambda row: {"digest": hashlib.sha256("".join(row["text"].split()).encode()).hexdigest()}, num_proc=workers)
    seen: set[str] = set()

    def new(row: dict[str, Any]) -> bool:
        before = len(seen)
        seen.add(row["digest"])
        return len(seen) > before

    kept = rows.filter(new)  # in one process: what was seen is not shared
    kept.to_json(str(out / "kept.jsonl.gz"), compression="gzip")
    return len(kept)


def memory(process: int) -> int:
    """Bytes that a process and its children hold."""
    total = 0
    for pid in (process, *children(process)):
        for name, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
            try:
                text = Path(f"/proc/{pid}/{name}").read_text(encoding="ascii")
            except OSError:  # it has ended, or this system does not tell
                continue
            if field in text:
                total += int(text.partition(field)[2].split()[0]) * 1024
                break
    return total


def children(process: int) -> list[int]:
    found, waiting = [], [process]
    while waiting:
        pid = waiting.pop()
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                inner = [int(child) for child in path.read_text(encoding="ascii").split()]
            except OSError:
                continue
            found += inner
            waiting += inner
    return found


def run(arguments: list[str], limit: int = 0) -> tuple[float, int, str]:
    """Seconds, peak memory and the last line of a process."""
    began, most = time.monotonic(), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    limits = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))) if limit else None
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=told, stderr=log, env=environment, preexec_fn=limits)
        while process.poll() is None:
            most = max(most, memory(process.pid))
            time.sleep(0.1)
        seconds = time.monotonic() - began
        told.seek(0)
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"{arguments} ended with {process.returncode}:\n{log.read()}")
        return seconds, most, told.read().strip().splitlines()[-1]


def compare(megabytes: float, workers: int, rounds: int, scratch: Path) -> None:
    folder = scratch / "input"
    count, size = prepare(folder, megabytes, 4 * workers)
    print(f"{count:,} Python files, {size / 1e6:.1f} MB, {workers} workers, {rounds} rounds, alternating")
    found: dict[str, list[tuple[float, int, str]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            out = scratch / "out"
            found[side].append(run(["--side", side, "--folder", str(folder), "--out", str(out), "--workers", str(workers)]))
            shutil.rmtree(out, ignore_errors=True)
    print(f"{'':<22}{'MB/s':>8}{'range':>16}{'peak MB':>10}{'kept':>10}")
    for side, runs in found.items():
        speeds = sorted(size / 1e6 / seconds for seconds, _, _ in runs)
        peak = max(most for _, most, _ in runs) / 1e6
        print(f"{side:<22}{statistics.median(speeds):>8.1f}{f'{speeds[0]:.1f} to {speeds[-1]:.1f}':>16}{peak:>10,.0f}{int(runs[-1][2]):>10,}")


def large(gigabytes: float, allowed: float, workers: int, scratch: Path) -> None:
    folder, dice = scratch / "input", random.Random(0)
    folder.mkdir()
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 10))) for _ in range(50_000)]
    size = count = 0
    texts: list[str] = []
    while size < gigabytes * 1e9:
        with (folder / f"{count // 10_000:05}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(10_000):
                kind = count % 10
                if kind == 7 and texts:
                    text = texts[-5]
                elif kind == 8 and texts:
                    text = texts[-3] + " and a few more"
                else:
                    text = " ".join(dice.choices(words, k=dice.randint(50, 1500)))
                texts = [*texts[-20:], text]
                file.write(json.dumps({"text": text}) + "\n")
                size, count = size + len(text), count + 1
    print(f"{count:,} documents, {size / 1e9:.2f} GB of text, {allowed} GB of memory for {workers} workers together")
    limit = int(allowed * 1e9)
    arguments = ["--side", "large", "--folder", str(folder), "--out", str(scratch / "out"), "--workers", str(workers), "--memory", str(allowed)]
    seconds, most, said = run(arguments, limit)
    print(f"{seconds:,.0f} s, {size / 1e6 / seconds:.1f} MB/s, peak {most / 1e6:,.0f} MB of {limit / 1e6:,.0f}, {said}")
    print("it stayed under the limit" if most <= limit else "IT DID NOT STAY UNDER THE LIMIT")


def one(side: str, folder: Path, out: Path, workers: int, allowed: float) -> None:
    """One side, in this process."""
    if side == "large":
        from nabi.data.corpus.build import build
        from nabi.data.corpus.documents import Origin
        from nabi.data.corpus.minhash import Near
        from nabi.data.corpus.recipe import Recipe

        sources = tuple(Origin(str(path)) for path in sorted(folder.iterdir()))
        manifest = build(Recipe(sources, near=Near(), dev=0.01, workers=workers, memory=int(allowed * 1e9)), out)
        print(json.dumps({**manifest["documents"], "stages": manifest["timing"]["stages"]}))
    elif side == "datatrove":
        print(datatrove(folder, out, workers))
    elif side.startswith("datasets"):
        print(datasets(folder, out, workers))
    else:
        print(nabi(folder, out, workers, side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=float, help="GB of a synthetic corpus")
    parser.add_argument("--memory", type=float, default=1.0, help="GB, for --large")
    parser.add_argument("--scratch", help="where there is room; the system's temporary folder if not given")
    for name in ("--side", "--folder", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        one(options.side, Path(options.folder), Path(options.out), options.workers, options.memory)
        return
    from machine import machine

    print(machine())
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        if options.large:
            large(options.large, options.memory, options.workers, Path(scratch))
        else:
            compare(options.megabytes, options.workers, options.rounds, Path(scratch))


if __name__ == "__main__":
    main()
