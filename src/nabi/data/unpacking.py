"""Packed files (.gz, .zst), unpacked as they are read, in constant memory."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import IO, Any

from nabi.data.parsing import PACKINGS, not_packed, not_whole, unzstd

PIECE = {".gz": 1 << 16, ".zst": 1 << 12}  # bytes that are unpacked at a time: of a bomb's at most 128 MB come out at once


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a packed file; wrap it in a ``BufferedReader``.

    Args:
        file: packed bytes; it is closed with this.
        packing: ``.gz`` or ``.zst``.
        name: what to call the file in an error.
    """

    def __init__(self, file: IO[bytes], packing: str, name: str) -> None:
        self._file, self._rest = file, memoryview(b"")
        self._pieces = _pieces(file, packing, name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer.

        Raises:
            DataError: the data is cut off or damaged, or not packed at all.
            OptionError: the package for it is not installed.
        """
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _pieces(file: IO[bytes], packing: str, name: str) -> Iterator[bytes]:
    (kind, magic), size, read = PACKINGS[packing], PIECE[packing], 0

    def packed() -> Iterator[bytes]:
        nonlocal read
        while piece := file.read(size):
            if not read and not piece.startswith(magic):
                raise not_packed(name, kind, packing, piece)
            read += len(piece)
            yield piece

    try:
        yield from _gunzip(packed()) if packing == ".gz" else unzstd(packed(), name)
    except (EOFError, ValueError, zlib.error) as problem:
        raise not_whole(name, kind, problem, read) from None


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    member = None
    for piece in pieces:
        data = piece
        while data:
            if member is None and not data.strip(b"\0"):  # what may follow the last member
                break
            member = member or zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield member.decompress(data)
            data, member = (member.unused_data, None) if member.eof else (b"", member)
    if member is not None:
        raise EOFError
