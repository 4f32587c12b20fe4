"""Tables: rows of named columns from a file or from memory, each row with the place that it came from.

Every flaw of a file raises a DataError that names the file and the line; docs/data.md lists them all. A file is read whole.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import importlib
import io
import json
import math
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from nabi.errors import DataError, OptionError, shortened

PACKINGS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
SIGNATURES = {magic: f"{kind} ({ending})" for ending, (kind, magic) in PACKINGS.items()} | {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet (.zip, .xlsx)", b"PAR1": "Parquet (.parquet)", b"ARROW1": "Arrow (.arrow)"}
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
        data = _unpacked(data, packing, name)
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


def _unpacked(data: bytes, packing: str, name: str) -> bytes:
    kind, magic = PACKINGS[packing]
    if not data.startswith(magic):
        raise DataError(f"{name}: not a {kind} file, although its name ends in {packing}", value=data[:16],
                        expected=f"{kind} data", fix=f"if it is not packed, rename it without {packing}")
    try:
        return gzip.decompress(data) if packing == ".gz" else _unzstd(data, name)
    except EOFError:
        what = f"the {kind} data is cut off"
    except (OSError, ValueError, zlib.error) as problem:
        what = f"the {kind} data is damaged ({problem})"
    raise DataError(f"{name}: {what}", value=f"{len(data)} bytes", expected=f"a whole {kind} file", fix="fetch or pack it again")


def _unzstd(data: bytes, name: str) -> bytes:
    zstandard = _package("zstandard", name)
    frames = []
    while data:
        # an object a frame, since the stream reader takes a cut-off frame for a whole one
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            frames.append(frame.decompress(data))
        except zstandard.ZstdError as problem:
            raise ValueError(str(problem)) from None
        if not frame.eof:
            raise EOFError
        data = frame.unused_data
    return b"".join(frames)


def _package(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise OptionError(f"{name}: reading it needs the package {package.partition('.')[0]}", fix="pip install 'nabi[data]'") from None


def _decoded(data: bytes, name: str) -> str:
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    try:
        text, at, flaw = data[start:].decode(), data.find(b"\0"), "a NUL byte"
    except UnicodeDecodeError as problem:
        text, at, flaw = "", start + problem.start, "not UTF-8"
    if at < 0:
        return text
    line = data.count(b"\n", 0, at) + 1
    raise DataError(f"{name}, line {line}: {flaw} at byte offset {at}", value=data[max(0, at - 8) : at + 24],
                    expected="text in UTF-8", fix=_encoding_fix(data, name))


def _encoding_fix(data: bytes, name: str) -> str:
    """What a file that is not clean UTF-8 is likely to be, and the command that mends it."""
    for magic, kind in SIGNATURES.items():
        if data.startswith(magic):
            return f"the file is {kind}; give its name that ending, or export it as CSV or JSON lines"
    head = data[:4096]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or max(head[::2].count(0), head[1::2].count(0)) > len(head) // 8:
        little = data.startswith(b"\xff\xfe") or head[1::2].count(0) >= head[::2].count(0)
        guess = "UTF-16" if data[0] >= 0xFE else "UTF-16LE" if little else "UTF-16BE"
    elif b"\0" in data:
        return f"remove it with: tr -d '\\000' < {shlex.quote(name)} > clean-{shlex.quote(name)}"
    else:
        hangul = re.findall("[가-힣]", data.decode("cp949", errors="ignore"))
        # a Latin text read as CP949 leaves most of its bytes over
        guess = "CP949" if 2 * len(hangul) > sum(b > 127 for b in data) / 2 else "LATIN1"
    return f"it looks like {guess}: iconv -f {guess} -t UTF-8 {shlex.quote(name)} > utf8-{shlex.quote(name)}"


Parsed = tuple[list[dict[str, Any]], list[str] | None, list[int] | None]


class _Flaw(ValueError):
    """A value that the JSON parser would take although it can't be used."""

    def __init__(self, what: str, value: object, fix: str) -> None:
        super().__init__(what)
        self.value, self.fix = value, fix


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise _Flaw(f"the key '{twice}' appears twice in one object", [v for k, v in pairs if k == twice], "keep one of them")
    return row


def _constant(word: str) -> Any:
    raise _Flaw(f"{word} is not a JSON number", word, "write null or leave the row out")


def _float(digits: str) -> float:
    return value if math.isfinite(value := float(digits)) else _constant(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def _json_value(text: str, name: str, line: int | None, fix: str) -> Any:
    """The JSON value in ``text``, which is line ``line`` of the file, or the whole of it."""
    where = f"{name}, line {line}" if line else name
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as problem:
        around = text[max(0, problem.pos - 30) : problem.pos + 30]
        raise DataError(f"{name}, line {line or problem.lineno}: not JSON ({problem.msg} at column {problem.colno})",
                        value=around, expected="valid JSON", fix=fix) from None
    except _Flaw as flaw:
        raise DataError(f"{where}: {flaw}", value=flaw.value, expected="standard JSON", fix=flaw.fix) from None
    except (ValueError, RecursionError) as problem:
        what = "nested too deeply" if isinstance(problem, RecursionError) else "a whole number with too many digits"
        raise DataError(f"{where}: JSON that can't be held ({what})", value=text, fix="leave the value out") from None


def _is_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object", value=json.dumps(value, ensure_ascii=False),
                        expected='{"column": value, ...}', fix="give each value its column's name")


