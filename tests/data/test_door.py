"""What comes through the one door: every source gives the same rows, and a large file gives what a small one gives, errors included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_files import PACK, write
from nabi import cache
from nabi.data import lines, opening, read_table
from nabi.data.records import Lazy
from nabi.errors import DataError, NabiError, StorageError

arrow = pytest.importorskip("pyarrow")
pandas = pytest.importorskip("pandas")
ROWS = [{"text": f"줄 {i}, \"und\" 'so'" + "\n\r\n x" * (i % 3), "label": str(i % 2)} for i in range(700)]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From 2,000 bytes on a file is large, and the cache is this test's own."""
    monkeypatch.setattr(opening, "LARGE", 2000)
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no_cache"])
@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet", ".arrow"])
def test_a_large_file_stays_on_the_disk_and_gives_the_same_rows(
    ending: str, packing: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setenv("NABI_CACHE", "off")
    path = write(tmp_path / f"reviews{ending}{packing}", ROWS)
    small = opening.open_file(path, large=1 << 30)
    for _ in range(2):  # the second time from the cache
        table = read_table(path, required=["text", "label"])
        assert isinstance(table._rows, Lazy) and isinstance(small.rows, list)
        assert list(table) == small.rows == ROWS
        assert [table[i] for i in (-1, 0, 350, 3)] == [ROWS[i] for i in (-1, 0, 350, 3)]
        assert table.sha256 == small.sha256
        assert [table.where(i) for i in range(5)] == [f"{path.name}, {small.unit} {small.numbers[i]}" for i in range(5)]
        assert table.take([5, 2]).where(0) == table.where(5) and list(table[10:12]) == ROWS[10:12]
        renamed = read_table(path, {"review": "text"}, required="review")
        assert renamed[1] == {"review": ROWS[1]["text"], "label": "1"} and renamed.sha256 == table.sha256 and renamed.fingerprint != table.fingerprint
    assert len(cache.entries()) == kept


def test_a_large_file_is_opened_from_the_index_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "reviews.jsonl", ROWS)
    first = list(read_table(path))
    monkeypatch.setattr(lines, "index", lambda *_: pytest.fail("it was read through again"))
    assert list(read_table(path)) == first
    path.write_bytes(path.read_bytes() + b'{"text": "more", "label": "1"}\n')
    with pytest.raises(pytest.fail.Exception, match="read through again"):
        read_table(path)


@pytest.mark.parametrize(
    ("ending", "bad"),
    [
        (".jsonl", b'{"text": \n'),
        (".jsonl", b'["b"]\n'),
        (".jsonl", b'{"text": "a \\ud83d"}\n'),
        (".jsonl", b'{"text": "a", "text": "b"}\n'),
        (".jsonl", b'{"text": "caf\xe9"}\n'),
        (".jsonl", b'{"text": "a\0"}\n'),
        (".jsonl", b'{"text": NaN}\n'),
        (".csv", b"a,b,c\n"),
        (".csv", b'"bad,0\nfine,1\nhe said "no",0\n'),
        (".csv", b'"never closed,1\n'),
        (".csv", b"caf\xe9,1\n"),
        (".tsv", b"one\n"),
    ],
)
def test_an_error_in_a_large_file_reads_as_in_a_small_one(ending: str, bad: bytes, tmp_path: Path) -> None:
    rows = [{"text": "plain", "label": "1"}] * 300
    path = write(tmp_path / f"reviews{ending}", rows)
    path.write_bytes(path.read_bytes() + bad + b"")
    said = []
    for large in (1 << 30, 2000):
        with pytest.raises(DataError) as caught:
            opening.open_file(path, large=large)
        said.append(str(caught.value))
    assert said[0] == said[1] and "reviews" in said[0] and f"line {301 + (ending != '.jsonl')}" in said[0]
    assert not cache.entries()


def test_a_column_that_one_row_lacks_is_found_without_reading_all_rows_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS, {"text": "x"}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 701: no column 'label' in this row"):
        read_table(path, required=["text", "label"])
    table = read_table(path, required="text")
    table._rows = None  # type: ignore[assignment]  # every row has it, which the index knows
    table.require("text")


def test_lone_carriage_returns_end_lines_as_they_do_in_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\r\n" + b'"a\rb",1\r\r\nplain,0\r\n' * 200)
    small, large = opening.open_file(tmp_path / "a.csv", large=1 << 30), opening.open_file(tmp_path / "a.csv")
    assert list(large.rows) == list(small.rows) and list(large.numbers) == list(small.numbers)


