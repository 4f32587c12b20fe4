"""Tables: rows of named columns from a file, a folder of files or memory, each row with the place that it came from. The one door for user data.

Every flaw of a file raises a DataError that names the file and the line; docs/data.md lists them all. Rows of large files and of columns are made when they
are asked for, so a table may be larger than memory.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from nabi.data import streams
from nabi.data.columns import array_columns
from nabi.data.opening import LARGE, PARSERS, holds_images, kind_of, listed, open_file
from nabi.data.parsing import package, unique, whole_characters
from nabi.data.records import Blocks, Derived, Joined
from nabi.errors import DataError, shortened

SIDES = re.compile("(train|dev|valid|val|test|eval)", re.IGNORECASE)


class Table(Sequence[dict[str, Any]]):
    """Rows as dicts, in memory or read when they are asked for, with the place of each in its source.

    Args:
        rows: the rows; they are kept, not copied.
        name: the file's name, or the kind of thing in memory.
        columns: the column names in order; by default all the names that occur in a row.
        unit: what ``numbers`` count: "line" or "row".
        numbers: where each row begins in the source, counted from 1; by default 1, 2, 3, ...
        sha256: of the file's unpacked bytes; by default of the rows themselves.
        complete: columns that each row is known to have.
        places: what says where a row begins, in place of ``name``, ``unit`` and ``numbers``.

    Attributes:
        spooled: bytes that a stream's rows took on the disk; 0 for a table that is no stream's, or a small one's.
        source: the file that the rows come from, beside which there may be images or sounds; None if there is none, or several.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], name: str, *, columns: Sequence[str] | None = None, unit: str = "row",
                 numbers: Sequence[int] | None = None, sha256: str | None = None, complete: Iterable[str] = (),
                 places: Callable[[int], str] | None = None) -> None:
        self._rows, self.name, self.unit = rows, name, unit
        self.columns = tuple(dict.fromkeys(k for row in rows for k in row) if columns is None else columns)
        self._numbers = range(1, len(rows) + 1) if numbers is None else numbers
        self._sha256, self._complete, self._places = sha256, frozenset(complete), places
        self.spooled, self._renaming = 0, ""
        self.source: Path | None = None

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
        return self._places(index) if self._places else f"{self.name}, {self.unit} {self._numbers[index]}"

    @property
    def places(self) -> Sequence[str]:
        """:meth:`where` of each row, made when it is asked for."""
        return Derived(len(self), self.where)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file's unpacked bytes, whatever the renaming; of ``canonical`` rows for a table in memory or a taken one."""
        if self._sha256:
            return self._sha256
        digest = hashlib.sha256()
        for number, row in enumerate(self._rows):
            digest.update(b"\n" + canonical(row) if number else canonical(row))
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the rows: ``sha256``, what kind of file it is of, and the renaming."""
        return hashlib.sha256(f"{self.sha256} {self.unit} {self._renaming} {' '.join(map(repr, self.columns))}".encode("utf-8", "surrogatepass")).hexdigest()

    def take(self, indexes: Iterable[int]) -> Table:
        """The rows at ``indexes``, in that order; they still know their places."""
        chosen = [range(len(self))[i] for i in indexes]
        rows: Sequence[dict[str, Any]] = (
            [self._rows[i] for i in chosen] if isinstance(self._rows, list) else Derived(len(chosen), lambda i: self._rows[chosen[i]])
        )
        return self._like(rows, self.columns, chosen)

    def expanded(self, rows: Sequence[dict[str, Any]], origins: Sequence[int]) -> Table:
        """A table of other rows, each of which was made from the row of this one that ``origins`` names."""
        table = self._like(rows, None, origins)
        table._sha256, table._complete, table._renaming = self.sha256, frozenset(), self._renaming
        return table

    def renamed(self, columns: Mapping[str, str]) -> Table:
        """The table under other column names, our name -> its own; a column that already bears our name is left out.

        Raises:
            DataError: a column is not there.
        """
        if missing := {ours: theirs for ours, theirs in columns.items() if theirs not in self.columns}:
            raise _no_columns(self.name, missing, self.columns, avoid=columns.values())
        left_out = {*columns, *columns.values()}

        def row(index: int) -> dict[str, Any]:
            given = self._rows[index]
            return {ours: given[theirs] for ours, theirs in columns.items() if theirs in given} | {k: v for k, v in given.items() if k not in left_out}

        rows: Sequence[dict[str, Any]] = Derived(len(self), row)
        complete = {ours for ours, theirs in columns.items() if theirs in self._complete} | (self._complete - left_out)
        names = (*columns, *(name for name in self.columns if name not in left_out))
        table = Table(list(rows) if isinstance(self._rows, list) else rows, self.name, columns=names, unit=self.unit, numbers=self._numbers,
                      sha256=self._sha256, complete=complete, places=self._places)  # fmt: skip
        table.spooled, table._renaming, table.source = self.spooled, f"{self._renaming}{sorted(columns.items())}", self.source
        return table

    def changed(self, change: Callable[[dict[str, Any], str], dict[str, Any]], decides: str) -> Table:
        """A table of the same columns whose rows are made from these when they are asked for.

        Args:
            change: (row, where it is) -> the row.
            decides: a hash of what else decides the new rows.
        """
        table = self._like(Derived(len(self), lambda i: change(self._rows[i], self.where(i))), self.columns, range(len(self)))
        table._sha256, table._renaming, table.source = hashlib.sha256(f"{self.sha256} {decides}".encode()).hexdigest(), self._renaming, self.source
        return table

    def require(self, names: str | Iterable[str]) -> None:
        """Check that each row has the columns ``names``.

        Raises:
            DataError: all the missing columns with those that are there, or the first row that lacks one.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        if missing := [n for n in wanted if n not in self.columns]:
            raise _no_columns(self.name, {n: n for n in missing}, self.columns, avoid=wanted)
        for index, row in enumerate(() if self._complete.issuperset(wanted) else self._rows):
            if lacking := [n for n in wanted if n not in row]:
                raise DataError(f"{self.where(index)}: no column '{lacking[0]}' in this row", value=row,
                                expected="the same columns in each row", fix="add it, or leave the row out")

    def to_numpy(self, columns: Iterable[str] | None = None) -> dict[str, Any]:
        """The columns as NumPy arrays (N,): bool, int64 or float64 where all cells are of that kind, else objects; a missing cell is None.

        Args:
            columns: which; all by default.

        Raises:
            DataError: a column is not there.
        """
        import numpy as np

        found: dict[str, Any] = {}
        for name, cells in self._cells(columns).items():
            kinds = set(map(type, cells))
            plain = len(kinds) == 1 and kinds <= {bool, int, float} and (kinds != {int} or all(-(1 << 63) <= cell < 1 << 63 for cell in cells))
            array = np.asarray(cells) if plain else np.empty(len(cells), object)
            if not plain:
                array[:] = cells
            found[name] = array
        return found

    def to_pandas(self, columns: Iterable[str] | None = None) -> Any:
        """A DataFrame of the columns; text, lists and missing cells are kept as objects.

        Raises:
            DataError: a column is not there.
            OptionError: pandas is not installed.
        """
        return package("pandas", self.name).DataFrame(self.to_numpy(columns))

    def to_arrow(self, columns: Iterable[str] | None = None) -> Any:
        """An Arrow table of the columns.

        Raises:
            DataError: a column is not there, or its cells are of types that Arrow can't hold in one column.
            OptionError: pyarrow is not installed.
        """
        arrow = package("pyarrow", self.name)
        names = self._named(columns)
        cells = self._cells(names)
        try:
            return arrow.table({name: arrow.array(cells[name]) for name in names})
        except (arrow.ArrowException, OverflowError, TypeError, ValueError) as problem:
            raise DataError(f"{self.name}: the rows can't be one Arrow table ({' '.join(str(problem).split())})",
                            fix="make the cells of each column one type, or name other columns") from None

    def _named(self, columns: Iterable[str] | None) -> list[str]:
        names = list(self.columns if columns is None else columns)
        if missing := [n for n in names if n not in self.columns]:
            raise _no_columns(self.name, {n: n for n in missing}, self.columns, avoid=names)
        return names

    def _cells(self, columns: Iterable[str] | None) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {name: [] for name in self._named(columns)}
        for row in self._rows:
            for name, cells in found.items():
                cells.append(row.get(name))
        return found

    def _like(self, rows: Sequence[dict[str, Any]], columns: Sequence[str] | None, origins: Sequence[int]) -> Table:
        places = None if self._places is None else lambda i: self.where(origins[i])
        numbers = Derived(len(rows), lambda i: int(self._numbers[origins[i]]))
        table = Table(rows, self.name, columns=columns, unit=self.unit, numbers=numbers, complete=self._complete, places=places)
        table.source = self.source
        return table


