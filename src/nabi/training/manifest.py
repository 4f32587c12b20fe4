"""``manifest.json`` of a checkpoint: every file with its size and its SHA-256, and of which step and how many processes it is; checked before anything is used.

Torch's own safetensors reader (``HuggingFaceStorageReader``) loads in silence when a shard in the middle is gone; with the list that can't happen. The manifest
is one JSON document in one spelling, with a sum of itself, so a byte that has changed in it is found too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nabi.errors import CheckpointError, shortened
from nabi.files import whole
from nabi.weights import file_sha256
from nabi.weights.files import is_plain_name

MANIFEST = "manifest.json"
FORMAT = 1
_SHOWN = 8  # problems that an error names


@dataclass(frozen=True)
class Held:
    """One file: its name, its bytes and its SHA-256."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Held:
        """Of a file that is there."""
        return cls(path.name, path.stat().st_size, file_sha256(path))


@dataclass(frozen=True)
class Manifest:
    """What belongs to a checkpoint.

    Attributes:
        step: updates done.
        world: processes that wrote it.
        files: all but the manifest itself, by name.
    """

    step: int
    world: int
    files: tuple[Held, ...]

    def write(self, folder: Path) -> None:
        """Put it into the folder, on the disk.

        Raises:
            StorageError: it could not be written.
        """
        with whole(folder / MANIFEST) as draft:
            draft.write_text(self._text(), encoding="utf-8")

    def _text(self) -> str:
        facts = json.dumps({"format": FORMAT, "step": self.step, "world": self.world, "files": [asdict(f) for f in self.files]}, indent=1)
        return json.dumps({"checkpoint": json.loads(facts), "sha256": hashlib.sha256(facts.encode()).hexdigest()}, indent=1) + "\n"

    def named(self, stem: str) -> list[str]:
        """The safetensors files of ``stem``, one or several."""
        return [f.name for f in self.files if f.name == f"{stem}.safetensors" or (f.name.startswith(f"{stem}-") and f.name.endswith(".safetensors"))]


def made(folder: Path, step: int, world: int, known: Iterable[Held] = ()) -> Manifest:
    """The manifest of the files that are in ``folder``.

    Args:
        known: files that need not be read again.
    """
    found = {held.name: held for held in known}
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    return Manifest(step, world, tuple(found.get(name) or Held.of(folder / name) for name in names))


def read(folder: Path) -> Manifest:
    """The manifest of a folder, itself intact; the files are not looked at.

    Raises:
        CheckpointError: there is none, or it is damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode()
        facts: Any = json.loads(text)["checkpoint"]
        if facts["format"] != FORMAT:
            raise CheckpointError("the manifest has another format", value=facts["format"], expected=str(FORMAT), fix="update nabi")
        found = Manifest(int(facts["step"]), int(facts["world"]), tuple(Held(f["name"], int(f["bytes"]), f["sha256"]) for f in facts["files"]))
        if text != found._text() or not all(is_plain_name(f.name) for f in found.files):
            raise ValueError("it was changed after it was written")
    except FileNotFoundError:
        raise CheckpointError(f"there is no {MANIFEST}", value=str(folder)) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as problem:
        raise CheckpointError(f"{MANIFEST} is damaged ({shortened(problem)})", value=str(folder)) from None
    return found


def verified(folder: Path) -> Manifest:
    """The manifest of a folder whose files are all there, all as they were written, and no others: sizes are looked at first, then sums.

    Raises:
        CheckpointError: names every file that is missing, was changed or does not belong.
    """
    manifest = read(folder)
    wanted = {held.name: held for held in manifest.files}
    try:
        present = {path.name: path for path in folder.iterdir() if path.name != MANIFEST}
        problems = [f"{name} is missing" for name in sorted(wanted.keys() - present.keys())]
        problems += [f"{name} does not belong to it" for name in sorted(present.keys() - wanted.keys())]
        for name in sorted(wanted.keys() & present.keys()):
            size = present[name].stat().st_size if present[name].is_file() and not present[name].is_symlink() else None
            if size is None:
                problems.append(f"{name} is no file of this folder")
            elif size != wanted[name].bytes:
                problems.append(f"{name} has {size:,} bytes, not {wanted[name].bytes:,}")
        if not problems:
            problems = [f"{name} has another SHA-256" for name, held in sorted(wanted.items()) if file_sha256(present[name]) != held.sha256]
    except OSError as problem:
        raise CheckpointError("the checkpoint can't be read", value=f"{folder} ({problem})") from None
    if problems:
        shown = problems[:_SHOWN] + ([f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])
        raise CheckpointError(f"the files are not those that were written: {'; '.join(shown)}", value=str(folder))
    return manifest
