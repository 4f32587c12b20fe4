"""Tables: rows of named columns from a file or from memory, each row with the place that it came from.

Every flaw of a file raises a DataError that names the file and the line; docs/data.md lists them all. A file is read whole.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from nabi.data.parsing import PACKINGS, PARSERS, unique, unpacked
from nabi.errors import DataError, shortened

SURROGATE = re.compile("[\ud800-\udfff]")


class Table(Sequence[dict[str, Any]]):
    """Rows as dicts, in memory, with the place of each in its source.

    Args:
        rows: the rows; they are kept, not copied.
        name: the file's name, or the kind of thing in memory.
        columns: the column names in order; by default all the names that occur in a row.
        unit: what ``numbers`` count: "line" or "row".
        numbers: where each row begins in the source, counted from 1; by default 1, 2, 3, ...
        sha256: of the file's unpacked bytes; by default of the rows themselves.
    """

    def __init__(self, rows: list[dict[str, Any]], name: str, *, columns: Sequence[str] | None = None, unit: str = "row",
                 numbers: Sequence[int] | None = None, sha256: str | None = None) -> None:
        self._rows, self.name, self.unit = rows, name, unit
        self.columns = tuple(dict.fromkeys(k for row in rows for k in row) if columns is None else columns)
        self._numbers = range(1, len(rows) + 1) if numbers is None else numbers
        self._sha256 = sha256

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Table: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Table:
        return self.take(range(len(self))[index]) if isinstance(index, slice) else self._rows[index]

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {len(self)} rows, columns {', '.join(self.columns)})"

    def where(self, index: int) -> str:
        """Where row ``index`` begins in the source: ``file.csv, line 17``, or ``list, row 3`` (counted from 1)."""
        return f"{self.name}, {self.unit} {self._numbers[index]}"

    @cached_property
    def sha256(self) -> str:
        """Hash of the file's unpacked bytes, whatever the renaming; of ``canonical`` rows for a table in memory or a taken one."""
        return self._sha256 or hashlib.sha256(b"\n".join(map(canonical, self._rows))).hexdigest()

    def take(self, indexes: Iterable[int]) -> Table:
        """The rows at ``indexes``, in that order; they still know their places."""
        chosen = list(indexes)
        rows, numbers = [self._rows[i] for i in chosen], [self._numbers[i] for i in chosen]
        return Table(rows, self.name, columns=self.columns, unit=self.unit, numbers=numbers)

    def require(self, names: str | Iterable[str]) -> None:
        """Check that each row has the columns ``names``.

        Raises:
            DataError: all the missing columns with those that are there, or the first row that lacks one.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        if missing := [n for n in wanted if n not in self.columns]:
            raise _no_columns(self.name, {n: n for n in missing}, self.columns, avoid=wanted)
        for index, row in enumerate(self._rows):
            if lacking := [n for n in wanted if n not in row]:
                raise DataError(f"{self.where(index)}: no column '{lacking[0]}' in this row", value=row,
                                expected="the same columns in each row", fix="add it, or leave the row out")


def read_table(source: Any, columns: Mapping[str, str] | None = None, *, required: str | Iterable[str] = ()) -> Table:
    """Read a table.

    Args:
        source: a path to .jsonl, .json (an array, or an object with an array under "data"), .csv, .tsv, .parquet or .arrow, as it is or
            packed (.gz, .zst); a DataFrame; a ``datasets.Dataset``; dicts. Missing cells of a DataFrame become None.
        columns: renames, our name -> the source's. A column of the source that already bears our name is left out.
        required: our names of columns that each row must have.

    Raises:
        DataError: the source can't be read as a table, or a column is missing.
        OptionError: a package that the format needs is not installed.
    """
    table = _from_file(Path(source)) if isinstance(source, str | os.PathLike) else _from_memory(source)
    if columns:
        if missing := {ours: theirs for ours, theirs in columns.items() if theirs not in table.columns}:
            raise _no_columns(table.name, missing, table.columns, avoid=columns.values())
        left_out = {*columns, *columns.values()}
        rows = [{ours: row[theirs] for ours, theirs in columns.items() if theirs in row} |
                {name: value for name, value in row.items() if name not in left_out} for row in table]
        names = (*columns, *(name for name in table.columns if name not in left_out))
        table = Table(rows, table.name, columns=names, unit=table.unit, numbers=table._numbers, sha256=table._sha256)
    table.require(required)
    return table


def text_of(value: Any, where: str) -> str:
    """A row's text. An empty or blank text is kept: the model sees its special tokens only, and ``check_labelled`` counts it.

    Raises:
        DataError: not a string; ``where`` is named.
    """
    if isinstance(value, str):
        return value
    kind, fix = "missing", "fill it, or leave the row out"
    if value is not None:
        kind = "a number" if isinstance(value, int | float) else f"of type {type(value).__name__}"
        fix = "write it as a string, or name another column with --columns text=NAME"
    raise DataError(f"{where}: the text is {kind}", value="null" if value is None else value, expected="a string", fix=fix)


def canonical(value: Any) -> bytes:
    """One spelling of a row or a value, for hashes: JSON with sorted keys; arrays and images by their bytes, other things as they print."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    raw = value if isinstance(value, bytes | bytearray) else value.tobytes() if hasattr(value, "tobytes") else None
    return str(value) if raw is None else hashlib.sha256(raw).hexdigest()


