"""What read_table reads, from files and from memory."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nabi.data import Table, read_table
from nabi.errors import NabiError

ROWS = [{"text": "좋다, 정말", "label": "1"}, {"text": 'two\nlines and "quotes"', "label": "0"}, {"text": "", "label": "1"}]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NAMES = st.lists(st.from_regex(r"[a-z가-힣]{1,6}", fullmatch=True), min_size=1, max_size=4, unique=True)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6)


def write(path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif ending == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"])
def test_every_format(ending: str, packing: str, tmp_path: Path) -> None:
    plain = tmp_path / f"plain{ending}"
    if ending in (".parquet", ".arrow"):
        frame = pytest.importorskip("pyarrow").Table.from_pylist(ROWS)
        if ending == ".parquet":
            pytest.importorskip("pyarrow.parquet").write_table(frame, plain)
        else:
            with pytest.importorskip("pyarrow").ipc.new_stream(plain, frame.schema) as out:
                out.write_table(frame)
    else:
        write(plain, ROWS, ending)
    path = tmp_path / f"reviews{ending.upper()}{packing}"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": pytest.importorskip("zstandard").compress}[packing]
    path.write_bytes(pack(plain.read_bytes()))
    table = read_table(str(path), required=["text", "label"])
    assert list(table) == ROWS and table.columns == ("text", "label")
    assert table.sha256 == read_table(plain).sha256 != table.take([0]).sha256


def test_places_are_real_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbftext,label\r\n"one\r\ntwo",1\r\n\r\nthree,0\r\n"",1\r\n')
    table = read_table(tmp_path / "a.csv")
    assert [table.where(i) for i in range(3)] == ["a.csv, line 2", "a.csv, line 5", "a.csv, line 6"]
    assert table[0]["text"] == "one\r\ntwo" and table[2]["text"] == ""
    assert table[1:].where(0) == table.take([1]).where(0) == "a.csv, line 5"
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b"}\n\n{"text": "c"}\n', encoding="utf-8")
    assert read_table(tmp_path / "a.jsonl").where(1) == "a.jsonl, line 3"


def test_memory(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")

    class Dataset:
        def __init__(self) -> None:
            self.column_names = ["text", "label"]

        def __len__(self) -> int:
            return len(ROWS)

        def __getitem__(self, index: int) -> dict[str, str]:
            return ROWS[index]

    for source in (ROWS, iter(ROWS), Dataset(), pandas.DataFrame(ROWS)):
        table = read_table(source)
        assert list(table) == ROWS and table.columns == ("text", "label")
        assert table.sha256 == read_table(ROWS).sha256
    assert read_table(ROWS).where(0) == "list, row 1"
    assert read_table([dict(reversed(row.items())) for row in ROWS]).sha256 == read_table(ROWS).sha256
    frame = pandas.DataFrame({"text": ["a", None], "label": [1.5, float("nan")], "n": [1, 2]})
    assert list(read_table(frame)) == [{"text": "a", "label": 1.5, "n": 1}, {"text": None, "label": None, "n": 2}]
    with pytest.raises(NabiError, match="a column name appears twice"):
        read_table(pandas.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(NabiError, match="list, row 2: half of a surrogate pair"):
        read_table([{"text": "a"}, {"text": "b", "more": [{"deep": "\ud83d"}]}])


def test_renaming() -> None:
    rows = [{"review": "a", "text": "old", "stars": 5, "id": 7}]
    table = read_table(rows, {"text": "review", "label": "stars"}, required="text")
    assert list(table) == [{"text": "a", "label": 5, "id": 7}] and table.columns == ("text", "label", "id")
    assert read_table(rows, {"text": "review", "review": "text"})[0] == {"text": "a", "review": "old", "stars": 5, "id": 7}
    assert rows[0]["text"] == "old"


def test_nested_json_and_data_key(tmp_path: Path) -> None:
    rows = [{"question": "who?", "answers": [{"text": "me", "start": 0}], "n": None}]
    (tmp_path / "a.json").write_text(json.dumps({"version": "1", "data": rows}), encoding="utf-8")
    assert list(read_table(tmp_path / "a.json")) == rows


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_a_line_of_a_megabyte(ending: str, tmp_path: Path) -> None:
    rows = [{"text": "가나, 다\n" * 100_000, "label": "1"}]
    write(tmp_path / f"a{ending}", rows, ending)
    assert list(read_table(tmp_path / f"a{ending}")) == rows


def test_the_field_limit_is_never_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(csv, "field_size_limit", lambda *new: calls.append(new) or 2**40)
    write(tmp_path / "a.csv", ROWS, ".csv")
    read_table(tmp_path / "a.csv")
    assert [new for new in calls if new] == [(2**40,)]


def test_table_is_a_sequence() -> None:
    table = Table([{"a": 1}, {"b": 2}], "rows")
    assert len(table) == 2 and table[-1] == {"b": 2} and table.columns == ("a", "b") and {"a": 1} in table
    assert "rows" in repr(table) and list(reversed(table)) == [{"b": 2}, {"a": 1}]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ending=st.sampled_from([".csv", ".tsv", ".jsonl", ".json"]))
def test_round_trip(data: st.DataObject, ending: str) -> None:
    values = JSON if ending.startswith(".json") else TEXT
    rows = data.draw(NAMES.flatmap(lambda names: st.lists(st.fixed_dictionaries(dict.fromkeys(names, values)), min_size=1, max_size=5)))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / f"a{ending}", rows, ending)
        assert list(read_table(Path(folder) / f"a{ending}")) == rows


PIECES = [b"text,label\n", b'"', b"a,b\n", b"\n", b"\r", b"\t", b'{"a": 1}\n', b"[", b"]", b"\\ud800", b"\xff", b"\0",
          gzip.compress(b"a,b\n1,2\n", mtime=0), b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", b"\x28\xb5\x2f\xfd"]
FRAGMENTS = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join)
NAMED = ["a.csv", "a.jsonl", "a.tsv", "a.json", "a.csv.gz", "a.jsonl.gz", "a.tsv.gz", "a.gz", "a.csv.zst", "a.parquet", "a.arrow"]


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=80) | FRAGMENTS, name=st.sampled_from(NAMED))
def test_random_bytes_raise_only_our_errors(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            table = read_table(path)
        except NabiError as error:
            assert str(error)
        else:
            assert len(table) and table.where(len(table) - 1) and len(table.sha256) == 64
