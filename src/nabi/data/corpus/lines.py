"""Plain text: a file is a document; a file that is too long for one is cut between paragraphs.

Unusual: where it is cut depends on the file alone, so that many workers can read it. Paragraphs end at an empty line. All that begin in the same block of
``max_bytes / 2`` bytes of the file make a document, or more if they don't fit into one. A part of a file is named by the byte that it begins at, as in
``book.txt@524288``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.listing import Entry
from nabi.data.corpus.rows import Files, Line, ranges
from nabi.data.corpus.streams import Stream, lines_from, lines_of, packing_of, text_of_bytes
from nabi.errors import DataError

ENDINGS = (".txt", ".txt.gz", ".txt.zst")


def open_origin(origin: Origin) -> Text:
    """The source of a text file, or of the text files of a folder.

    Raises:
        DataError: there is nothing at the path.
    """
    if not Path(origin.path).exists():
        raise DataError("there is no such text or folder", value=origin.path, fix="check the path")
    return Text(origin)


class Text(Files):
    """Text files. One that the user names may have any ending, those of a folder end in ``.txt``, packed or not."""

    endings = ENDINGS

    def parts(self, entry: Entry) -> Iterator[Entry]:
        if packing_of(entry.path) or entry.size <= self.origin.max_bytes:
            yield entry
        elif entry.size:
            yield from ranges(Entry(entry.path, 0, entry.size, entry.size))

    def texts(self, file: IO[bytes], entry: Entry, path: str, trouble: Trouble) -> Iterator[Document]:
        most = self.origin.max_bytes
        if entry.stop:
            block = max(most // 2, 1)
            # a block belongs to the range in which it begins
            begin, stop = (-(-byte // block) * block for byte in (entry.start, entry.stop))
            if begin < stop:
                # two bytes earlier, since an empty line there makes the next one the first of a paragraph
                yield from self._paragraphs(lines_from(file, max(begin - 2, 0), stop, most), begin, stop, path, trouble)
            return
        stream = Stream(file, packing_of(entry.path), path)
        data = stream.read(most + 1)
        if len(data) <= most:
            if (text := text_of_bytes(data, path, trouble)) is not None:
                yield Document(text, path, dict(self.facts))
            return
        yield from self._paragraphs(lines_of(_after(data, stream.some), most), 0, None, path, trouble)

    def _paragraphs(self, lines: Iterator[Line], begin: int, stop: int | None, path: str, trouble: Trouble) -> Iterator[Document]:
        """The documents of the paragraphs that begin in a range of whole blocks."""
        block, most = max(self.origin.max_bytes // 2, 1), self.origin.max_bytes
        where, held, last = 0, b"", -1
        for at, paragraph in _blank_separated(lines, begin, stop, most):
            name = f"{path}@{at}"
            if paragraph is None:
                trouble.add("too long", name, f"a paragraph of over {most:,} bytes")
                continue
            text = text_of_bytes(paragraph, name, trouble)
            if text is None:
                continue
            if held and (at // block != last or len(held) + 1 + len(paragraph) > most):
                yield Document(held.decode().rstrip("\r\n"), f"{path}@{where}", dict(self.facts))
                held = b""
            if not held:
                where, last = at, at // block
            held = held + b"\n" + text.encode() if held else text.encode()
        if held:
            yield Document(held.decode().rstrip("\r\n"), f"{path}@{where}", dict(self.facts))


def _blank_separated(lines: Iterator[Line], begin: int, stop: int | None, most: int) -> Iterator[tuple[int, bytes | None]]:
    """Where each paragraph that begins in the range begins, and its lines with their ends; None if it is longer than ``most`` bytes."""
    first, size, after_empty = 0, -1, begin == 0
    parts: list[bytes] = []
    for at, line, _ in lines:
        empty = line is not None and not line.strip(b"\r\n")
        if size < 0:
            if stop is not None and at >= stop:
                return
            if not empty and after_empty and at >= begin:
                first, parts, size = at, [], 0
        if size >= 0:
            if empty:
                yield first, b"".join(parts) if size <= most else None
                size = -1
            elif size <= most and line is not None:
                size += len(line)
                parts.append(line)
            else:
                size, parts = most + 1, []
        after_empty = empty
    if size >= 0:
        yield first, b"".join(parts) if size <= most else None


def _after(data: bytes, some: Callable[[], bytes]) -> Callable[[], bytes]:
    """The next bytes: first ``data``, then what ``some`` gives."""
    first = [data]
    return lambda: first.pop() if first else some()
