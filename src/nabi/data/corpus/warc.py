"""Records of a crawl's archive (WARC 1.0 and 1.1, ISO 28500), read forwards within limits.

Unusual: written here. Of the packages, warcio 1.8.1 takes a header of any length into memory and both it and fastwarc 2.0.1 pass over a file that breaks off
without a word; here a break is an error that says at which byte. Lengths that a record claims are never believed beyond the bytes that come.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from nabi.data.corpus.streams import Stream
from nabi.errors import DataError

LINE, HEADERS = 1 << 14, 1 << 17  # the longest line of a header, and all of one
VERSIONS = (b"WARC/1.0", b"WARC/1.1", b"WARC/0.17", b"WARC/0.18")


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        headers: its own, names in lower case.
        block: what it holds, or None if that is longer than was asked for, or not asked for.
        size: of the block, as claimed.
    """

    headers: dict[str, str]
    block: bytes | None
    size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it was recorded, its body as the server meant it: chunks joined, unpacked."""

    status: int
    headers: dict[str, str]
    body: bytes


class Unreadable(Exception):
    """Why one answer can't be read: a fixed reason, and what was seen."""

    def __init__(self, reason: str, seen: str) -> None:
        super().__init__(reason)
        self.reason, self.seen = reason, seen


def records(stream: Stream, kinds: frozenset[str], most: int) -> Iterator[Record]:
    """The records of these types, in order; the others are passed over.

    Args:
        stream: at the beginning of the file.
        kinds: such as ``response``.
        most: the longest block that is given, in bytes.

    Raises:
        DataError: no WARC file, damaged, or it breaks off; the records before have been given.
    """
    lines = _Lines(stream)
    while (version := lines.next(skip=True)) is not None:
        if version.strip() not in VERSIONS:
            raise lines.damaged("a record begins otherwise than with WARC/1.0", version[:40])
        headers = lines.headers()
        try:
            size = int(headers.get("content-length", ""))
        except ValueError:
            size = -1
        if size < 0:
            raise lines.damaged("a record without its length", headers.get("content-length", "").encode()[:40])
        wanted = headers.get("warc-type", "").lower() in kinds
        block = lines.take(size, keep=wanted and size <= most)
        if wanted:
            yield Record(headers, block, size)


class _Lines:
    """A stream by lines and by counted bytes."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.held, self.at = stream, b"", 0

    def damaged(self, what: str, seen: bytes) -> DataError:
        place = self.stream.tell() - len(self.held) + self.at
        return DataError(f"{self.stream.name}: {what}", value=f"{seen!r} at byte {place:,} of the unpacked file", expected="WARC", fix="fetch the file again")

    def next(self, *, skip: bool = False) -> bytes | None:
        """The next line without its end, None at the end of the file; ``skip``: the next that is not empty."""
        while True:
            end = self.held.find(b"\n", self.at)
            if end < 0:
                piece = self.stream.some() if len(self.held) - self.at <= LINE else b""
                if not piece and self.at == len(self.held):
                    return None
                if not piece:
                    raise self.damaged("a line of a header is cut off, or longer than any", self.held[self.at : self.at + 40])
                self.held, self.at = self.held[self.at :] + piece, 0
                continue
            line = self.held[self.at : end].rstrip(b"\r")
            self.at = end + 1
            if len(line) > LINE:
                raise self.damaged("a line of a header is longer than any", line[:40])
            if line or not skip:
                return line

    def headers(self) -> dict[str, str]:
        lines, size = [], 0
        while line := self.next():
            lines.append(line)
            size += len(line)
            if size > HEADERS:
                raise self.damaged("a header is longer than any", lines[0][:40])
        if line is None:
            raise self.damaged("the file breaks off in a header", b"")
        return _fields(lines)

    def take(self, size: int, *, keep: bool) -> bytes | None:
        """The next ``size`` bytes, or None if they are not to be kept."""
        parts, left = [], size
        while left:
            if self.at == len(self.held):
                self.held, self.at = self.stream.some(), 0
                if not self.held:
                    raise self.damaged(f"the file breaks off: {left:,} bytes of a record are missing", b"")
            part = self.held[self.at : self.at + left]
            self.at += len(part)
            left -= len(part)
            if keep:
                parts.append(part)
        return b"".join(parts) if keep else None


def _fields(lines: list[bytes]) -> dict[str, str]:
    """Fields by name in lower case; the first of a name counts, a line that begins with a blank goes on."""
    joined: list[bytes] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and joined:
            joined[-1] += b" " + line.strip()
        else:
            joined.append(line)
    found: dict[str, str] = {}
    for line in joined:
        name, _, value = line.partition(b":")
        found.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("utf-8", "replace"))
    return found


def answer(block: bytes, most: int) -> Answer:
    """The HTTP answer that a block holds.

    Raises:
        Unreadable: it is none, its body is longer than ``most`` bytes when unpacked, or packed in a way that is not read.
    """
    head, found, body = block.partition(b"\r\n\r\n")
    if not found:
        head, found, body = block.partition(b"\n\n")
    first, *rest = head.splitlines() or [b""]
    words = first.split(None, 2)
    if not found or len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit() or len(words[1]) != 3:
        raise Unreadable("unreadable", "no HTTP answer")
    headers = _fields(rest)
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _joined(body)
    for packing in reversed([word.strip().lower() for word in headers.get("content-encoding", "").split(",")]):
        if packing in ("gzip", "x-gzip", "deflate"):
            body = _inflated(body, packing, most)
        elif packing not in ("", "identity", "none", "utf-8"):
            raise Unreadable("unreadable", f"packed as {packing[:40]}")
    if len(body) > most:
        raise Unreadable("too long", f"{len(body):,} bytes")
    return Answer(int(words[1]), headers, body)


def _joined(body: bytes) -> bytes:
    """The chunks of a body as one; the body itself if it does not lie in chunks, as crawlers keep it joined with the old header."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.find(b"\n", at, at + 200)
        size = body[at : max(end, at)].partition(b";")[0].strip()
        if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
            return body
        count = int(size, 16)
        if not count:
            return b"".join(parts)
        parts.append(body[end + 1 : end + 1 + count])
        at = end + 1 + count
        at += 2 if body[at : at + 2] == b"\r\n" else 1


def _inflated(body: bytes, packing: str, most: int) -> bytes:
    if packing != "deflate" and not body.startswith(b"\x1f\x8b"):
        return body  # unpacked by the crawler, which kept the header
    for bits in (31,) if packing != "deflate" else (15, -15):  # servers send deflate with and without its frame
        unpacker = zlib.decompressobj(bits)
        try:
            out = unpacker.decompress(body, most + 1)
        except zlib.error:
            continue
        if len(out) > most:
            raise Unreadable("too long", f"over {most:,} bytes unpacked")
        if not unpacker.eof:
            raise Unreadable("cut short", f"{packing} breaks off")
        return out
    raise Unreadable("unreadable", f"not {packing}, though it says so")
