"""Encoded rows that are kept: a second run tokenises nothing and reads exactly the same; what changes them makes others; damage never goes unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.kit import CELLS, examples_of, model_of
from nabi import Plan, cache, fit
from nabi.batch import Row
from nabi.data import Table, read_table
from nabi.data.binary import Unstorable, from_bytes, to_bytes
from nabi.data.records import Records
from nabi.errors import DataError
from nabi.model import Model
from nabi.tasks.text_classification import ClassificationSettings, TextClassification
from nabi.text import Tokenizer
from nabi.training import encoded as encoding
from nabi.training.encoded import encoded
from nabi.training.progress import Progress
from training.small import SIZE, model, rows, same, vocabulary, weights

FAMILY_OF = {task: family for family, task in reversed(CELLS)}  # one body for each task


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def built(words: Path) -> Model:
    return model(words)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that any tokenizer was asked for."""
    found: list[str] = []
    asked = Tokenizer.encode

    def counted(self: Tokenizer, text: str, pair: str | None = None, *, special: bool = True) -> Any:
        found.append(text)
        return asked(self, text, pair, special=special)

    monkeypatch.setattr(Tokenizer, "encode", counted)
    return found


def listed(found: Sequence[list[Row]]) -> list[list[Row]]:
    return [found[i] for i in range(len(found))]


def exact(found: Sequence[list[Row]], fresh: Sequence[list[Row]]) -> bool:
    """Whether rows are equal, types included."""
    mine, theirs = ([[plain(vars(row)) for row in rows] for rows in listed(side)] for side in (found, fresh))
    return repr(mine) == repr(theirs) and mine == theirs


