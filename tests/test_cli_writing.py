"""The command line with the four tasks that write: from rows in a file to a model, its figures, its answers and a view of how they came about."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nabi import cli
from tasks.bytewise import PAIRS, SOURCES, TEXTS, bytewise
from training import small

FAMILIES = {"text_generation": "gpt2", "translation": "bart", "summarization": "t5", "text2text_generation": "bart"}
STEPS = {"text_generation": 150, "translation": 100, "summarization": 240, "text2text_generation": 100}
FIGURES = {
    "text_generation": {"perplexity", "bits_per_byte"}, "translation": {"bleu", "chrf"},
    "summarization": {"rouge1", "rouge2", "rougeL", "rougeLsum"}, "text2text_generation": {"rouge1", "rouge2", "rougeL", "rougeLsum"},
}  # fmt: skip


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def call(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """A command in this process, in the folder with the models."""
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "60")

    def run(*args: Any, stdin: bytes = b"") -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return Done(command(*args), *capsys.readouterr())

    return run


def command(*args: Any) -> int:
    return cli._run(lambda: cli.cli.main(args=[str(a) for a in args], prog_name="nabi", standalone_mode=False))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a model of each task, trained by the command line."""
    folder = tmp_path_factory.mktemp("work")
    bytewise(folder / "tokenizer")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "pairs.csv").write_text("source,target\n" + "".join(f"{pair['source']},{pair['target']}\n" for pair in PAIRS))
    for task, family in FAMILIES.items():
        data = folder / ("texts.jsonl" if task == "text_generation" else "pairs.csv")
        plan = {"steps": STEPS[task], "batch": 4, "learning_rate": 5e-3}
        settings = [part for name, value in plan.items() for part in ("--set", f"plan.{name}={value}")]
        scratch = ["--family", family, "--tokenizer", folder / "tokenizer"]
        assert command("train", "--task", task, "--data", data, "--dev", data, *scratch, "--out", folder / task, "--log", "quiet", *settings) == 0
    return folder


def data_of(task: str) -> str:
    return "texts.jsonl" if task == "text_generation" else "pairs.csv"


# ---- from rows to answers ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", FAMILIES)
def test_a_task_is_trained_and_evaluated(task: str, call: Callable[..., Done]) -> None:
    done = call("evaluate", task, "--data", data_of(task), "--json")
    (found,) = done.lines
    assert done.code == 0 and found["task"] == task and found["rows"] == 4 and set(found["metrics"]) == FIGURES[task]
    # what was learnt by heart is known; a fresh model has about 8 bits a byte, and no word right
    assert found["metrics"]["bits_per_byte"] < 1 if task == "text_generation" else found["metrics"].get("chrf", 100 * found["metrics"].get("rougeL", 1)) > 90


@pytest.mark.parametrize("task", [task for task in FAMILIES if task != "text_generation"])
def test_a_text_is_written_for_each_input(task: str, call: Callable[..., Done]) -> None:
    done = call("predict", task, *SOURCES)
    assert done.code == 0 and done.out.splitlines() == list(TEXTS)
    assert call("predict", task, "-", stdin="\n".join(SOURCES).encode()).out == done.out
    done = call("predict", task, "--data", "pairs.csv", "--json")
    assert [answer["text"] for answer in done.lines] == list(TEXTS)
    assert all(list(answer) == ["text", "finish_reason", "truncated", "sequences", "pieces"] and answer["finish_reason"] == "stop" for answer in done.lines)
    assert [answer["pieces"][0]["end"] for answer in done.lines] == [len(source) for source in SOURCES]


def test_nothing_but_space_is_read_as_it_is_or_as_nothing_if_that_is_too_long(call: Callable[..., Done]) -> None:
    empty, space = (call("predict", "translation", text, "--json") for text in ("", " \n "))
    assert empty.code == space.code == 0 and [done.lines[0]["pieces"][0]["end"] for done in (empty, space)] == [0, 3]
    for text, option, wanted in ((" \n ", "split=sentences", space), (" " * 2000, "split=auto", empty), ("", "split=sentences", empty)):
        done = call("predict", "translation", text, "--set", option, "--json")
        assert done.code == 0 and done.lines == wanted.lines, (text[:9], done.err)


def test_a_text_goes_on(call: Callable[..., Done]) -> None:
    assert call("predict", "text_generation", "나비가 하늘로", "the butterfly flew").out.splitlines() == [TEXTS[1], TEXTS[3]]
    (answer,) = call("predict", "text_generation", "나비가 하늘로", "--set", "max_new_tokens=3", "--json").lines
    assert answer["finish_reason"] == "length" and len(answer["sequences"][0]["tokens"]) == 3 and TEXTS[1].startswith(answer["text"].rstrip("\ufffd"))
    done = call("predict", "text_generation", "나비가 하늘로", "--set", "stop_strings=날", "--json")
    assert done.lines[0]["text"] == "나비가 하늘로 날" and done.lines[0]["finish_reason"] == "stop"


