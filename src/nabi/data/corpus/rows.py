"""Tables: each row is a document. JSON lines, CSV, TSV, plain or packed, and Parquet; one file, or a folder of them.

BigQuery's export of GitHub's files is read as it is. Unusual: plain JSON lines are cut into byte ranges, and a line belongs to the range in which it begins,
so many workers read one file. A row of a file that is cut is named by its byte (``rows.jsonl@1048576``), any other by its line (``rows.jsonl:17``), a row of
Parquet by its number. CSV can't be cut: only who has read all before knows whether a line end stands between quotes.
"""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.listing import UNIT, Entry, Listed, Names, reason_of, shown, walk
from nabi.data.corpus.streams import HostileError, Stream, lines_from, lines_of, opened, packing_of, text_of_bytes, text_of_value
from nabi.data.parsing import broken_arrow, csv_reader, csv_row, is_object, json_value, package, unique
from nabi.errors import DataError, shortened

ENDINGS = (*(kind + packed for kind in (".jsonl", ".csv", ".tsv") for packed in ("", ".gz", ".zst")), ".parquet")
TEXTS = ("content", "text")
# column -> fact; the names of BigQuery's github_repos first
FACTS = {"repo_name": "repo", "repo": "repo", "path": "path", "license": "license", "url": "url", "language": "language", "size": "size", "copies": "copies"}
BATCH = 64  # rows of Parquet that are held at a time

Line = tuple[int, bytes | None, int]


def open_origin(origin: Origin) -> Table:
    """The source of a table or of a folder of tables.

    Raises:
        DataError: there is nothing at the path, or its ending is not that of a table.
    """
    place = Path(origin.path)
    if not place.exists():
        raise DataError("there is no such table or folder", value=origin.path, fix="check the path")
    if place.is_file() and not place.name.lower().endswith(ENDINGS):
        raise DataError("not a table", value=origin.path, expected="a name that ends in " + ", ".join(ENDINGS), fix="rename it to what it holds")
    return Table(origin)


class Files(Listed):
    """A file or the files of a folder, each read in one or more parts; what is of one kind: ``parts`` and ``texts``."""

    endings: tuple[str, ...] = ()

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self.place = Path(origin.path)
        self.alone = self.place.is_file()

    def parts(self, entry: Entry) -> Iterator[Entry]:
        """The file in parts."""
        raise NotImplementedError

    def texts(self, file: IO[bytes], entry: Entry, path: str, trouble: Trouble) -> Iterator[Document]:
        """The documents of one part."""
        raise NotImplementedError

    def where(self, entry: Entry) -> Path:
        return self.place if self.alone else self.place / entry.path

    def entries(self, scratch: Path) -> Iterator[Entry]:
        if self.alone:
            yield from self.parts(Entry(self.place.name, size=self.place.stat().st_size))
            return
        for entry in walk(self.origin.path, Names(self.origin, self.endings), scratch):
            yield from [entry] if entry.reason else self.parts(entry)

    def documents(self, entry: Entry, trouble: Trouble) -> Iterator[Document]:
        path = shown(entry.path)
        try:
            with opened(self.where(entry), path, follow=self.alone) as file:
                yield from self.texts(file, entry, path, trouble)
        except OSError as problem:
            trouble.add("link" if problem.errno == errno.ELOOP else reason_of(problem), path, problem.strerror or str(problem))
        except DataError as problem:
            # one broken file among many is counted; a column that was misspelt is the user's to mend
            if self.alone or isinstance(problem, HostileError | _NoColumnError):
                raise
            trouble.add("broken", path, str(problem))


def ranges(entry: Entry) -> Iterator[Entry]:
    """A plain file in byte ranges of a unit each; the whole if it is not longer."""
    if entry.size <= UNIT:
        yield entry
        return
    for start in range(0, entry.size, UNIT):
        stop = min(start + UNIT, entry.size)
        yield Entry(entry.path, start, stop, stop - start)


class _NoColumnError(DataError):
    """A table has no column with the text."""