def test_a_line_beyond_the_limit_is_refused_before_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 1000)
    path = write(tmp_path / "a.jsonl", [{"text": "short"}] * 150 + [{"text": "long" * 2000}])
    with pytest.raises(DataError, match=r"a\.jsonl, line 151: longer than"):
        read_table(path)
    quoted = tmp_path / "a.csv"
    quoted.write_text("text,label\n" + "a,b\n" * 500 + '"' + "never closed\n" * 500, encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv, line 502: longer than"):
        read_table(quoted)


def test_a_file_that_is_cut_off_while_it_is_in_use_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    table = read_table(path)
    os.truncate(path, 500)
    with pytest.raises(DataError, match=r"a\.jsonl: the file was changed while it was in use"):
        table[699]
    with pytest.raises(DataError, match="was changed while it was in use"):
        table[0]  # what is still there may be other rows
    again = read_table(write(tmp_path / "b.jsonl", ROWS))
    assert again[0] == ROWS[0]
    (tmp_path / "b.jsonl").unlink()
    assert again[1] == ROWS[1]  # a removed file stays readable while it is open


def test_a_damaged_index_is_made_again_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", ROWS)
    assert list(read_table(path)) == ROWS
    (entry,) = cache.entries()
    for name in ("offsets.npy", "data", "numbers.npy", cache.FACTS):
        damaged = bytearray((entry.path / name).read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (entry.path / name).write_bytes(damaged)
        with pytest.warns(UserWarning, match="a damaged entry of the cache was removed"):
            assert list(read_table(path)) == ROWS
        assert list(read_table(path)) == ROWS


def test_a_cache_that_can_not_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl.gz", "a.parquet"):
        path = write(tmp_path / name, ROWS)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", _full)
            with pytest.warns(UserWarning, match=rf"{name}: what was found in it can't be kept in the cache \(No space left on device\)"):
                assert list(read_table(path)) == ROWS
    assert not cache.entries()


def _full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_no_room_to_unpack_a_large_file_is_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NABI_CACHE", "off")
    path = write(tmp_path / "a.jsonl.gz", ROWS)
    monkeypatch.setattr(opening.shutil, "copyfileobj", _full)
    with pytest.raises(StorageError, match=r"a\.jsonl\.gz: there is no room to unpack it in .*No space left"):
        read_table(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    code = (
        "import sys; from nabi.data import read_table; import numpy; from nabi.data import opening; opening.LARGE = 1 << 20; from nabi.memory import peak\n"
        "before = peak() // 1024; table = read_table(sys.argv[1])\n"
        "n = sum(len(row['text']) for row in table); print(n, peak() // 1024 - before)"
    )
    path = tmp_path / "a.jsonl"
    row = json.dumps({"text": "가나다라 " * 400}) + "\n"
    path.write_text(row * 5000, encoding="utf-8")
    assert path.stat().st_size > 50e6
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    length, grown = map(int, done.stdout.split())
    assert length == 2000 * 5000 and grown < 12_000  # kB


def test_objects_with_columns() -> None:
    rows = [{"text": f"t{i}", "label": i, "score": i / 2} for i in range(600)]
    table = arrow.Table.from_pylist(rows)
    frame = pandas.DataFrame(rows)
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    structured = np.array([tuple(row.values()) for row in rows], [("text", "U8"), ("label", "i4"), ("score", "f8")])
    lists = {name: [row[name] for row in rows] for name in rows[0]}
    for source in (table, frame, arrays, structured, lists, table.to_batches()[0].to_pylist()):
        found = read_table(source, required=["text"])
        assert list(found) == rows and found.columns == ("text", "label", "score") and found[599] == rows[599] and found[-600] == rows[0]
        assert all(type(value) in (str, int, float) for value in found[5].values())
        assert found.sha256 == read_table(rows).sha256 and found.where(2).endswith(", row 3")
    kept = read_table(frame)
    frame.loc[0, "text"] = "changed"
    assert kept[0]["text"] == "t0"


def test_data_sets_of_the_datasets_library() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"text": f"t{i}", "label": i, "tokens": ["a", "b"]} for i in range(300)]
    source = datasets.Dataset.from_list(rows)
    for given in (source, source.with_format("numpy"), source.to_iterable_dataset(), source.select(range(300))):
        assert list(read_table(given)) == rows
    with pytest.raises(DataError, match="DatasetDict: not a table"):
        read_table(datasets.DatasetDict({"train": source}))


def test_numpy_files(tmp_path: Path) -> None:
    images, labels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3), np.array([3, 1, 2, 0])
    np.savez(tmp_path / "a.npz", images=images, labels=labels, rate=8000)
    table = read_table(tmp_path / "a.npz", {"label": "labels"})
    assert len(table) == 4 and table[1]["label"] == 1 and table[2]["rate"] == 8000 and (table[3]["images"] == images[3]).all()
    audio, offsets = np.arange(10, dtype=np.int16), np.array([0, 3, 3, 10])
    np.savez_compressed(tmp_path / "b.npz", audio=audio, offsets=offsets, digit=[7, 8, 9])
    table = read_table(tmp_path / "b.npz")
    assert [row["audio"].tolist() for row in table] == [[0, 1, 2], [], [3, 4, 5, 6, 7, 8, 9]] and [row["digit"] for row in table] == [7, 8, 9]
    np.save(tmp_path / "c.npy", np.array([("a", 1), ("b", 2)], [("text", "U1"), ("label", "i8")]))
    assert list(read_table(tmp_path / "c.npy")) == [{"text": "a", "label": 1}, {"text": "b", "label": 2}]


