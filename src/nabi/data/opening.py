"""Data files to rows. A small file is read whole; of a large one only the places of its rows are kept, and each row is read when it is asked for.

A large file is read through once, so that each of its flaws is told before anything begins. What was found there (where rows begin; the unpacked bytes of a
packed file; the rows of Parquet as Arrow) is kept in the cache under the hash of the file's bytes, so the second opening only hashes them.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from nabi import cache
from nabi.data import columns, lines, parsing
from nabi.data.parsing import PACKINGS, Parsed
from nabi.data.records import Blocks, Records, load_numbers, save_numbers
from nabi.data.unpacking import Unpacked
from nabi.errors import DataError, StorageError, shortened

LARGE = 1 << 25  # unpacked bytes from which a file is not held in memory
VERSION = "tables 1"  # part of each key: what an entry of the cache means
PARSERS: dict[str, Callable[[bytes, str], Parsed]] = {
    ".jsonl": parsing.read_jsonl, ".json": parsing.read_json, ".csv": parsing.read_csv, ".tsv": lambda data, name: parsing.read_csv(data, name, "\t"),
    ".parquet": lambda data, name: columns.read_arrow(data, name, parquet=True), ".arrow": columns.read_arrow, ".txt": parsing.read_txt,
    ".npz": columns.read_numpy, ".npy": columns.read_numpy}  # fmt: skip
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
IN_PLACE = (*lines.ENDINGS, ".parquet", ".arrow")  # what is read in place if it is large


class Opened(NamedTuple):
    """The rows of a file.

    Attributes:
        rows: in memory, or read when they are asked for.
        columns: all that occur, in order; None where only the rows know.
        unit: what ``numbers`` count: "line" or "row".
        numbers: where each row begins, counted from 1.
        sha256: of the unpacked bytes.
        complete: columns that each row is known to have; None where nobody counted.
    """

    rows: Sequence[dict[str, Any]]
    columns: list[str] | None
    unit: str
    numbers: Sequence[int]
    sha256: str
    complete: frozenset[str] | None = None


def kind_of(path: Path) -> tuple[str, str]:
    """(what is in a file by its name, such as ``.csv``, and how it is packed: ``.gz``, ``.zst`` or nothing)."""
    stem, packing = os.path.splitext(path.name.lower())
    return (os.path.splitext(stem)[1], packing) if packing in PACKINGS else (packing, "")


def holds_images(path: Path) -> bool:
    """Whether this is a TAR, or a folder in which no table lies, but images, or in folders of its own."""
    if not path.is_dir():
        return path.suffix.lower() == ".tar"
    return not any(kind_of(p)[0] in PARSERS for p in path.iterdir()) and any(p.suffix.lower() in IMAGES for p in path.rglob("*"))


def open_file(path: Path, large: int | None = None) -> Opened:
    """The rows of one file.

    Args:
        path: the file.
        large: unpacked bytes from which it is not held in memory.

    Raises:
        DataError: it can't be read as a table.
        OptionError: a package that the format needs is not installed.
        StorageError: there is no room for what a packed file holds.
    """
    large, name = LARGE if large is None else large, path.name or str(path)
    ending, packing = kind_of(path)
    with reading(path), unpacked(path) as file:
        data = file.read(large + 1) if ending in IN_PLACE and path.is_file() else file.read()
    if len(data) > large and ending in IN_PLACE and path.is_file():
        with reading(path):
            return _in_place(path, ending, packing, name)
    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError(f"{name}: the file is empty", value=str(path), expected="at least one row", fix="fetch or write it again")
    rows, names, numbers = PARSERS[ending](data, name)
    opened = Opened(rows, names, "line" if numbers else "row", numbers or range(1, len(rows) + 1), hashlib.sha256(data).hexdigest())
    if ending in (".json", ".jsonl") and b"\\u" in data:
        for number, row in zip(opened.numbers, rows, strict=True):
            parsing.whole_characters(row, f"{name}, {opened.unit} {number}")
    return opened


def rows_of(path: Path, ending: str = "", ahead: lines.Ahead | None = None, *, broken: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of one file, one after the other in constant memory; what can't be read so (.json, NumPy) is read whole.

    Args:
        path: the file.
        ending: what is in it, if its name does not say so.
        ahead: rows to pass over first; what is left of them belongs to the next file.
        broken: give a ``lines.Broken`` for a line that can't be read and go on behind it, where that is possible.

    Raises:
        DataError: a row can't be read; those before it were given.
    """
    name, ending, ahead = path.name, ending or kind_of(path)[0], ahead or lines.Ahead()
    if ending not in IN_PLACE:
        opened = open_file(path)
        given = ((f"{name}, {opened.unit} {number}", row) for number, row in zip(opened.numbers, opened.rows, strict=True))
        yield from (each for each in given if not ahead.passes())
        return
    with reading(path), unpacked(path) as file:
        if ending in lines.ENDINGS:
            for found in lines.rows(file, ending, name, ahead, broken=broken):
                yield f"{name}, line {found.number}", found.row
            return
        with contextlib.ExitStack() as stack:
            if kind_of(path)[1]:
                file = stack.enter_context(_spooled(file, name))
            batches = columns.arrow_batches(file, name, parquet=ending == ".parquet", rows=256)
            number = 0
            for batch in batches:
                skipped = min(ahead.rows, batch.num_rows)
                ahead.rows -= skipped
                for place, row in enumerate(batch.slice(skipped).to_pylist(), number + skipped + 1):
                    if not ahead.passes():  # it may be set between two rows
                        yield f"{name}, row {place}", row
                number += batch.num_rows


