"""The rows to answer, part by part: read as a stream, so never held whole, and known again by their hash.

Files are told by the SHA-256 of their bytes, before the first row is read; what is not a file (a list, a DataFrame, a function) by the rows of each part, which
are hashed when they are read. While files are in use their size and time are looked at before a part counts as done.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nabi import cache
from nabi.data.lines import ENDINGS, Ahead
from nabi.data.opening import can_be_read, holds_images, kind_of, reading, rows_of, unpacked
from nabi.data.parsing import package
from nabi.data.pictures import image_table
from nabi.data.streams import Placed, stream_table
from nabi.data.tables import canonical, shards
from nabi.errors import DataError


class Source:
    """Where rows come from.

    Args:
        data: what ``stream_table`` reads.
        broken: give a ``lines.Broken`` for a line that can't be read and go on behind it, where that is possible.

    Raises:
        DataError: there is no such file, or its ending is unknown.
    """

    def __init__(self, data: Any, broken: bool = False) -> None:
        self._broken = broken
        named = isinstance(data, str | os.PathLike)
        self._images = image_table(Path(data).absolute()) if named and holds_images(Path(data)) else None
        self.files = [Path(file).absolute() for file in self._found(os.fspath(data))] if named else None
        self._stream = stream_table(data) if self.files is None else None
        self.name = Path(data).name if self._stream is None else self._stream.name
        self._stated: list[tuple[int, int, int]] = []
        for file in self.files or () if self._images is None else ():
            can_be_read(file)
        self._length = len(data) if self._stream is not None and hasattr(data, "__len__") else None

    def _found(self, data: str) -> Sequence[str | Path]:
        if self._images is None:
            return shards(data)
        return [row["image"] for row in self._images] if Path(data).is_dir() else [data]

    @property
    def table(self) -> Path | None:
        """The one file of rows, beside which there may be what they name."""
        return self.files[0] if self.files is not None and len(self.files) == 1 and self._images is None else None

    def identity(self) -> list[dict[str, Any]]:
        """Name, size and hash of each file, as they are now; from here on :meth:`check` sees that they stay so."""
        found = []
        self._stated = [self._state(file) for file in self.files or ()]
        for file in self.files or ():
            with reading(file):
                found.append({"name": file.name, "bytes": file.stat().st_size, "sha256": cache.digest(file)})
        self.check()
        return found or [{"name": self.name}]

    def check(self) -> None:
        """Look whether the files are as they were at :meth:`identity`.

        Raises:
            DataError: one was changed or removed.
        """
        for file, stated in zip(self.files or (), self._stated, strict=False):
            if (now := self._state(file)) != stated:
                why = "it is gone" if now[0] < 0 else "it was written to or replaced"
                raise DataError(f"{file.name}: the file was changed while it was in use ({why})", fix="leave it alone while it is read, and start again")

    def count(self, exact: bool = False) -> int | None:
        """How many rows there are at most (a line that holds no row counts too); None where only reading them would tell.

        Args:
            exact: read them, where nothing else tells.
        """
        if self.files is None or self._images is not None:
            return self._length if self._images is None else len(self._images)
        total = 0
        for file in self.files:
            rows = self._counted(file)
            if rows is None and exact:
                rows = sum(1 for _ in rows_of(file))
            if rows is None:
                return None
            total += rows
        return total

    def rows(self, ahead: Ahead) -> Iterator[Placed]:
        """(where, row) from the beginning, but for those that ``ahead`` passes over."""
        if (images := self._images) is not None:
            return ((images.where(i), images[i]) for i in range(len(images)) if not ahead.passes())
        if self.files is not None:
            return itertools.chain.from_iterable(rows_of(file, "", ahead, broken=self._broken) for file in self.files)
        assert self._stream is not None
        return (each for each in self._stream.placed() if not ahead.passes())

    @staticmethod
    def _state(file: Path) -> tuple[int, int, int]:
        try:
            found = file.stat()
        except OSError:
            return (-1, 0, 0)
        return found.st_size, found.st_mtime_ns, found.st_ino

    @staticmethod
    def _counted(file: Path) -> int | None:
        ending, packing = kind_of(file)
        if ending in ENDINGS:
            count, last = 0, b"\n"
            with reading(file), unpacked(file) as opened:
                while piece := opened.read(1 << 20):
                    count, last = count + piece.count(b"\n"), piece
            return count + (not last.endswith(b"\n")) - (ending in (".csv", ".tsv"))
        if ending == ".parquet" and not packing:
            arrow = package("pyarrow", file.name)
            try:
                return int(package("pyarrow.parquet", file.name).read_metadata(str(file)).num_rows)
            except (arrow.ArrowException, OSError, ValueError):  # it is told when it is read
                return None
        return None


class Reader:
    """Parts of a source: read forwards, and from the beginning again for one that lies behind.

    Args:
        source: where rows come from.
        size: rows in a part.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        self._ahead, self._next = Ahead(), 0
        self._rows: Iterator[Placed] | None = None

    def part(self, number: int) -> list[Placed]:
        """The rows of a part; fewer than its size, or none, at the end.

        Raises:
            DataError: a row can't be read.
        """
        if self._rows is None or number < self._next:
            self._ahead, self._next = Ahead(), 0
            self._rows = self._source.rows(self._ahead)
        self._ahead.rows = (number - self._next) * self._size
        self._next = number + 1
        return list(itertools.islice(self._rows, self._size))


def digest_of(rows: Sequence[Placed]) -> str:
    """The hash of rows, wherever they come from."""
    digest = hashlib.sha256()
    for _, row in rows:
        digest.update(canonical(row) + b"\n")
    return digest.hexdigest()