def plain(value: Any) -> Any:
    """With the type, the shape and the bytes of an array in place of it, since arrays have no equality."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def test_a_second_run_tokenises_nothing_and_ends_with_the_same_weights(words: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> Any:
        calls.clear()
        given = {"family": "bert", "size": SIZE, "tokenizer": words, "dev": rows(12, 1), "progress": Progress("quiet", open(os.devnull, "w"))}  # noqa: SIM115, PTH123
        return fit("text_classification", rows(30), plan=Plan(steps=6, batch=8, learning_rate=1e-3), **given)

    first, counted = run(), len(calls)
    assert counted == 42  # each row once, however often dev is evaluated
    second = run()
    assert calls == []
    assert same(weights(first.model), weights(second.model)) and first.metrics == second.metrics
    monkeypatch.setenv("NABI_CACHE", "off")
    third = run()
    assert len(calls) == counted and same(weights(first.model), weights(third.model)) and first.metrics == third.metrics


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", ["train", "evaluate"])
@pytest.mark.parametrize("task", sorted(FAMILY_OF))
def test_the_rows_of_every_task_come_back_exactly(task: str, use: Any, tokenizer: Path) -> None:
    made = model_of(FAMILY_OF[task], task, tokenizer)
    table, options = made.task.opened(read_table(examples_of(task))), made.options()
    fresh = [made.encode(e, options, use, table.where(i), i) for i, e in enumerate(table)]
    for _ in range(2):
        found = encoded(made, table, options, use, pytest.fail)
        assert isinstance(found, Records) and len(found) == len(fresh) and exact(found, fresh)
    assert len(cache.entries()) == 1


def test_what_decides_the_rows_is_in_the_key(built: Model, words: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(5)
    table, options = read_table(data), built.options()
    encoded(built, table, options, "train", pytest.fail)
    other_words = vocabulary(tmp_path_factory.mktemp("other"))
    (other_words / "vocab.txt").write_text((other_words / "vocab.txt").read_text(encoding="utf-8").replace("\nthe\n", "\nzzz\n"), encoding="utf-8")
    others = [
        (built, table, options, "evaluate"),
        (built, read_table([*data[:4], {**data[4], "label": "pos" if data[4]["label"] == "neg" else "neg"}]), options, "train"),
        (built, read_table(data, {"label": "text", "text": "label"}), built.options({"long": "truncate"}), "evaluate"),
        (built, table, built.options({"max_length": 9, "stride": 2}), "train"),
        (model(words, ClassificationSettings(labels=("pos", "neg"))), table, options, "train"),
        (model(other_words), table, options, "train"),
    ]
    for number, (made, source, chosen, use) in enumerate(others, 2):
        found = encoded(made, source, chosen, use, pytest.fail)  # type: ignore[arg-type]
        assert len(cache.entries()) == number
        assert exact(found, [made.encode(e, chosen, use, "", i) for i, e in enumerate(source)])  # type: ignore[arg-type]
    monkeypatch.setattr(encoding, "code", lambda: "a new version")
    encoded(built, table, options, "train", pytest.fail)
    assert len(cache.entries()) == len(others) + 2


def test_swapped_columns_of_one_file_are_other_rows(words: Path, tmp_path: Path) -> None:
    made = model(words, ClassificationSettings(labels=("a film", "good")))
    data = tmp_path / "a.csv"
    data.write_text("x,y\na film,good\ngood,a film\n", encoding="utf-8")
    for columns in ({"text": "x", "label": "y"}, {"text": "y", "label": "x"}):
        table = read_table(data, columns)
        found = encoded(made, table, made.options(), "train", pytest.fail)
        assert exact(found, [made.encode(e, made.options(), "train", "", i) for i, e in enumerate(table)])
    assert len(cache.entries()) == 2


def test_the_file_may_have_another_name_and_warnings_come_again(tokenizer: Path, tmp_path: Path) -> None:
    made = model_of(FAMILY_OF["question_answering"], "question_answering", tokenizer)
    context = "a good film " * 60
    row = [{"question": "so", "context": context, "answers": [{"text": context.strip(), "start": 0}]}]
    said = []
    for name in ("one", "two"):
        with pytest.warns(UserWarning, match=f"{name}, row 1: the answer fits whole into no window") as caught:
            encoded(made, Table(row, name), made.options(), "train", pytest.fail)
        said.append(len(caught))
    assert said == [1, 1] and len(cache.entries()) == 1


@pytest.mark.parametrize("name", ["rows.bin", "offsets.npy", cache.FACTS])
@pytest.mark.parametrize("how", ["flipped", "cut", "lost"])
def test_a_damaged_entry_is_made_again_with_one_warning(name: str, how: str, built: Model) -> None:
    table, options = read_table(rows(20)), built.options()
    fresh = listed(encoded(built, table, options, "train", pytest.fail))
    (entry,) = cache.entries()
    content = bytearray((entry.path / name).read_bytes())
    content[len(content) // 2] ^= 4
    if how == "lost":
        (entry.path / name).unlink()
    else:
        (entry.path / name).write_bytes(content if how == "flipped" else content[:-1])
    with pytest.warns(UserWarning, match="a damaged entry of the cache was removed and is made again") as caught:
        found = encoded(built, table, options, "train", pytest.fail)
    assert len(caught) == 1 and exact(found, fresh)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert exact(encoded(built, table, options, "train", pytest.fail), fresh)


def test_a_full_disk_leaves_the_rows_in_memory_and_says_so_in_one_sentence(built: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    table, options, said = read_table(rows(20)), built.options(), list[str]()

    def full(path: Path, numbers: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "save_numbers", full)
        found = encoded(built, table, options, "train", said.append)
    assert said == ["The encoded rows can't be kept in the cache (No space left on device), so they stay in memory."]
    assert isinstance(found, list) and not cache.entries()
    assert not any(p.is_file() for p in (cache.folder() or Path()).rglob("*"))
    assert exact(encoded(built, table, options, "train", pytest.fail), found)


def test_a_row_that_can_not_be_read_leaves_nothing_behind(built: Model) -> None:
    table = read_table([*rows(3), {"text": "good", "label": "strange"}])
    with pytest.raises(DataError, match="list, row 4"):
        encoded(built, table, built.options(), "train", pytest.fail)
    assert not any(p.is_file() for p in (cache.folder() or Path()).rglob("*"))


def test_two_writers_of_one_entry_do_no_harm() -> None:
    with cache.writing("rows", "ab" * 32, "outer", {}) as outer:
        (outer / "x").write_bytes(b"same")
        with cache.writing("rows", "ab" * 32, "inner", {}) as inner:
            assert inner != outer
            (inner / "x").write_bytes(b"same")
    found = cache.find("rows", "ab" * 32)
    assert found is not None and (found[0] / "x").read_bytes() == b"same" and [e.about for e in cache.entries()] == ["inner"]


def test_what_a_killed_writer_left_is_no_entry_and_can_be_pruned(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import time\nfrom nabi import cache\nwith cache.writing('rows', 'cd' * 32, 'x', {}) as draft:\n"
        "    (draft / 'rows.bin').write_bytes(b'half')\n    print('there', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert cache.find("rows", "cd" * 32) is None and not cache.entries()
    later = time.time() + 2 * cache.LEFT_BEHIND
    monkeypatch.setattr(cache.time, "time", lambda: later)
    (entry,) = cache.prunable(cache.entries())
    assert entry.about == "left behind by a run that was ended" and cache.discard(entry.path) == 4 and not any((place / "rows").iterdir())


def test_an_entry_that_is_removed_while_it_is_read_stays_readable(built: Model) -> None:
    table, options = read_table(rows(20)), built.options()
    found = encoded(built, table, options, "train", pytest.fail)
    first = found[0]
    cache.discard(cache.entries()[0].path)
    assert found[0] == first and len(listed(found)) == 20


def test_the_task_of_a_plugin_is_encoded_anew_each_time(built: Model, words: Path) -> None:
    class Mine(TextClassification):
        name = "mine"

    made = model(words)
    made.task.__class__ = Mine
    assert isinstance(encoded(made, read_table(rows(3)), made.options(), "train", pytest.fail), list) and not cache.entries()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(PLAIN | st.lists(st.integers(0, 300)) | st.lists(st.none() | st.integers(-9, 9)) | st.lists(st.tuples(st.integers(), st.integers())))
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    assert repr(from_bytes(to_bytes(value))) == repr(value)


def test_arrays_come_back_and_what_has_no_bytes_is_refused() -> None:
    for value in (np.arange(6, dtype=np.int16).reshape(2, 3), np.float32(0.1), np.zeros((0, 4)), np.array(["a", "bc"]), np.datetime64("2026-01-01")):
        back = from_bytes(to_bytes({"x": value}))["x"]
        assert type(back) is type(value) and back.dtype == value.dtype and np.array_equal(back, value)
    assert from_bytes(to_bytes("\ud800")) == "\ud800"
    for strange in (object(), {1: 2}, [len], np.array([object()])):
        with pytest.raises(Unstorable):
            to_bytes(strange)
    anchor = object()
    assert from_bytes(to_bytes([anchor], {"it": anchor}), {"it": anchor}) == [anchor]


def test_a_row_of_tokens_takes_two_bytes_a_token() -> None:
    assert len(to_bytes(list(range(1000)))) < 2010