def can_be_read(path: Path, endings: Collection[str] = PARSERS) -> None:
    """Look whether a file is there and of a known kind, before it is read.

    Raises:
        DataError: it is not.
    """
    with reading(path), unpacked(path, endings):
        pass


@contextlib.contextmanager
def unpacked(path: Path, endings: Collection[str] = PARSERS) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a file, to be read from the beginning.

    Args:
        path: the file.
        endings: those that are known.

    Raises:
        DataError: a folder or an unknown ending.
    """
    name, (ending, packing) = path.name or str(path), kind_of(path)
    if path.is_dir():
        raise DataError(f"{name}: a folder, not a file", value=str(path), expected="one data file", fix=listed(path))
    if path.exists() and ending not in endings:
        raise DataError(f"{name}: unknown file ending", value=ending, fix="convert the file, or rename it to what it holds",
                        expected=f"{', '.join(endings)}, any of them also with .gz or .zst")  # fmt: skip
    file = path.open("rb")
    with io.BufferedReader(Unpacked(file, packing, name)) if packing else file as found:
        yield found


def listed(folder: Path, near: str = "") -> str:
    """What a folder holds, or the names in it that are near to one."""
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    names = sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else []
    if close := difflib.get_close_matches(near, names):
        return f"the nearest names in that folder: {', '.join(close)}"
    return f"the folder {folder} holds {', '.join(names[:5]) or 'nothing'}{' and more' if len(names) > 5 else ''}; name one file"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what opening and reading a file raise into an error that names it.

    Raises:
        DataError: there is no such file, or it can't be read.
    """
    name = path.name or str(path)
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{name}: no such file", value=str(path), fix=listed(path.parent, near=name)) from None
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else problem
        raise DataError(f"{shortened(name)}: the file can't be opened ({why})", value=str(path),
                        fix="check the path and its permissions") from None  # fmt: skip


def _in_place(path: Path, ending: str, packing: str, name: str) -> Opened:
    before = path.stat()
    packed = cache.digest(path)
    key = hashlib.sha256(f"{VERSION} {packed} {ending} {packing}".encode()).hexdigest()
    kept = cache.folder() is not None
    found = cache.find("tables", key) if kept else None
    if found is None and kept:
        facts: dict[str, Any] = {}
        try:
            with cache.writing("tables", key, f"where the rows of {name} are", facts) as draft:
                _prepared(path, ending, packing, name, draft, facts, packed)
            found = cache.folder_of("tables", key), facts
        except OSError as problem:
            warnings.warn(f"{name}: what was found in it can't be kept in the cache ({problem.strerror}), so it is read through each time", stacklevel=5)
    if found is None:
        opened = _unkept(path, ending, packing, name, packed)
    else:
        opened = _kept(*found, path, ending, packing, name)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise DataError(f"{name}: the file was changed while it was in use (it was written to)", fix="leave it alone while it is read, and start again")
    return opened


