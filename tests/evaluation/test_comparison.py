"""Two models on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import nabi
from evaluation.cases import HOSTILE, Page
from nabi import Plan, fit
from nabi.data import read_table
from nabi.errors import OptionError
from nabi.evaluation import compare, evaluate
from nabi.evaluation.report import comparison_report
from nabi.tasks.text_classification import ClassificationSettings
from training.small import SIZE, model, rows, vocabulary

DATA = rows(80, 1)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def pair(tokenizer: Path) -> tuple[Any, Any]:
    """A model that learnt a little and one that learnt more."""
    plans = Plan(steps=30, batch=8, learning_rate=3e-3), Plan(steps=80, batch=16, learning_rate=5e-3)
    found = [fit("text_classification", rows(n), plan=p, family="bert", size=SIZE, tokenizer=tokenizer).model for n, p in zip((16, 200), plans, strict=True)]
    return found[0], found[1]


def test_differences_and_flips(pair: tuple[Any, Any]) -> None:
    found = compare(*pair, DATA, names=("old", "new"))
    assert found.first.metrics == evaluate(pair[0], DATA).metrics and (found.first.model, found.second.model) == ("old", "new")
    for name, each in found.differences.items():
        assert each.difference == pytest.approx(found.second.metrics[name] - found.first.metrics[name])
        assert each.low <= each.high and 0 < each.p <= 1
    answers = [[a["label"] for a in m.predict([r["text"] for r in DATA])] for m in pair]
    right = [[answer == row["label"] for answer, row in zip(mine, DATA, strict=True)] for mine in answers]
    wanted = {i: "first" if a else "second" for i, (a, b) in enumerate(zip(*right, strict=True)) if a != b}
    assert {f.row: f.right for f in found.flips} == wanted and len(wanted) > 3
    flip = found.flips[0]
    assert (flip.text, flip.truth, flip.first, flip.second) == (DATA[flip.row]["text"], DATA[flip.row]["label"], answers[0][flip.row], answers[1][flip.row])
    assert (found.only_first, found.only_second) == tuple(list(wanted.values()).count(side) for side in ("first", "second"))
    assert found.differences["accuracy"].difference == pytest.approx((found.only_second - found.only_first) / 80)
    assert found.differences["accuracy"].p < 0.05 and found.mcnemar is not None and found.mcnemar < 0.05


def test_control_a_model_and_itself(pair: tuple[Any, Any]) -> None:
    found = compare(pair[0], pair[0], DATA)
    assert found.flips == [] and found.mcnemar == 1.0 and {(d.difference, d.low, d.high, d.p) for d in found.differences.values()} == {(0.0, 0.0, 0.0, 1.0)}


def test_the_order_of_labels_does_not_matter(tokenizer: Path) -> None:
    one, other = (model(tokenizer, ClassificationSettings(labels=labels)) for labels in (("neg", "pos"), ("pos", "neg")))
    head, theirs = one.task.row.out, other.task.row.out
    theirs.weight.data, theirs.bias.data = head.weight.data.flip(0), head.bias.data.flip(0)
    found = compare(one, other, DATA)
    assert found.flips == [] and all(abs(d.difference) < 1e-6 for d in found.differences.values())


def test_models_that_do_not_go_together(pair: tuple[Any, Any], tokenizer: Path) -> None:
    other = model(tokenizer, ClassificationSettings(labels=("neg", "pos", "odd")))
    with pytest.raises(OptionError, match="different labels: 'only in a: none; only in b: odd'"):
        compare(pair[0], other, DATA, names=("a", "b"))
    other = model(tokenizer)
    other.task.name = "another"
    with pytest.raises(OptionError, match="different tasks: 'text_classification and another'"):
        compare(pair[0], other, DATA)


def test_numbers_have_no_flips(tokenizer: Path) -> None:
    settings = ClassificationSettings(labels=("score",), problem="regression")
    one, other = (model(tokenizer, settings, seed=seed) for seed in (0, 1))
    found = compare(one, other, [{"text": r["text"], "label": i / 7} for i, r in enumerate(DATA)])
    assert list(found.differences) == ["pearson", "spearman", "mse"] and found.flips == [] and found.mcnemar is None
    assert "part" not in Page(comparison_report(found, "nabi")).text


def test_plain_data_and_page(pair: tuple[Any, Any]) -> None:
    data = [{**r, "text": f"{r['text']} {HOSTILE}"} for r in DATA]
    found = compare(*pair, data)
    facts = json.loads(json.dumps(found.facts()))
    assert list(facts) == ["task", "model", "data", "rows", "metrics", "seconds", "second", "comparison"]
    assert facts["comparison"]["flips"][0]["text"].endswith(HOSTILE) and len(facts["comparison"]["flips"]) == len(found.flips) > 0
    assert "text" not in found.facts(examples=False)["comparison"]["flips"][0]
    html = comparison_report(found, f"nabi evaluate {HOSTILE}")
    page = Page(html)
    assert HOSTILE in page.text and not {"script", "img"} & set(page.tags)
    assert "McNemar" in page.text and f"{found.differences['accuracy'].difference:.4f}" in page.text
    hidden = Page(comparison_report(found, "nabi", examples=False)).text
    assert HOSTILE not in hidden and not any(r["text"] in hidden for r in DATA) and "left out on request" in hidden


def test_the_command_line(pair: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from nabi.cli import cli

    def call(*args: str) -> str:
        capsys.readouterr()
        cli.main(args=list(args), standalone_mode=False)
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    for name, each in zip(("old", "new"), pair, strict=True):
        nabi.save(each, name)
    Path("dev.jsonl").write_text("".join(json.dumps(r) + "\n" for r in DATA))
    plain = call("evaluate", "old", "new", "--data", "dev.jsonl")
    assert "McNemar's exact p" in plain and "accuracy" in plain and "+0." in plain
    facts = json.loads(call("evaluate", "old", "new", "--data", "dev.jsonl", "--report", "both.html", "--no-examples", "--json"))
    assert (facts["model"], facts["second"]["model"]) == ("old", "new") and "text" not in facts["comparison"]["flips"][0]
    assert DATA[0]["text"] not in Path("both.html").read_text()
    alone = json.loads(call("evaluate", "new", "--data", "dev.jsonl", "--report", "one.html", "--json"))
    assert list(alone) == ["task", "model", "data", "rows", "metrics", "seconds"] and alone["metrics"] == pytest.approx(facts["second"]["metrics"])
    assert "Worst errors" in Page(Path("one.html").read_text()).text and read_table("dev.jsonl").sha256 in Path("one.html").read_text()
