"""A body of one layer and width 32 and short texts with numbers: what the tests of batch inference share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import nabi
from training import small

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def model(folder: Path) -> Path:
    """A folder with a fresh classifier."""
    built = small.model(small.vocabulary(folder / "tokenizer"), num_layers=1, num_heads=2, intermediate_size=32)
    nabi.save(built, folder / "model")
    return folder / "model"


def data(path: Path, count: int, seed: int = 0) -> Path:
    """JSON lines with an id and a text."""
    dice = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"id": number, "text": small.text(dice, small.GOOD if number % 2 else small.BAD, 0, 2)}) + "\n")
    return path


def command(*args: Any, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "nabi", *map(str, args)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, **more)


def killing(folder: Path, **given: Any) -> dict[str, Any]:
    """What ``killing.py`` found."""
    given = {"log": str(folder / "log"), **given}
    done = subprocess.run([sys.executable, str(Path(__file__).with_name("killing.py")), json.dumps(given, default=str)], cwd=folder, env=ENVIRONMENT,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