def _prepared(path: Path, ending: str, packing: str, name: str, draft: Path, facts: dict[str, Any], packed: str) -> None:
    """Write what makes a large file readable at any place into a folder of the cache."""
    plain, facts["sha256"] = path, packed
    if packing:
        plain = draft / "data"
        with unpacked(path) as source, plain.open("wb") as file:
            facts["sha256"] = _copied(source, file)
    if ending in lines.ENDINGS:
        with plain.open("rb") as file:
            found = lines.index(file, ending, name)
        facts |= {"columns": found.columns, "complete": found.complete}
        save_numbers(draft / "offsets.npy", found.offsets)
        save_numbers(draft / "numbers.npy", found.numbers)
        return
    facts["columns"] = _as_arrow(columns.arrow_batches(str(plain), name, parquet=ending == ".parquet", rows=4096), draft / "rows.arrow", name)
    if packing:
        plain.unlink()


def _kept(folder: Path, facts: dict[str, Any], path: Path, ending: str, packing: str, name: str) -> Opened:
    if ending not in lines.ENDINGS:
        arrow, ipc = parsing.package("pyarrow", name), parsing.package("pyarrow.ipc", name)
        return _of_arrow(ipc.open_file(arrow.memory_map(str(folder / "rows.arrow"))).read_all(), facts["sha256"])
    numbers = load_numbers(folder / "numbers.npy")
    made = lines.reader(ending, name, facts["columns"], numbers)
    rows = Records(folder / "data" if packing else path, load_numbers(folder / "offsets.npy"), made, name, changing=not packing)
    return Opened(rows, facts["columns"], "line", numbers, facts["sha256"], frozenset(facts["complete"]))


def _unkept(path: Path, ending: str, packing: str, name: str, packed: str) -> Opened:
    """The same without the cache: the index in memory, unpacked bytes in a file that has no name."""
    plain: Path | IO[bytes] = path
    sha256 = packed
    if packing:
        with unpacked(path) as source:
            plain = _spooled(source, name)
        sha256 = hashlib.file_digest(plain, "sha256").hexdigest()  # type: ignore[arg-type]  # a file of tempfile is a file
        plain.seek(0)
    if ending not in lines.ENDINGS:
        arrow = parsing.package("pyarrow", name)
        given = str(plain) if isinstance(plain, Path) else plain
        return _of_arrow(arrow.Table.from_batches(list(columns.arrow_batches(given, name, parquet=ending == ".parquet", rows=4096))), sha256)
    with plain.open("rb") if isinstance(plain, Path) else contextlib.nullcontext(plain) as file:
        found = lines.index(file, ending, name)
    rows = Records(plain, found.offsets, lines.reader(ending, name, found.columns, found.numbers), name, changing=not packing)
    return Opened(rows, found.columns, "line", found.numbers, sha256, frozenset(found.complete))


def _of_arrow(table: Any, sha256: str) -> Opened:
    rows = Blocks(table.num_rows, lambda start, stop: table.slice(start, stop - start).to_pylist())
    return Opened(rows, table.column_names, "row", range(1, table.num_rows + 1), sha256, frozenset(table.column_names))


def _as_arrow(batches: Iterable[Any], path: Path, name: str) -> list[str]:
    """Write record batches as an Arrow file, which can be read at any place; returns the column names."""
    arrow, writer, schema = parsing.package("pyarrow", name), None, None
    try:
        for batch in batches:
            # a file has one dictionary a column, and batches may come with several
            plain = [column.dictionary_decode() if arrow.types.is_dictionary(column.type) else column for column in batch.columns]
            batch = arrow.RecordBatch.from_arrays(plain, names=batch.schema.names)
            if writer is None:
                schema, writer = batch.schema, arrow.ipc.new_file(str(path), batch.schema)
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()
    return list(schema.names) if schema is not None else []


def _spooled(source: IO[bytes], name: str) -> IO[bytes]:
    """The bytes in a file without a name, which is gone with this process.

    Raises:
        StorageError: there is no room.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115  # its reader closes it
    try:
        shutil.copyfileobj(source, file, 1 << 20)
    except OSError as problem:
        file.close()
        raise StorageError(f"{name}: there is no room to unpack it in {tempfile.gettempdir()}: {problem}") from problem
    file.seek(0)
    return file


def _copied(source: IO[bytes], file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := source.read(1 << 20):
        digest.update(piece)
        file.write(piece)
    return digest.hexdigest()
