"""The seeds' loader: local streams, a buffer that shuffles, sequences of constant length."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from nabi.compat import AutoTokenizer, ConstantLengthDataset, load_dataset
from nabi.errors import DataError, OptionError
from tasks.written import tokenizer as written_tokenizer

ROWS = [{"content": f"the cat {'sat ' * (i % 7)}on mat {i}"} for i in range(30)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(written_tokenizer("gpt2", tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("train-0.jsonl", ROWS[:10]), ("train-1.json.gz", ROWS[10:]), ("dev-0.jsonl", ROWS[:1])):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return tmp_path


def test_local_files_are_streamed_again_and_again(folder: Path) -> None:
    stream = load_dataset(folder, split="train", streaming=True)
    assert list(stream) == list(stream) == ROWS
    assert list(stream.skip(3).take(4)) == ROWS[3:7]
    assert list(load_dataset(folder, streaming=True)) == [ROWS[0], *ROWS]
    assert list(load_dataset("json", data_files=str(folder / "train-0.jsonl"), streaming=True)) == ROWS[:10]
    assert list(load_dataset(str(folder / "train-1.json.gz"), streaming=True)) == ROWS[10:]


def test_a_buffer_shuffles_the_same_way_each_time_and_no_further_than_it_reaches(folder: Path) -> None:
    stream = load_dataset(folder, split="train", streaming=True)
    shuffled = list(stream.shuffle(buffer_size=8))
    assert shuffled == list(stream.shuffle(0, buffer_size=8)) != list(stream.shuffle(1, buffer_size=8))
    assert shuffled != ROWS and sorted(map(str, shuffled)) == sorted(map(str, ROWS))
    assert all(ROWS.index(row) < place + 8 for place, row in enumerate(shuffled)), "a row comes when it is in the buffer"
    assert list(stream.shuffle(buffer_size=1)) == ROWS and sorted(map(str, stream.shuffle(buffer_size=99))) == sorted(map(str, ROWS))


def test_what_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match="streaming=True"):
        load_dataset(folder)
    with pytest.raises(DataError, match="no such files of JSON lines.*nothing is fetched"):
        load_dataset(folder / "codeparrot", streaming=True)
    with pytest.raises(OptionError, match="the buffer is too small: 0"):
        load_dataset(folder, streaming=True).shuffle(buffer_size=0)


def joined(words: Any, rows: list[dict[str, str]]) -> list[int]:
    return [i for row in rows for i in (*words(row["content"])["input_ids"], words.eos_token_id)]


def test_sequences_are_the_documents_joined_by_the_end_token_and_the_buffer_tells_how_it_fills(words: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = ConstantLengthDataset(words, ROWS, seq_length=16, num_of_sequences=2, chars_per_token=2.0)
    found = list(islice(made, 60))
    said = capsys.readouterr().out.splitlines()
    expected: list[int] = []
    rows, printed, place = [], [], 0
    while len(expected) < 60 * 16:
        buffer, size = [], 0
        while size < 64:
            printed.append(f"Fill buffer: {size}<64")
            if place == len(ROWS):  # it is over, and begins anew
                place = 0
                continue
            buffer.append(ROWS[place])
            size += len(ROWS[place]["content"])
            place += 1
        printed.append(f"Buffer full: {size}>=64")
        ids = joined(words, buffer)
        expected += ids[: len(ids) // 16 * 16]
        rows += buffer
    assert [i for x in found for i in x.tolist()] == expected[: 60 * 16]
    assert all(x.shape == (16,) and x.dtype == torch.int64 for x in found) and len(rows) > len(ROWS)
    assert said == printed


def test_a_loader_batches_them(words: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = ConstantLengthDataset(words, ROWS, seq_length=16, num_of_sequences=4)
    assert next(iter(DataLoader(made, batch_size=3))).shape == (3, 16)
    with pytest.raises(OptionError, match="each worker would read the same documents"):
        next(iter(DataLoader(made, batch_size=3, num_workers=2)))


class Once:
    def __iter__(self) -> Iterator[dict[str, str]]:
        return self

    def __next__(self) -> dict[str, str]:
        raise StopIteration


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "gives no text"), (Once(), "gives no text"), ([{"content": ""}], "gives no text"), (iter(ROWS), "gives no text"),
        ([{"text": "a"}], "no text in 'content'"),
    ],
)
def test_what_would_never_end_is_an_error(dataset: Any, message: str, words: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=message):
        list(ConstantLengthDataset(words, dataset, seq_length=16, num_of_sequences=2))
    with pytest.raises(OptionError, match="can't make sequences"):
        ConstantLengthDataset(words, ROWS, seq_length=0)
