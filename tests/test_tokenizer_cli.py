"""``nabi tokenizer train | show`` from files to a folder, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nabi.cli import main
from nabi.text import Tokenizer


def rows(seed: int = 0, count: int = 400) -> list[str]:
    dice = random.Random(seed)
    words = [f"{a}{b}" for a in ("def ", "return ", "나비", "tok", "self.") for b in ("x", "get", "(y)", "가", "\n    z")]
    return ["".join(dice.choice(words) + " " for _ in range(20)) for _ in range(count)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows()), encoding="utf-8")
    return path


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["tokenizer", *args])
    return int(stop.value.code or 0)


def test_train_writes_a_tokenizer_with_its_report(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("train", "--data", str(table), "--vocab-size", "400", "--out", str(out), "--set", "split_digits=true", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "tokenizer_report.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.load(out)
    held = report["held_back"]
    assert tokenizer.vocab_size == held["vocab_size"] <= 400 and report["settings"]["split_digits"] is True
    assert held["texts"] + report["trained_on"]["texts"] == 400 and 1 <= held["texts"] <= 30
    assert held["tokens_per_word"] > 0 and held["python_keywords"]["of"] == 35
    assert "| tokens a word |" in (out / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]


def test_train_anew_and_show(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    assert run("train", "--data", str(table), "--kind", "wordpiece", "--vocab-size", "120", "--out", first, "--dev", str(table)) == 0
    assert run("train", "--data", str(table), "--base", first, "--vocab-size", "140", "--out", second, "--dev", "0.1") == 0
    capsys.readouterr()
    assert run("show", second, "나비 tok", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [token["id"] for token in shown["tokens"]] == Tokenizer.load(Path(second)).encode("나비 tok").ids and shown["model"] == "WordPiece"
    assert run("show", second, "나비 tok") == 0
    assert "[CLS]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--kind", "bpe"), "'kind' has an unknown value"),
        (("--vocab-size", "100"), "smaller than the alphabet"),
        (("--memory", "lots"), "no amount of memory"),
        (("--memory", "1MB"), "too small"),
        (("--set", "special_tokens=[\"a\",\"a\"]"), "given twice"),
        (("--set", "lowercase"), "KEY=VALUE"),
        (("--set", "lowercas=true"), "did you mean 'lowercase'"),
        (("--dev", "1.5"), "no share"),
        (("--dev", "none.txt"), "no such file"),
        (("--columns", "label=x"), "text=COLUMN"),
        (("--columns", "text=body"), "no column 'body'"),
        (("--base", "x", "--kind", "unigram"), "exclude each other"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(args: tuple[str, ...], words: str, table: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run("train", "--data", str(table), "--out", str(out), *args) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_folder_that_holds_a_tokenizer_is_left_alone(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vocab.txt").write_text("mine")
    assert run("train", "--data", str(table), "--out", str(tmp_path)) == 2
    assert "holds a tokenizer" in capsys.readouterr().err and (tmp_path / "vocab.txt").read_text() == "mine"
