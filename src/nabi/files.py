"""A file that is written whole or not at all, and what makes files and folders survive a loss of power."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nabi.errors import StorageError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A draft beside ``path`` to write; it becomes ``path``, on the disk, when the block ends. If the block raises, ``path`` is as it was.

    Raises:
        StorageError: an OSError on the way (disk full, no right to write): names the path.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
    except OSError as problem:
        raise StorageError(f"{path} could not be written: {problem}") from problem
    finally:
        with contextlib.suppress(OSError):  # most often it is not there any more
            draft.unlink()


def sync(path: Path) -> None:
    """Put what a file holds, or which names a folder has, onto the disk; a rename counts only once the folder around it was synced."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
