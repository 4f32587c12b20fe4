"""The model card: what the hub's own readers make of it, and whose file it is."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from evaluation.cases import HOSTILE, findings, made
from nabi import Plan, fit
from nabi.errors import OptionError
from nabi.evaluation.card import CardOptions, card, hub_id, metadata
from nabi.pages.markdown import MARK, write_card, yaml
from nabi.training.progress import Progress
from training.small import SIZE, rows, vocabulary


def read(folder: Path, text: str) -> dict[str, Any]:
    """The metadata, as the hub's library reads it."""
    (folder / "README.md").write_text(text, encoding="utf-8")
    found = metadata_load(folder / "README.md")
    assert isinstance(found, dict)
    return found


def test_the_hub_reads_what_was_measured(tmp_path: Path) -> None:
    found = findings(tmp_path, ("a", "b"), 200)
    options = CardOptions(license="apache-2.0", language=("ko", "en"), tags=("spam",))
    text = card(found, made(found, hub="owner/base"), found.model, options)
    data = read(tmp_path, text)
    assert (data["license"], data["language"], data["library_name"], data["base_model"]) == ("apache-2.0", ["ko", "en"], "nabi", "owner/base")
    assert data["pipeline_tag"] == "text-classification" and data["tags"] == ["spam"] and data["metrics"] == ["accuracy", "f1", "matthews_correlation"]
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "made-up" and {r.metric_name: r.metric_value for r in results} == {
        "Accuracy": found.evaluation.metrics["accuracy"],
        "Macro F1": found.evaluation.metrics["macro_f1"],
        "Matthews correlation": found.evaluation.metrics["mcc"],
    }
    assert {r.dataset_args["rows"] for r in results if r.dataset_args} == {200} and {r.task_type for r in results} == {"text-classification"}
    whole = ModelCardData(**{k: v for k, v in data.items() if k != "model-index"}, model_name=name, eval_results=results)
    assert ModelCardData(**ModelCard(text).data.to_dict()).to_dict() == whole.to_dict()


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    found = findings(tmp_path, ("a", "b"), 30)
    data = read(tmp_path, card(None, made(found, dev=None), found.model, CardOptions()))
    assert data == {"library_name": "nabi", "pipeline_tag": "text-classification"}
    assert metadata(None, made(found), "text_length", CardOptions()) == {"library_name": "nabi"}  # no pipeline of the hub's
    text = card(found, made(found), found.model, CardOptions())
    assert "More Information" not in text and "TODO" not in text and "None" not in text and "nan" not in text


def test_limits_are_measured(tmp_path: Path) -> None:
    found = findings(tmp_path, ("a", "b", "c"), 300)
    text = card(found, made(found), found.model, CardOptions())
    weakest, length = found.by_label[0], min(found.by_length, key=lambda s: s.figure)
    assert f"Weakest label: {weakest.name}, F1 {weakest.figure:.4f} ({weakest.low:.4f} to {weakest.high:.4f}, {weakest.rows} rows)." in text
    assert f"Weakest length: {length.name}, macro_f1 {length.figure:.4f}" in text and "calibration error" in text
    few = findings(tmp_path / "few", tuple("abcdefgh"), 60)
    assert "8 labels have fewer than 20 rows here" in card(few, made(few), few.model, CardOptions())


NAMES = [HOSTILE, "a: b # c", "---", "- x", "```\n---\nlicense: mit", '"', "\\", "나비 \U0001f98b", "\x00\x85\ud800", "yes", "1.0", "|~_*"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_back(name: str, tmp_path: Path) -> None:
    found = findings(tmp_path, ("a", "b"), 30)
    text = card(found, made(found, name=name, hub=name, command=name), found.model, CardOptions(license=name, tags=(name, "x")))
    data = read(tmp_path, text.encode("utf-8", "replace").decode())
    clean = "".join(c if c.isprintable() else " " for c in name)
    assert data["license"] == data["base_model"] == data["tags"][0] == data["model-index"][0]["name"] == clean and data["tags"][1] == "x"
    assert "<script" not in text.partition("---\n<!--")[2].partition("## How it was made")[0]


def test_yaml_of_nested_things() -> None:
    import yaml as reference

    value = {"a": [{"b": [1, {"c": None}], "d": {"e": True, "odd key": 0.1}}, "x"], "f": {"g": [{"h": [{"i": "j"}]}]}}
    assert reference.safe_load("\n".join(yaml(value))) == value


def test_ids_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert [hub_id(x) for x in ("owner/model", "runs/mine", "./a", "minilm", "/a/b", "a/b/c", None)] == ["owner/model", *[None] * 6]


def test_a_card_of_the_users_own_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    assert write_card(file, f"{MARK} one") and write_card(file, f"{MARK} two") and file.read_text() == f"{MARK} two"
    file.write_text("mine")
    assert not write_card(file, f"{MARK} three") and file.read_text() == "mine"


def test_a_run_leaves_the_users_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nabi.training.runs import RunFolder

    tokenizer, said = vocabulary(tmp_path / "tokenizer"), io.StringIO()

    def run(**more: Any) -> None:
        plan = Plan(steps=2, batch=8)
        fit("text_classification", rows(20), out=tmp_path / "out", plan=plan, dev=rows(20, 1), family="bert", size=SIZE, tokenizer=tokenizer,
            progress=Progress("quiet", said), **more)  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert MARK in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "README.md").write_text("mine")
    run(resume=True, about={"license": "mit"})
    assert (tmp_path / "out" / "README.md").read_text() == "mine" and "README.md is your own" in said.getvalue()


def test_unknown_facts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"unknown key 'licence' did you mean 'license'\?"):
        fit("text_classification", rows(20), out=tmp_path / "out", base="minilm", about={"licence": "mit"})
    assert not (tmp_path / "out").exists()


def test_the_call_is_shown(tmp_path: Path) -> None:
    tokenizer = vocabulary(tmp_path / "tokenizer")
    out = tmp_path / "out"
    fit("text_classification", rows(20), out=out, plan=Plan(steps=2, batch=8), family="bert", size=SIZE, tokenizer=tokenizer, progress=Progress("quiet"))
    text = (out / "README.md").read_text()
    assert f"nabi.fit('text_classification', <list of 20 rows>, out={str(out)!r}, plan=Plan(steps=2, batch=8), family='bert'" in text


def test_the_command_line_says_what_only_you_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nabi.cli import cli

    monkeypatch.chdir(tmp_path)
    vocabulary(tmp_path / "words")
    Path("data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(40)))
    Path("recipe.toml").write_text('language = "ko"\nno_examples = true\n')
    args = ["train", "recipe.toml", "--task", "text_classification", "--data", "data.jsonl", "--dev", "0.25", "--family", "bert", "--tokenizer", "words",
            "--out", "out", "--license", "mit", "--log", "quiet", "--set", "plan.steps=2"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["/somewhere/nabi", *args, "a b"])
    cli.main(args=args, standalone_mode=False)
    data = metadata_load(Path("out/README.md"))
    assert isinstance(data, dict) and (data["license"], data["language"]) == ("mit", ["ko"])
    page = Path("out/report.html").read_text()
    assert "nabi train recipe.toml" in page and "&#39;a b&#39;" in page and "/somewhere" not in page
    assert "0.25 of the rows, put aside" in page and "left out on request" in page and not any(r["text"] in page for r in rows(40))
