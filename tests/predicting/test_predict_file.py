"""Batch inference over a file: what it reads and writes, what it keeps when it stops, and what it refuses."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nabi
from nabi import cli, pool
from nabi.data import read_table, stream_table
from nabi.errors import DataError, InputError, OptionError, StorageError, UserError, WorkError
from nabi.model import CHUNK, Model
from nabi.predicting import predict_file, running
from nabi.predicting.source import Reader, Source
from nabi.predicting.work import Work
from nabi.progress import Telling
from nabi.tasks.question_answering import AnsweringSettings
from predicting.tiny import ENVIRONMENT, command, data, model

COUNT, PART = 230, 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Model:
    return nabi.load(folder, precision="fp32")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return data(tmp_path / "rows.jsonl", COUNT)


@pytest.fixture
def run(loaded: Model, rows: Path, tmp_path: Path) -> Callable[..., Any]:
    """``predict_file`` with what is usual here."""

    def call(source: Any = rows, out: str = "out.jsonl", **given: Any) -> Any:
        return predict_file(loaded, source, tmp_path / out, **{"part": PART, "keep": ("id",), **given})

    return call


@pytest.fixture
def wanted(run: Callable[..., Any], tmp_path: Path) -> bytes:
    """The bytes of a run that nothing disturbs."""
    run(out="whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts that were answered."""
    found, answer = [], running.Parts.__call__

    def noting(self: Any, number: int) -> Any:
        found.append(number)
        return answer(self, number)

    monkeypatch.setattr(running.Parts, "__call__", noting)
    return found


def stop(monkeypatch: pytest.MonkeyPatch, after: int, problem: BaseException | None = None) -> None:
    """The run ends when so many parts are done."""
    commit = Work.commit

    def stopping(self: Work, number: int, facts: dict[str, Any]) -> None:
        commit(self, number, facts)
        if len(self.done) == after:
            raise problem or KeyboardInterrupt

    monkeypatch.setattr(Work, "commit", stopping)


def stopped(run: Callable[..., Any], after: int = 2, **given: Any) -> None:
    """A run that was ended when so many parts were done."""
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, after)
        with pytest.raises(KeyboardInterrupt):
            run(**given)


def hidden(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))


# ---- what it reads and writes --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.jsonl", "out", "out.csv", "out.tsv", "out.parquet", "out.jsonl.gz", "out.csv.zst"])
def test_each_format_holds_the_answers(name: str, loaded: Model, run: Callable[..., Any], rows: Path, tmp_path: Path) -> None:
    done = run(out=name)
    assert (done.rows, done.answers, done.errors, done.resumed, done.task) == (COUNT, COUNT, 0, 0, "text_classification") and not hidden(tmp_path)
    answers = [{"id": i, **answer} for i, answer in enumerate(loaded.predict(list(read_table(rows))))]
    (tmp_path / name).rename(path := tmp_path / ("again" + ("".join(Path(name).suffixes) or ".jsonl")))
    found = list(read_table(path))
    if ".csv" in name or ".tsv" in name:
        answers = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in answer.items()} for answer in answers]
    assert [list(row) for row in found] == [list(row) for row in answers]
    for got, expected in zip(found, answers, strict=True):  # a part is packed otherwise than the whole
        for key in expected:
            assert got[key] == pytest.approx(expected[key], rel=1e-4) if isinstance(expected[key], float) else True
        assert got["id"] == expected["id"] and got["label"] == expected["label"]


def test_the_usual_part_gives_the_bytes_that_are_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = data(tmp_path / "rows.jsonl", CHUNK + 10)
    predict_file(folder, rows, tmp_path / "out.jsonl")
    assert call("predict", folder, "--data", rows, "--json") == 0
    assert capsys.readouterr().out.encode() == (tmp_path / "out.jsonl").read_bytes()