class Table(Files):
    """The rows of tables."""

    endings = ENDINGS

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._probed = False

    def parts(self, entry: Entry) -> Iterator[Entry]:
        name = entry.path.lower()
        if ".jsonl" in name and not self._probed:
            self._probed = True
            self._probe(entry)
        if name.endswith(".jsonl"):
            yield from ranges(entry)
        elif name.endswith(".parquet"):
            yield from self._row_groups(entry)
        else:
            yield entry

    def texts(self, file: IO[bytes], entry: Entry, path: str, trouble: Trouble) -> Iterator[Document]:
        name = entry.path.lower()
        if name.endswith(".parquet"):
            yield from self._parquet(file, entry, path, trouble)
            return
        if entry.stop:
            lines = lines_from(file, entry.start, entry.stop, self.origin.max_bytes)
        else:
            stream = Stream(file, packing_of(name), path)
            lines = lines_of(stream.some, self.origin.max_bytes)
        kind = Path(name.removesuffix(packing_of(name))).suffix
        yield from self._jsonl(lines, entry, path, trouble) if kind == ".jsonl" else self._csv(lines, path, "\t" if kind == ".tsv" else ",", trouble)

    def _jsonl(self, lines: Iterator[Line], entry: Entry, path: str, trouble: Trouble) -> Iterator[Document]:
        for number, (at, line, _) in enumerate(lines, 1):
            if entry.stop and at >= entry.stop:
                return
            where = f"{path}@{at}" if entry.stop else f"{path}:{number}"
            if line is None:
                trouble.add("too long", where, f"a line of over {self.origin.max_bytes:,} bytes")
                continue
            text = text_of_bytes(line, where, trouble)
            if text is None or not text.strip(" \t\r\n"):
                continue
            try:
                row = json_value(text, where, None, "mend the line")
                is_object(row, where)
            except DataError as problem:
                trouble.add("broken row", where, problem.what.removeprefix(f"{where}: "))
                continue
            yield from self._document(row, where, trouble)

    def _csv(self, lines: Iterator[Line], path: str, delimiter: str, trouble: Trouble) -> Iterator[Document]:
        feed = _Records(lines, self.origin.max_bytes)
        reader = csv_reader(feed, delimiter)
        header: list[str] = []
        while True:
            where = f"{path}:{feed.begin()}"
            try:
                fields = next(reader, None)
                row = csv_row(fields, header, where, delimiter) if fields and header else {}
            except (_TooLong, csv.Error, DataError) as problem:
                if not header:
                    raise DataError(f"{where}: the names of the columns can't be read", value=str(problem), fix="write them in the first line") from None
                if isinstance(problem, _TooLong):
                    trouble.add("too long", where, f"a row of over {self.origin.max_bytes:,} bytes")
                    feed.pass_over()
                else:
                    trouble.add("broken row", where, str(problem).removeprefix(f"{where}: "))
                continue
            if fields is None:
                return
            if row:
                yield from self._document(row, where, trouble)
            elif fields:
                unique(fields, where)
                self._column(fields, path)
                header = fields

    def _row_groups(self, entry: Entry) -> Iterator[Entry]:
        parquet, number = package("pyarrow.parquet", entry.path), 1
        try:
            with opened(self.where(entry), entry.path, follow=self.alone) as file:
                meta = parquet.ParquetFile(file).metadata
                for index in range(meta.num_row_groups):
                    group = meta.row_group(index)
                    yield Entry(entry.path, index, index + 1, group.total_byte_size, note=str(number))
                    number += group.num_rows
        except _flaws() as problem:
            if self.alone:
                raise broken_arrow(shown(entry.path), problem, parquet=True) from None
            yield Entry(entry.path, number, number, reason="broken", note=str(problem))

    def _parquet(self, file: IO[bytes], entry: Entry, path: str, trouble: Trouble) -> Iterator[Document]:
        parquet, number = package("pyarrow.parquet", path), int(entry.note)
        try:
            table = parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            names = table.schema_arrow.names
            unique(names, path)
            wanted = [self._column(names, path), *(name for name in FACTS if name in names)]
            for batch in table.iter_batches(BATCH, row_groups=[entry.start], columns=list(dict.fromkeys(wanted)), use_threads=False):
                # damaged offsets would be followed out of the buffer
                batch.validate(full=True)
                for row in batch.to_pylist():
                    yield from self._document(row, f"{path}:{number}", trouble)
                    number += 1
        except _flaws() as problem:
            raise broken_arrow(path, problem, parquet=True) from None

    def _column(self, names: list[str], path: str) -> str:
        column = self.origin.column or next((name for name in TEXTS if name in names), "")
        if column not in names:
            raise _NoColumnError(f"{path}: no column with the text", value=column or " or ".join(TEXTS), expected=f"one of {', '.join(names)}",
                                 fix='name it: column = "..."')  # fmt: skip
        return column

    def _probe(self, entry: Entry) -> None:
        """A column that is misspelt should be told before the work begins. What else is wrong is counted when it is read."""
        with suppress(OSError), opened(self.where(entry), entry.path, follow=self.alone) as file:
            try:
                lines = lines_of(Stream(file, packing_of(entry.path), shown(entry.path)).some, self.origin.max_bytes)
                row = json.loads(next((line for _, line, _ in lines if line is None or line.strip()), None) or b"0")
            except (ValueError, RecursionError, DataError):
                return
            if isinstance(row, dict):
                self._column(list(row), shown(entry.path))

    def _document(self, row: Mapping[str, Any], where: str, trouble: Trouble) -> Iterator[Document]:
        column = self.origin.column or next((name for name in TEXTS if name in row), "")
        value = row.get(column)
        if isinstance(value, bytes):
            value = text_of_bytes(value, where, trouble)
            if value is None:
                return
        if not isinstance(value, str):
            # BigQuery leaves the content of binary files empty
            seen = f"column '{column}' is {'null' if value is None else 'no string'}" if column in row else f"the columns are {', '.join(row)}"
            trouble.add("no text", where, shortened(seen))
            return
        text = text_of_value(value, where, trouble, self.origin.max_bytes)
        if text is not None:
            found = {fact: _writable(row[name]) for name, fact in FACTS.items() if isinstance(row.get(name), str | int) and name != column}
            yield Document(text, where, {**self.facts, **{fact: value for fact, value in found.items() if value}})