def test_lines_of_plain_text(tmp_path: Path) -> None:
    text = "eins\r\n\n  zwei \ndrei"
    (tmp_path / "a.txt").write_bytes(text.encode())
    table = read_table(tmp_path / "a.txt")
    assert list(table) == [{"text": "eins"}, {"text": "  zwei "}, {"text": "drei"}] and table.where(2) == "a.txt, line 4"
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + text.encode() * 200)
    small, large = opening.open_file(tmp_path / "b.txt", large=1 << 30), read_table(tmp_path / "b.txt")
    assert list(large) == small.rows and isinstance(large._rows, Lazy)


def test_a_folder_and_a_pattern_of_shards(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for i in range(3):
        write(shards / f"train-{i}.jsonl.zst", ROWS[i * 100 : i * 100 + 100])
    for given in (shards, str(shards / "train-*.jsonl.zst")):
        table = read_table(given, required=["text", "label"])
        assert list(table) == ROWS[:300] and table[250] == ROWS[250] and table.columns == ("text", "label")
        assert table.where(101) == "train-1.jsonl.zst, line 2" and table.take([205]).where(0) == "train-2.jsonl.zst, line 6"
    before = table.sha256
    write(shards / "train-3.jsonl.zst", ROWS[300:301])
    assert len(read_table(shards)) == 301 and read_table(shards).sha256 != before
    write(shards / "dev-0.jsonl.zst", ROWS[:1])
    with pytest.raises(DataError, match=r"shards: files of several sides: 'dev, train'.*shards/dev\*\.jsonl\*"):
        read_table(shards)
    (shards / "dev-0.jsonl.zst").rename(shards / "notes.csv")
    with pytest.raises(DataError, match=r"files of several kinds"):
        read_table(shards)
    with pytest.raises(DataError, match=r"no file fits this pattern"):
        read_table(str(shards / "test-*"))


def test_more_shards_than_files_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nabi.data import records

    monkeypatch.setattr(records, "OPEN", 3)
    monkeypatch.setattr(opening, "LARGE", 100)
    for i in range(8):
        write(tmp_path / f"part-{i}.jsonl", ROWS[i * 10 : i * 10 + 10])
    table = read_table(tmp_path)
    assert [table[i] for i in (75, 5, 15, 65, 25, 35, 5, 75)] == [ROWS[i] for i in (75, 5, 15, 65, 25, 35, 5, 75)]


def test_back_to_numpy_pandas_and_arrow() -> None:
    rows = [{"text": "a", "n": 1, "x": 0.5, "yes": True, "tags": ["u"], "maybe": None}, {"text": "b", "n": 2, "x": -1.5, "yes": False, "tags": [], "maybe": 3}]
    table = read_table(rows)
    arrays = table.to_numpy()
    assert {name: array.dtype.kind for name, array in arrays.items()} == {"text": "O", "n": "i", "x": "f", "yes": "b", "tags": "O", "maybe": "O"}
    frame = table.to_pandas()
    assert frame["n"].tolist() == [1, 2] and list(frame.columns) == list(table.columns)
    for back in (arrays, frame, table.to_arrow()):
        assert list(read_table(back)) == rows
    assert list(table.to_numpy(["x"])) == ["x"] and table.to_arrow(["text"]).column_names == ["text"]
    with pytest.raises(DataError, match=r"no column 'y'"):
        table.to_numpy(["y"])
    with pytest.raises(DataError, match=r"can't be one Arrow table"):
        read_table([{"a": 1}, {"a": "x"}]).to_arrow()


@pytest.mark.parametrize(
    "source",
    [{"a": np.zeros(2), "b": np.zeros(3)}, np.zeros((3, 2)), {"a": np.float64(3)}, {}, 5, "\0", {"a": [1, 2], "b": [1]}],
    ids=["lengths", "no_names", "no_rows", "empty", "number", "nul", "lists"],
)
def test_what_is_no_table_is_an_error_of_ours(source: Any) -> None:
    with pytest.raises(NabiError):
        read_table(source)


def test_column_names_of_any_kind(tmp_path: Path) -> None:
    names = ["__class__", "a b", "../x", "가", "'\"", "\n", "${HOME}", "x" * 5000]
    rows = [dict.fromkeys(names, "v") | {"n": i} for i in range(3)]
    assert list(read_table(write(tmp_path / "a.jsonl", rows))) == rows
    table = read_table(write(tmp_path / "b.csv", [dict.fromkeys(names, "v")] * 3), {"text": "__class__"})
    assert table[0]["text"] == "v" and table.to_pandas().shape == (3, 8)
    with pytest.raises(DataError) as caught:
        table.require("lost")
    assert "\n" not in str(caught.value)