def _from_file(path: Path) -> Table:
    name = path.name or str(path)
    stem, packing = os.path.splitext(name.lower())
    ending = os.path.splitext(stem)[1] if packing in PACKINGS else packing
    try:
        if path.is_dir():
            raise DataError(f"{name}: a folder, not a file", value=str(path), expected="one data file", fix=_listed(path))
        if path.exists() and ending not in PARSERS:
            raise DataError(f"{name}: unknown file ending", value=ending, fix="convert the file, or rename it to what it holds",
                            expected=f"{', '.join(PARSERS)}, any of them also with .gz or .zst")
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{name}: no such file", value=str(path), fix=_listed(path.parent, near=name)) from None
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise DataError(f"{shortened(name)}: the file can't be opened ({why})", value=str(path),
                        fix="check the path and its permissions") from None
    if packing in PACKINGS and data:
        data = unpacked(data, packing, name)
    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError(f"{name}: the file is empty", value=str(path), expected="at least one row", fix="fetch or write it again")
    rows, columns, numbers = PARSERS[ending](data, name)
    table = Table(rows, name, columns=columns, unit="line" if numbers else "row", numbers=numbers, sha256=hashlib.sha256(data).hexdigest())
    return _checked(table, texts=ending in (".json", ".jsonl") and b"\\u" in data)


def _listed(folder: Path, near: str = "") -> str:
    """What a folder holds, or the names in it that are near to one."""
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    names = sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else []
    if close := difflib.get_close_matches(near, names):
        return f"the nearest names in that folder: {', '.join(close)}"
    return f"the folder {folder} holds {', '.join(names[:5]) or 'nothing'}{' and more' if len(names) > 5 else ''}; name one file"


def _from_memory(source: Any) -> Table:
    name, columns = type(source).__name__, None
    items: Iterable[Any]
    if hasattr(source, "itertuples") and hasattr(source, "notna"):
        columns = [str(c) for c in source.columns]
        unique(columns, name)
        whole = source.astype(object).where(source.notna(), None)
        items = (dict(zip(columns, values, strict=True)) for values in whole.itertuples(index=False, name=None))
    elif isinstance(source, Mapping) or not (isinstance(source, Iterable) or hasattr(source, "__getitem__")):
        raise DataError(f"{name}: not a table", value=source, expected="a path, a DataFrame, a Dataset or dicts",
                        fix="choose one split, or give a list of rows")
    else:
        items = (source[i] for i in range(len(source))) if isinstance(getattr(source, "column_names", None), list) else source
    rows = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping) or not all(isinstance(k, str) for k in item):
            raise DataError(f"{name}, row {number}: not a dict with string keys", value=item,
                            expected='{"column": value, ...}', fix="give each value its column's name")
        rows.append(dict(item))
    return _checked(Table(rows, name, columns=columns), texts=True)


def _checked(table: Table, *, texts: bool) -> Table:
    if not len(table):
        raise DataError(f"{table.name}: no rows", value=", ".join(table.columns) or None,
                        expected="at least one row", fix="fetch or write it again")
    for index, row in enumerate(table) if texts else ():
        if bad := next((s for s in _strings(row) if not s.isascii() and SURROGATE.search(s)), None):
            raise DataError(f"{table.where(index)}: half of a surrogate pair, which is no character", value=bad,
                            expected="whole characters", fix="the text was cut inside an emoji: write it again, or leave the row out")
    return table


def _strings(value: Any) -> Iterator[str]:
    # a stack, since what the JSON parser just took may be nested too deeply for a second recursion
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            stack += item


def _no_columns(name: str, missing: Mapping[str, str], columns: Sequence[str], avoid: Iterable[str]) -> DataError:
    """The error for columns that are not there: ``missing`` maps our name to the source's."""
    ours, theirs = next(iter(missing.items()))
    close = difflib.get_close_matches(theirs, columns, n=1) or [c for c in columns if c not in set(avoid)] or list(columns)
    fix = f"rename one with --columns {ours}={shlex.quote(close[0])}" if close else "name the columns"
    if len(columns) == 1 and (mark := re.search("[;\t|,]", columns[0])):
        fix = f"the file seems to be separated by {mark[0]!r}: save it with commas (.csv) or tabs (.tsv)"
    wanted = ", ".join(f"'{m}'" for m in missing.values())
    return DataError(f"{name}: no column {wanted}", expected=f"it among the columns that are there: {', '.join(columns)}", fix=fix)
