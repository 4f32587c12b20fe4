"""Rows as files of every form and packing that the door takes: what its tests share."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import zstandard

from nabi.data.opening import kind_of

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file in the form and packing that its name says."""
    ending, packing = kind_of(path)
    plain = path.with_name("plain" + ending)
    if ending == ".jsonl":
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        plain.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), plain, row_group_size=100)
    elif ending == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(plain, table.schema) as out:
            out.write_table(table, max_chunksize=90)
    else:
        with plain.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    data = plain.read_bytes()
    plain.unlink()
    path.write_bytes(PACK[packing](data))
    return path
