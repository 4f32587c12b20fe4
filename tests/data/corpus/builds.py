"""What the tests of builds share: a small tree of files with duplicates in it, and runs of the command in processes of their own."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import zstandard

from nabi.data.corpus.build import build
from nabi.data.corpus.documents import Origin
from nabi.data.corpus.minhash import Near
from nabi.data.corpus.recipe import Recipe
from nabi.progress import Telling

ROOT = Path(__file__).parents[3]
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "rho", "sigma", "tau", "나비", "데이터"]


def text_of(number: int, length: int = 400) -> str:
    """A text that is like no other."""
    dice = random.Random(number)
    return f"# {number}\n" + "\n".join(" ".join(dice.choices(WORDS, k=8)) + f" {dice.random()}" for _ in range(length // 8))


def tree(folder: Path, files: int = 60, length: int = 400) -> Path:
    """Folders of files: of ten files one equals another, one nearly does, one is no UTF-8."""
    for number in range(files):
        path = folder / f"part{number % 8}" / f"file{number:04d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = text_of(number, length)
        if number % 10 == 7:
            text = text_of(number - 5, length)
        elif number % 10 == 8:
            text = text_of(number - 7, length) + "\nand a few words more"
        path.write_bytes(b"\xff\xfe\x00broken" if number % 10 == 9 else text.encode())
    return folder


def recipe(files: Path, **settings: Any) -> Recipe:
    """Each folder of a tree as a source of its own, and small files of the result, so that there are many tasks."""
    sources = tuple(Origin(str(folder)) for folder in sorted(files.iterdir()))
    return Recipe(sources, **{"near": Near(), "dev": 0.2, "workers": 2, "shard": 40_000, **settings})


def built(wanted: Recipe | None, out: Path, **settings: Any) -> dict[str, Any]:
    """The manifest of a build in this process (its workers are others)."""
    return build(wanted, out, progress=Telling("quiet", io.StringIO()), **settings)


def content(out: Path) -> dict[str, Any]:
    """All that must be equal of two builds: the bytes of the files, and the manifest without its timing."""
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["timing"]
    return {"manifest": manifest, **{path.name: path.read_bytes() for path in sorted(out.glob("*.zst"))}}


def rows(out: Path, split: str = "") -> list[dict[str, Any]]:
    """The rows of a corpus, in the order of its files."""
    found = []
    for path in sorted(out.glob(f"{split}*.jsonl.zst")):
        with path.open("rb") as file:
            found += [json.loads(line) for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")]
    return found


def command(*args: Any, **more: Any) -> subprocess.Popen[str]:
    """``nabi corpus`` in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more.pop("env", {})}
    line = [sys.executable, "-m", "nabi", "corpus", *map(str, args)]
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **more)
