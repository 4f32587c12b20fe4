"""Texts to read one after another and again from the beginning, however many there are: of a corpus folder, files, a table, or anything that gives texts.

On top of ``stream_table``. Unusual: who takes texts apart anyhow (the training of a tokenizer) reads plain text and code in pieces, cut before a space; else a
line of a text file is a text, as in any table.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nabi.data.opening import can_be_read, kind_of, reading, unpacked
from nabi.data.parsing import undecodable
from nabi.data.streams import Stream, checked, stream_files, stream_table
from nabi.data.tables import read_table, shards, text_of
from nabi.errors import DataError, OptionError

NAMES = ("text", "content")  # of the column, where none is named
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PLAIN = (".txt", ".md", ".py", ".rst", ".text")
BLOCK, MOST = 1 << 20, 1 << 24  # bytes of a piece of plain text; characters of one where there is no place for a cut


class Texts:
    """Texts, what to call them, and what they are. Iterated, it gives (where, text), each time from the beginning unless the source can be read only once.

    Args:
        name: of the file, the folder, or the kind of thing in memory.
        begin: starts a pass.
        hashed: gives the hash of all that is read, or of the name that the caller gave it.
    """

    def __init__(self, name: str, begin: Callable[[], Iterator[tuple[str, str]]], hashed: Callable[[], str]) -> None:
        self.name, self._begin, self._hashed = name, begin, hashed

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self._begin()

    @cached_property
    def sha256(self) -> str:
        """What these texts are, as a hash; files are read for it."""
        return self._hashed()


def open_texts(source: Any, column: str | None = "text", identity: str | None = None) -> Texts:
    """The texts of a source, each whole.

    Args:
        source: a folder that ``nabi corpus build`` wrote, of which the training shards are read; a file, or a table in memory; an iterable of strings or of
            dicts, or a function that returns one. Files and iterables are streamed.
        column: of rows, the one with the text; "text" or "content" if None.
        identity: what an iterable is, such as a name with a version; nothing else can tell it from another one before it is read.

    Raises:
        DataError: there is nothing to read, or when it is read: it can't be.
        OptionError: an iterable without an identity.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        files = _of_corpus(path) if path.is_dir() else shards(str(source))
        if not files:
            raise DataError("this folder holds no corpus", value=str(path), expected="files train-*.jsonl.zst, as `nabi corpus build` writes them",
                            fix="give its folder, or one file")  # fmt: skip
        stream = stream_files(files, path.name)
        return Texts(path.name, lambda: _texts(stream, column), lambda: _hash_of_files(files))
    if isinstance(source, Mapping) or (hasattr(source, "__len__") and (hasattr(source, "columns") or hasattr(source, "column_names"))):
        table = read_table(source, required=[column] if column else ())
        return Texts(table.name, lambda: _texts(stream_table(table), column), lambda: table.sha256)
    name = type(source).__name__
    if isinstance(source, bytes) or not (isinstance(source, Iterable) or callable(source)):
        raise DataError("this is no source of texts", value=name, expected="a path, a table, or an iterable of texts or dicts")
    if not identity:
        raise OptionError("what these texts are can't be seen before they are read", value=name,
                          fix='say it, so that other texts are not taken for them: corpus="my texts, version 1"')  # fmt: skip

    def rows() -> Iterator[Any]:
        items = source if isinstance(source, Iterable) else source()
        return ({column or NAMES[0]: item} if isinstance(item, str) else item for item in items)

    stream = source if isinstance(source, Stream) else Stream(lambda: checked(rows(), name), name)
    return Texts(identity, lambda: _texts(stream, column), lambda: hashlib.sha256(identity.encode()).hexdigest())


def open_files(paths: Sequence[str | Path], column: str | None = None) -> Texts:
    """The texts of files and folders for what takes them apart anyhow: of a folder without a corpus all its files, plain text and code in pieces.

    Args:
        paths: files and folders, in order; the files of a folder are read in the order of their paths.
        column: of tables, the one with the text; "text" or "content" if None.

    Raises:
        DataError: there is no such file, nothing to read in a folder, or a file whose ending says nothing; or when it is read: it can't be.
    """
    files = [file for path in paths for file in _in(Path(path))]

    def read() -> Iterator[tuple[str, str]]:
        for file in files:
            yield from _pieces(file) if kind_of(file)[0] in PLAIN else _texts(stream_files([file], file.name), column)

    return Texts(", ".join(map(str, paths)), read, lambda: _hash_of_files(files))


def _of_corpus(folder: Path) -> list[Path]:
    """The training shards of a corpus, if it is one."""
    return sorted(file for file in folder.glob("train-*") if kind_of(file)[0] == ".jsonl")


def _in(path: Path) -> list[Path]:
    if not path.is_dir():
        can_be_read(path, (*TABLES, *PLAIN))
        return [path]
    files = _of_corpus(path) or sorted(file for file in path.rglob("*") if kind_of(file)[0] in (*TABLES, *PLAIN) and file.is_file())
    if not files:
        expected = f"train-*.jsonl.zst of a corpus, or files that end in {', '.join((*TABLES, *PLAIN))}"
        raise DataError("there is nothing to read in the folder", value=str(path), expected=expected, fix="give another folder, or a file")
    return files


def _texts(stream: Stream, column: str | None) -> Iterator[tuple[str, str]]:
    for where, row in stream.placed():
        name = column or next((name for name in NAMES if name in row), NAMES[0])
        if name not in row:
            raise DataError(f"{where}: no column '{name}'", value=", ".join(row), expected="it in each row",
                            fix="name the one with the texts: column=, on the command line --columns text=NAME")  # fmt: skip
        yield where, text_of(row[name], where)


def _pieces(path: Path) -> Iterator[tuple[str, str]]:
    """A text file; a large one in pieces, each cut before its last space."""
    decode, kept, start, line, last = codecs.getincrementaldecoder("utf-8")().decode, "", 0, 1, False
    with reading(path), unpacked(path, PLAIN) as file:
        while not last:
            block = file.read(BLOCK)
            last, looked_at = len(block) < BLOCK, len(kept) - 1
            try:
                kept += decode(block, last)
            except UnicodeDecodeError as problem:
                data, at = problem.object, problem.start  # with what the block before left of a character
                line += kept.count("\n") + data.count(b"\n", 0, at)
                raise undecodable(data, at, "not UTF-8", path.name, line, start=start + len(block) - len(data)) from None
            kept = kept if start else kept.removeprefix("\ufeff")
            start += len(block)
            at = len(kept) if last else _cut(kept, looked_at) or (len(kept) if len(kept) > MOST else 0)
            if at:
                yield f"{path.name}, line {line}", kept[:at]
                line += kept.count("\n", 0, at)
                kept = kept[at:]


def _cut(text: str, since: int) -> int:
    """Where the last space from ``since`` on is that stands between two ASCII letters or digits: no splitting into words notices a cut there. 0 if none is."""
    at = text.rfind(" ", max(since, 1))
    while at > 0 and not (text[at - 1 : at + 2].isascii() and text[at - 1].isalnum() and text[at + 1 : at + 2].isalnum()):
        at = text.rfind(" ", max(since, 1), at)
    return max(at, 0)


def _hash_of_files(files: Iterable[Path]) -> str:
    """Of their names and bytes."""
    whole = hashlib.sha256()
    for path in files:
        with reading(path), path.open("rb") as file:
            whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
