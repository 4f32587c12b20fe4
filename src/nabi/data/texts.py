"""Texts to read one after another, however many there are: of a corpus folder, a file, a table, or anything that gives texts or rows.

Unusual: JSON lines, packed or not, are streamed; a line is read whole but never beyond a bound, and a file that was cut off is an error and no shorter file.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nabi.data.parsing import PACKINGS
from nabi.data.tables import Table, read_table, text_of
from nabi.errors import DataError, OptionError

LONGEST = 1 << 28  # bytes of a line
_CHUNK, _PACKED_CHUNK = 1 << 20, 1 << 13  # a packed one may unpack to thousands of times as much
_LINES = re.compile(r"\.jsonl(\.gz|\.zst)?$", re.IGNORECASE)
_OF_CORPUS = re.compile(r"train-.*\.jsonl(\.gz|\.zst)?$")


@dataclass(frozen=True)
class Texts:
    """Texts, what to call them, and what they are.

    Attributes:
        name: of the file, the folder, or the kind of thing in memory.
        sha256: of all that is read, or of the name that the caller gave it.
        read: (where, text) one after another; each call begins anew, unless the source can be read only once.
    """

    name: str
    sha256: str
    read: Callable[[], Iterator[tuple[str, str]]]


def open_texts(source: Any, column: str = "text", identity: str | None = None) -> Texts:
    """The texts of a source.

    Args:
        source: a folder that ``nabi corpus build`` wrote; a .jsonl file, as it is or packed, which is streamed; another file that
            ``read_table`` reads; a Table or a DataFrame; an iterable of strings, or of dicts.
        column: of rows, the one with the text.
        identity: what an iterable is, such as a name with a version; nothing else can tell it from another one before it is read.

    Raises:
        DataError: there is nothing to read, or it can't be read.
        OptionError: an iterable without an identity.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if _OF_CORPUS.fullmatch(p.name))
            if not files:
                raise DataError("this folder holds no corpus", value=str(path), expected="files train-*.jsonl.zst, as `nabi corpus build` writes them",
                                fix="give its folder, or one file")  # fmt: skip
            return Texts(path.name, _hash_of_files(files), lambda: _texts(_rows_of_files(files), column))
        if path.is_file() and _LINES.search(path.name):
            return Texts(path.name, _hash_of_files([path]), lambda: _texts(_rows_of_files([path]), column))
        source = read_table(path)
    elif not isinstance(source, Table) and hasattr(source, "columns") and hasattr(source, "to_dict"):
        source = read_table(source)
    if isinstance(source, Table):
        table = source
        table.require(column)
        return Texts(table.name, table.sha256, lambda: _texts(((table.where(i), row) for i, row in enumerate(table)), column))
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        raise DataError("this is no source of texts", value=type(source).__name__, expected="a path, a table, or an iterable of texts or dicts")
    name = type(source).__name__
    if not identity:
        raise OptionError("what these texts are can't be seen before they are read", value=name,
                          fix='say it, so that other texts are not taken for them: corpus="my texts, version 1"')  # fmt: skip
    items = source
    return Texts(
        identity, hashlib.sha256(identity.encode()).hexdigest(), lambda: _texts(((f"{name}, row {i}", row) for i, row in enumerate(items, 1)), column)
    )


def _texts(rows: Iterable[tuple[str, Any]], column: str) -> Iterator[tuple[str, str]]:
    for where, row in rows:
        if isinstance(row, str):
            yield where, row
            continue
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: neither a text nor a row", value=row, expected=f'a str or {{"{column}": ...}}')
        if column not in row:
            raise DataError(f"{where}: no column '{column}'", value=", ".join(map(str, row)), expected="it in each row",
                            fix="name the one with the text: column=")  # fmt: skip
        yield where, text_of(row[column], where)


def _hash_of_files(files: Iterable[Path]) -> str:
    """Of their names and bytes."""
    whole = hashlib.sha256()
    for path in files:
        with _readable(path), path.open("rb") as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _rows_of_files(files: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in files:
        yield from rows_of_lines(path)


def rows_of_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a file of JSON lines, as it is or packed (.gz, .zst), streamed; blank lines are skipped.

    Raises:
        DataError: the file is missing, damaged or cut off; a line is too long, not UTF-8, not JSON, or no object.
    """
    for number, line in enumerate(_lines(path), 1):
        where = f"{path.name}, line {number}"
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UnicodeDecodeError as problem:
            raise DataError(f"{where}: not UTF-8 at byte {problem.start}", value=line[max(0, problem.start - 8) : problem.start + 24],
                            expected="JSON in UTF-8", fix="write the file again in UTF-8") from None  # fmt: skip
        except (ValueError, RecursionError) as problem:
            raise DataError(f"{where}: not JSON ({problem})", value=line[:120], expected="one JSON object a line",
                            fix="write the line again, or leave it out") from None  # fmt: skip
        if not isinstance(row, dict):
            raise DataError(f"{where}: no JSON object", value=row, expected='{"text": ...}', fix="write the line again, or leave it out")
        yield where, row


def _lines(path: Path) -> Iterator[bytes]:
    held: list[bytes] = []
    size = number = 0
    with _readable(path):
        for chunk in _chunks(path):
            first, *others = chunk.split(b"\n")
            held.append(first)
            size += len(first)
            if others:
                yield b"".join(held)
                yield from others[:-1]
                number += len(others)
                held, size = [others[-1]], len(others[-1])
            if size > LONGEST:
                raise DataError(f"{path.name}, line {number + 1}: the line is too long", value=f"over {LONGEST >> 20} MiB", expected="one document a line",
                                fix="cut the document up, or leave it out")  # fmt: skip
    if size:
        yield b"".join(held)


def _chunks(path: Path) -> Iterator[bytes]:
    packing = path.suffix.lower()
    with path.open("rb") as file:
        if packing not in PACKINGS:
            yield from iter(partial(file.read, _CHUNK), b"")
            return
        kind, magic = PACKINGS[packing]
        start = file.read(len(magic))
        if start != magic:
            raise DataError(f"{path.name}: not a {kind} file, although its name ends in {packing}", value=start, expected=f"{kind} data",
                            fix=f"if it is not packed, rename it without {packing}")  # fmt: skip
        file.seek(0)
        if packing == ".gz":
            with gzip.open(file) as unpacked:
                yield from iter(partial(unpacked.read, _CHUNK), b"")
            return
        try:
            import zstandard
        except ImportError:
            raise OptionError(f"{path.name}: reading it needs the package zstandard", fix="install it: pip install 'nabi[data]'") from None
        frame, data = None, b""
        while data or (data := file.read(_PACKED_CHUNK)):
            frame = frame or zstandard.ZstdDecompressor().decompressobj()  # one a frame: a stream reader takes a cut-off frame for a whole one
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as problem:
                raise ValueError(str(problem)) from None
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
        if frame is not None:
            raise EOFError


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what reading a file raises into an error that names it."""
    fix = "fetch or write it again"
    try:
        yield
    except GeneratorExit:  # a reader that stops early; at the end of a process the names below may be gone
        raise
    except EOFError:
        raise DataError(f"{path.name}: the packed data is cut off", value=str(path), expected="a whole file", fix=fix) from None
    except (gzip.BadGzipFile, zlib.error, ValueError) as problem:
        raise DataError(f"{path.name}: the packed data is damaged ({problem})", value=str(path), fix=fix) from None
    except OSError as problem:
        raise DataError(f"{path.name}: the file can't be read ({problem.strerror})", value=str(path), fix="check the path and its permissions") from None
