"""Streams: rows one after the other in constant memory, for what reads its data once: prediction, corpora, the training of a tokenizer.

A stream is a recipe and holds no rows: each time it is iterated it begins anew, unless its source is an iterator, which can be read once. ``fit`` needs to
know how many rows there are and to read them in any order, so it reads a stream to its end first; a long one is written to disk.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nabi.data import records
from nabi.data.binary import Unstorable, from_bytes, to_bytes
from nabi.data.parsing import whole_characters
from nabi.errors import DataError, OptionError, StorageError

HELD = 1 << 25  # bytes of text of a stream's rows from which they are written to disk


Placed = tuple[str, dict[str, Any]]  # where a row begins, such as "file.csv, line 17", and the row


class Stream(Iterable[dict[str, Any]]):
    """Rows one after the other; see :func:`stream_table`.

    Args:
        begin: gives an iterator over (where, row), each time it is called.
        name: the file's name, or the kind of thing in memory.
    """

    def __init__(self, begin: Callable[[], Iterator[Placed]], name: str) -> None:
        self._begin, self.name = begin, name

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for _, row in self._begin())

    def __repr__(self) -> str:
        return f"Stream({self.name!r})"

    def placed(self) -> Iterator[Placed]:
        """(where, row) of each row: its place in its source, whatever the order."""
        return self._begin()

    def shuffle(self, buffer_size: int = 1000, seed: int = 0) -> Stream:
        """The rows in another order, the same for each ``seed``: of ``buffer_size`` rows that are held, a random one is given and the next takes its place.

        Raises:
            OptionError: ``buffer_size`` is below 1.
        """
        if buffer_size < 1:
            raise OptionError("the buffer is too small", value=buffer_size, expected="1 row or more")

        def mixed() -> Iterator[Placed]:
            chance, held, rows = random.Random(seed), list[Placed](), self._begin()
            held.extend(itertools.islice(rows, buffer_size))
            for row in rows:
                place = chance.randrange(len(held))
                yield held[place]
                held[place] = row
            chance.shuffle(held)
            yield from held

        return Stream(mixed, self.name)

    def take(self, count: int) -> Stream:
        """The first rows."""
        return Stream(lambda: itertools.islice(self._begin(), count), self.name)

    def skip(self, count: int) -> Stream:
        """All but the first rows."""
        return Stream(lambda: itertools.islice(self._begin(), count, None), self.name)

    def map(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Stream:
        """What ``change`` makes of each row."""
        return Stream(lambda: ((where, change(row)) for where, row in self._begin()), self.name)


def checked(source: Iterable[Any], name: str) -> Iterator[Placed]:
    """(where, row) of an iterable, each looked at.

    Raises:
        DataError: one is no dict with string keys, or holds half of a surrogate pair.
    """
    for number, item in enumerate(source, 1):
        where = f"{name}, row {number}"
        if not isinstance(item, Mapping) or not all(isinstance(k, str) for k in item):
            raise DataError(f"{where}: not a dict with string keys", value=item,
                            expected='{"column": value, ...}', fix="give each value its column's name")  # fmt: skip
        row = dict(item)
        whole_characters(row, where)
        yield where, row


def collected(source: Iterable[Any], name: str) -> tuple[Sequence[dict[str, Any]], int]:
    """The rows of an iterable and the bytes that they took on disk: 0 if they are few enough to be held, or were held before.

    Raises:
        DataError: as for :func:`checked`, or a row of a long stream holds what can't be written.
        StorageError: the disk is full.
    """
    rows, held, size, given = list[dict[str, Any]](), isinstance(source, Sequence), 0, (row for _, row in checked(source, name))
    for row in given:
        rows.append(row)
        size += 0 if held else sum(map(_size, row.values()))
        if size > HELD:
            return _spooled(itertools.chain(rows, given), name)
    return rows, 0


def _spooled(rows: Iterable[dict[str, Any]], name: str) -> tuple[Sequence[dict[str, Any]], int]:
    number = 0

    def written() -> Iterator[bytes]:
        nonlocal number
        for number, row in enumerate(rows, 1):  # noqa: B007  # told in the error
            yield to_bytes(row)

    file = tempfile.TemporaryFile()  # noqa: SIM115  # the records close it
    try:
        offsets = records.write(file, written())
        file.flush()
    except Unstorable as problem:
        file.close()
        raise DataError(f"{name}, row {number}: {problem} can't be written to disk", expected="text, numbers, lists, dicts, bytes or NumPy arrays",
                        fix="turn it into one of these, or give a list of rows, which stays in memory") from None  # fmt: skip
    except OSError as problem:
        file.close()
        raise StorageError(f"{name}: there is no room in {tempfile.gettempdir()} for the stream's rows ({number:,} so far): {problem}") from problem
    return records.Records(file, offsets, lambda data, _: from_bytes(data), name), offsets[-1]


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value)) if value and isinstance(value[0], str | Mapping | list | tuple) else 8 * len(value)
    return int(getattr(value, "nbytes", 8))


def stream_table(source: Any, columns: Mapping[str, str] | None = None) -> Stream:
    """A stream of rows.

    Args:
        source: what ``read_table`` reads. Files are read as the rows are asked for; of a function, what it returns is read anew each time.
        columns: renames, our name -> the source's. A column of the source that already bears our name is left out.

    Raises:
        DataError: there is no such file, or when it is read: a row can't be read, or lacks a column that is renamed.
    """
    from nabi.data.opening import holds_images
    from nabi.data.tables import read_table, shards

    name = type(source).__name__
    if isinstance(source, Stream):
        stream = source
    elif isinstance(source, str | Path) and not holds_images(Path(source)):
        stream = stream_files(shards(str(source)), Path(source).name)
    elif callable(source) and not isinstance(source, Iterable):
        stream = Stream(lambda: checked(source(), name), name)
    elif isinstance(source, Iterator) or (isinstance(source, Iterable) and not hasattr(source, "__len__")):
        stream = Stream(lambda: checked(source, name), name)
    else:
        table = read_table(source)
        stream = Stream(lambda: ((table.where(i), row) for i, row in enumerate(table)), table.name)
    if not columns:
        return stream
    left_out = {*columns, *columns.values()}

    def renamed() -> Iterator[Placed]:
        for where, row in stream.placed():
            if missing := [theirs for theirs in columns.values() if theirs not in row]:
                raise DataError(f"{where}: no column '{missing[0]}' in this row", value=row, expected="the same columns in each row",
                                fix="add it, or leave the row out")  # fmt: skip
            yield where, {ours: row[theirs] for ours, theirs in columns.items()} | {k: v for k, v in row.items() if k not in left_out}

    return Stream(renamed, stream.name)


def stream_files(files: Sequence[Path], name: str, ending: str = "") -> Stream:
    """A stream of the rows of files, one file after the other.

    Args:
        files: in order.
        name: what to call them together.
        ending: what is in them, if their names do not say so: ``.jsonl``.

    Raises:
        DataError: there is no such file, or its ending is unknown; or when it is read: a row can't be read.
    """
    from nabi.data.opening import can_be_read, rows_of

    for file in files:
        can_be_read(file)
    return Stream(lambda: itertools.chain.from_iterable(rows_of(file, ending) for file in files), name)
