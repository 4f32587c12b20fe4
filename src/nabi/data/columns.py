"""Columns: Arrow, Parquet and NumPy files, and the objects in memory that hold columns, to rows.

Unusual: rows of columns are made a block at a time when they are asked for, so a table of columns costs no more memory than its columns.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from nabi.data.parsing import Parsed, broken_arrow, package, unique
from nabi.errors import DataError


def read_arrow(data: bytes, name: str, *, parquet: bool = False) -> Parsed:
    source = package("pyarrow", name).BufferReader(data)
    batches = list(arrow_batches(source, name, parquet=parquet, rows=1 << 20))
    return [row for batch in batches for row in batch.to_pylist()], batches[0].schema.names if batches else [], None


def arrow_batches(source: Any, name: str, *, parquet: bool, rows: int) -> Iterator[Any]:
    """The record batches of a Parquet file or of an Arrow file or stream, of at most ``rows`` rows; one of none where there are no rows.

    Args:
        source: a path or an open file, as Arrow takes it.
        name: what to call the file in an error.
        parquet: whether it is a Parquet file.
        rows: the most in a batch.

    Raises:
        DataError: it is damaged.
    """
    arrow, head, none = package("pyarrow", name), b"", True
    try:
        if isinstance(source, str):
            source = arrow.OSFile(source)
        head = source.read(16)
        source.seek(0)
        if parquet:
            file = package("pyarrow.parquet", name).ParquetFile(source)
            schema, found = file.schema_arrow, file.iter_batches(batch_size=rows)
        else:
            ipc = package("pyarrow.ipc", name)
            file = (ipc.open_file if head.startswith(b"ARROW1") else ipc.open_stream)(source)
            schema, found = file.schema, map(file.get_batch, range(file.num_record_batches)) if head.startswith(b"ARROW1") else file
        unique(schema.names, name)
        for batch in found:
            # damaged offsets would be followed out of the buffer
            batch.validate(full=True)
            for start in range(0, batch.num_rows, rows):
                none = False
                yield batch.slice(start, rows)
        if none:
            yield arrow.RecordBatch.from_pylist([], schema=schema)
    except (arrow.ArrowException, OSError, ValueError) as problem:
        raise broken_arrow(name, problem, head, parquet=parquet) from None


def read_numpy(data: bytes, name: str) -> Parsed:
    columns, length, rows = array_columns(loaded_arrays(io.BytesIO(data), name), name)
    return rows(0, length), columns, None


def loaded_arrays(file: IO[bytes], name: str) -> Any:
    """An array or a dict of arrays from the bytes of a .npy or .npz file, nothing of which is ever unpickled.

    Raises:
        DataError: it is damaged, or holds Python objects.
    """
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
        return {key: found[key] for key in found.files} if isinstance(found, np.lib.npyio.NpzFile) else found
    except (OSError, ValueError, EOFError, KeyError, TypeError, MemoryError, NotImplementedError, OverflowError, zipfile.BadZipFile, zlib.error,
            struct.error, SyntaxError, RecursionError, UnicodeError) as problem:  # fmt: skip
        why = " ".join(str(problem).split())
        raise DataError(f"{name}: not a whole NumPy file ({why})", fix="write it again with numpy.save or numpy.savez, without objects") from None


Fetch = Callable[[int, int], list[dict[str, Any]]]


def array_columns(arrays: Any, name: str) -> tuple[list[str], int, Fetch]:
    """The column names of a structured array or a dict of arrays or lists, how many rows they have, and what gives the rows from a place to another.

    A row has entry i of each array. Where one is called ``offsets`` and has an entry more, an array as long as its last entry says holds values end to end:
    row i has ``array[offsets[i]:offsets[i + 1]]``. Names in ``classes`` are those of the numbers in ``labels``.
    An array of no dimension is the same in each row. Numbers and strings become Python's own.

    Raises:
        DataError: the arrays are no table.
    """
    import numpy as np

    if isinstance(arrays, np.ndarray):
        if arrays.dtype.names is None:
            raise DataError(f"{name}: an array without column names", value=f"{arrays.dtype} {arrays.shape}", expected="a structured array, or named arrays",
                            fix='give a dict such as {"text": texts, "label": labels}')
        arrays = {column: arrays[column] for column in arrays.dtype.names}
    else:
        arrays = {str(key): _as_array(value) for key, value in arrays.items()}
    classes, labels = arrays.get("classes"), arrays.get("labels")
    if classes is not None and labels is not None and classes.dtype.kind == "U" and labels.dtype.kind in "iu" and classes.ndim == labels.ndim == 1:
        if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(f"{name}: a label without a name", value=f"labels {labels.min()} to {labels.max()}" if len(labels) else "no labels",
                            expected=f"0 to {len(classes) - 1}, the places in classes", fix="write the names of all labels")  # fmt: skip
        arrays = {key: a for key, a in arrays.items() if key != "classes"} | {"labels": classes[labels]}
    offsets = arrays.get("offsets")
    if offsets is not None and (offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets) or offsets[0] != 0
                                or (np.diff(offsets.astype(np.int64)) < 0).any()):  # fmt: skip
        offsets = None
    length = next((len(a) for a in arrays.values() if a.ndim and a is not offsets), 0) if offsets is None else len(offsets) - 1
    ragged = {key for key, a in arrays.items() if offsets is not None and a is not offsets and a.ndim and len(a) == offsets[-1] != length}
    odd = {key: len(a) for key, a in arrays.items() if a.ndim and a is not offsets and key not in ragged and len(a) != length}
    if odd or not any(a.ndim for a in arrays.values()):
        raise DataError(f"{name}: the arrays are no table", value=", ".join(f"{key} {a.shape}" for key, a in arrays.items()),
                        expected="arrays of one length, one entry a row", fix="give the arrays that belong together")
    columns = [key for key, a in arrays.items() if a is not offsets]

    def cells(key: str, start: int, stop: int) -> Any:
        a = arrays[key]
        if key in ragged and offsets is not None:
            return (a[offsets[i] : offsets[i + 1]] for i in range(start, stop))
        part = np.broadcast_to(a, (stop - start,)) if not a.ndim else a[start:stop]
        return part.tolist() if part.ndim == 1 and part.dtype.kind in "biufUSO" else part

    def rows(start: int, stop: int) -> list[dict[str, Any]]:
        return [dict(zip(columns, values, strict=True)) for values in zip(*(cells(key, start, stop) for key in columns), strict=True)]

    return columns, length, rows


def _as_array(value: Any) -> Any:
    import numpy as np

    if not isinstance(value, list | tuple):
        return np.asarray(value)
    array = np.empty(len(value), object)  # its items stay what they are
    array[:] = value
    return array