def test_every_form_of_the_data_gives_the_same_answers(run: Callable[..., Any], rows: Path, wanted: bytes, tmp_path: Path) -> None:
    table, many = read_table(rows), tmp_path / "many"
    many.mkdir()
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    (tmp_path / "rows.csv").write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in table))
    lines = rows.read_bytes().splitlines(keepends=True)
    for number in range(3):
        (many / f"{number}.jsonl").write_bytes(b"".join(lines[number * 90 : number * 90 + 90]))
    import pyarrow.parquet as parquet

    parquet.write_table(table.to_arrow(), tmp_path / "rows.parquet", row_group_size=70)
    forms = {"gz": tmp_path / "rows.jsonl.gz", "parquet": tmp_path / "rows.parquet", "folder": many, "pattern": f"{many}/*.jsonl", "csv": tmp_path / "rows.csv",
             "frame": table.to_pandas(), "list": list(table), "iterator": iter(list(table)), "stream": stream_table(rows)}  # fmt: skip
    for name, source in forms.items():
        stopped(run, after=3, source=iter(list(table)) if name == "iterator" else source, out=f"{name}.jsonl")
        assert run(source, out=f"{name}.jsonl").resumed == 3 * PART
        found = (tmp_path / f"{name}.jsonl").read_bytes()
        if name == "csv":  # whose cells are text
            found = b"".join(json.dumps({**row, "id": int(row["id"])}, ensure_ascii=False).encode() + b"\n" for row in map(json.loads, found.splitlines()))
        assert found == wanted, name


