"""One text under each objective: what ``nabi inspect --objective`` shows is what the tasks make, and what each loss counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import nabi
from nabi import tasks
from nabi.errors import InputError
from nabi.inspection.writing import cells
from tasks.bytewise import bytewise
from tasks.noised import ids, made, rows, tokenizer
from tasks.written import command

TWO = "나비가 꽃에 앉았다. the cat sat on the mat."


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer(tmp_path_factory.mktemp("words"))


def test_one_text_under_each_objective(words: Path, tmp_path: Path) -> None:
    model = made(words, mask_probability=0.4, mean_span=1.0)
    nabi.save(model, tmp_path / "model")
    code, out, said = command("inspect", tmp_path / "model", "--objective", TWO, "--seed", 3, "--json")
    assert code == 0 and out.count("\n") == 1, said
    found = json.loads(out)
    assert set(found) == {"model", "text", "seed", "objectives", "left_out"} and found["seed"] == 3 and not found["left_out"]
    by_name = {each["name"]: each for each in found["objectives"]}
    assert {name: each["task"] for name, each in by_name.items()} == {
        "causal": "text_generation", "masked": "pretraining", "spans": "denoise", "infilling": "denoise"}  # fmt: skip
    whole, rows_of = ids(model, TWO), {name: each["rows"][0] for name, each in by_name.items()}

    def numbers(name: str, column: str) -> list[int | None]:
        return [None if each is None else each["id"] for each in rows_of[name][column]]

    assert numbers("causal", "inputs") == [1, *whole] and numbers("causal", "targets") == [*whole, 1]
    assert rows_of["causal"]["counted"] == {"next": len(whole) + 1}
    hidden = [i for i, id in enumerate(numbers("masked", "targets")) if id is not None]
    assert rows_of["masked"]["counted"] == {"masked": len(hidden), "next": 1} and rows_of["masked"]["next"] == "is_next"
    assert len(hidden) == round(0.15 * len(whole)) and len(numbers("masked", "inputs")) == len(whole) + 2
    # the model's own settings where the objective is its own, and the very row that the task makes
    (row,) = rows(model, TWO)
    row = model.task.corrupt(row, torch.Generator().manual_seed(3))
    assert numbers("spans", "source") == row.parts["text"]["tokens"] and numbers("spans", "inputs") == row.parts["target"]["tokens"]
    assert numbers("spans", "targets") == row.targets["next"] and rows_of["spans"]["counted"] == {"next": len(row.targets["next"])}
    assert sum(number >= 0 for number in row.targets["spans"]) == round(0.4 * len(whole)), "the control: 15 % would be fewer"
    assert numbers("infilling", "targets") == [*whole, 1] and 3 in numbers("infilling", "source")
    again = [json.loads(command("inspect", tmp_path / "model", "--objective", TWO, "--json", *more)[1]) for more in (("--seed", 3), (), ("--seed", 0))]
    assert again[0] == found and again[1] == again[2] != found


def test_objectives_are_made_by_the_tasks_themselves(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nabi.save(made(words), tmp_path / "model")
    for name, method in (("text_generation", "encode"), ("pretraining", "encode"), ("pretraining", "corrupt"), ("denoise", "encode"), ("denoise", "corrupt")):
        with monkeypatch.context() as patched:
            patched.setattr(tasks.find(name), method, lambda *args, **more: (_ for _ in ()).throw(InputError("not its own")))
            assert command("inspect", tmp_path / "model", "--objective", TWO)[::2] == (2, "error: not its own.\n"), (name, method)


def test_objectives_as_lines_stand_under_each_other(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nabi.save(made(words), tmp_path / "model")
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = command("inspect", tmp_path / "model", "--objective", TWO)
    lines = out.splitlines()
    assert [line.partition(":")[0] for line in lines if line and line[0] != " "] == ["causal", "masked", "spans", "infilling"]
    at = next(i for i, line in enumerate(lines) if line.startswith("causal"))
    assert lines[at + 1 : at + 6] == [
        "  inputs    </s>  ▁나비 가  ▁꽃 에  ▁앉  았다 .    ▁the ▁cat",
        "  targets   ▁나비 가    ▁꽃 에  ▁앉 았다 .    ▁the ▁cat ▁sat",
        "            ▁sat ▁on  ▁the ▁mat .",
        "            ▁on  ▁the ▁mat .    </s>",
        "  counted   15 in the loss next",
    ], out
    assert all(cells(line) <= 60 for line in lines if line.startswith("  "))


def test_objectives_that_the_tokenizer_does_not_allow_are_left_out_by_name(tmp_path: Path) -> None:
    nabi.save(nabi.create("gpt2", "tiny", "text_generation", tasks.find("text_generation").Settings(), bytewise(tmp_path / "plain")), tmp_path / "model")
    code, out, _ = command("inspect", tmp_path / "model", "--objective", TWO)
    assert code == 0 and out.startswith("causal: ") and "targets 나비가 Ġ <0xEA> <0xBD> <0x83>" in " ".join(out.split()), out
    left_out = [line for line in out.splitlines() if "left out" in line]
    assert [line.partition(". Expected")[0] for line in left_out] == [
        "masked: left out. the tokenizer has no mask token",
        "spans: left out. the tokenizer has no sentinels, which style=spans needs",
        "infilling: left out. the tokenizer has no mask token, which style=infilling needs",
    ]


def test_one_word_makes_no_pair_and_a_seed_alone_means_nothing(words: Path, tmp_path: Path) -> None:
    nabi.save(made(words), tmp_path / "model")
    found = json.loads(command("inspect", tmp_path / "model", "--objective", "나비가", "--json")[1])
    assert [each["task"] for each in found["objectives"]] == ["text_generation", "fill_mask", "denoise", "denoise"]
    code, _, said = command("inspect", tmp_path / "model", "--seed", 1)
    assert code == 2 and "--seed goes with --objective: 1. Give --objective TEXT." in said
    code, _, said = command("inspect", tmp_path / "model", "--objective", "")
    assert code == 2 and "there is no text to show" in said
