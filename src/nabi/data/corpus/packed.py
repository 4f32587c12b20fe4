"""JSON lines in a Zstandard frame: how documents lie in the result.

Unusual: one level, one thread, a checksum, and pieces of a fixed size, so the same lines are the same bytes (for one version of Zstandard: the manifest names
it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from nabi.data.corpus.documents import Document
from nabi.errors import DataError, OptionError

PIECE = 1 << 20  # bytes that are given to the packer at a time
LEVEL = 3


def zstandard() -> ModuleType:
    """The package.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import zstandard as found
    except ImportError:
        raise OptionError("packing a corpus needs a package that is not installed", value="zstandard", fix="pip install 'nabi[corpus]'") from None
    module: ModuleType = found
    return module


class LineWriter:
    """Packs lines into a file; a context manager.

    Attributes:
        lines, size: how many lines, and their bytes before packing.
        sha256: of the file, once it is closed; packed: its size.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._packer = zstandard().ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=False, threads=0).compressobj()
        self._waiting: list[bytes] = []
        self._held = 0
        self._hash = hashlib.sha256()
        self.lines = self.size = self.packed = 0
        self.sha256 = ""

    def write(self, line: bytes) -> None:
        """Add a line, which ends with a line end."""
        self._waiting.append(line)
        self._held += len(line)
        self.lines += 1
        self.size += len(line)
        if self._held >= PIECE:
            self._pack()

    def _pack(self) -> None:
        self._put(self._packer.compress(b"".join(self._waiting)))
        self._waiting.clear()
        self._held = 0

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self.packed += len(data)
        self._file.write(data)

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._pack()
                self._put(self._packer.flush())
                self.sha256 = self._hash.hexdigest()
        finally:
            self._file.close()


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a packed file.

    Raises:
        DataError: it is cut or broken.
    """
    packing = zstandard()
    rest: list[bytes] = []
    try:
        with path.open("rb") as file, packing.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
            while piece := reader.read(PIECE):
                *whole, last = piece.split(b"\n")
                if whole:
                    whole[0] = b"".join([*rest, whole[0]])
                    rest.clear()
                    for line in whole:
                        yield line + b"\n"
                rest.append(last)
    except packing.ZstdError as problem:
        raise DataError("the packed file is broken", value=f"{path} ({problem})", fix="it is cut off or was edited; build it again") from None
    if any(rest):
        raise DataError("the packed file ends inside a line", value=str(path), fix="it is cut off or was edited; build it again")


def row_of(document: Document) -> bytes:
    """A document as a line without its end: its text, its path, its facts.

    The path is the document's own, if its source knows one (a row's column, a name inside an archive); then ``where`` says where it was found.

    Raises:
        UnicodeEncodeError: its text holds half of a surrogate pair, which no UTF-8 can.
    """
    row: dict[str, Any] = {"text": document.text, "path": _clean(document.facts.get("path") or document.path)}
    if (where := _clean(document.path)) != row["path"]:
        row["where"] = where
    for name, value in sorted(document.facts.items()):
        if name not in row:
            row[_clean(name)] = _clean(value)
    return json.dumps(row, ensure_ascii=False).encode()


def _clean(text: str) -> str:
    """Bytes of a file name that are not UTF-8 as ``\\xff``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
