"""One run at a time in a folder: a lock on a hidden file, held by the process until the run ends or the process does, however it dies."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import socket
from pathlib import Path

from nabi.errors import OptionError

LOCK = ".run.lock"


class Lock:
    """The lock on one folder; the operating system drops it with the process, so a killed run leaves none behind.

    Args:
        folder: of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._handle: int | None = None

    def take(self) -> None:
        """Hold it; nothing happens if it is held already.

        Raises:
            OptionError: another run holds it; names its process, its machine and since when.
        """
        while self._handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _described(os.pread(handle, 4096, 0))
                os.close(handle)
                fix = "wait for it, or choose another folder"
                raise OptionError(f"another run is writing into this folder ({holder})", value=str(self.path.parent), fix=fix) from None
            except OSError:
                pass  # some network file systems have no locks: there it is upon the user that a folder has one run
            self._handle = handle
            if not self._current():  # its last holder has removed the file in between
                self._drop()
        since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0)

    def release(self) -> None:
        """Let it go and remove its file; nothing happens if it is not held."""
        if self._handle is not None:
            if self._current():
                self.path.unlink()
            self._drop()

    def _current(self) -> bool:
        assert self._handle is not None
        mine = os.fstat(self._handle)
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        return (mine.st_ino, mine.st_dev) == (there.st_ino, there.st_dev)

    def _drop(self) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


def _described(content: bytes) -> str:
    try:
        facts = json.loads(content)
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, LookupError, TypeError):  # its holder is just writing it
        return "it has only just begun"
