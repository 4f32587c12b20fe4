"""The tiny checkpoints that the golden answers were made over: committed, so that weights can't drift with a library's generator of random numbers.

Each is also made from a seed by a recipe beside the tests; ``test_committed.py`` holds the two against each other, and the sums of the files against those
that each golden file has of what it was made over. To write checkpoints that are missing:

    NABI_WRITE_CHECKPOINTS=1 PYTHONPATH=src:tests python -m pytest tests/golden
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent / "checkpoints"
_used: set[str] = set()


def sums(name: str) -> dict[str, str]:
    """The SHA-256 of each file of a committed checkpoint."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((FOLDER / name).iterdir())}


def used() -> dict[str, dict[str, str]]:
    """The sums of all checkpoints that this process has asked for: what a script writes into its golden file."""
    return {name: sums(name) for name in sorted(_used)}


def committed(name: str, path: Path, make: Callable[[Path], object]) -> Path:
    """The committed checkpoint ``name``, copied to ``path``.

    Args:
        name: of the folder.
        path: where a test wants it.
        make: the recipe, which fills the folder that it is given.
    """
    _used.add(name)
    kept = FOLDER / name
    if not kept.is_dir() and os.environ.get("NABI_WRITE_CHECKPOINTS"):
        make(path)
        shutil.copytree(path, kept)
        return path
    assert kept.is_dir(), f"{kept} is missing: see the head of {__file__}"
    return Path(shutil.copytree(kept, path, dirs_exist_ok=True))
