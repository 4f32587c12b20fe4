"""A file layer that remembers what is on the disk, so that a loss of power can be played at every moment of a piece of work.

A file holds what it held when it was last synced; if it was changed since, it is empty, cut in half or whole. A folder has the names that it had when it was
last synced, and of what was done to it since, in order, nothing, a part or all. That is what POSIX grants, and more than the usual file systems lose.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

CALLS = ("fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link")
Tree: TypeAlias = "dict[str, bytes | Tree]"


@dataclass
class Inode:
    """One file or folder: what it holds now, and what of it is on the disk."""

    folder: bool
    content: bytes = b""
    synced: bytes | None = None
    names: list[dict[str, int]] = field(default_factory=lambda: [{}])  # a folder's names when it was last synced, and after each change since


Picture: TypeAlias = dict[int, Inode]


class Disk:
    """What is on the disk of one folder while :meth:`watched` runs.

    Args:
        root: it exists and counts as being on the disk, with what is in it.
        ignored: syncs that are asked for and not done: the negative control.
    """

    def __init__(self, root: Path, ignored: Callable[[Path], bool] = lambda path: False) -> None:
        self.root, self.ignored = root, ignored
        self.inodes: dict[int, Inode] = {}
        self._held: list[int] = []  # an open handle for each, so that no number is given out twice
        self.mark: Any = None
        self._look()
        for inode in self.inodes.values():
            inode.synced, inode.names = inode.content, inode.names[-1:]

    def close(self) -> None:
        for handle in self._held:
            os.close(handle)
        self._held = []

    @contextmanager
    def watched(self) -> Iterator[list[tuple[str, Any, Picture]]]:
        """Each call that changes names or syncs, with the mark at that time and a picture of the disk after it."""
        record: list[tuple[str, Any, Picture]] = []
        real = {name: getattr(os, name) for name in CALLS}

        def traced(name: str) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                done = None if name == "fsync" else real[name](*args, **kwargs)  # this is the disk, so the machine's own need not be waited for
                self._look()
                if name == "fsync":
                    self._synced(args[0])
                record.append((name, self.mark, {key: Inode(n.folder, n.content, n.synced, list(n.names)) for key, n in self.inodes.items()}))
                return done

            return call

        for name in CALLS:
            setattr(os, name, traced(name))
        try:
            yield record
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def _synced(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        inode = self.inodes.get(os.fstat(handle).st_ino)
        if inode is not None and not self.ignored(path):
            inode.synced, inode.names = inode.content, inode.names[-1:]

    def _look(self) -> None:
        """Take in what has changed."""
        waiting = [self.root]
        while waiting:
            path = waiting.pop()
            number = path.lstat().st_ino
            if number not in self.inodes:
                self.inodes[number] = Inode(path.is_dir())
                self._held.append(os.open(path, os.O_RDONLY))
            inode = self.inodes[number]
            if inode.folder:
                children = sorted(path.iterdir())
                names = {child.name: child.lstat().st_ino for child in children}
                if names != inode.names[-1]:
                    inode.names.append(names)
                waiting += children
            else:
                inode.content = path.read_bytes()

    def after(self, picture: Picture) -> Iterator[tuple[str, Tree]]:
        """What may be there after a loss of power."""
        top = picture[self.root.lstat().st_ino]
        for done in range(len(top.names)):  # of what was done to the top folder, so much has come to the disk
            for below in (0, -1):  # of what was done to the folders in it: nothing, or all
                for torn in ("lost", "half", "whole"):
                    what = f"{done} of {len(top.names) - 1} changes of names, below {'all' if below else 'none'}, contents {torn}"
                    yield what, {name: _left(picture, number, below, torn) for name, number in top.names[done].items()}


def _left(picture: Picture, number: int, below: int, torn: str) -> Tree | bytes:
    inode = picture[number]
    if inode.folder:
        return {name: _left(picture, child, below, torn) for name, child in inode.names[below].items()}
    if inode.synced == inode.content or torn == "whole":
        return inode.content
    return inode.content[: len(inode.content) // 2] if torn == "half" else inode.synced or b""


def put(tree: Tree, path: Path) -> None:
    """Write it."""
    path.mkdir()
    for name, held in tree.items():
        if isinstance(held, bytes):
            (path / name).write_bytes(held)
        else:
            put(held, path / name)


def key(tree: Tree) -> Any:
    """What two equal trees have in common."""
    return tuple((name, hash(held) if isinstance(held, bytes) else key(held)) for name, held in sorted(tree.items()))
