"""Tables as a source: formats, byte ranges, long lines, broken rows."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from corpus_reading import read_source
from nabi.data.corpus import listing, rows
from nabi.data.corpus.documents import Origin, Trouble, Unit
from nabi.data.corpus.sources import open_origin
from nabi.errors import DataError, OptionError

EXPORT = [
    {"content": f'def f{i}():\n    return "안녕, {i}"\n', "repo_name": f"owner/r{i % 3}", "path": f"src/f{i}.py", "license": "mit", "size": 40 + i, "copies": 1}
    for i in range(150)
]  # fmt: skip


def as_csv(table: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(table[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue().encode()


def as_jsonl(table: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in table)


def as_parquet(table: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), out, row_group_size=40)
    return out.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".jsonl": as_jsonl, ".jsonl.gz": lambda t: gzip.compress(as_jsonl(t)),
    ".jsonl.zst": lambda t: zstandard.compress(as_jsonl(t[:70])) + zstandard.compress(as_jsonl(t[70:])),
    ".csv": as_csv, ".csv.gz": lambda t: gzip.compress(as_csv(t)), ".csv.zst": lambda t: zstandard.compress(as_csv(t)), ".tsv": lambda t: as_csv(t, "\t"),
    ".tsv.gz": lambda t: gzip.compress(as_csv(t, "\t")), ".tsv.zst": lambda t: zstandard.compress(as_csv(t, "\t")), ".parquet": as_parquet,
}  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_the_export_of_github_is_read_in_every_format(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows{ending}"
    file.write_bytes(FORMATS[ending](EXPORT))
    documents, trouble, _ = read_source(file, license="Apache-2.0")
    assert [d.text for d in documents] == [row["content"] for row in EXPORT] and not trouble.counts
    assert documents[7].facts == {"repo": "owner/r1", "path": "src/f7.py", "license": "mit", "size": "47", "copies": "1"}
    lines = {".csv": 2 + 3 * 7, ".tsv": 2 + 3 * 7}  # each text has three lines in a CSV
    assert documents[7].path == f"{file.name}:{lines.get(ending[:4], 8)}"


def test_a_folder_of_tables_is_read_in_the_order_of_the_names(tmp_path: Path) -> None:
    for number, ending in enumerate(FORMATS):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / f"part{ending}").write_bytes(FORMATS[ending](EXPORT[number : number + 2]))
    (tmp_path / "notes.md").write_text("not a table")
    documents, trouble, _ = read_source(tmp_path, kind="table", exclude=("3",))
    assert [d.text for d in documents] == [EXPORT[n + i]["content"] for n in range(10) if n != 3 for i in (0, 1)] and not trouble.counts


@pytest.mark.parametrize("column", ["content", "text", "body"])
def test_the_text_is_in_the_column_named_or_in_content_or_text(tmp_path: Path, column: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([{column: "words", "url": "https://x.org/1", "license": ""}]))
    (document,), _, _ = read_source(tmp_path / "a.jsonl", column=column if column == "body" else "", license="MIT")
    assert document.text == "words" and document.facts == {"url": "https://x.org/1", "license": "MIT"}


@pytest.mark.parametrize("ending", FORMATS)
def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"rows{ending}").write_bytes(FORMATS[ending](EXPORT))
    with pytest.raises(DataError, match=r"no column with the text.*contents.*content, repo_name, path"):
        read_source(tmp_path / f"rows{ending}", column="contents")


LINES = [b'{"text": "%s"}' % (b"word " * (i * 37 % 50)) for i in range(60)] + [
    b"", b'{"text": "' + b"long " * 300 + b'"}', b"{broken", b'{"text": "\xff"}', b"\r"] * 3


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_byte_ranges_read_the_same_as_the_whole_for_any_cut(tmp_path: Path, end: bytes, last: bool) -> None:
    data = end.join(random.Random(0).sample(LINES, len(LINES))) + end * last
    file = tmp_path / "rows.jsonl"
    file.write_bytes(data)
    source = open_origin(Origin(str(file), max_bytes=1000))

    def read(cuts: list[int]) -> tuple[list[tuple[str, str]], Trouble]:
        trouble, found = Trouble(most=1000), []
        for start, stop in itertools.pairwise(cuts):
            found += [(d.path, d.text) for d in source.documents(listing.Entry("rows.jsonl", start, stop), trouble)]  # type: ignore[attr-defined]
        return found, trouble

    expected, troubles = read([0, len(data)])
    assert len(expected) == 60 and dict(troubles.counts) == {"too long": 3, "broken row": 3, "not UTF-8": 3}
    whole = [d.text for d in source.documents(listing.Entry("rows.jsonl"), Trouble())]  # type: ignore[attr-defined]
    assert whole == [text for _, text in expected]
    for cut in {*range(1, 200), *range(1, len(data), 53)}:
        got, trouble = read([0, cut, len(data)])
        assert got == expected and trouble == troubles, cut
    for seed in range(10):
        drawn = random.Random(seed)
        got, trouble = read([0, *sorted(drawn.sample(range(1, len(data)), 30)), len(data)])
        assert got == expected and trouble == troubles


def test_a_big_file_is_cut_into_ranges_and_named_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(as_jsonl(EXPORT))
    monkeypatch.setattr(rows, "UNIT", 1000)
    monkeypatch.setattr(listing, "UNIT", 1000)
    documents, _, units = read_source(file)
    assert [d.text for d in documents] == [row["content"] for row in EXPORT] and len(units) == -(-file.stat().st_size // 1000)
    at = int(documents[9].path.removeprefix("rows.jsonl@"))
    assert json.loads(file.read_bytes()[at:].split(b"\n")[0])["path"] == "src/f9.py"


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_line_of_two_gigabytes_is_passed_over_in_bounded_memory(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows{ending}"
    first, last = (b'{"text": "a"}\n', b'\n{"text": "b"}\n') if ending == ".jsonl" else (b"text\na\n", b"\nb\n")
    with file.open("wb") as out:
        out.write(first)
        out.seek(2 << 30, io.SEEK_CUR)  # sparse: a hole of zeros
        out.write(last)
    tracemalloc.start()
    begun = time.process_time()
    try:
        documents, trouble, units = read_source(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [d.text for d in documents] == ["a", "b"] and dict(trouble.counts) == {"too long": 1}
    assert peak < 8_000_000 and time.process_time() - begun < 20
    assert len(units) == (68 if ending == ".jsonl" else 1)


def test_a_long_line_is_read_once_however_many_ranges_it_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"text": "a"}\n' + b"x" * 4_000_000 + b'\n{"text": "b"}\n')
    source, read = open_origin(Origin(str(file), max_bytes=1000)), 0
    real = rows.opened

    def opened(*args: Any, **options: Any) -> Any:
        file = real(*args, **options)

        class Counted:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def read(self, size: int) -> bytes:
                nonlocal read
                data: bytes = file.read(size)
                read += len(data)
                return data

        return Counted()

    monkeypatch.setattr(rows, "opened", opened)
    trouble, found = Trouble(), []
    for start in range(0, 4_000_029, 40_000):
        found += [d.text for d in source.documents(listing.Entry("rows.jsonl", start, min(start + 40_000, 4_000_029)), trouble)]  # type: ignore[attr-defined]
    assert found == ["a", "b"] and dict(trouble.counts) == {"too long": 1}
    assert read < 101 * (1 << 18) + 5_000_000  # to the line's end each time it would be 200 MB


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "broken row"), (b"{", "broken row"), (b'{"text": "a", "text": "b"}', "broken row"), (b'{"text": NaN}', "broken row"),
        (b'{"text": ' + b"[" * 100_000 + b"}", "broken row"), (b'{"other": "a"}', "no text"), (b'{"text": null}', "no text"), (b'{"text": 1}', "no text"),
        (b'{"text": "\\ud83d"}', "not UTF-8"), (b'{"text": "a\\u0000b"}', "binary"), (b'{"text": "\xe9"}', "not UTF-8"), (b'{"text": "\0"}', "binary"),
        (b'{"text": "' + b"x" * 200_000 + b'"}', "too long"),
    ],
)  # fmt: skip
def test_a_bad_row_is_counted_with_its_line_and_the_next_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\n\n' + line + b'\n{"text": "after"}')
    documents, trouble, _ = read_source(tmp_path / "a.jsonl", max_bytes=150_000)
    assert [(d.text, d.path) for d in documents] == [("before", "a.jsonl:1"), ("after", "a.jsonl:4")]
    assert dict(trouble.counts) == {reason: 1} and trouble.examples[reason][0].startswith("a.jsonl:3: ")


def test_facts_can_always_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "path": "\\ud83d.py"}')
    (document,), _, _ = read_source(tmp_path / "a.jsonl")
    assert document.facts == {"path": "\\ud83d.py"}


@pytest.mark.parametrize(
    ("middle", "reason", "number"),
    [
        (b"a,b,c\n", "broken row", 3), (b"a\n", "broken row", 3), (b'"a"b,1\n', "broken row", 3), (b'"' + b"long\n" * 300 + b'",1\n', "too long", 3),
        (b"x" * 1001 + b",1\n", "too long", 3), (b'"' + b"x" * 1001 + b'\n a ""quote"" \n",1\n', "too long", 3),
        (b"caf\xe9,1\n", "not UTF-8", 3), (b"\0,1\n", "binary", 3),
    ],
)  # fmt: skip
def test_a_bad_row_of_a_csv_is_counted_and_the_next_is_read(tmp_path: Path, middle: bytes, reason: str, number: int) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\nbefore,1\n" + middle + b'"af,\n""ter""",2\n')
    documents, trouble, _ = read_source(tmp_path / "a.csv", max_bytes=1000)
    assert [d.text for d in documents] == ["before", 'af,\n"ter"'] and documents[1].path == f"a.csv:{number + middle.count(10)}"
    assert dict(trouble.counts) == {reason: 1} and trouble.examples[reason][0].startswith(f"a.csv:{number}: ")


