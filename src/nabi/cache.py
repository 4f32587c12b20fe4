"""The cache: what was worked out once and need not be again, under ``NABI_CACHE`` (``~/.cache/nabi`` if that is not set; ``off``: nothing is kept).

    CACHE/rows/KEY/     the encoded rows of a training or dev set
    CACHE/tables/KEY/   where the rows of a large file begin, and its unpacked bytes or Arrow rows

An entry is a folder that is written under another name, made durable and renamed, so it is there whole or not at all, and two writers of one key do no harm.
``facts.json`` holds the size and SHA-256 of each file, and is hashed itself; a damaged entry is removed with a warning and made again. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nabi.errors import OptionError
from nabi.files import sync

KINDS = {"rows": "encoded rows", "tables": "a large file's index"}
FACTS = "facts.json"
LEFT_BEHIND = 24 * 3600.0  # seconds after which a draft's writer is taken for dead


@dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    Attributes:
        name: as ``nabi cache list`` shows it: ``rows/`` and the first letters of its key.
        about: what it is, in words.
        size: in bytes.
        used: when it was last read or written, in seconds since 1970.
        path: its folder.
    """

    name: str
    about: str
    size: int
    used: float
    path: Path


def folder() -> Path | None:
    """Where the cache is; None if it is switched off.

    Raises:
        OptionError: ``NABI_CACHE`` is a file.
    """
    stated = os.environ.get("NABI_CACHE", "")
    if stated.lower() == "off":
        return None
    path = Path(stated).expanduser() if stated else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nabi"
    if path.exists() and not path.is_dir():
        raise OptionError("NABI_CACHE is a file", value=str(path), expected="a folder, or off")
    return path


def folder_of(kind: str, key: str) -> Path:
    """Where an entry lies, or would lie."""
    root = folder()
    assert root is not None, "the caller asks folder() first"
    return root / kind / key


def find(kind: str, key: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder of an entry and the facts that were kept with it; None if it is not there, or is damaged and was removed with a warning.

    Args:
        kind: one of ``KINDS``.
        key: a hexadecimal digest of all that decides the content.
    """
    root = folder()
    path = None if root is None else root / kind / key
    if path is None or not path.is_dir():
        return None
    if (facts := _checked(path)) is None:
        warnings.warn(f"a damaged entry of the cache was removed and is made again: {path}", stacklevel=3)
        discard(path)
        return None
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(path / FACTS)
    return path, facts


@contextlib.contextmanager
def writing(kind: str, key: str, about: str, facts: dict[str, Any]) -> Iterator[Path]:
    """A draft folder to write; it becomes the entry when the block ends, and goes away if the block raises.

    Args:
        kind, key: as for :func:`find`.
        about: what it is, in words.
        facts: plain data to keep with it; may be filled in the block.

    Raises:
        OSError: it could not be written (disk full, no right to write).
    """
    root = folder()
    assert root is not None, "the caller asks folder() first"
    draft = root / kind / f".{key}.{os.urandom(4).hex()}"
    draft.mkdir(parents=True)
    try:
        yield draft
        files = {file.name: {"bytes": file.stat().st_size, "sha256": digest(file)} for file in sorted(draft.iterdir())}
        content = {"about": about, "files": files, "facts": facts}
        (draft / FACTS).write_text(json.dumps({"sha256": _hashed(content), **content}, ensure_ascii=False, indent=1), encoding="utf-8")
        for file in (*draft.iterdir(), draft):
            sync(file)
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _renamed(draft, root / kind / key)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def discard(path: Path) -> int:
    """Remove an entry at once, whoever reads it (open files stay readable); how many bytes it had."""
    size = _size(path)
    gone = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        path.rename(gone)
    except FileNotFoundError:
        return 0
    shutil.rmtree(gone, ignore_errors=True)
    return size


def entries() -> list[Entry]:
    """What the cache holds, the largest first; drafts that their writers left behind too."""
    root, found = folder(), []
    for kind, usual in KINDS.items():
        place = None if root is None else root / kind
        for path in sorted(place.iterdir()) if place is not None and place.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if path.name.startswith("."):
                    if (used := path.stat().st_mtime) < time.time() - LEFT_BEHIND:
                        found.append(Entry(f"{kind}/{path.name[:13]}", "left behind by a run that was ended", _size(path), used, path))
                    continue
                try:
                    about = str(json.loads((path / FACTS).read_text(encoding="utf-8"))["about"])
                except (OSError, ValueError, KeyError, TypeError):
                    about = f"{usual}, damaged"
                used = max(path.stat().st_mtime, (path / FACTS).stat().st_mtime if (path / FACTS).exists() else 0)
                found.append(Entry(f"{kind}/{path.name[:12]}", about, _size(path), used, path))
    return sorted(found, key=lambda entry: -entry.size)


def prunable(found: list[Entry], *, older_than: float | None = None, keep_bytes: float | None = None) -> list[Entry]:
    """The entries to remove: drafts left behind, those not used for ``older_than`` seconds, and then the longest unused until ``keep_bytes`` are left."""
    now = time.time()
    gone = [e for e in found if e.path.name.startswith(".") or (older_than is not None and now - e.used > older_than)]
    left = sorted((e for e in found if e not in gone), key=lambda entry: entry.used)
    over = sum(e.size for e in left) - (keep_bytes if keep_bytes is not None else float("inf"))
    for entry in left:
        if over <= 0:
            break
        gone.append(entry)
        over -= entry.size
    return gone


def digest(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashed(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _checked(path: Path) -> dict[str, Any] | None:
    """The facts of an entry whose files are all as they were written, else None."""
    try:
        content = json.loads((path / FACTS).read_text(encoding="utf-8"))
        stated = content.pop("sha256")
        whole = stated == _hashed(content) and all(
            (path / name).stat().st_size == file["bytes"] and digest(path / name) == file["sha256"] for name, file in content["files"].items()
        )
        return dict(content["facts"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _renamed(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError:
        if not path.is_dir():  # else another writer was first, and its entry says the same
            raise
    sync(path.parent)


def _size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total
