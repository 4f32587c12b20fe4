"""The parts to one file: JSON lines, CSV, TSV or Parquet by the name's ending, packed with .gz or .zst; the same parts give the same bytes."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from nabi.data.parsing import package
from nabi.errors import OptionError, StorageError
from nabi.files import whole
from nabi.predicting.answering import ANSWER
from nabi.predicting.work import Work

LINES, TABLES = ("", ".jsonl"), (".csv", ".tsv")
GROUP = 1 << 16  # rows of a group of a Parquet file


def kind_of(out: Path) -> tuple[str, str]:
    """(``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``; ``.gz``, ``.zst`` or nothing) by the name of a file that is to be written.

    Raises:
        OptionError: another ending, or a package for it is not installed.
    """
    name, packing = out, out.suffix.lower()
    if packing in (".gz", ".zst"):
        name = out.with_suffix("")
    else:
        packing = ""
    ending = name.suffix.lower()
    if ending == ".parquet" and not packing:
        package("pyarrow.parquet", out.name)
        return ending, ""
    if ending not in (*LINES, *TABLES):
        raise OptionError("the answers can't be written as this", value=out.name, fix="give a name with another ending",
                          expected=".jsonl, .csv or .tsv, each also with .gz or .zst, or .parquet")  # fmt: skip
    if packing == ".zst":
        package("zstandard", out.name)
    return ending or ".jsonl", packing


def join(work: Work, parts: Sequence[int]) -> None:
    """Write the answers of all parts, in order, as ``work.joined``, whole or not at all.

    Raises:
        StorageError: it could not be written, or a part is not what it was when it was written.
    """
    ending, packing = kind_of(work.out)
    with whole(work.joined) as draft:
        if ending == ".parquet":
            _parquet(work, parts, draft)
            return
        with draft.open("wb") as raw, _packed(raw, packing) as file:
            if ending == ".jsonl":
                for number in parts:
                    file.writelines(_lines(work, number))
            else:
                _table(work, parts, file, "," if ending == ".csv" else "\t")


def _lines(work: Work, number: int) -> Iterator[bytes]:
    """The lines of a part; at their end it is known whether they are what was written."""
    digest, path = hashlib.sha256(), work.part(number)
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            yield line
    if digest.hexdigest() != work.done[number]["sha256"]:
        raise StorageError(f"{path} was damaged after it was written. Give the same command again: its rows are answered anew.")


def _rows(work: Work, number: int) -> Iterator[dict[str, Any]]:
    for line in _lines(work, number):
        answer = json.loads(line)
        yield answer if isinstance(answer, dict) else {ANSWER: answer}


def _columns(work: Work, parts: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(name for number in parts for name in work.done[number]["columns"])) or [ANSWER]


@contextlib.contextmanager
def _packed(raw: IO[bytes], packing: str) -> Iterator[IO[bytes]]:
    if packing == ".gz":
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:  # no name and no time in it: the same bytes each time
            yield file  # type: ignore[misc]  # it is a file
    elif packing == ".zst":
        with package("zstandard", "zstd").ZstdCompressor(level=3).stream_writer(raw, closefd=False) as file:
            yield file
    else:
        yield raw


def _table(work: Work, parts: Sequence[int], file: IO[bytes], delimiter: str) -> None:
    names, text = _columns(work, parts), io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for number in parts:
        for row in _rows(work, number):
            writer.writerow([_cell(row.get(name)) for name in names])
            if text.tell() > 1 << 20:
                file.write(text.getvalue().encode())
                text.seek(0)
                text.truncate()
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()


def _cell(value: Any) -> str:
    """Text as it is, nothing for null, else JSON."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parquet(work: Work, parts: Sequence[int], draft: Path) -> None:
    """Two passes: what each column is in all parts, then the rows. A column that is not one thing (numbers here, text there) is written as JSON."""
    arrow, names = package("pyarrow", work.out.name), _columns(work, parts)
    kinds: dict[str, Any] = dict.fromkeys(names, arrow.null())
    for number in parts:
        rows = list(_rows(work, number))
        for name in names:
            kinds[name] = _together(arrow, kinds[name], [row.get(name) for row in rows])
    schema = arrow.schema([(name, arrow.string() if kind is None else kind) for name, kind in kinds.items()])
    held: list[dict[str, Any]] = []
    with package("pyarrow.parquet", work.out.name).ParquetWriter(str(draft), schema) as writer:

        def flush() -> None:
            if held:
                columns = [arrow.array([_made(row.get(name), kinds[name]) for row in held], schema.field(name).type) for name in names]
                writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
                held.clear()

        for number in parts:
            held += _rows(work, number)
            if len(held) >= GROUP:
                flush()
        flush()


def _together(arrow: Any, kind: Any, cells: list[Any]) -> Any:
    """The type of a column that was of this type so far and has these cells too; None if no type holds them all."""
    if kind is None:
        return None
    try:
        schemas = [arrow.schema([("cells", each)]) for each in (kind, arrow.array(cells).type)]
        return arrow.unify_schemas(schemas, promote_options="permissive").field("cells").type
    except (arrow.ArrowException, OverflowError, TypeError, ValueError):
        return None


def _made(value: Any, kind: Any) -> Any:
    return value if kind is not None or value is None else json.dumps(value, ensure_ascii=False)