def test_a_quote_that_is_never_closed_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text\nfirst\n"open\n' + (b"line " * 20 + b"\n") * 30_000)
    tracemalloc.start()
    documents, trouble, _ = read_source(tmp_path / "a.csv", max_bytes=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.text for d in documents] == ["first"] and dict(trouble.counts) == {"too long": 1} and peak < 1_500_000


@pytest.mark.parametrize(("name", "data", "words"), [
    ("a.jsonl.gz", gzip.compress(as_jsonl(EXPORT), mtime=0)[:-20], "gzip data is cut off"),
    ("a.jsonl.zst", zstandard.compress(as_jsonl(EXPORT))[:-20], "zstd data is cut off"),
    ("a.csv.gz", as_csv(EXPORT), "not a gzip file"), ("a.jsonl.zst", zstandard.compress(as_jsonl(EXPORT))[:4] + b"\xff" * 50, "zstd data is damaged"),
    ("a.parquet", as_parquet(EXPORT)[:-50], "not a whole Parquet file"), ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", "not a whole Parquet file"),
    ("a.csv", b'"never closed', "names of the columns"), ("a.csv", b"text,text\na,b\n", "appears twice"),
])  # fmt: skip
def test_a_broken_file_is_an_error_alone_and_counted_in_a_folder(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        read_source(tmp_path / name)
    (tmp_path / "z.jsonl").write_bytes(as_jsonl(EXPORT[:1]))
    documents, trouble, _ = read_source(tmp_path, kind="table")
    assert documents[-1].text == EXPORT[0]["content"] and trouble.counts["broken"] == 1 and words in " ".join(trouble.examples["broken"])


@pytest.mark.parametrize("ending", [".jsonl.gz", ".csv.zst"])
def test_a_bomb_is_refused_also_in_a_folder(tmp_path: Path, ending: str) -> None:
    pack = gzip.compress if ending.endswith(".gz") else zstandard.compress
    (tmp_path / f"a{ending}").write_bytes(pack(b'text\n"' + b"a" * 20_000_000))
    with pytest.raises(DataError, match="unpacks without end"):
        read_source(tmp_path, kind="table")


def test_parquet_is_read_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet(EXPORT))
    monkeypatch.setattr(listing, "UNIT", 1000)
    documents, _, units = read_source(tmp_path / "a.parquet")
    assert len(units) == 4 and [d.path for d in documents] == [f"a.parquet:{i}" for i in range(1, 151)]


def test_binary_columns_and_nulls_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet([{"content": b"good"}, {"content": None}, {"content": b"\x7fELF\2\1\1\0"}, {"content": b"x" * 2000}]))
    documents, trouble, _ = read_source(tmp_path / "a.parquet", max_bytes=1000)
    assert [d.text for d in documents] == ["good"] and dict(trouble.counts) == {"no text": 1, "binary": 1, "too long": 1}


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet(EXPORT))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(OptionError, match=r"pyarrow.*nabi\[data\]"):
        read_source(tmp_path / "a.parquet")


def test_units_survive_being_written_down(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(EXPORT))
    source = open_origin(Origin(str(tmp_path / "a.jsonl")))
    unit = next(iter(source.units(tmp_path)))
    again = Unit(**json.loads(json.dumps({"key": unit.key, "start": unit.start, "stop": unit.stop, "size": unit.size})))
    assert len(list(source.read(again, Trouble()))) == 150
