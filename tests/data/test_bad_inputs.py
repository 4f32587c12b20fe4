"""One case for each row of the table of bad inputs in docs/data.md."""

from __future__ import annotations

import gzip
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nabi.data import lines, opening, read_table, streams, text_of
from nabi.errors import DataError, OptionError

zstandard = pytest.importorskip("zstandard")
HEAD = b"text,label\n"
CSV = HEAD + b"good,1\nbad,0\n" * 50
PACKED, ZSTD = gzip.compress(CSV, mtime=0), zstandard.compress(CSV)
DAMAGED = PACKED[:20] + b"\xff\xff\xff\xff" + PACKED[24:]


def table_rows() -> dict[str, tuple[str, str]]:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").partition("## Bad inputs")[2]
    cells = [[c.strip() for c in line.strip("|\n ").split("|")] for line in text.splitlines() if line.startswith("|")][2:]
    assert len({row[0] for row in cells}) == len(cells), "a row twice"
    return {name: (start.strip("`"), todo) for name, start, todo in cells}


def file(name: str, content: bytes | str, required: tuple[str, ...] = ()) -> Callable[[Path], Any]:
    def case(folder: Path) -> Any:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return read_table(folder / name, required=required)

    return case


def text(line: str) -> Callable[[Path], Any]:
    def case(folder: Path) -> Any:
        table = file("reviews.jsonl", line)(folder)
        return text_of(table[0]["text"], table.where(0))

    return case


def folder_case(folder: Path) -> Any:
    (folder / "reviews").mkdir()
    return read_table(folder / "reviews")


def folder_of(*names: str) -> Callable[[Path], Any]:
    def case(folder: Path) -> Any:
        (folder / "reviews").mkdir()
        for name in names:
            (folder / "reviews" / name).write_bytes(CSV)
        return read_table(folder / "reviews")

    return case


def large(name: str, content: str) -> Callable[[Path], Any]:
    def case(folder: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opening, "LARGE", 1000)
            patch.setattr(lines, "LONGEST", 2000)
            return file(name, content)(folder)

    return case


def cut_off(folder: Path) -> Any:
    table = large("reviews.jsonl", '{"text": "a"}\n' * 200)(folder)
    os.truncate(folder / "reviews.jsonl", 100)
    return table[0]


def array(name: str, content: Any) -> Callable[[Path], Any]:
    def case(folder: Path) -> Any:
        np.save(folder / name, content, allow_pickle=True)
        return read_table(folder / name)

    return case


def arrays(name: str, **content: Any) -> Callable[[Path], Any]:
    def case(folder: Path) -> Any:
        np.savez(folder / name, **content)
        return read_table(folder / name)

    return case


def stream(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "HELD", 10)
        return read_table({"text": "a long text", "more": object()} for _ in range(3))


def missing_file(folder: Path) -> Any:
    (folder / "reviews.csv").write_bytes(CSV)
    return read_table(folder / "review.csv")