def read_table(source: Any, columns: Mapping[str, str] | None = None, *, required: str | Iterable[str] = ()) -> Table:
    """Read a table.

    Args:
        source: a path to .jsonl, .json (an array, or an object with an array under "data"), .csv, .tsv, .parquet, .arrow, .txt, .npz or .npy, as it is or
            packed (.gz, .zst); a folder of such files of one kind, or a pattern such as ``train-*.jsonl.zst``; a DataFrame, an Arrow table, a
            ``datasets.Dataset``, a structured array or a dict of arrays; dicts; a folder of images, with a
            folder a class, or a .tar of them. A stream (``stream_table``, an iterator, a ``datasets.IterableDataset``, a
            function that returns an iterator) is read to its end, and written to disk if it is long. Missing cells of a DataFrame become None.
        columns: renames, our name -> the source's. A column of the source that already bears our name is left out.
        required: our names of columns that each row must have.

    Raises:
        DataError: the source can't be read as a table, or a column is missing.
        OptionError: a package that the format needs is not installed.
        StorageError: a long stream or a large packed file finds no room on the disk.
    """
    table = source if isinstance(source, Table) else _from_path(os.fspath(source)) if isinstance(source, str | os.PathLike) else _from_memory(source)
    if columns:
        table = table.renamed(columns)
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