def _read_jsonl(data: bytes, name: str) -> Parsed:
    rows, numbers = [], []
    for number, line in enumerate(_decoded(data, name).split("\n"), 1):
        if line.strip(" \t\r"):
            row = _json_value(line, name, number, "mend the line; a file that holds one array must end in .json")
            _is_object(row, f"{name}, line {number}")
            rows.append(row)
            numbers.append(number)
    return rows, None, numbers


def _read_json(data: bytes, name: str) -> Parsed:
    value = _json_value(_decoded(data, name), name, None, "mend it; a file with one object a line must end in .jsonl")
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError(f"{name}: no array of rows", value=json.dumps(value, ensure_ascii=False),
                        expected='[{...}, ...] or {"data": [{...}, ...]}', fix="wrap the rows in an array")
    for number, row in enumerate(rows, 1):
        _is_object(row, f"{name}, row {number}")
    return rows, None, None


def _read_csv(data: bytes, name: str, delimiter: str = ",") -> Parsed:
    lines = io.StringIO(_decoded(data, name), newline="")
    # the limit holds for the whole process, so it is only ever raised; a C long may have 32 bits
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    rows, numbers, number = [], [], 1
    try:
        for fields in reader:
            if fields and not header:
                header = fields
                _unique(header, f"{name}, line {number}")
            elif fields:
                if len(fields) != len(header):
                    count = f"{len(fields)} field{'s' * (len(fields) > 1)}"
                    raise DataError(f"{name}, line {number}: {count}", value=delimiter.join(fields),
                                    expected=f"{len(header)}, as the header names: {shortened(', '.join(header))}",
                                    fix="put a value that holds the separator between double quotes")
                rows.append(dict(zip(header, fields, strict=True)))
                numbers.append(number)
            number = reader.line_num + 1
    except csv.Error:
        number, text = _open_quote(lines.getvalue(), number, delimiter)
        raise DataError(f"{name}, line {number}: a quote opens here and is not closed before a separator", value=text,
                        expected='"text", with "" for a quote inside', fix="close the quote, or double it") from None
    return rows, header, numbers


def _open_quote(text: str, number: int, delimiter: str) -> tuple[int, str]:
    """Where the quote opens that the record which begins at line ``number`` fails on: its line, and what follows."""
    lines = list(io.StringIO(text, newline=""))
    rest, at = "".join(lines[number - 1 :]), 0
    field = re.compile(f'"(?:[^"]|"")*+"(?={delimiter})|[^"{delimiter}][^{delimiter}]*|(?={delimiter})')
    while match := field.match(rest, at):
        at = match.end() + 1
    return number + len(list(io.StringIO(rest[:at] + "x", newline=""))) - 1, rest[at : at + 60]


def _read_arrow(data: bytes, name: str, *, parquet: bool = False) -> Parsed:
    arrow = _package("pyarrow", name)
    source = arrow.BufferReader(data)
    try:
        if parquet:
            table = _package("pyarrow.parquet", name).ParquetFile(source).read()
        else:
            ipc = _package("pyarrow.ipc", name)
            table = (ipc.open_file if data.startswith(b"ARROW1") else ipc.open_stream)(source).read_all()
        # damaged offsets would be followed out of the buffer
        table.validate(full=True)
        _unique(table.column_names, name)
        return table.to_pylist(), table.column_names, None
    except (arrow.ArrowException, OSError, ValueError) as problem:
        why = " ".join(str(problem).split())
        raise DataError(f"{name}: not a whole {'Parquet' if parquet else 'Arrow'} file ({why})", value=data[:16],
                        fix="fetch or write it again") from None


PARSERS: dict[str, Callable[[bytes, str], Parsed]] = {
    ".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": lambda data, name: _read_csv(data, name, "\t"),
    ".parquet": lambda data, name: _read_arrow(data, name, parquet=True), ".arrow": _read_arrow}


def _from_memory(source: Any) -> Table:
    name, columns = type(source).__name__, None
    items: Iterable[Any]
    if hasattr(source, "itertuples") and hasattr(source, "notna"):
        columns = [str(c) for c in source.columns]
        _unique(columns, name)
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


def _unique(names: Sequence[str], where: str) -> None:
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: a column name appears twice", value=", ".join(twice), expected="each name once",
                        fix="rename one of them")


def _no_columns(name: str, missing: Mapping[str, str], columns: Sequence[str], avoid: Iterable[str]) -> DataError:
    """The error for columns that are not there: ``missing`` maps our name to the source's."""
    ours, theirs = next(iter(missing.items()))
    close = difflib.get_close_matches(theirs, columns, n=1) or [c for c in columns if c not in set(avoid)] or list(columns)
    fix = f"rename one with --columns {ours}={shlex.quote(close[0])}" if close else "name the columns"
    if len(columns) == 1 and (mark := re.search("[;\t|,]", columns[0])):
        fix = f"the file seems to be separated by {mark[0]!r}: save it with commas (.csv) or tabs (.tsv)"
    wanted = ", ".join(f"'{m}'" for m in missing.values())
    return DataError(f"{name}: no column {wanted}", expected=f"it among the columns that are there: {', '.join(columns)}", fix=fix)