CASES: dict[str, Callable[[Path], Any]] = {
    "a missing file": missing_file,
    "an empty folder": folder_case,
    "a folder with files of several kinds": folder_of("a.csv", "b.jsonl"),
    "a folder with train and dev files": folder_of("train.csv", "dev.csv"),
    "a pattern that nothing fits": lambda folder: read_table(folder / "train-*.jsonl"),
    "a large file with a very long line": large("reviews.jsonl", '{"text": "a"}\n{"text": "' + "long " * 800 + '"}\n'),
    "a large file with a quote that is never closed": large("reviews.csv", 'text,label\na,b\n"' + "c\n" * 2000),
    "a file that is cut off while it is read": cut_off,
    "a broken NumPy file": file("reviews.npz", b"PK\x03\x04" + b"\1" * 60),
    "a NumPy file with objects": array("reviews.npy", np.array([{}])),
    "an array without column names": array("reviews.npy", np.zeros((3, 2))),
    "arrays of different lengths": arrays("reviews.npz", a=np.zeros(2), b=np.zeros(3)),
    "a label without a name": arrays("reviews.npz", labels=np.array([0, 2]), classes=np.array(["a", "b"])),
    "a stream that can't be written to disk": stream,
    "rows that Arrow can't hold": lambda folder: read_table([{"a": 1}, {"a": "b"}]).to_arrow(),
    "an empty file": file("reviews.csv", b"\xef\xbb\xbf \n"),
    "a header only": file("reviews.csv", HEAD),
    "a JSON array without rows": file("reviews.json", "[]"),
    "an unknown file ending": file("reviews.xlsx", b"PK\x03\x04"),
    "a missing column": file("reviews.csv", "review,label\ngood,1\n", ("text", "label")),
    "a wrong separator": file("reviews.csv", "text;label\ngood;1\n", ("text", "label")),
    "a row without a column": file("reviews.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', ("text", "label")),
    "a column name twice": file("reviews.csv", "text,label,text\na,b,c\n"),
    "text in CP949": file("reviews.csv", "text,label\n안녕하세요 반갑습니다,1\n".encode("cp949")),
    "text in Latin-1": file("reviews.csv", "text,label\ncafé au lait très bon,1\n".encode("latin-1")),
    "text in UTF-16": file("reviews.csv", "text,label\n안녕하세요,1\n".encode("utf-16")),
    "UTF-16 without a mark": file("reviews.csv", "text,label\ngood,1\n".encode("utf-16-le")),
    "a NUL byte": file("reviews.csv", HEAD + b"a\0b,1\n"),
    "a packed file without its ending": file("reviews.csv", PACKED),
    "a gzip file that is cut off": file("reviews.csv.gz", PACKED[:-12]),
    "a damaged gzip file": file("reviews.csv.gz", DAMAGED),
    "no gzip file": file("reviews.csv.gz", CSV),
    "a zstd file that is cut off": file("reviews.csv.zst", ZSTD[:-4]),
    "a damaged zstd file": file("reviews.csv.zst", ZSTD[:6] + b"\xff" * 12),
    "no zstd file": file("reviews.csv.zst", CSV),
    "a package that is not installed": file("reviews.csv.zst", ZSTD),
    "a broken Parquet file": file("reviews.parquet", b"PAR1" + b"\1" * 40),
    "a broken Arrow file": file("reviews.arrow", b"ARROW1" + b"\1" * 40),
    "a line that is not JSON": file("reviews.jsonl", '{"text": "a"}\n{"text": \n'),
    "JSON lines named .json": file("reviews.json", '{"text": "a"}\n{"text": "b"}\n'),
    "JSON without an array": file("reviews.json", '{"text": "a"}'),
    "a line without an object": file("reviews.jsonl", '{"text": "a"}\n["b"]\n'),
    "an array item without an object": file("reviews.json", '[{"text": "a"}, "b"]'),
    "NaN in JSON": file("reviews.jsonl", '{"text": "a", "label": NaN}'),
    "a number too large for JSON": file("reviews.jsonl", '{"text": "a", "label": 1e999}'),
    "a whole number of 5,000 digits": file("reviews.jsonl", '{"label": ' + "1" * 5000 + "}"),
    "JSON that is nested too deeply": file("reviews.jsonl", '{"label": ' + "[" * 200_000),
    "a key twice": file("reviews.jsonl", '{"text": "a", "text": "b"}'),
    "half of a surrogate pair": file("reviews.jsonl", '{"text": "a \\ud83d"}'),
    "too many fields": file("reviews.csv", HEAD + b"good, really,1\n"),
    "too few fields": file("reviews.csv", HEAD + b"good\n"),
    "a stray quote": file("reviews.csv", HEAD + b'good,1\n"bad,0\nfine,1\nhe said "no",0\n'),
    "a quote that is never closed": file("reviews.csv", HEAD + b'"good, really",1\n"bad,0\nfine,1\n'),
    "rows that are not dicts": lambda folder: read_table([["good", 1]]),
    "an object that is no table": lambda folder: read_table({"train": []}),
    "an empty list": lambda folder: read_table([]),
    "a null text": text('{"text": null}'),
    "a number as text": text('{"text": 5}'),
    "a list as text": text('{"text": ["a"]}'),
}


def test_each_row_has_a_case() -> None:
    assert list(CASES) == list(table_rows())


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, todo = table_rows()[name]
    if name == "a package that is not installed":
        monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(OptionError if "package" in name and "installed" in name else DataError) as caught:
        CASES[name](tmp_path)
    message = str(caught.value)
    assert message.startswith(start)
    assert caught.value.exit_code == 2
    assert caught.value.fix
    assert len(message) < 900 and "\n" not in message
    if todo.startswith(("`iconv", "`tr", "`pip")):
        assert todo.strip("`") in message


def test_the_quote_is_found_inside_a_record_of_several_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: 3 fields"):
        file("a.csv", 'text,label\n"first\nsecond","a"" b\nc",\n')(tmp_path)
    with pytest.raises(DataError, match=r"b\.csv, line 4: a quote opens here.*'\"third \"oops\""):
        file("b.csv", 'a,b,c\n"first\nsecond","x\ny","third "oops"\nfourth",z\n')(tmp_path)


def test_damaged_arrow_offsets_are_not_followed(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    sink = arrow.BufferOutputStream()
    frame = arrow.table({"text": ["abcdef", "g"]})
    with arrow.ipc.new_file(sink, frame.schema) as out:
        out.write_table(frame)
    whole = sink.getvalue().to_pybytes()
    damaged = whole.replace(struct.pack("<3i", 0, 6, 7), struct.pack("<3i", 0, 9, 7))
    assert damaged != whole
    with pytest.raises(DataError, match="not a whole Arrow file"):
        file("a.arrow", damaged)(tmp_path)


def test_missing_columns_are_named_together_with_a_rename(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'text', 'label'.*review, stars.*--columns text=review"):
        file("a.csv", "review,stars\ngood,5\n", ("text", "label"))(tmp_path)
    with pytest.raises(DataError, match="no column 'txet'.*--columns text=text"):
        read_table([{"text": "a"}], {"text": "txet"})
