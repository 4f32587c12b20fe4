"""A shard of kept documents on its way through a build: the documents as JSON lines, and beside them what tells duplicates.

``docs-00007.jsonl`` holds one JSON object a line, its text under ``text``. ``marks-00007.bin`` holds for each document in order where its line begins, a
digest of its text without white space, and its band keys (0 if the text is too short or near duplicates are not looked for). The marks take their name last,
so a shard whose marks are there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.minhash import MinHash, Near, encoded
from nabi.errors import DataError
from nabi.files import whole

MAGIC = b"nabimrk1"
HEAD = struct.Struct("<8sQQQ")  # magic, bands, documents, bytes of the documents' file
SPACES = bytes(b for b in range(128) if chr(b).isspace())


def docs_path(folder: Path, number: int) -> Path:
    """Where a shard's documents are."""
    return folder / f"docs-{number:05d}.jsonl"


def marks_path(folder: Path, number: int) -> Path:
    """Where a shard's marks are."""
    return folder / f"marks-{number:05d}.bin"


def folded(text: str) -> bytes:
    """What must be equal in exact duplicates: the text in NFC and without white space (as ``str.isspace`` has it), as UTF-8."""
    return without_spaces(text, encoded(text))


def without_spaces(text: str, data: bytes) -> bytes:
    if text.isascii():
        return data.translate(None, SPACES)
    return "".join(data.decode("utf-8", "surrogatepass").split()).encode("utf-8", "surrogatepass")


def mark_type(bands: int) -> np.dtype[Any]:
    """One document's record in the marks."""
    return np.dtype([("offset", "<u8"), ("digest", "<u8", (2,)), ("keys", "<u8", (bands,))])


class Marker:
    """Makes the marks of texts.

    Args:
        near: for band keys; none are made if None.
    """

    def __init__(self, near: Near | None) -> None:
        self.bands = near.bands if near else 0
        self.hashing = MinHash(near) if near else None

    def mark(self, text: str) -> bytes:
        """Digest (16 bytes: the first of SHA-256 of ``folded``) and band keys (8 bytes each) of one text."""
        data = encoded(text)
        digest = hashlib.sha256(without_spaces(text, data)).digest()[:16]
        keys = self.hashing.keys_of(data) if self.hashing else None
        return digest + (bytes(8 * self.bands) if keys is None else keys.astype("<u8").tobytes())


class ShardWriter:
    """Writes one shard, whole or not at all; a context manager.

    Args:
        folder: of the job; must be there.
        number: of the shard.
        near: as the job has it.

    Raises:
        StorageError: on leaving, or an OSError inside: a file could not be written.
    """

    def __init__(self, folder: Path, number: int, near: Near | None) -> None:
        self.folder, self.number, self.marker = folder, number, Marker(near)
        self.documents = self.size = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # left in the opposite order: the documents take their name before the marks do
            self._marks: BinaryIO = stack.enter_context(stack.enter_context(whole(marks_path(self.folder, self.number))).open("wb"))
            stack.callback(self._head)
            self._docs: BinaryIO = stack.enter_context(stack.enter_context(whole(docs_path(self.folder, self.number))).open("wb"))
            self._marks.write(bytes(HEAD.size))
            self._stack = stack.pop_all()
        return self

    def add(self, line: bytes, text: str) -> None:
        """Append one document.

        Args:
            line: the JSON object, without a line end, its text under ``text``.
            text: the same text.
        """
        assert b"\n" not in line
        self._docs.write(line + b"\n")
        self._marks.write(self.size.to_bytes(8, "little") + self.marker.mark(text))
        self.size += len(line) + 1
        self.documents += 1

    def _head(self) -> None:
        self._marks.seek(0)
        self._marks.write(HEAD.pack(MAGIC, self.marker.bands, self.documents, self.size))

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, problem, trace)


class ShardReader:
    """Reads one shard: its marks, or any one document; a context manager.

    Raises:
        DataError: the shard is not there, was cut or changed, or is none.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number, self.path = folder, number, docs_path(folder, number)
        self.documents, self.bands, self.size = shard_head(folder, number)
        self.type = mark_type(self.bands)
        self._marks = os.open(marks_path(folder, number), os.O_RDONLY)
        self._docs = os.open(self.path, os.O_RDONLY)

    def marks(self) -> NDArray[Any]:
        """All records (documents,), of ``mark_type``."""
        return np.fromfile(marks_path(self.folder, self.number), self.type, self.documents, offset=HEAD.size)

    def line(self, row: int) -> bytes:
        """A document's JSON object."""
        start = self._offset(row)
        stop = self._offset(row + 1) if row + 1 < self.documents else self.size
        return os.pread(self._docs, stop - start, start)[:-1]

    def text(self, row: int) -> str:
        """A document's text."""
        try:
            text: str = json.loads(self.line(row))["text"]
        except (ValueError, KeyError, TypeError) as problem:
            raise DataError(f"document {row} of a shard can't be read", value=str(self.path), expected="what was written", fix="build it anew") from problem
        return text

    def _offset(self, row: int) -> int:
        return int.from_bytes(os.pread(self._marks, 8, HEAD.size + row * self.type.itemsize), "little")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._marks)
        os.close(self._docs)


def shard_head(folder: Path, number: int) -> tuple[int, int, int]:
    """Documents, bands and bytes of a shard.

    Raises:
        DataError: the shard is not there, was cut or changed, or is none.
    """
    marks, docs = marks_path(folder, number), docs_path(folder, number)
    try:
        with marks.open("rb") as file:
            head = file.read(HEAD.size)
        sizes = marks.stat().st_size, docs.stat().st_size
    except FileNotFoundError as problem:
        raise DataError("a shard is missing", value=problem.filename, fix="build it anew") from problem
    magic, bands, documents, size = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0, 0, 0)
    if magic != MAGIC or sizes != (HEAD.size + documents * mark_type(bands).itemsize, size):
        raise DataError("a shard was cut or changed", value=str(marks), expected=f"{documents} documents in {size} bytes", fix="build it anew")
    return documents, bands, size