def test_a_row_of_several_questions_gives_several_answers(folder: Path, tmp_path: Path) -> None:
    sizes = {"vocab_size": 1, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": 64}
    reader = nabi.create("bert", sizes, "question_answering", AnsweringSettings(), folder.parent / "tokenizer")
    squad = [{"context": f"good film {i}", "questions": [{"id": f"{i}-{k}", "question": "film", "answers": []} for k in range(3)]} for i in range(7)]
    done = predict_file(reader, squad, tmp_path / "out.jsonl", part=2)
    assert (done.rows, done.answers) == (7, 21) and len((tmp_path / "out.jsonl").read_text().splitlines()) == 21


def test_columns_are_renamed_and_kept_by_either_name(run: Callable[..., Any], tmp_path: Path) -> None:
    source = [{"review": "good film", "id": 5, "text": "another"}] * 3
    run(source, columns={"text": "review"}, keep=("review", "id"))
    assert [json.loads(line)["review"] for line in (tmp_path / "out.jsonl").open()] == ["good film"] * 3
    with pytest.raises(DataError, match="no column 'reveiw'"):
        run(source, out="b.jsonl", columns={"text": "reveiw"})
    with pytest.raises(DataError, match="no column 'nummer'"):
        run(source, out="b.jsonl", keep=("nummer",))
    with pytest.raises(OptionError, match=r"to be kept has the name of a column of the answers: 'label'\. Give .* --keep my_label"):
        run([{"text": "good", "label": "x"}], out="b.jsonl", keep=("label",))
    assert not hidden(tmp_path) and not (tmp_path / "b.jsonl").exists()


def test_a_column_that_is_not_one_thing_is_text_in_parquet(run: Callable[..., Any], tmp_path: Path) -> None:
    run([{"id": 1 if i % 2 else "a", "text": "good"} for i in range(120)], out="out.parquet")
    assert [row["id"] for row in read_table(tmp_path / "out.parquet")][:3] == ['"a"', "1", '"a"']


# ---- what it keeps -------------------------------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_behind_what_is_done(run: Callable[..., Any], wanted: bytes, tmp_path: Path, answered: list[int]) -> None:
    stopped(run, after=2)
    assert hidden(tmp_path) == [".out.jsonl.work"] and not (tmp_path / "out.jsonl").exists() and answered == [0, 1]
    answered.clear()
    done = run()
    assert answered == [2, 3, 4] and done.resumed == 2 * PART and (tmp_path / "out.jsonl").read_bytes() == wanted and not hidden(tmp_path)


@pytest.mark.parametrize("damage", ["a flipped byte", "cut off", "gone", "a journal's line", "the journal's end"])
def test_what_is_damaged_is_answered_again(
    damage: str, run: Callable[..., Any], wanted: bytes, tmp_path: Path, answered: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(run, after=3)
    part, journal = tmp_path / ".out.jsonl.work" / "parts" / "00001.jsonl", tmp_path / ".out.jsonl.work" / "journal.jsonl"
    content, lines = bytearray(part.read_bytes()), journal.read_bytes().splitlines(keepends=True)
    if damage == "a flipped byte":
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    elif damage == "cut off":
        part.write_bytes(content[:-7])
    elif damage == "gone":
        part.unlink()
    elif damage == "a journal's line":
        journal.write_bytes(b"".join([lines[0], b"{" + lines[1], lines[2]]))
    else:
        journal.write_bytes(b"".join(lines) + b'{"part": 3, "rows')
    answered.clear()
    run()
    again = {1} if damage != "the journal's end" else set()
    assert answered == sorted(again | {3, 4}) and (tmp_path / "out.jsonl").read_bytes() == wanted
    said = "00001.jsonl is damaged or gone; its rows are answered again" in capsys.readouterr().err
    assert said == (damage in ("a flipped byte", "cut off", "gone"))


def test_a_journals_line_that_was_cut_off_spoils_none_behind_it(run: Callable[..., Any], wanted: bytes, tmp_path: Path, answered: list[int]) -> None:
    stopped(run, after=2)
    with (tmp_path / ".out.jsonl.work" / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"part": 2, "rows')
    stopped(run, after=4)
    answered.clear()
    run()
    assert answered == [4] and (tmp_path / "out.jsonl").read_bytes() == wanted


def test_a_part_that_is_damaged_at_the_end_is_not_joined(
    run: Callable[..., Any], wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = running._Run.complete

    def damaging(self: Any) -> Any:
        part = self.work.part(2)
        part.write_bytes(part.read_bytes().replace(b"label", b"lable"))
        return complete(self)

    with monkeypatch.context() as patch:
        patch.setattr(running._Run, "complete", damaging)
        with pytest.raises(StorageError, match="was damaged after it was written. Give the same command again"):
            run()
    assert not (tmp_path / "out.jsonl").exists()
    assert run().resumed == COUNT - PART and (tmp_path / "out.jsonl").read_bytes() == wanted


def test_another_job_is_refused_and_says_what_differs(run: Callable[..., Any], rows: Path, loaded: Model, folder: Path, tmp_path: Path) -> None:
    stopped(run)
    kept = sorted((path.name, path.read_bytes()) for path in tmp_path.glob(".out.jsonl.work/**/*") if path.is_file())
    other = nabi.load(folder)
    with pytest.raises(OptionError, match=r"100 rows of it are answered; what differs: model \(was .*--fresh to throw its answers away"):
        predict_file(other, rows, tmp_path / "out.jsonl", part=PART, keep=("id",))
    for given, named in (({"part": 40}, r"differs: part \(was 50, is 40\)"), ({"keep": ()}, r"keep"), ({"options": {"top_k": 1}}, r'options .*"top_k": 1'),
                         ({"columns": {"text": "id"}}, "columns")):  # fmt: skip
        with pytest.raises(OptionError, match=named):
            run(**given)
    rows.write_bytes(rows.read_bytes().replace(b"}", b" }", 1))
    with pytest.raises(OptionError, match=r"what differs: data \(was .*rows.jsonl.*, is .*rows.jsonl"):
        run()
    assert kept == sorted((path.name, path.read_bytes()) for path in tmp_path.glob(".out.jsonl.work/**/*") if path.is_file())
    assert run(fresh=True).resumed == 0


@pytest.mark.parametrize("after", [2, 5], ids=["in the middle", "when all were answered"])
def test_rows_in_memory_that_changed_are_refused(after: int, run: Callable[..., Any], rows: Path, tmp_path: Path) -> None:
    table = list(read_table(rows))
    stopped(run, after, source=table)
    for place in (3, after * PART - 30):
        changed = [dict(row) for row in table]
        changed[place]["text"] = "dull"
        with pytest.raises(DataError, match="the rows are not those that were answered before: 'part " + str(place // PART)):
            run(changed)
    assert run(table).resumed == min(after * PART, COUNT)


def test_rows_in_memory_that_changed_behind_a_part_that_is_answered_again_are_refused(run: Callable[..., Any], rows: Path, tmp_path: Path) -> None:
    table = list(read_table(rows))
    stopped(run, after=3, source=table)
    (tmp_path / ".out.jsonl.work" / "parts" / "00001.jsonl").unlink()
    table[2 * PART] = {**table[2 * PART], "text": "dull"}
    with pytest.raises(DataError, match="the rows are not those that were answered before: 'part 2"):
        run(table)


@pytest.mark.parametrize("change", ["written to", "gone", "cut off", "other bytes, as many", "another file of this size and time"])
def test_a_file_that_changes_meanwhile_stops_the_run(change: str, run: Callable[..., Any], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, commit = rows.read_bytes(), Work.commit

    def changing(self: Work, number: int, facts: dict[str, Any]) -> None:
        commit(self, number, facts)
        if number != 1:
            return
        if change == "gone":
            rows.unlink()
        elif change == "another file of this size and time":
            was, other = rows.stat(), rows.with_suffix(".new")
            other.write_bytes(content.replace(b"a", b"e"))
            os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
            other.replace(rows)
        else:
            rows.write_bytes({"written to": content + b"\n", "cut off": content[: len(content) // 2]}.get(change, content.replace(b"a", b"e")))

    with monkeypatch.context() as patch:
        patch.setattr(Work, "commit", changing)
        with pytest.raises(DataError, match=r"rows.jsonl: the file was changed while it was in use \(it (is gone|was written to)"):
            run()
    assert len(Work(tmp_path / "out.jsonl").folder.joinpath("journal.jsonl").read_text().splitlines()) == 2
    rows.write_bytes(content)
    assert run().resumed == 2 * PART


def test_parts_are_read_in_any_order(rows: Path) -> None:
    table = list(read_table(rows))
    for source in (Source(rows), Source(table)):
        reader = Reader(source, PART)
        for number in (0, 1, 3, 1, 1, 4, 5, 0, 2):
            assert [row for _, row in reader.part(number)] == table[number * PART : (number + 1) * PART], number


def test_every_failure_of_a_write_is_told_and_gone_on_from(
    run: Callable[..., Any], wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the n-th synchronisation, for each n."""
    fsync, number = os.fsync, 0
    for full in range(200):
        number = 0

        def failing(place: int) -> None:
            nonlocal number
            number += 1
            if number > full:  # noqa: B023  # called in this round
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(place)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            try:
                run()
                break
            except StorageError as problem:
                assert "could not be written" in str(problem) and "No space left" in str(problem)
        assert not (tmp_path / "out.jsonl").exists() or (tmp_path / "out.jsonl").read_bytes() == wanted
    assert full >= 5 and (tmp_path / "out.jsonl").read_bytes() == wanted and not hidden(tmp_path)


def test_a_file_that_finds_no_room_at_the_end_costs_no_answer(folder: Path, rows: Path, wanted: bytes, tmp_path: Path) -> None:
    args = ["predict", folder, "--data", rows, "--out", "out.jsonl", "--part", PART, "--keep", "id"]
    small = command(*args, cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert small.returncode == 1 and "joined could not be written" in small.stderr and "230 rows are answered and kept" in small.stderr, small.stderr
    again = command(*args, "--json", cwd=tmp_path)
    assert again.returncode == 0 and json.loads(again.stdout)["resumed"] == COUNT and (tmp_path / "out.jsonl").read_bytes() == wanted


def test_sigterm_keeps_what_is_done(folder: Path, tmp_path: Path) -> None:
    rows = data(tmp_path / "rows.jsonl", 20_000)
    args = [sys.executable, "-m", "nabi", "predict", str(folder), "--data", str(rows), "--out", "out.jsonl", "--part", "100"]
    running_ = subprocess.Popen(args, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / ".out.jsonl.work" / "journal.jsonl"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        assert running_.poll() is None
        time.sleep(0.005)
    running_.terminate()
    told = running_.communicate()[1]
    assert running_.returncode == 143 and "rows are answered and kept; the same command goes on behind them" in told and "Traceback" not in told
    assert not list(journal.parent.rglob(".*")), "the part that was under way is dropped"


# ---- rows that can't be read ----------------------------------------------------------------------------------------------------------------------------

BAD = {
    "a number": (b'{"id": 7, "text": 5}', "line 61 has no text: 5"), "no JSON": (b'{"id": 7, "text": ', "line 61: not JSON"),
    "no column": (b'{"id": 7, "test": "good"}', "line 61: no column 'text' in this row"), "not UTF-8": (b'{"id": 7, "text": "\xff"}', "line 61: not UTF-8"),
    "half a character": (b'{"id": 7, "text": "\\ud83d"}', "line 61: half of a surrogate pair"), "no object": (b"[1]", "line 61: not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_stops_the_run_or_is_recorded(name: str, run: Callable[..., Any], rows: Path, wanted: bytes, tmp_path: Path) -> None:
    line, message = BAD[name]
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join([*lines[:60], line + b"\n", *lines[61:]]))
    with pytest.raises(UserError, match=message):
        run()
    assert hidden(tmp_path) == [".out.jsonl.work"]
    done = run(on_error="record")
    assert (done.rows, done.answers, done.errors, done.resumed) == (COUNT, COUNT, 1, PART)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert message in found[60]["error"] and list(found[60]) == ["id", "error"] and found[60]["id"] in (7, None)
    expected = [json.loads(line) for line in wanted.splitlines()]
    assert [row["label"] for row in found[:60] + found[61:]] == [row["label"] for row in expected[:60] + expected[61:]]


def test_a_csv_goes_on_behind_a_row_of_the_wrong_length_and_not_behind_an_open_quote(run: Callable[..., Any], tmp_path: Path) -> None:
    good = [f"{i},good\n" for i in range(100)]
    (tmp_path / "a.csv").write_text("id,text\n" + "".join([*good[:70], "70,good,1\n", *good[71:]]))
    done = run(tmp_path / "a.csv", on_error="record")
    assert done.errors == 1 and "a.csv, line 72: 3 fields" in (tmp_path / "out.jsonl").read_text().splitlines()[70]
    (tmp_path / "b.csv").write_text("id,text\n" + "".join([*good[:70], '70,"good\n', *good[71:]]))
    with pytest.raises(DataError, match="b.csv, line 72: a quote opens here"):
        run(tmp_path / "b.csv", out="b.jsonl", on_error="record")


def test_a_first_part_without_one_good_row_is_no_flaw_of_rows(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 1 has no text: 5"):
        run([{"id": i, "text": 5 if i < PART else "good"} for i in range(90)], on_error="record")
    assert not hidden(tmp_path)


def test_errors_that_were_recorded_are_not_gone_on_from_in_silence(run: Callable[..., Any]) -> None:
    source = [{"id": i, "text": 5 if i == 3 else "good"} for i in range(120)]
    stopped(run, source=source, on_error="record")
    with pytest.raises(OptionError, match="recorded rows that can't be read: '1 rows'"):
        run(source)
    assert run(source, on_error="record").errors == 1


@pytest.mark.parametrize("content", [b"", b"\n \n", b"id,text\n"])
def test_a_file_without_rows_is_refused(content: bytes, run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_bytes(content)
    with pytest.raises(DataError, match="none.csv: no rows"):
        run(tmp_path / "none.csv")
    assert not hidden(tmp_path) and not (tmp_path / "out.jsonl").exists()


# ---- what it refuses -----------------------------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(run: Callable[..., Any], wanted: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(OptionError, match="is there already.*--overwrite to replace it"):
        run()
    stopped(run, overwrite=True)
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    with pytest.raises(OptionError, match="is there already"):
        run()
    assert run(overwrite=True).resumed == 2 * PART and (tmp_path / "out.jsonl").read_bytes() == wanted


def test_a_file_that_appears_meanwhile_is_not_replaced(run: Callable[..., Any], wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = running._Run.complete
    with monkeypatch.context() as patch:
        patch.setattr(running._Run, "complete", lambda self: [(tmp_path / "out.jsonl").write_text("mine\n"), complete(self)][1])
        with pytest.raises(OptionError, match="is there already"):
            run()
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    assert run(overwrite=True).resumed == COUNT and (tmp_path / "out.jsonl").read_bytes() == wanted


def test_two_runs_on_one_file_are_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.work").mkdir()
    place = os.open(tmp_path / ".out.jsonl.work", os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    with pytest.raises(OptionError, match="another run is writing this file"):
        run()
    os.close(place)
    assert run().rows == COUNT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": "out.xlsx"}, r"can't be written as this: 'out.xlsx'. Expected .jsonl, .csv or .tsv"), ({"part": 0}, "part is too small: 0"),
        ({"on_error": "skip"}, "unknown on_error: 'skip'"), ({"options": {"lng": 1}}, "unknown key 'lng'"),
        ({"processes": 2}, "read the model and the data themselves"),
        ({"on_error": "record", "keep": ("error",)}, "has the name of a column of the answers: 'error'"), ({"processes": 0}, "processes is too small"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(given: dict[str, Any], message: str, run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(**given)
    assert not hidden(tmp_path)


# ---- the command, and several processes -----------------------------------------------------------------------------------------------------------------


def call(*args: Any) -> int:
    return cli._run(lambda: cli.cli.main(args=[str(a) for a in args], prog_name="nabi", standalone_mode=False))


def test_the_command_tells_of_itself(
    folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["predict", folder, "--data", rows, "--out", tmp_path / "out.jsonl", "--part", PART, "--log", "json", "--json"]
    monkeypatch.setattr(Telling, "due", lambda self, last=False: True)
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, 2)
        assert call(*args) == 130
    capsys.readouterr()
    assert call(*args) == 0
    said, err = capsys.readouterr()
    assert {"task": "text_classification", "rows": COUNT, "answers": COUNT, "errors": 0, "resumed": 2 * PART}.items() <= json.loads(said).items()
    events = [json.loads(line) for line in err.splitlines()]
    assert events[0] == {"event": "note", "text": "going on behind 100 rows that are answered already (2 parts)", "rows": 100, "parts": 2}
    assert [e["rows"] for e in events[1:]] == [150, 200, 230, 230] and events[-1]["total"] == COUNT and events[-1]["seconds_left"] == 0


def test_options_that_need_data_and_out(folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", folder, "--data", rows, "--on-error", "record", "--fresh") == 2
    assert "--on-error, --fresh: only with --data and --out" in capsys.readouterr().err
    assert call("predict", folder, "good", "--out", tmp_path / "out.csv") == 2
    assert "Name it .jsonl, or give the inputs as --data FILE" in capsys.readouterr().err


def test_several_processes_give_the_bytes_of_one(
    folder: Path, rows: Path, wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order, left = pool.Worker.order, [1]

    def killing(self: Any, given: Any) -> None:
        if given == [2] and left:
            left.pop()
            self.process.kill()
            self.process.wait()
        order(self, given)

    monkeypatch.setattr(pool.Worker, "order", killing)
    done = predict_file(folder, rows, tmp_path / "out.jsonl", part=PART, keep=("id",), processes=2)
    assert done.rows == COUNT and (tmp_path / "out.jsonl").read_bytes() == wanted and not left and not hidden(tmp_path)
    assert "a worker ended in part 2 (killed by SIGKILL" in capsys.readouterr().err


def test_what_goes_wrong_in_a_worker_is_told_as_it_was_raised(folder: Path, rows: Path, tmp_path: Path) -> None:
    rows.write_bytes(rows.read_bytes() + b'{"id": 1, "text": 5}\n')
    with pytest.raises(UserError, match="rows.jsonl, line 231 has no text: 5"):
        predict_file(folder, rows, tmp_path / "out.jsonl", part=PART, processes=2)


def test_a_worker_that_finds_another_model_answers_nothing(folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "digest_of_model", lambda model: "of the model that was there when the run was begun")
    with pytest.raises(DataError, match="the model was changed while it was in use"):
        predict_file(folder, rows, tmp_path / "out.jsonl", part=PART, processes=2)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_part_that_loses_two_workers_ends_the_run(folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = pool.Worker.order

    def killing(self: Any, given: Any) -> None:
        if given == [1]:
            self.process.kill()
            self.process.wait()
        order(self, given)

    monkeypatch.setattr(pool.Worker, "order", killing)
    with pytest.raises(WorkError, match="a worker ended twice in part 1"):
        predict_file(folder, rows, tmp_path / "out.jsonl", part=PART, processes=2)


@pytest.mark.slow  # needs the extra cluster, which `make test-all` installs
def test_ray_gives_the_bytes_of_one_process(folder: Path, rows: Path, wanted: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    given: dict[str, Any] = {"part": PART, "keep": ("id",), "processes": 2, "executor": "ray"}
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            predict_file(folder, rows, tmp_path / "out.jsonl", **given)
    done = predict_file(folder, rows, tmp_path / "out.jsonl", **given)
    assert done.resumed == 2 * PART and (tmp_path / "out.jsonl").read_bytes() == wanted and not hidden(tmp_path)
    rows.write_bytes(rows.read_bytes() + b'{"id": 1, "text": 5}\n')
    with pytest.raises(UserError, match="rows.jsonl, line 231 has no text: 5"):
        predict_file(folder, rows, tmp_path / "bad.jsonl", **given)


# ---- memory --------------------------------------------------------------------------------------------------------------------------------------------

PEAK = """
import sys
from nabi import cli
from nabi.memory import peak
code = cli._run(lambda: cli.cli.main(args=sys.argv[1:], prog_name="nabi", standalone_mode=False))
print(code, peak())
"""


@pytest.mark.parametrize(("few", "many"), [(4_000, 20_000), pytest.param(50_000, 1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_rows(few: int, many: int, folder: Path, tmp_path: Path) -> None:
    peaks = []
    for count in (few, many):
        args = ["predict", folder, "--data", data(tmp_path / f"{count}.jsonl", count), "--out", f"{count}-out.jsonl", "--log", "quiet"]
        done = subprocess.run([sys.executable, "-c", PEAK, *map(str, args)], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        code, found = done.stdout.split()
        assert code == "0", done.stderr
        peaks.append(int(found))
    print(f"peak of {few:,} rows {peaks[0] / 1e6:.0f} MB, of {many:,} rows {peaks[1] / 1e6:.0f} MB")
    assert peaks[1] <= 1.2 * peaks[0]


def test_control_holding_the_answers_would_be_seen(tmp_path: Path) -> None:
    """What holds its rows grows by far more than the bound: 25,000 rows of this kind in memory."""
    code = "import json, sys\nfrom nabi.memory import peak\nbefore = peak()\nrows = [json.loads(line) for line in open(sys.argv[1])]\nprint(before, peak())"
    done = subprocess.run([sys.executable, "-c", code, str(data(tmp_path / "rows.jsonl", 25_000))], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before > 25_000 * 200


# ---- fuzz ----------------------------------------------------------------------------------------------------------------------------------------------


def test_no_damage_to_the_work_folder_gives_other_answers(run: Callable[..., Any], wanted: bytes, tmp_path: Path) -> None:
    """Bytes of its files are flipped, cut off or put in: the answers are right, or the run is refused."""
    dice, work, refused = random.Random(0), tmp_path / ".out.jsonl.work", 0
    for _ in range(25):
        stopped(run, after=3)
        file = dice.choice(sorted(path for path in work.rglob("*") if path.is_file()))
        content = bytearray(file.read_bytes())
        place = dice.randrange(len(content))
        if dice.random() < 0.5:
            content[place] ^= 1 << dice.randrange(8)
        elif dice.random() < 0.5:
            del content[place:]
        else:
            content[place:place] = dice.randbytes(3)
        file.write_bytes(content)
        try:
            run()
        except UserError:
            refused += 1
            run(fresh=True)
        assert (tmp_path / "out.jsonl").read_bytes() == wanted and not hidden(tmp_path)
        (tmp_path / "out.jsonl").unlink()
    assert refused < 25

