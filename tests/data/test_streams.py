"""Streams: rows in constant memory, shuffled by a buffer; what ``fit`` does with one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_files import write
from nabi import Plan, fit
from nabi.data import Stream, read_table, stream_table, streams
from nabi.data.records import Records
from nabi.errors import DataError, NabiError, OptionError, StorageError
from nabi.training.progress import Progress
from training.small import SIZE, rows, vocabulary

ROWS = [{"text": f"t{i}", "label": i} for i in range(500)]


def numbers(stream: Stream) -> list[int]:
    return [row["label"] for row in stream]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".parquet.gz", ".arrow", ".csv"])
def test_a_file_is_streamed_as_it_is_read(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{ending}", ROWS)
    assert list(stream_table(path)) == list(read_table(path)) and len(list(stream_table(path))) == 500
    stream = stream_table(path, {"body": "text"})
    assert next(iter(stream))["body"] == "t0" and next(iter(stream))["body"] == "t0"  # each time from the beginning


def test_sources_in_memory() -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")

    def made() -> Iterator[dict[str, Any]]:
        yield from ROWS

    whole = datasets.Dataset.from_list(ROWS)
    for source in (ROWS, made, iter(ROWS), pandas.DataFrame(ROWS), whole, whole.to_iterable_dataset(), read_table(ROWS), stream_table(ROWS)):
        assert list(stream_table(source)) == ROWS
        if source is not made and hasattr(source, "__next__"):
            continue
        assert list(read_table(source)) == ROWS
    again = stream_table(made)
    assert list(again) == list(again) == ROWS
    assert repr(again) == "Stream('function')"


def test_shuffle_is_a_permutation_that_the_seed_chooses_and_the_buffer_bounds() -> None:
    stream = stream_table(ROWS)
    mixed = numbers(stream.shuffle(buffer_size=100, seed=3))
    assert sorted(mixed) == list(range(500)) and mixed != list(range(500))
    assert mixed == numbers(stream.shuffle(100, 3)) != numbers(stream.shuffle(100, 4))
    assert all(number <= place + 99 for place, number in enumerate(mixed))  # a row never comes before it was read
    assert numbers(stream.shuffle(1)) == list(range(500))
    assert sorted(numbers(stream.shuffle(10_000))) == list(range(500))
    with pytest.raises(OptionError, match="the buffer is too small: 0"):
        stream.shuffle(0)


def test_take_skip_and_map() -> None:
    stream = stream_table(ROWS)
    assert numbers(stream.take(3)) == [0, 1, 2] and numbers(stream.skip(497)) == [497, 498, 499]
    assert numbers(stream.skip(10).map(lambda row: {"label": row["label"] * 2}).take(2)) == [20, 22]
    assert not list(stream.take(0))


def test_shards_are_read_one_after_the_other(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"train-{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[i * 10 : i * 10 + 10]), encoding="utf-8")
    assert numbers(stream_table(str(tmp_path / "train-*.jsonl"))) == numbers(stream_table(tmp_path)) == list(range(30))


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps({"text": "가나다라 " * 400}) + "\n") * 5000, encoding="utf-8")
    code = (
        "import sys; from nabi.data import stream_table; import json, random, decimal; from nabi.memory import peak\n"
        "before = peak() // 1024\n"
        "n = sum(len(row['text']) for row in stream_table(sys.argv[1]).shuffle(100)); print(n, peak() // 1024 - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    length, grown = map(int, done.stdout.split())
    assert length == 2000 * 5000 and grown < 8_000  # kB; the file has 62 MB


def test_errors_name_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    stream = iter(stream_table(tmp_path / "a.jsonl"))
    assert next(stream) == {"text": "a"}
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not JSON"):
        next(stream)
    with pytest.raises(DataError, match=r"generator, row 2: not a dict with string keys"):
        list(stream_table(x for x in [{"a": 1}, 5]))
    with pytest.raises(DataError, match=r"list, row 1: no column 'body'"):
        list(stream_table([{"text": "a"}], {"text": "body"}))
    for wrong in (tmp_path / "lost.jsonl", tmp_path / "a.xyz", 5, "\0"):
        with pytest.raises(NabiError):
            list(stream_table(wrong))


def test_a_long_stream_is_written_to_disk_and_a_short_one_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [{"text": "x" * 50, "n": i, "deep": [{"a": (1, 2.5)}], "array": np.arange(i % 3)} for i in range(200)]
    assert isinstance(read_table(iter(given))._rows, list)
    monkeypatch.setattr(streams, "HELD", 1000)
    for source in (iter(given), lambda: iter(given), stream_table(lambda: iter(given)).shuffle(1)):
        table = read_table(source)
        assert isinstance(table._rows, Records) and table.spooled > 200 * 50
        assert repr(list(table)) == repr(given) and repr(table[150]) == repr(given[150]) and table.where(7).endswith(", row 8")
        assert table.sha256 == read_table(given).sha256
    assert isinstance(read_table(given)._rows, list)  # it is in memory already


def test_a_long_stream_of_what_can_not_be_written_or_finds_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HELD", 1000)
    with pytest.raises(DataError, match=r"generator, row 31: a value of type object can't be written to disk"):
        read_table({"text": "x" * 50, "what": object() if i == 30 else 0} for i in range(100))

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 2000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(streams.tempfile, "TemporaryFile", Full)
    with pytest.raises(StorageError, match=r"generator: there is no room in .* for the stream's rows \(\d+ so far\).*No space left"):
        read_table({"text": "x" * 50} for _ in range(100))


def test_fit_takes_a_stream_and_says_that_it_was_spooled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(streams, "HELD", 500)
    said = io.StringIO()
    given = {"family": "bert", "size": SIZE, "tokenizer": vocabulary(tmp_path / "words"), "progress": Progress("quiet", said), "plan": Plan(steps=2, batch=4)}
    spooled = fit("text_classification", iter(rows(30)), **given)
    assert "The data is a stream: its 30 rows were written to disk first" in said.getvalue()
    listed = fit("text_classification", rows(30), **given)
    assert [e["loss"] for e in spooled.history] == [e["loss"] for e in listed.history] and said.getvalue().count("stream") == 1
