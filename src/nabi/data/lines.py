"""Rows of JSON lines, CSV, TSV and plain text, one after the other in constant memory, each with the byte and the line at which it begins.

What ``parsing`` does with a whole file, for files that are too large to be held; the errors are the same and name the same lines.
"""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from nabi.data import parsing
from nabi.errors import DataError

LONGEST = 1 << 26  # bytes of a line, or of a CSV's record, in a file that is too large to be held
ENDINGS = (".jsonl", ".csv", ".tsv", ".txt")
SPLIT = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")


class Broken(dict[str, Any]):
    """Stands for a row that can't be read, where reading goes on behind it.

    Args:
        problem: what is wrong with it.
    """

    def __init__(self, problem: DataError) -> None:
        super().__init__()
        self.problem = problem


@dataclass
class Ahead:
    """How many rows are still to be passed over: they are counted and not looked at."""

    rows: int = 0

    def passes(self) -> bool:
        """Whether the row that comes is passed over."""
        if self.rows:
            self.rows -= 1
            return True
        return False


class Found(NamedTuple):
    """A row and the byte and the line at which it begins."""

    start: int
    number: int
    row: dict[str, Any]


@dataclass
class Index:
    """Where the rows of a file are.

    Attributes:
        offsets: (N + 1,) the byte at which each begins, and the end.
        numbers: (N,) the line at which each begins.
        columns: all that occur, in the order of their first row.
        complete: those that each row has.
    """

    offsets: array[int] = field(default_factory=lambda: array("Q"))
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    columns: list[str] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)


def index(file: IO[bytes], ending: str, name: str) -> Index:
    """Read a whole file once and note where its rows are.

    Raises:
        DataError: a row can't be read.
    """
    found, seen = Index(), Counter[str]()
    for start, number, row in rows(file, ending, name):
        found.offsets.append(start)
        found.numbers.append(number)
        seen.update(row.keys())
    found.offsets.append(file.tell())
    found.columns = list(seen)
    found.complete = [column for column, count in seen.items() if count == len(found.numbers)]
    return found


def rows(file: IO[bytes], ending: str, name: str, ahead: Ahead | None = None, *, broken: bool = False) -> Iterator[Found]:
    """The rows of a file of one of ``ENDINGS``.

    Args:
        file: unpacked bytes.
        ending: what they are.
        name: what to call the file in an error.
        ahead: rows to pass over first; what is left of them belongs to the next file.
        broken: give a :class:`Broken` for a row that can't be read and go on behind it, where it is clear that the next one begins there.

    Raises:
        DataError: a row can't be read; the line is named.
    """
    ahead = ahead or Ahead()
    if ending in (".csv", ".tsv"):
        yield from _records(file, name, "," if ending == ".csv" else "\t", ahead, broken)
        return
    for start, number, line in _lines(file, name, broken):
        if isinstance(line, DataError):
            if not ahead.passes():
                yield Found(start, number, Broken(line))
            continue
        if not line.strip(" \t\r\n") or ahead.passes():
            continue
        try:
            row = {"text": line.rstrip("\r\n")} if ending == ".txt" else parsing.json_row(line.removesuffix("\n"), name, number)
            if ending == ".jsonl" and "\\u" in line:
                parsing.whole_characters(row, f"{name}, line {number}")
        except DataError as problem:
            if not broken:
                raise
            row = Broken(problem)
        yield Found(start, number, row)


def reader(ending: str, name: str, columns: list[str], numbers: Any) -> Callable[[bytes, int], dict[str, Any]]:
    """What makes a row from the bytes of its record, as :func:`index` cut them."""
    if ending == ".txt":
        return lambda data, i: {"text": data.decode().partition("\n")[0].rstrip("\r")}
    if ending == ".jsonl":
        return lambda data, i: parsing.json_row(data.decode(), name, int(numbers[i]))
    delimiter = "," if ending == ".csv" else "\t"

    def row(data: bytes, i: int) -> dict[str, Any]:
        fields = next(filter(None, parsing.csv_reader(io.StringIO(data.decode(), newline=""), delimiter)))
        return dict(zip(columns, fields, strict=True))

    return row


def _lines(file: IO[bytes], name: str, broken: bool = False) -> Iterator[tuple[int, int, str | DataError]]:
    """(first byte, number, text) of each line; with ``broken`` an error in the place of a text that can't be decoded."""
    start, number, before = 0, 0, b""
    line = head = file.readline(LONGEST + 1)
    while line:
        number += 1
        if len(line) > LONGEST:
            raise too_long(name, number, line)
        skip = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
        text: str | DataError
        try:
            text = line[skip:].decode()
            if "\0" in text:
                text = _undecodable(before, line, line.index(b"\0"), "a NUL byte", name, number, start, head)
        except UnicodeDecodeError as problem:
            text = _undecodable(before, line, skip + problem.start, "not UTF-8", name, number, start, head)
        if isinstance(text, DataError) and not broken:
            raise text
        yield start + skip, number, text
        start, before = start + len(line), line[-8:]
        line = file.readline(LONGEST + 1)


def _undecodable(before: bytes, line: bytes, at: int, flaw: str, name: str, number: int, start: int, head: bytes) -> DataError:
    return parsing.undecodable(before + line, len(before) + at, flaw, name, number, start=start - len(before), head=head[:4096])


def too_long(name: str, number: int, line: bytes) -> DataError:
    """The error for a line that would take too much memory."""
    return DataError(f"{name}, line {number}: longer than {LONGEST >> 20} MB", value=line[:60], expected="a row that fits into memory many times",
                     fix="divide its text, or see whether a quote or a line end is missing")  # fmt: skip


class _Lines:
    """The lines of a CSV as its reader takes them, with the byte at which the next one begins; it keeps the record that is being read, for errors."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._source, self._name = self._all(file, name), name
        self.start = self.first = 0
        self.record: list[str] = []

    def _all(self, file: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
        for start, _, text in _lines(file, name):
            assert isinstance(text, str)  # a broken line is raised: the record that it is in may be longer
            if "\r" not in text or (text.endswith("\r\n") and text.count("\r") == 1):
                yield start, text
                continue
            for match in SPLIT.finditer(text):  # a lone carriage return ends a line too
                yield start, match[0]
                start += len(match[0].encode())

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        at, text = next(self._source)
        if not self.record:
            self.start = at
        self.record.append(text)
        if at + len(text.encode()) - self.start > LONGEST:
            raise too_long(self._name, self.first, self.record[0].encode())
        return text


def _records(file: IO[bytes], name: str, delimiter: str, ahead: Ahead, broken: bool) -> Iterator[Found]:
    lines = _Lines(file, name)
    source = parsing.csv_reader(lines, delimiter)
    header: list[str] = []
    number = 1
    lines.first = 1
    try:
        for fields in source:
            if fields and not header:
                header = fields
                parsing.unique(header, f"{name}, line {number}")
            elif fields and not ahead.passes():
                row: dict[str, Any]
                try:
                    row = {**parsing.csv_row(fields, header, f"{name}, line {number}", delimiter)}
                except DataError as problem:
                    if not broken:
                        raise
                    row = Broken(problem)
                yield Found(lines.start, number, row)
            lines.record.clear()
            lines.first = number = source.line_num + 1
    except csv.Error:
        raise parsing.open_quote("".join(lines.record), number, delimiter, name) from None