# ---- while it is written -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", FAMILIES)
def test_the_stream_is_the_text_of_the_answer(task: str, call: Callable[..., Done]) -> None:
    text, whole = ("나비가 꽃", TEXTS[0]) if task == "text_generation" else (SOURCES[0], TEXTS[0])
    assert call("predict", task, text, "--stream").out == whole.removeprefix(text) + "\n"
    records = call("predict", task, text, "--stream", "--json").lines
    tokens = [record for record in records if "token" in record]
    assert "".join(record["text"] for record in records) + "\n" == call("predict", task, text, "--stream").out
    assert len(tokens) > 5 and all(record["logprob"] < 0 and record["alternatives"] == [] for record in tokens)
    assert [record["answer"] for record in records if "answer" in record] == call("predict", task, text, "--json").lines


def test_drawn_answers_follow_each_other_in_a_stream(call: Callable[..., Done]) -> None:
    options = ["--set", "do_sample=true", "--set", "num_return_sequences=3", "--set", "max_new_tokens=6", "--set", "temperature=4.0"]
    (answer,) = call("predict", "translation", SOURCES[0], *options, "--json").lines
    texts = [sequence["text"] for sequence in answer["sequences"]]
    assert len(set(texts)) > 1 and call("predict", "translation", SOURCES[0], *options, "--stream").out == "\n".join(texts) + "\n"


@pytest.mark.parametrize("task", FAMILIES)
def test_steps_show_five_tokens_and_mark_the_chosen_one(task: str, call: Callable[..., Done]) -> None:
    text = "나비가 꽃" if task == "text_generation" else SOURCES[0]
    done = call("predict", task, text, "--steps")
    *rows, last = done.out.splitlines()
    records = [record for record in call("predict", task, text, "--steps", "--json").lines if "token" in record]
    assert done.code == 0 and last == f"{TEXTS[0]}  (stop)" and len(rows) == 5 * len(records) and not any("\x1b" in row for row in rows)
    assert [i for i, row in enumerate(rows) if row[5] == ">"] == list(range(0, len(rows), 5)), "greedy decoding takes the first"
    assert [row[:4] for row in rows[::5]] == [f"{i:>4}" for i in range(1, len(records) + 1)]
    assert rows[-5].startswith(f'{len(records):>4} > "</s>"')
    assert len(call("predict", task, text, "--steps", "--set", "top_alternatives=2").out.splitlines()) == 2 * len(records) + 1


@pytest.mark.parametrize("task", FAMILIES)
def test_steps_of_beams_are_a_tree(task: str, call: Callable[..., Done]) -> None:
    text = "나비가 꽃" if task == "text_generation" else SOURCES[0]
    done = call("predict", task, text, "--steps", "--set", "num_beams=3")
    first, *rows, last = done.out.splitlines()
    (answer,) = call("predict", task, text, "--set", "num_beams=3", "--json").lines
    assert done.code == 0 and " 3 beams" in first and last == f"{answer['text']}  (stop)"
    (winner,) = [row for row in rows if row.endswith("the answer")]
    assert winner.startswith('* "') and winner.split()[-3] == f"{answer['sequences'][0]['score']:.3f}"
    assert any("pruned at" in row for row in rows) and all(row.startswith(("* ", "├─", "│ ")) for row in rows)


# ---- what can't be done ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("args", "message"), [
    (["text_generation", "나비" * 400], "leaves no room"),
    (["text2text_generation", "나비" * 400, "--set", "long=error"], "is too long"),
    (["translation", "나비" * 400, "--set", "long=error"], "is too long"),
    (["translation", "나비", "--set", "max_new_token=3"], "did you mean 'max_new_tokens'"),
    (["translation", "나비", "--set", "max_new_tokens=0"], "max_new_tokens=0 is less than 1"),
    (["translation", "나비", "--set", "num_beams=2", "--set", "do_sample=true"], "exclude each other"),
    (["translation", "나비", "--set", "num_beams=2", "--stream"], "on the command line --steps"),
    (["translation", "나비", "--stream", "--steps"], "--stream and --steps exclude each other"),
    (["translation", "나비", "--steps", "--out", "x.jsonl"], "--steps and --out exclude each other"),
    (["text_generation", "a", "나비" * 400, "--steps"], "input 2 leaves no room"),
    (["text_generation", "--data", "pairs.csv"], "text"),
    (["translation", "--data", "texts.jsonl", "--stream"], "source"),
    (["classifier", "a good film", "--steps"], "text_classification does not write token by token"),
], ids=range(13))  # fmt: skip
def test_wrong_input_is_exit_code_2(args: list[str], message: str, call: Callable[..., Done], work: Path, tmp_path: Path) -> None:
    if args[0] == "classifier" and not (work / "classifier").exists():
        from nabi.checkpoint import save

        save(small.model(small.vocabulary(tmp_path)), work / "classifier")
    done = call("predict", *args)
    assert done.code == 2 and done.err.startswith("error: ") and message in done.err, done.err
    assert not (work / "x.jsonl").exists()


def test_rows_without_an_answer_are_named_in_training(call: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"source": "a", "target": "b"}\n{"source": "a"}\n')
    done = call("train", "--task", "translation", "--data", tmp_path / "bad.jsonl", "--family", "bart", "--tokenizer", "tokenizer", "--out", tmp_path / "out")
    assert done.code == 2 and "bad.jsonl" in done.err and "target" in done.err and not (tmp_path / "out" / "model.safetensors").exists()
