"""File formats: bytes of JSON lines, JSON, CSV, TSV, Parquet or Arrow, packed or not, to rows and the lines that they began in.

Every flaw raises a DataError that names the file and the line; docs/data.md lists them all.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import math
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from nabi.errors import DataError, OptionError, shortened

PACKINGS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
SIGNATURES = {magic: f"{kind} ({ending})" for ending, (kind, magic) in PACKINGS.items()} | {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet (.zip, .xlsx)", b"PAR1": "Parquet (.parquet)", b"ARROW1": "Arrow (.arrow)"}


def unique(names: Sequence[str], where: str) -> None:
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: a column name appears twice", value=", ".join(twice), expected="each name once",
                        fix="rename one of them")


def unpacked(data: bytes, packing: str, name: str) -> bytes:
    kind, magic = PACKINGS[packing]
    if not data.startswith(magic):
        raise not_packed(name, kind, packing, data)
    try:
        return gzip.decompress(data) if packing == ".gz" else b"".join(unzstd([data], name))
    except (EOFError, OSError, ValueError, zlib.error) as problem:
        raise not_whole(name, kind, problem, len(data)) from None


def not_packed(name: str, kind: str, packing: str, data: bytes) -> DataError:
    return DataError(f"{name}: not a {kind} file, although its name ends in {packing}", value=data[:16],
                     expected=f"{kind} data", fix=f"if it is not packed, rename it without {packing}")


def not_whole(name: str, kind: str, problem: Exception, size: int) -> DataError:
    what = f"the {kind} data is " + ("cut off" if isinstance(problem, EOFError) else f"damaged ({problem})")
    return DataError(f"{name}: {what}", value=f"{size} bytes", expected=f"a whole {kind} file", fix="fetch or pack it again")


def unzstd(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """What is packed in ``pieces``. A piece of n bytes gives up to 32 kB times n: who reads a stranger's file takes small ones.

    Raises:
        EOFError: the data is cut off.
        ValueError: it is damaged.
    """
    zstandard = package("zstandard", name)
    frame = None
    for piece in pieces:
        data = piece
        while data:
            # an object a frame, since the stream reader takes a cut-off frame for a whole one
            frame = zstandard.ZstdDecompressor().decompressobj() if frame is None else frame
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as problem:
                raise ValueError(str(problem)) from None
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError


def package(wanted: str, name: str) -> Any:
    """The package that reading ``name`` needs.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module(wanted)
    except ImportError:
        raise OptionError(f"{name}: reading it needs the package {wanted.partition('.')[0]}", fix="install it: pip install 'nabi[data]'") from None


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
    if guess := likely_encoding(data):
        return f"it looks like {guess}: iconv -f {guess} -t UTF-8 {shlex.quote(name)} > utf8-{shlex.quote(name)}"
    return f"remove it with: tr -d '\\000' < {shlex.quote(name)} > clean-{shlex.quote(name)}"


def likely_encoding(data: bytes) -> str:
    """How text that is not clean UTF-8 is likely to be encoded; empty if it just has a NUL byte in it."""
    head = data[:4096]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or max(head[::2].count(0), head[1::2].count(0)) > len(head) // 8:
        little = data.startswith(b"\xff\xfe") or head[1::2].count(0) >= head[::2].count(0)
        return "UTF-16" if data[0] >= 0xFE else "UTF-16LE" if little else "UTF-16BE"
    if b"\0" in data:
        return ""
    hangul = re.findall("[가-힣]", data.decode("cp949", errors="ignore"))
    # a Latin text read as CP949 leaves most of its bytes over
    return "CP949" if 2 * len(hangul) > sum(b > 127 for b in data) / 2 else "LATIN1"


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


def json_value(text: str, name: str, line: int | None, fix: str) -> Any:
    """The JSON value in ``text``, which is line ``line`` of the file, or the whole of it.

    Raises:
        DataError: it is not standard JSON, or can't be held.
    """
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


def is_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where}: not a JSON object", value=json.dumps(value, ensure_ascii=False),
                        expected='{"column": value, ...}', fix="give each value its column's name")


def _read_jsonl(data: bytes, name: str) -> Parsed:
    rows, numbers = [], []
    for number, line in enumerate(_decoded(data, name).split("\n"), 1):
        if line.strip(" \t\r"):
            row = json_value(line, name, number, "mend the line; a file that holds one array must end in .json")
            is_object(row, f"{name}, line {number}")
            rows.append(row)
            numbers.append(number)
    return rows, None, numbers


def _read_json(data: bytes, name: str) -> Parsed:
    value = json_value(_decoded(data, name), name, None, "mend it; a file with one object a line must end in .jsonl")
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError(f"{name}: no array of rows", value=json.dumps(value, ensure_ascii=False),
                        expected='[{...}, ...] or {"data": [{...}, ...]}', fix="wrap the rows in an array")
    for number, row in enumerate(rows, 1):
        is_object(row, f"{name}, row {number}")
    return rows, None, None


def csv_reader(lines: Iterable[str], delimiter: str) -> Any:
    """csv's reader by our rules: strict, and with fields of any length."""
    # the limit holds for the whole process, so it is only ever raised; a C long may have 32 bits
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    return csv.reader(lines, delimiter=delimiter, strict=True)


def csv_row(fields: list[str], header: list[str], where: str, delimiter: str) -> dict[str, str]:
    """The fields by their names.

    Raises:
        DataError: there are more or fewer than the header names.
    """
    if len(fields) != len(header):
        count = f"{len(fields)} field{'s' * (len(fields) > 1)}"
        raise DataError(f"{where}: {count}", value=delimiter.join(fields),
                        expected=f"{len(header)}, as the header names: {shortened(', '.join(header))}",
                        fix="put a value that holds the separator between double quotes")
    return dict(zip(header, fields, strict=True))


def _read_csv(data: bytes, name: str, delimiter: str = ",") -> Parsed:
    lines = io.StringIO(_decoded(data, name), newline="")
    reader = csv_reader(lines, delimiter)
    header: list[str] = []
    rows, numbers, number = [], [], 1
    try:
        for fields in reader:
            if fields and not header:
                header = fields
                unique(header, f"{name}, line {number}")
            elif fields:
                rows.append(csv_row(fields, header, f"{name}, line {number}", delimiter))
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
    arrow = package("pyarrow", name)
    source = arrow.BufferReader(data)
    try:
        if parquet:
            table = package("pyarrow.parquet", name).ParquetFile(source).read()
        else:
            ipc = package("pyarrow.ipc", name)
            table = (ipc.open_file if data.startswith(b"ARROW1") else ipc.open_stream)(source).read_all()
        # damaged offsets would be followed out of the buffer
        table.validate(full=True)
        unique(table.column_names, name)
        return table.to_pylist(), table.column_names, None
    except (arrow.ArrowException, OSError, ValueError) as problem:
        raise broken_arrow(name, problem, data[:16], parquet=parquet) from None


def broken_arrow(name: str, problem: Exception, head: bytes | None = None, *, parquet: bool = False) -> DataError:
    why = " ".join(str(problem).split())
    return DataError(f"{name}: not a whole {'Parquet' if parquet else 'Arrow'} file ({why})", value=head, fix="fetch or write it again")


PARSERS: dict[str, Callable[[bytes, str], Parsed]] = {
    ".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": lambda data, name: _read_csv(data, name, "\t"),
    ".parquet": lambda data, name: _read_arrow(data, name, parquet=True), ".arrow": _read_arrow}
