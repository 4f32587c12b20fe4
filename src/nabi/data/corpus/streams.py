"""Bytes of files that nobody has looked at, read forwards and in bounded memory: unpacked within limits, cut into lines, checked as text.

Unusual: whatever a file says of itself, no more than a piece of it is in memory. A line that is too long is passed over in pieces, a packed file that unpacks
without end is refused while it does so, and the dictionary of an xz file may have at most 128 MB.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, Self

from nabi.data.corpus.documents import Trouble
from nabi.data.parsing import PACKINGS, SIGNATURES, likely_encoding, not_packed, not_whole, unzstd
from nabi.errors import DataError

PIECE = 1 << 18  # bytes that are held at a time
# a bomb: more than 100 bytes for each packed one, once 10 MB are unpacked (gzip can pack 1,000 into one, text does not come to 30); or 256 GiB in all
RATIO, FREE, TOTAL = 100, 10_000_000, 1 << 38
XZ_MEMORY = 1 << 27
ALL_PACKINGS = PACKINGS | {".bz2": ("bzip2", b"BZh"), ".xz": ("xz", b"\xfd7zXZ\0")}
BINARIES = SIGNATURES | {
    b"\x7fELF": "a program (ELF)", b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture", b"%PDF": "a PDF",
    b"SQLite format 3\0": "an SQLite database", b"\x93NUMPY": "a NumPy array", b"BZh": "bzip2 (.bz2)", b"\xfd7zXZ\0": "xz (.xz)"}  # fmt: skip


class HostileError(DataError):
    """A file that would do harm: nothing of its source is taken."""


def packing_of(name: str) -> str:
    """``.gz`` and the like if the name ends so, else an empty string."""
    ending = PurePath(name.lower()).suffix
    return ending if ending in ALL_PACKINGS else ""


def opened(path: Path, name: str, *, follow: bool = False) -> IO[bytes]:
    """A plain file, open for reading.

    Args:
        follow: a link may be followed: what the user named, not what was found in a folder.

    Raises:
        OSError: there is none, or it can't be read, or it is a link (``ELOOP``), a pipe or a device.
    """
    # a pipe that took the file's place would block for ever
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | (0 if follow else getattr(os, "O_NOFOLLOW", 0))
    number = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(f"{name} is not a plain file")
    return os.fdopen(number, "rb")


class Stream:
    """The unpacked bytes of a file, forwards only; closes the file at the end of a ``with``.

    Args:
        file: open at its beginning; it is closed with the stream.
        packing: its ending, such as ``.gz``; empty if it is not packed.
        name: for messages.

    Raises:
        DataError: when read: cut off or damaged.
        HostileError: when read: a bomb.
    """

    def __init__(self, file: IO[bytes], packing: str, name: str) -> None:
        self.file, self.name, self.kind = file, name, ALL_PACKINGS[packing][0] if packing else ""
        self._pieces = self._unpacked(packing)
        self._held, self._at, self._told, self._made = b"", 0, 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.file.close()

    def tell(self) -> int:
        return self._told

    def read(self, size: int) -> bytes:
        """``size`` bytes, or fewer at the end."""
        parts = []
        while size:
            part = self.some(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def some(self, most: int = PIECE) -> bytes:
        """What is at hand, up to ``most`` bytes; none at the end only."""
        while self._at == len(self._held):
            piece = self._next()
            if piece is None:
                return b""
            self._held, self._at = piece, 0
        part = self._held[self._at : self._at + most]
        self._at += len(part)
        self._told += len(part)
        return part

    def skip(self, to: int) -> None:
        """Go on to byte ``to``, or to the end."""
        while self._told < to and self.some(min(to - self._told, PIECE)):
            pass

    def _next(self) -> bytes | None:
        try:
            piece = next(self._pieces, None)
        except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, MemoryError) as problem:
            if not self.kind:
                raise
            raise not_whole(self.name, self.kind, problem, os.fstat(self.file.fileno()).st_size) from None
        if piece is not None and self.kind:
            self._made += len(piece)
            if self._made > TOTAL or self._made > max(FREE, RATIO * self.file.tell()):
                raise bomb(self.name, f"{self._made:,} bytes from the first {self.file.tell():,}")
        return piece

    def _unpacked(self, packing: str) -> Iterator[bytes]:
        if not packing:
            yield from iter(lambda: self.file.read(PIECE), b"")
            return
        magic = ALL_PACKINGS[packing][1]
        head = self.file.read(len(magic))
        if head != magic:
            raise not_packed(self.name, self.kind, packing, head)
        self.file.seek(0)
        if packing == ".gz":
            with gzip.GzipFile(fileobj=self.file) as unpacker:
                yield from iter(lambda: unpacker.read1(PIECE), b"")
        elif packing == ".zst":
            # 1 kB of zstd gives up to 32 MB
            yield from unzstd(iter(lambda: self.file.read(1 << 10), b""), self.name)
        else:
            make = bz2.BZ2Decompressor if packing == ".bz2" else lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            yield from _members(self.file, make)


def _members(file: IO[bytes], make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> Iterator[bytes]:
    """The unpacked bytes of a file of one or more bzip2 or xz streams; between those of xz may be zeros."""
    feed = file.read(1 << 13)
    while feed:
        unpacker = make()
        while not unpacker.eof:
            if unpacker.needs_input and not feed:
                feed = file.read(1 << 13)
                if not feed:
                    raise EOFError
            if piece := unpacker.decompress(feed, PIECE):
                yield piece
            feed = b""
        feed = unpacker.unused_data.lstrip(b"\0")
        while not feed and (more := file.read(1 << 13)):
            feed = more.lstrip(b"\0")


def bomb(name: str, seen: str) -> HostileError:
    return HostileError(f"{name}: unpacks without end", value=seen, fix="unpack it yourself if you trust it, and name the folder",
                        expected=f"at most {RATIO} bytes for each packed one after the first {FREE:,}, and {TOTAL:,} in all")  # fmt: skip


def lines_of(some: Callable[[], bytes], most: int, begin: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes | None, int]]:
    """Where each line begins, the line with its end or None if it is longer than ``most`` bytes, and how many double quotes a longer one has.

    Args:
        some: the next bytes, none at the end; it stands at byte ``begin``, where a line begins.
        most: the longest line, in bytes without its end.
        begin: the count begins here.
        stop: a long line need not be followed beyond this byte, since what comes then is not asked for.
    """
    kept, size, quotes, at = bytearray(), 0, 0, begin
    while piece := some():
        first = 0
        while first < len(piece):
            last = piece.find(b"\n", first) + 1
            part = piece[first : last or len(piece)]
            first += len(part)
            size += len(part)
            if size - bool(last) <= most:
                kept += part
            else:
                quotes += kept.count(b'"') + part.count(b'"')
                kept.clear()
            if last:
                yield at, bytes(kept) if size - 1 <= most else None, quotes
                at += size
                size = quotes = 0
                kept.clear()
        if stop is not None and size > most and at + size >= stop:
            yield at, None, quotes
            return
    if size:
        yield at, bytes(kept) if size <= most else None, quotes


def lines_from(file: IO[bytes], begin: int, stop: int, most: int) -> Iterator[tuple[int, bytes | None, int]]:
    """The lines of a plain file from the first one that begins at byte ``begin`` or later, as ``lines_of`` gives them."""
    file.seek(max(begin - 1, 0))
    lines = lines_of(lambda: file.read(PIECE), most, max(begin - 1, 0), stop)
    if begin:
        next(lines, None)  # the rest of the line before
    return lines


def text_of_bytes(data: bytes, path: str, trouble: Trouble) -> str | None:
    """The text of a document, without a byte order mark; None if it is none, which is counted and told."""
    if b"\0" not in data:
        try:
            return data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as problem:
            where = f"byte {problem.start}"
    else:
        where = f"a NUL byte at byte {data.find(0)}"
    for magic, kind in BINARIES.items():
        if data.startswith(magic):
            trouble.add("binary", path, f"{where}; it looks like {kind}")
            return None
    guess = likely_encoding(data)
    if b"\0" in data and not (guess and _readable(data, guess)):
        trouble.add("binary", path, where)
    else:
        trouble.add("not UTF-8", path, f"{where}; it looks like {guess}")
    return None


def _readable(data: bytes, encoding: str) -> bool:
    """Whether it is text in that encoding: many programs and tables have a zero in every other byte too."""
    text = data[:4096].decode(encoding, errors="replace").removeprefix("\ufeff")
    return bool(text) and sum(c.isprintable() or c in "\t\r\n" for c in text) >= 0.95 * len(text) and text.count("\ufffd") <= 1


def text_of_value(text: str, path: str, trouble: Trouble, most: int) -> str | None:
    """A text that stood in a table; None if it is too long, or no text, which is counted and told."""
    if "\0" in text:
        trouble.add("binary", path, "a NUL byte")
        return None
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as problem:
        # bytes that could not be decoded stand in the text as such halves
        trouble.add("not UTF-8", path, f"character {problem.start}")
        return None
    if size > most:
        trouble.add("too long", path, f"{size:,} bytes")
        return None
    return text
