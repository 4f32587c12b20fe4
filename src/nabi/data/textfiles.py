"""The texts of files, one after the other and again from the beginning: for what reads much and keeps little, such as the training of a tokenizer.

Tables are read line by line (JSONL, CSV, TSV) or group by group (Parquet), packed ones too. A text file is one text, given in pieces that are cut before a
blank. Of a folder that a corpus was built into, the training shards are read; of any other folder all files that are read here, in the order of their paths.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nabi.data.tables import read_table, text_of
from nabi.errors import DataError, OptionError

LINES, COMMAS, COLUMNS, WHOLE = (".jsonl",), {".csv": ",", ".tsv": "\t"}, (".parquet",), (".json", ".arrow")
TEXTS = (".txt", ".md", ".py", ".rst", ".text")
PACKED = (".gz", ".zst")
NAMES = ("text", "content")  # of the column, where none is named
BLOCK = 1 << 20


class Texts:
    """The texts of files and folders; each call reads them from the beginning.

    Args:
        paths: files and folders, in order.
        column: of tables, the one with the text; "text" or "content" if not given.

    Raises:
        DataError: there is no such file, nothing to read in a folder, or a file whose ending says nothing.
    """

    def __init__(self, paths: Sequence[str | Path], column: str | None = None) -> None:
        self.column = column
        self.files = [file for path in paths for file in _files(Path(path))]

    def __call__(self) -> Iterator[str]:
        for file in self.files:
            yield from self._read(file)

    def _read(self, file: Path) -> Iterator[str]:
        ending = _ending(file)
        try:
            if ending in LINES:
                yield from self._lines(file)
            elif ending in COMMAS:
                yield from self._cells(file, COMMAS[ending])
            elif ending in COLUMNS:
                yield from self._groups(file)
            elif ending in WHOLE:
                table = read_table(file)
                name = self._named(table.columns, file)
                yield from (text_of(row.get(name), table.where(i)) for i, row in enumerate(table))
            else:
                yield from _pieces(file)
        except UnicodeDecodeError as problem:
            what, fix = f"{file.name}: not UTF-8 ({problem.reason})", "convert it: iconv -f CP949 -t UTF-8"
            raise DataError(what, value=str(file), fix=fix) from None
        except (OSError, EOFError) as problem:
            raise DataError(f"{file.name}: the file can't be read ({problem})", value=str(file), fix="check the path, or fetch it again") from None

    def _lines(self, file: Path) -> Iterator[str]:
        with _opened(file) as raw:
            name = None
            for number, line in enumerate(raw, 1):
                if not line.strip():
                    continue
                where = f"{file.name}, line {number}"
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except UnicodeDecodeError:
                    raise
                except (ValueError, RecursionError) as problem:
                    raise DataError(f"{where}: not JSON ({problem})", value=line[:160].decode("utf-8", "replace"), expected="one object a line") from None
                if not isinstance(row, dict):
                    raise DataError(f"{where}: not an object", value=row, expected='{"text": ...}')
                name = name or self._named(tuple(row), file)
                yield text_of(row.get(name), where)

    def _cells(self, file: Path, mark: str) -> Iterator[str]:
        csv.field_size_limit(sys.maxsize)
        with _opened(file) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text, delimiter=mark, strict=True)
            try:
                header = next(rows, [])
                at = header.index(self._named(tuple(header), file))
                for row in rows:
                    if row:
                        yield text_of(row[at] if at < len(row) else None, f"{file.name}, line {rows.line_num}")
            except csv.Error as problem:
                raise DataError(f"{file.name}, line {rows.line_num}: not a row ({problem})", value=str(file), fix="check the quotes") from None

    def _groups(self, file: Path) -> Iterator[str]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise OptionError("Parquet needs pyarrow, which is not installed", fix="pip install 'nabi[data]'") from None
        try:
            with pq.ParquetFile(file) as opened:
                name = self._named(tuple(opened.schema_arrow.names), file)
                number = 0
                for batch in opened.iter_batches(batch_size=256, columns=[name]):
                    for value in batch.column(0).to_pylist():
                        number += 1
                        yield text_of(value, f"{file.name}, row {number}")
        except pa.ArrowException as problem:
            raise DataError(f"{file.name}: not a Parquet file ({problem})", value=str(file), fix="fetch or write it again") from None

    def _named(self, columns: Sequence[str], file: Path) -> str:
        wanted = NAMES if self.column is None else (self.column,)
        if found := [name for name in wanted if name in columns]:
            return found[0]
        expected = f"it among the columns that are there: {', '.join(map(str, columns))}"
        raise DataError(f"{file.name}: no column '{wanted[0]}'", expected=expected, fix="name the one with the texts: --columns text=NAME")


def _ending(file: Path) -> str:
    parts = [suffix.lower() for suffix in file.suffixes]
    return (parts[-2] if len(parts) > 1 else "") if parts and parts[-1] in PACKED else (parts[-1] if parts else "")


def _files(path: Path) -> list[Path]:
    known = (*LINES, *COMMAS, *COLUMNS, *WHOLE, *TEXTS)
    if path.is_dir():
        if shards := sorted(file for file in path.glob("train-*.jsonl*") if _ending(file) in LINES):
            return shards
        if found := sorted(file for file in path.rglob("*") if file.is_file() and _ending(file) in known):
            return found
        expected = f"train-*.jsonl.zst of a corpus, or files that end in {', '.join(known)}"
        raise DataError("there is nothing to read in the folder", value=str(path), expected=expected)
    if not path.exists():
        raise DataError("there is no such file or folder", value=str(path), fix="check the path")
    if _ending(path) not in known:
        raise DataError("unknown file ending", value=str(path), expected=f"one of {', '.join(known)}, also with .gz or .zst")
    return [path]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if file.suffix.lower() == ".gz":
        with gzip.open(file) as raw:
            yield raw
    elif file.suffix.lower() == ".zst":
        try:
            import zstandard
        except ImportError:
            raise OptionError("a .zst file needs zstandard, which is not installed", fix="pip install 'nabi[data]'") from None
        try:
            with file.open("rb") as packed, io.BufferedReader(_Unpacked(packed, zstandard.ZstdDecompressor)) as raw:
                yield raw
        except zstandard.ZstdError as problem:
            raise DataError(f"{file.name}: not a .zst file, or cut off ({problem})", value=str(file), fix="fetch or write it again") from None
    else:
        with file.open("rb") as raw:
            yield raw


class _Unpacked(io.RawIOBase):
    """The bytes in a .zst file, frame by frame: zstandard's own reader takes a frame that is cut off for a whole one."""

    def __init__(self, packed: IO[bytes], decompressor: Any) -> None:
        self._packed, self._new, self._frame, self._ready = packed, decompressor, decompressor().decompressobj(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                data = data or self._packed.read(1 << 16)
                if not data:
                    return 0
                self._frame = self._new().decompressobj()
            else:
                data = self._packed.read(1 << 16)
                if not data:
                    raise EOFError("the zstd data is cut off")
            self._ready = self._frame.decompress(data)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def _pieces(file: Path) -> Iterator[str]:
    """A text file; a large one in pieces, each cut before its last blank."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    kept = ""
    with _opened(file) as raw:
        while block := raw.read(BLOCK):
            kept += decode(block)
            at = kept.rfind(" ", 1)
            while at > 0 and not (kept[at - 1 : at + 2].isascii() and kept[at - 1 : at].isalnum() and kept[at + 1 : at + 2].isalnum()):
                at = kept.rfind(" ", 1, at)
            if len(block) == BLOCK and at > 0:
                yield kept[:at]
                kept = kept[at:]
            elif len(kept) > 16 * BLOCK:
                yield kept
                kept = ""
    kept += decode(b"", final=True)
    if kept:
        yield kept
