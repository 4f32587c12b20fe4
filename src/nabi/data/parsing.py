"""File formats of text: bytes of JSON lines, JSON, CSV, TSV or plain text to rows and the lines that they began in; what all readers share.

Every flaw raises a DataError that names the file and the line; docs/data.md lists them all.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nabi.errors import DataError, OptionError, shortened

PACKINGS = {".gz": ("gzip", b"\x1f\x8b"), ".zst": ("zstd", b"\x28\xb5\x2f\xfd")}
SIGNATURES = {magic: f"{kind} ({ending})" for ending, (kind, magic) in PACKINGS.items()} | {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet (.zip, .xlsx)", b"PAR1": "Parquet (.parquet)", b"ARROW1": "Arrow (.arrow)"}


def unique(names: Sequence[str], where: str) -> None:
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: a column name appears twice", value=", ".join(twice), expected="each name once",
                        fix="rename one of them")


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
    raise undecodable(data, at, flaw, name, data.count(b"\n", 0, at) + 1)


def undecodable(data: bytes, at: int, flaw: str, name: str, line: int, *, start: int = 0, head: bytes = b"") -> DataError:
    """The error for bytes that are no text: ``flaw`` is at ``at`` of ``data``, which begins at byte ``start`` of the file; ``head`` is how the file begins."""
    return DataError(f"{name}, line {line}: {flaw} at byte offset {start + at}", value=data[max(0, at - 8) : at + 24],
                     expected="text in UTF-8", fix=_encoding_fix(head + data if start else data, name))


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


SURROGATE = re.compile("[\ud800-\udfff]")
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


def json_row(line: str, name: str, number: int) -> dict[str, Any]:
    """The row of line ``number`` of JSON lines.

    Raises:
        DataError: it is not standard JSON, or no object.
    """
    row = json_value(line, name, number, "mend the line; a file that holds one array must end in .json")
    is_object(row, f"{name}, line {number}")
    return row  # type: ignore[no-any-return]


def read_jsonl(data: bytes, name: str) -> Parsed:
    rows, numbers = [], []
    for number, line in enumerate(_decoded(data, name).split("\n"), 1):
        if line.strip(" \t\r"):
            rows.append(json_row(line, name, number))
            numbers.append(number)
    return rows, None, numbers


def read_txt(data: bytes, name: str) -> Parsed:
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(_decoded(data, name).split("\n"), 1) if line.strip(" \t\r")]
    return [{"text": line} for _, line in lines], ["text"], [number for number, _ in lines]


def read_json(data: bytes, name: str) -> Parsed:
    value = json_value(_decoded(data, name), name, None, "mend it; a file with one object a line must end in .jsonl")
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError(f"{name}: no array of rows", value=json.dumps(value, ensure_ascii=False),
                        expected='[{...}, ...] or {"data": [{...}, ...]}', fix="wrap the rows in an array")
    if rows and all(isinstance(row, str) for row in rows):
        return [{"text": text} for text in rows], ["text"], None
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


def read_csv(data: bytes, name: str, delimiter: str = ",") -> Parsed:
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
        rest = "".join(list(io.StringIO(lines.getvalue(), newline=""))[number - 1 :])
        raise open_quote(rest, number, delimiter, name) from None
    return rows, header, numbers


def open_quote(rest: str, number: int, delimiter: str, name: str) -> DataError:
    """The error for the record that begins at line ``number`` and with ``rest``: it names the line where the quote opens that the record fails on."""
    at = 0
    field = re.compile(f'"(?:[^"]|"")*+"(?={delimiter})|[^"{delimiter}][^{delimiter}]*|(?={delimiter})')
    while match := field.match(rest, at):
        at = match.end() + 1
    line = number + len(list(io.StringIO(rest[:at] + "x", newline=""))) - 1
    return DataError(f"{name}, line {line}: a quote opens here and is not closed before a separator", value=rest[at : at + 60],
                     expected='"text", with "" for a quote inside', fix="close the quote, or double it")


def broken_arrow(name: str, problem: Exception, head: bytes | None = None, *, parquet: bool = False) -> DataError:
    why = " ".join(str(problem).split())
    return DataError(f"{name}: not a whole {'Parquet' if parquet else 'Arrow'} file ({why})", value=head, fix="fetch or write it again")


def whole_characters(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row with half of a surrogate pair in one of its strings.

    Raises:
        DataError: there is one.
    """
    if bad := next((s for s in _strings(row) if not s.isascii() and SURROGATE.search(s)), None):
        raise DataError(f"{where}: half of a surrogate pair, which is no character", value=bad,
                        expected="whole characters", fix="the text was cut inside an emoji: write it again, or leave the row out")


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
