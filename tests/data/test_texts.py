"""Texts of files, folders and things in memory: the same ones each time, with their places, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nabi.data import read_table, stream_table
from nabi.data.texts import BLOCK, MOST, Texts, _cut, open_files, open_texts
from nabi.errors import DataError, OptionError

TEXTS = ['나비, "x"', "b\nc", "  d"]


def plain(texts: Texts) -> list[str]:
    return [text for _, text in texts]


def as_lines(texts: list[str], column: str = "content") -> bytes:
    return "".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts).encode()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    lines = as_lines(TEXTS)
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines[:50]) + zstandard.compress(lines[50:]))
    quoted = "id,content\n" + "".join('1,"{}"\n'.format(text.replace('"', '""')) for text in TEXTS)
    (tmp_path / "a.csv").write_text(quoted, encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps([{"content": text} for text in TEXTS]), encoding="utf-8")
    pq.write_table(pa.table({"content": TEXTS}), tmp_path / "a.parquet")
    return sorted(tmp_path.iterdir())


def test_all_kinds_of_files_give_the_same_texts_again_and_again(files: list[Path]) -> None:
    assert len(files) == 6
    for path in files:
        for source in (open_files([path]), open_texts(path, None), open_texts(str(path), "content")):
            assert plain(source) == plain(source) == TEXTS, path.name
    assert plain(open_files(files)) == TEXTS * 6
    assert plain(open_files([files[0].parent])) == TEXTS * 6


def test_each_text_has_its_place_in_its_source(files: list[Path], tmp_path: Path) -> None:
    found = {path.name: [where for where, _ in open_texts(path, "content")] for path in files}
    assert found["a.jsonl.zst"] == [f"a.jsonl.zst, line {i}" for i in (1, 2, 3)]
    assert found["a.csv"] == ["a.csv, line 2", "a.csv, line 3", "a.csv, line 5"]  # a line end stands between quotes
    assert found["a.parquet"] == [f"a.parquet, row {i}" for i in (1, 2, 3)]
    assert list(open_texts(TEXTS, identity="x")) == [(f"list, row {i}", text) for i, text in enumerate(TEXTS, 1)]
    skipped = stream_table(tmp_path / "a.jsonl").skip(1)
    assert [where for where, _ in open_texts(skipped, "content", "x")] == ["a.jsonl, line 2", "a.jsonl, line 3"]


def test_of_a_corpus_the_training_shards_are_read_and_of_another_folder_all_files(tmp_path: Path) -> None:
    corpus = tmp_path / "[1] corpus"
    corpus.mkdir()
    for name in ("train-00001.jsonl.zst", "train-00000.jsonl.zst", "dev-00000.jsonl.zst"):
        (corpus / name).write_bytes(zstandard.compress(as_lines([name], "text")))
    (corpus / "train-00000.jsonl.zst.part").write_bytes(b"half")
    assert plain(open_files([corpus])) == plain(open_texts(corpus)) == ["train-00000.jsonl.zst", "train-00001.jsonl.zst"]
    code = tmp_path / "code"
    (code / "b").mkdir(parents=True)
    (code / "b" / "a.py").write_text("x = 1\n\ny = 2\n")
    (code / "a.md").write_text("# a\n")
    (code / "c.bin").write_bytes(b"\xff")
    assert list(open_files([code])) == [("a.md, line 1", "# a\n"), ("a.py, line 1", "x = 1\n\ny = 2\n")]
    with pytest.raises(DataError, match="this folder holds no corpus"):
        open_texts(code)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"nothing to read in the folder.*train-.*\.py"):
        open_files([tmp_path / "none"])


def test_a_text_file_is_read_in_pieces_that_are_cut_where_no_word_notices(tmp_path: Path) -> None:
    large = "\ufeff" + "".join(f"word{i} and\n  나비 more " for i in range(150_000))
    (tmp_path / "a.txt").write_text(large, encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(large.encode()))
    for name in ("a.txt", "a.txt.gz"):
        pieces = list(open_files([tmp_path / name]))
        assert len(pieces) > 3 and "".join(text for _, text in pieces) == large[1:]
        assert all(text[0] == " " and text[1].isalnum() and text[1].isascii() for _, text in pieces[1:])
        before = "".join(text for _, text in pieces[:2]).count("\n")
        assert pieces[2][0] == f"{name}, line {before + 1}"
    (tmp_path / "b.txt").write_text("나" * (MOST + 3 * BLOCK), encoding="utf-8")  # no place for a cut
    lengths = [len(text) for text in plain(open_files([tmp_path / "b.txt"]))]
    assert len(lengths) == 2 and sum(lengths) == MOST + 3 * BLOCK
    assert _cut("a b  c 나, d", 0) == 1 and _cut("a b  c", 2) == _cut(" b", 0) == _cut("b ", 0) == 0
    (tmp_path / "c.txt").write_text("")
    assert plain(open_files([tmp_path / "c.txt"])) == []


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl, line 2: not JSON"),
        ("b.jsonl", b'{"text": 3}\n', "b.jsonl, line 1: the text is a number"),
        ("b.jsonl", b'{"text": "\\ud83d"}\n', "b.jsonl, line 1: half of a surrogate pair"),
        ("c.txt", b"a\n\xff\xfe", "c.txt, line 2: not UTF-8 at byte offset 2"),
        ("c.py", b"x\n" * BLOCK + b"\xb3\xaa\xba\xf1" * 9, rf"c.py, line {BLOCK + 1}: not UTF-8 at byte offset {2 * BLOCK}: .*CP949"),
        ("c.md", b"\n" + b"y" * (BLOCK - 2) + b"\xea\xb0", rf"c.md, line 2: not UTF-8 at byte offset {BLOCK - 1}"),
        ("d.jsonl.zst", zstandard.compress(b'{"text": "a"}\n' * 99)[:-9], "d.jsonl.zst: the zstd data is cut off"),
        ("d.txt.gz", gzip.compress(b"a b c d e f", mtime=0)[:-4], "d.txt.gz: the gzip data is cut off"),
        ("d.py.gz", b"x = 1", "d.py.gz: not a gzip file"),
        ("e.parquet", b"PAR1", "e.parquet: not a whole Parquet file"),
        ("f.csv", b"id,label\n1,2\n", r"f.csv, line 2: no column 'text'.*id, label.*--columns text="),
        ("g.exe", b"MZ", r"unknown file ending.*\.py"),
    ],
)
def test_broken_files_are_named(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        list(open_files([tmp_path / name]))


def test_a_source_is_known_by_its_content(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(as_lines(TEXTS))
    one, two = (open_texts(tmp_path / folder / "a.jsonl", "content") for folder in ("one", "two"))
    assert one.sha256 == two.sha256 and one.name == "a.jsonl"
    (tmp_path / "two" / "a.jsonl").write_bytes(as_lines(TEXTS[::-1]))
    assert open_texts(tmp_path / "two" / "a.jsonl", "content").sha256 != one.sha256
    table = read_table([{"text": text} for text in TEXTS])
    assert open_texts(table).sha256 == table.sha256 and plain(open_texts(table)) == TEXTS
    assert open_texts(pa.table({"text": TEXTS})).sha256 == open_texts({"text": TEXTS}).sha256 == table.sha256
    assert open_texts(TEXTS, identity="x").sha256 == open_texts(iter(TEXTS), identity="x").sha256 != open_texts(TEXTS, identity="y").sha256


@pytest.mark.parametrize("source", [TEXTS, iter(TEXTS), lambda: TEXTS, stream_table(lambda: iter(()))])
def test_what_can_t_be_seen_before_it_is_read_needs_a_name(source: Any) -> None:
    with pytest.raises(OptionError, match=r"what these texts are can't be seen.*corpus="):
        open_texts(source)


@pytest.mark.parametrize("source", [3, b"a", None])
def test_what_holds_no_texts_is_refused(source: Any) -> None:
    with pytest.raises(DataError, match="no source of texts"):
        open_texts(source, identity="x")


def test_memory_does_not_grow_with_a_packed_file_or_a_file_of_text(tmp_path: Path) -> None:
    text = "가나다라 abc def " * 200
    lines = (json.dumps({"text": text[:1600] + os.urandom(500).hex()}) + "\n" for _ in range(12_000))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress("".join(lines).encode()))
    (tmp_path / "a.txt").write_text(text * 6000, encoding="utf-8")
    code = (
        "import sys, zstandard; from nabi.data.texts import open_files; from nabi.memory import peak\n"
        "before = peak() // 1024\n"
        "n = sum(len(text) for _, text in open_files(sys.argv[1:])); print(n, peak() // 1024 - before)"
    )
    call = [sys.executable, "-c", code, str(tmp_path / "a.jsonl.zst"), str(tmp_path / "a.txt")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    length, grown = map(int, done.stdout.split())
    assert length == 2600 * 12_000 + len(text) * 6000 and grown < 30_000  # kB; they hold 60 MB and 23 MB
