"""A run that is killed goes on where it was: each row once, the bytes of a run that was not, and nothing that is committed is answered again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predicting.tiny import command, data, killing, model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("predicting")
    model(made)
    return made


def arguments(rows: Path, out: Path, part: int) -> list[Any]:
    return ["predict", "model", "--data", rows, "--out", out, "--keep", "id", "--part", part, "--log", "quiet"]


def answered_again(log: Path) -> list[int]:
    """Parts that were answered after they had been committed."""
    committed, again = set[int](), []
    for line in log.read_text().splitlines():
        what, number = line.split()
        if what == "c":
            committed.add(int(number))
        elif int(number) in committed:
            again.append(int(number))
    return again


def survived(folder: Path, rows: Path, count: int, part: int, kills: int, wanted: bytes, seed: int) -> dict[str, Any]:
    """A run that is killed so often, looked at from all sides."""
    out, log = folder / f"killed-{seed}.jsonl", folder / f"log-{seed}"
    parts = -(-count // part)
    found = killing(folder, args=arguments(rows, out, part), kills=kills, parts=parts, seed=seed, log=str(log), delay=3e-4 * part)
    assert found["code"] == 0 and found["killed"] == kills, found
    assert found["inside"] >= 0.2 * kills and found["fruitful"] >= 0.4 * kills, found
    assert out.read_bytes() == wanted
    with out.open() as file:
        assert all(json.loads(line)["id"] == number for number, line in enumerate(file)), "in order, each once"
    assert not answered_again(log) and not list(folder.glob(".killed*"))
    committed = [line for line in log.read_text().splitlines() if line.startswith("c ")]
    assert len(set(committed)) == len(committed) >= parts - kills, "what was committed was committed once"  # the kill may come before its line in the log
    return found


def test_ten_kills_change_nothing(folder: Path) -> None:
    rows = data(folder / "rows.jsonl", 4000)
    done = command(*arguments(rows, folder / "whole.jsonl", 100), cwd=folder)
    assert done.returncode == 0, done.stderr
    survived(folder, rows, 4000, 100, 10, (folder / "whole.jsonl").read_bytes(), seed=1)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_a_file_operation_changes_nothing(folder: Path, step: int) -> None:
    rows = data(folder / "few.jsonl", 30)
    assert command(*arguments(rows, folder / "few-whole.jsonl", 16), cwd=folder).returncode == 0
    out = folder / "few-killed.jsonl"
    found = killing(folder, args=arguments(rows, out, 16), out=out, wanted=folder / "few-whole.jsonl", step=step)
    (folder / "few-whole.jsonl").unlink()
    assert found["killed"] >= 32 // step and not found["different"] and not found["left"], found


@pytest.mark.slow  # a million rows, three times
@pytest.mark.parametrize("seed", [2, 3])
def test_fifty_kills_over_a_million_rows_change_nothing(million: tuple[Path, Path, bytes], seed: int) -> None:
    folder, rows, wanted = million
    found = survived(folder, rows, 1_000_000, 2048, 50, wanted, seed)
    print(f"50 kills over a million rows: {found['inside']} inside a write, {found['seconds']:.0f} s")


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """A folder with a model, a million rows, and the answers of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("million")
    model(folder)
    rows = data(folder / "rows.jsonl", 1_000_000)
    done = command(*arguments(rows, folder / "whole.jsonl", 2048), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, rows, (folder / "whole.jsonl").read_bytes()