def _writable(value: str | int) -> str:
    return str(value).encode("utf-8", "backslashreplace").decode()


def _flaws() -> tuple[type[Exception], ...]:
    return OSError, ValueError, package("pyarrow", "Parquet").ArrowException


class _TooLong(Exception):
    """A record of a CSV is longer than may be."""

    def __str__(self) -> str:
        return "a line that is too long"


class _Records:
    """The lines of a CSV for csv's reader, record by record; a record that is too long is broken off.

    Args:
        lines: as ``lines_of`` gives them.
        most: the longest record, in bytes.
    """

    def __init__(self, lines: Iterator[Line], most: int) -> None:
        self._lines, self._most, self._left = lines, most, most
        self._taken, self._open = 0, False

    def __iter__(self) -> Iterator[str]:
        return self

    def begin(self) -> int:
        """A new record begins: the number of its first line."""
        self._left, self._open = self._most, False
        return self._taken + 1

    def __next__(self) -> str:
        line = self._take()
        self._left -= len(line) if line else 0
        if line is None or self._left < -2:  # the line end does not count
            raise _TooLong
        return line.decode("utf-8-sig" if self._taken == 1 else "utf-8", "surrogateescape")

    def pass_over(self) -> None:
        """Go on to the end of a record that was broken off."""
        with suppress(StopIteration):
            while self._open:
                self._take()

    def _take(self) -> bytes | None:
        _, line, quotes = next(self._lines)
        self._taken += 1
        # a line end between quotes, of which there was an odd number, ends no record
        self._open ^= bool((quotes if line is None else line.count(b'"')) % 2)
        return line
