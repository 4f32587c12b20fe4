"""``fit``: what it needs, what it says, what it returns; and the pages about it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from nabi import Plan, checkpoint, evaluate, fit
from nabi.data import read_table
from nabi.errors import DataError, NabiError, OptionError
from nabi.nn.linear import FeedForward
from nabi.tasks.text_classification import ClassificationOptions, ClassificationSettings
from nabi.training.progress import Progress
from training.small import SIZE, model, rows, same, vocabulary, weights

ROOT = Path(__file__).parents[1]
PLAN = Plan(steps=6, batch=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))


def run(tokenizer: Path, data: Any = None, **kwargs: Any) -> tuple[Any, str]:
    said = io.StringIO()
    given = {"family": "bert", "size": SIZE, "tokenizer": tokenizer} if "base" not in kwargs else {}
    fitted = fit("text_classification", data if data is not None else rows(30), progress=Progress("quiet", said), **{"plan": PLAN, **given, **kwargs})
    return fitted, said.getvalue()


def test_what_it_returns(tokenizer: Path) -> None:
    fitted, said = run(tokenizer, dev=rows(10, 1))
    assert fitted.out is None and fitted.seconds > 0 and fitted.tokens > 6 * 8 * 5
    assert [e["step"] for e in fitted.history] == [4, 6] and fitted.metrics in [e["metrics"] for e in fitted.history]
    assert fitted.metrics == evaluate(fitted.model, rows(10, 1)).metrics
    assert len(said.splitlines()) == 2 and re.match(r"epoch 1.00  loss \d\.\d{4}  accuracy", said)


def test_without_dev_the_last_weights_are_kept(tokenizer: Path, tmp_path: Path) -> None:
    fitted, _ = run(tokenizer, out=tmp_path / "out")
    assert fitted.metrics == {} and [sorted(e) for e in fitted.history] == [["epoch", "loss", "step"]] * 2
    assert same(weights(nabi.load(fitted.out)), weights(checkpoint.load(fitted.out / "last")))
    assert json.loads((fitted.out / "history.json").read_text())["dev"] is None


def test_it_does_not_depend_on_the_caller(tokenizer: Path) -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        ends.append(weights(run(tokenizer)[0].model))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(*ends)
    assert not same(ends[0], weights(run(tokenizer, plan=dataclasses.replace(PLAN, seed=1))[0].model))


def test_kinds_of_data_are_one_run(tokenizer: Path, tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(30)))
    sources = [rows(30), read_table(tmp_path / "a.jsonl"), tmp_path / "a.jsonl", str(tmp_path / "a.jsonl"), pd.DataFrame(rows(30))]
    ends = [weights(run(tokenizer, data)[0].model) for data in sources]
    assert all(same(ends[0], end) for end in ends)


def test_a_share_for_dev_shares_no_text(tokenizer: Path, tmp_path: Path) -> None:
    fitted, _ = run(tokenizer, [*rows(30), *rows(30)], dev=0.3, out=tmp_path / "out")
    facts = json.loads((fitted.out / "history.json").read_text())
    assert facts["data"]["rows"] + facts["dev"]["rows"] == 60 and facts["dev"]["rows"] % 2 == 0


def test_a_base_of_another_head_says_so_in_one_sentence(tokenizer: Path, tmp_path: Path) -> None:
    nabi.save(model(tokenizer, ClassificationSettings(labels=("x", "y", "z"))), tmp_path / "base")
    fitted, said = run(tokenizer, base=tmp_path / "base")
    assert said.splitlines()[0].startswith("text_classification starts with fresh weights for task.row.out.") and fitted.model.task.labels == (
        "neg",
        "pos",
    )
    nabi.save(fitted.model, tmp_path / "again")
    assert "fresh" not in run(tokenizer, base=tmp_path / "again")[1]


def test_dropout_of_the_plan_is_the_models(tokenizer: Path) -> None:
    fitted, _ = run(tokenizer, plan=dataclasses.replace(PLAN, hidden_dropout=0.25, attention_dropout=0.35, head_dropout=0.45))
    layer, head = fitted.model.body.layers[0], fitted.model.task.row
    found = {
        name: getattr(m, name) for m in layer.modules() for name in ("dropout", "attention_dropout") if isinstance(getattr(m, name, None), float)
    }
    assert found == {"dropout": 0.25, "attention_dropout": 0.35} and fitted.model.body.dropout == 0.25 and head.dropout == 0.45


def test_dropout_of_the_plan_is_also_that_inside_the_feed_forward(tokenizer: Path) -> None:
    """Where a family has it, as BART does by its config; it appears nowhere else."""
    tiny = dataclasses.asdict(nabi.families.find("bart").sizes["tiny"])
    for family, size, wanted in (("bart", {**tiny, "activation_dropout": 0.1}, 0.25), ("bart", tiny, None), ("bert", "tiny", None)):
        fitted, _ = run(tokenizer, family=family, size=size, plan=dataclasses.replace(PLAN, hidden_dropout=0.25))
        leaves = [m for m in fitted.model.body.modules() if isinstance(m, FeedForward)]
        assert leaves and {m.inner_dropout for m in leaves} == {wanted}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"family": None}, "either a base model or a family"),
        ({"base": "minilm", "family": "bert"}, "either a base model or a family"),
        ({"tokenizer": None}, "needs a tokenizer"),
        ({"size": "tinny"}, "no such size"),
        ({"size": {"hiden_size": 3}}, r"unknown key 'hiden_size' did you mean 'hidden_size'\?"),
        ({"settings": {"los": 1}}, r"no such setting: 'los'.*Did you mean 'loss'\?"),
        ({"options": {"lng": 1}}, r"unknown key 'lng' did you mean 'long'\?"),
        ({"dev": 2.0}, "fraction is out of range"),
        ({"dev": []}, "no rows"),
        ({"data": []}, "no rows"),
        ({"data": [{"text": "a"}]}, "no column 'label'"),
        ({"plugins": ["nowhere.py"]}, "no such plugin file"),
        ({"plan": dataclasses.replace(PLAN, sampler="balanced"), "data": [{"text": "a", "label": 0.5}]}, "no classes that could be balanced"),
    ],
    ids=str,
)
def test_what_it_refuses_leaves_no_folder(kwargs: dict[str, Any], message: str, tokenizer: Path, tmp_path: Path) -> None:
    given = {"family": "bert", "size": SIZE, "tokenizer": tokenizer, "data": rows(8), "plan": PLAN, **kwargs}
    with pytest.raises(NabiError, match=message) as caught:
        fit("text_classification", given.pop("data"), out=tmp_path / "out", progress=Progress("quiet", io.StringIO()), **given)
    assert isinstance(caught.value, OptionError | DataError) and caught.value.exit_code == 2 and not (tmp_path / "out").exists()


# ---- pages ---------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "section", "cls"),
    [
        ("training.md", "The plan", Plan),
        ("text_classification.md", "Settings of the model", ClassificationSettings),
        ("text_classification.md", "Options of a call", ClassificationOptions),
    ],
    ids=["Plan", "Settings", "Options"],
)
def test_the_tables_list_the_fields(page: str, section: str, cls: type[Any]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `")]
    found = {
        name: value.strip() for names, values, _ in cells for name, value in zip(re.findall(r"`(\w+)`", names), padded(names, values), strict=True)
    }
    fields = {f.name: f for f in dataclasses.fields(cls)}
    assert sorted(found) == sorted(fields)  # in the order of a reader, not of the classes
    for name, shown in found.items():
        if shown and " " not in shown and shown not in ("none", "{}"):
            assert str(fields[name].default) == shown or float(shown) == fields[name].default, (name, shown)


def padded(names: str, values: str) -> list[str]:
    """One usual value for each name of a row: several are separated by commas."""
    count, given = names.count("`") // 2, values.strip().split(",")
    return given if len(given) == count else [values.strip() if count == 1 else ""] * count