def _from_path(given: str) -> Table:
    path = Path(given)
    if holds_images(path):
        from nabi.data.pictures import image_table  # which builds on this file

        return image_table(path)
    files = shards(given)
    if len(files) == 1:
        return _from_file(files[0], None)
    # what is small alone is not small among many
    large = None if sum(file.stat().st_size for file in files) <= LARGE // 4 else LARGE // len(files)
    parts = [_from_file(file, large) for file in files]
    rows = Joined(parts)
    names = dict.fromkeys(itertools.chain.from_iterable(part.columns for part in parts))
    sha256 = hashlib.sha256("\n".join(part.sha256 for part in parts).encode()).hexdigest()
    complete = frozenset.intersection(*(part._complete for part in parts))

    def where(index: int) -> str:
        part, place = rows.place(index)
        return parts[part].where(place)

    return Table(rows, Path(given).name, columns=list(names), sha256=sha256, complete=complete, places=where)


def shards(given: str) -> list[Path]:
    """The files that a path names: itself, those in a folder, or those that fit a pattern (``train-*.jsonl.zst``), by name.

    Raises:
        DataError: there is none, they are of several kinds, or they are the sides of a split.
    """
    path = Path(given)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if kind_of(p)[0] in PARSERS and p.is_file() and not p.name.startswith("."))
    elif glob.has_magic(given) and not path.exists():
        files = sorted(p for p in map(Path, glob.glob(given, recursive=True)) if p.is_file())
        if not files:
            raise DataError(f"{path.name}: no file fits this pattern", value=given, fix=listed(path.parent))
    else:
        files = [path]
    if not files:
        raise DataError(f"{path.name}: a folder, not a file", value=given, expected="a data file, or a folder of them", fix=listed(path))
    kinds = sorted({kind_of(file)[0] for file in files})
    sides = sorted({match[1].lower() for file in files if (match := SIDES.match(file.name))})
    if len(kinds) > 1 or len(sides) > 1:
        found, what = (kinds, "kinds") if len(kinds) > 1 else (sides, "sides")
        pattern = (path if path.is_dir() else path.parent) / f"{sides[0] if len(sides) > 1 else ''}*{kinds[0]}*"
        raise DataError(f"{path.name}: files of several {what}", value=", ".join(found), expected="the files of one table",
                        fix=f"name them with a pattern, such as {pattern}")
    return files


def _from_file(path: Path, large: int | None) -> Table:
    opened = open_file(path, large)
    table = Table(opened.rows, path.name, columns=opened.columns, unit=opened.unit, numbers=opened.numbers, sha256=opened.sha256,
                  complete=opened.complete or ())
    table.source = path
    return _filled(table)


def _from_memory(source: Any) -> Table:
    name, columns = type(source).__name__, None
    if hasattr(source, "itertuples") and hasattr(source, "notna"):
        columns = [str(c) for c in source.columns]
        unique(columns, name)
        frame = source.copy(deep=False)  # what the caller does to it later is not seen

        def of_frame(start: int, stop: int) -> list[dict[str, Any]]:
            part = frame.iloc[start:stop]
            whole = part.astype(object).where(part.notna(), None)
            return [dict(zip(columns, values, strict=True)) for values in whole.itertuples(index=False, name=None)]

        return _blocks(name, columns, len(frame), of_frame)
    if isinstance(names := getattr(source, "column_names", None), list) and hasattr(source, "__len__"):
        if hasattr(source, "to_pylist"):  # Arrow's
            return _blocks(name, names, source.num_rows, lambda start, stop: source.slice(start, stop - start).to_pylist())
        plain = source.with_format(None) if hasattr(source, "with_format") else source  # of datasets: no tensors
        return _blocks(name, names, len(source), lambda start, stop: [dict(plain[i]) for i in range(start, stop)])
    if getattr(source, "dtype", None) is not None or (isinstance(source, Mapping) and source and all(map(_is_column, source.values()))):
        names, length, rows = array_columns(source, name)
        return _blocks(name, names, length, rows)
    if callable(source) and not isinstance(source, Iterable):
        source = source()
    if isinstance(source, Mapping) or not (isinstance(source, Iterable) or hasattr(source, "__getitem__")):
        raise DataError(f"{name}: not a table", value=source, expected="a path, a DataFrame, a Dataset or dicts",
                        fix="choose one split, or give a list of rows")
    rows_found, spooled = streams.collected(source, name)
    table = _filled(Table(rows_found, name))
    table.spooled = spooled
    return table


def _is_column(value: Any) -> bool:
    return getattr(value, "dtype", None) is not None or (isinstance(value, list | tuple) and len(value) > 0 and not isinstance(value[0], Mapping))


def _blocks(name: str, columns: Sequence[str], length: int, rows: Callable[[int, int], list[dict[str, Any]]]) -> Table:
    unique(columns, name)
    table = _filled(Table(Blocks(length, rows), name, columns=columns, complete=columns))
    for index, row in enumerate(table):
        whole_characters(row, table.where(index))
    return table


def _filled(table: Table) -> Table:
    if not len(table):
        raise DataError(f"{table.name}: no rows", value=", ".join(table.columns) or None,
                        expected="at least one row", fix="fetch or write it again")
    return table


def _no_columns(name: str, missing: Mapping[str, str], columns: Sequence[str], avoid: Iterable[str]) -> DataError:
    """The error for columns that are not there: ``missing`` maps our name to the source's."""
    ours, theirs = next(iter(missing.items()))
    close = difflib.get_close_matches(theirs, columns, n=1) or [c for c in columns if c not in set(avoid)] or list(columns)
    fix = f"rename one with --columns {ours}={shlex.quote(_printable(close[0]))}" if close else "name the columns"
    if len(columns) == 1 and (mark := re.search("[;\t|,]", columns[0])):
        fix = f"the file seems to be separated by {mark[0]!r}: save it with commas (.csv) or tabs (.tsv)"
    wanted = ", ".join(f"'{_printable(m)}'" for m in missing.values())
    there = ", ".join(map(_printable, columns[:40])) + (", ..." if len(columns) > 40 else "")
    return DataError(f"{name}: no column {wanted}", expected=f"it among the columns that are there: {there}", fix=fix)


def _printable(column: str) -> str:
    return column if column.isprintable() and len(column) <= 60 else shortened(column, 60)
