"""Every task that trains, from the command line to the report: trained, evaluated with a page, compared, answered, its data looked at, bad input refused.

The tasks that write have tests of their own (tests/tasks); of them only the report is made here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.cases import Page
from nabi import evaluate, load, plugins, tasks
from nabi.metrics import ConfusionScore
from nabi.metrics.chosen import Chosen
from nabi.metrics.detail import Detailed
from nabi.metrics.written import Hidden
from nabi.tasks._masking import MaskedScore
from tasks.tagged import tokens
from tasks.written import command
from training.small import rows, vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer takes Hangul")
QUICK = ("--set", "plan.steps=4", "--set", "plan.batch=4")


def questions() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(12):
        context = f"the cat sat by the river {i} and went in"
        found.append({"question": "where ?", "context": context, "answers": [{"text": "river", "start": context.index("river")}] if i % 3 else []})
    return found


# task -> (labelled rows, a row that can't be read, words of the error, an input of predict)
DATA: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str, str | None]] = {
    "text_classification": (rows(24), {"text": "good", "label": None}, "label is missing", "good film"),
    "token_classification": (
        [{"tokens": ["Ada", "met", "the", "York", str(i)], "tags": ["B-PER", "O", "O", "B-LOC", "O"]} for i in range(12)],
        {"tokens": ["a", "b"], "tags": ["O"]}, "another number than tokens", "Ada met York",
    ),
    "question_answering": (
        questions(), {"question": "where ?", "context": "by the river", "answers": [{"text": " "}]}, "an answer has no text",
        '{"question": "where ?", "context": "by the river"}',
    ),
    "fill_mask": ([{"text": r["text"]} for r in rows(24)], {"text": None}, "has no text", "good [MASK] film"),
    "next_sentence": (
        [{"text": a["text"], "next": b["text"], "is_next": bool(i % 2)} for i, (a, b) in enumerate(zip(rows(24), rows(24, 1), strict=True))],
        {"text": "a", "next": "b", "is_next": "perhaps"}, "neither yes nor no", None,
    ),
    "pretraining": (
        [{"text": a["text"], "next": b["text"], "is_next": bool(i % 2)} for i, (a, b) in enumerate(zip(rows(24), rows(24, 1), strict=True))],
        {"text": "a", "next": "b", "is_next": "perhaps"}, "neither yes nor no", None,
    ),
    "zero_shot_classification": (rows(24), {"text": "good", "label": ""}, "label is missing", "good film"),
    "multiple_choice": (
        [{"question": r["text"], "choices": ["good", "bad", "film"][: 2 + i % 2], "label": i % 2} for i, r in enumerate(rows(24))],
        {"question": "a", "choices": ["b", "c"], "label": 5}, "none of the choices", None,
    ),
    "sentence_similarity": (
        [{"text": a["text"], "text_pair": b["text"], "score": i % 6} for i, (a, b) in enumerate(zip(rows(24), rows(24, 1), strict=True))],
        {"text": "a", "text_pair": "b", "score": "much"}, "the score is missing or no number", None,
    ),
}  # fmt: skip
Trained = Callable[[str], Path]


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of a run of a task, with its data beside it."""
    base = tmp_path_factory.mktemp("runs")

    @cache
    def run(task: str) -> Path:
        (folder := base / task).mkdir()
        words = tokens("bert", folder / "tokens") if task == "token_classification" else vocabulary(folder / "tokens")
        data, out = write(folder / "data.jsonl", DATA[task][0]), folder / "out"
        scratch = ("--family", "bert", "--size", "tiny", "--tokenizer", words)
        code, told, said = command("train", "--task", task, "--data", data, "--dev", data, "--out", out, *scratch, *QUICK, "--json")
        assert code == 0, said
        assert tasks.find(task).main_metric in json.loads(told)["metrics"]
        return out

    return run


# features have no figure; a figure of retrieval is of all rows together, so its report has no part by row
WITHOUT = {"feature_extraction", "image_feature_extraction", "image_text_retrieval"}


def test_every_task_that_trains_has_a_detail() -> None:
    for name in tasks.names():
        kind = tasks.find(name)
        if kind.score is not tasks.Task.score and name not in WITHOUT:
            assert isinstance(kind, type) and hasattr(kind, "detail"), name
    readers = {name for name in tasks.names() if tasks.find(name).parts == {"text"}}  # those of images have tests of their own
    assert set(DATA) >= {name for name in readers - WITHOUT if not tasks.find(name).generates}


@pytest.mark.parametrize("task", DATA)
def test_a_run_leaves_a_report_with_intervals_and_errors(task: str, trained: Trained) -> None:
    out = trained(task)
    page, history = Page((out / "report.html").read_text(encoding="utf-8")), json.loads((out / "history.json").read_text())
    main = tasks.find(task).main_metric
    low, high = history["intervals"][main]
    assert low <= high and f"{low:.4f}" in page.text and "Worst errors" in page.text and "Course of training" in page.text
    assert (out / "README.md").is_file() and "keeps nothing of its rows" not in page.text


@pytest.mark.parametrize("task", DATA)
def test_an_evaluation_writes_a_page_and_its_detail_has_the_scores_figures(task: str, trained: Trained, tmp_path: Path) -> None:
    out = trained(task)
    data = out.parent / "data.jsonl"
    code, told, said = command("evaluate", out, "--data", data, "--report", tmp_path / "page.html", "--json")
    facts = json.loads(told)
    assert code == 0 and facts["rows"] == len(DATA[task][0]) and facts["task"] == task, said
    assert "How to use it" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    model = load(out)
    assert isinstance(model.task, Detailed)
    found = evaluate(model, data, keep=True)
    assert found.kept is not None
    figures = found.kept.detail.figures(np.ones((1, found.rows)))
    assert found.metrics == pytest.approx(facts["metrics"], abs=1e-6)
    assert {name: float(value[0]) for name, value in figures.items()} == pytest.approx(found.metrics, abs=1e-6)
    some = found.kept.detail.take([0, 2, 2])
    weights = np.zeros((1, found.rows))
    weights[0, [0, 2]] = 1, 2
    few = {name: float(value[0]) for name, value in some.figures(np.ones((1, 3))).items()}
    assert few == pytest.approx({name: float(value[0]) for name, value in found.kept.detail.figures(weights).items() if name in few})


@pytest.mark.parametrize("task", DATA)
def test_two_models_are_compared(task: str, trained: Trained, tmp_path: Path) -> None:
    out = trained(task)
    code, told, said = command("evaluate", out, out / "last", "--data", out.parent / "data.jsonl", "--report", tmp_path / "page.html", "--json")
    assert code == 0, said
    assert tasks.find(task).main_metric in json.loads(told)["comparison"]["differences"] and (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("task", DATA)
def test_predict_answers_inputs_and_rows(task: str, trained: Trained, tmp_path: Path) -> None:
    out, (data, _, _, text) = trained(task), DATA[task]
    if task != "fill_mask":
        code, told, said = command("predict", out, "--data", write(tmp_path / "a.jsonl", data[:3]), "--json")
        assert code == 0 and len([json.loads(line) for line in told.splitlines()]) == 3, said
    if text is not None:
        code, told, said = command("predict", out, text)
        assert code == 0 and len(told.splitlines()) == 1, said


@pytest.mark.parametrize("task", DATA)
def test_bad_rows_end_with_2_and_name_the_row(task: str, trained: Trained, tmp_path: Path) -> None:
    out, (data, bad, words, _) = trained(task), DATA[task]
    file = write(tmp_path / "bad.jsonl", [*data[:4], bad])
    words_folder = out.parent / "tokens"
    scratch = ("--family", "bert", "--size", "tiny", "--tokenizer", words_folder)
    for args in (("evaluate", out, "--data", file), ("train", "--task", task, "--data", file, "--out", tmp_path / "out", *scratch, *QUICK)):
        code, told, said = command(*args)
        assert code == 2 and words in said and ("line 5" in said or "row 5" in said) and "Traceback" not in said and not told, said
    assert not (tmp_path / "out" / "config.json").exists()


# ---- the doctor and the bench ---------------------------------------------------------------------------------------------------------------------------


def said(path: Path, *more: Any) -> dict[str, Any]:
    """The doctor's findings by code, after checking its exit code."""
    code, told, problem = command("doctor", path, *more, "--json")
    found = {f["code"]: f for f in json.loads(told)["findings"]}
    assert code == any(f["severity"] == "error" for f in found.values()), problem
    return found


# task -> (rows that have a flaw, their indexes by code)
FLAWS: dict[str, tuple[list[dict[str, Any]], dict[str, tuple[int, ...]]]] = {
    "token_classification": (
        [{"tokens": ["Ada", "met"], "tags": ["B-PER", "O"]}, {"tokens": ["Ada", "met"], "tags": ["B-PER", "O"]},
         {"tokens": ["a", "b"], "tags": ["O"]},
         {"tokens": ["in", "York"], "tags": ["O", "I-LOC"]}, {"tokens": ["Ada", "met"], "tags": ["O", "O"]}, {"tokens": [" "], "tags": ["O"]},
         {"tokens": ["a"] * 3000, "tags": ["O"] * 3000}],
        {"unreadable": (2,), "broken_tags": (3,), "conflicting_labels": (0, 1, 4), "empty_texts": (5,), "long_texts": (6,), "entities": ()},
    ),
    "question_answering": (
        [{"question": "where ?", "context": "by the river", "answers": [{"text": "river", "start": 7}]},
         {"question": "where ?", "context": "by the river", "answers": [{"text": "river", "start": 7}]},
         {"question": "who ?", "context": "by the river", "answers": [{"text": "river", "start": 3}]},
         {"question": "why ?", "context": "by the river", "answers": []}, {"question": "why ?", "context": "  ", "answers": []},
         {"question": "how ?", "context": "caf\u00c3\u00a9", "answers": [{"text": "tea"}]}],
        {"unreadable": (2, 5), "duplicates": (1,), "no_answers": (3, 4), "empty_texts": (4,), "encoding": (5,)},
    ),
    "multiple_choice": (
        [*({"question": f"q{i}", "choices": ["a", "b"], "label": 0} for i in range(6)), {"question": "x", "choices": ["a"], "label": 0},
         {"question": "y", "choices": ["a", "b"], "label": 1}, {"question": "q0", "choices": ["a", "b"], "label": 0}],
        {"unreadable": (6,), "imbalance": (0, 1, 2, 3, 4, 5, 8), "duplicates": (8,)},
    ),
    "next_sentence": (
        [{"text": f"a{i}", "next": "b", "is_next": True} for i in range(4)] + [{"text": "c", "next": "d", "is_next": "?"}],
        {"unreadable": (4,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", FLAWS)
def test_the_doctor_finds_the_flaws_of_each_tasks_data(task: str, tmp_path: Path) -> None:
    data, wanted = FLAWS[task]
    found = said(write(tmp_path / "data.jsonl", data))
    assert {code: tuple(found[code].get("rows", ())) for code in wanted if code in found} == wanted, found
    assert not {"missing_label", "rare_labels", "mixed_label_types"} & set(found)
    assert all("unreadable" not in code or "line" in f["message"] for code, f in found.items())


@pytest.mark.parametrize("task", [name for name in DATA if name not in ("fill_mask", "zero_shot_classification", "pretraining")])
def test_the_doctor_has_nothing_against_good_data(task: str, tmp_path: Path, trained: Trained) -> None:
    data = write(tmp_path / "data.jsonl", DATA[task][0])
    found = said(data)
    assert "clean" in found and {f["severity"] for f in found.values()} == {"info"}, found
    assert "clean" in said(data, "--model", trained(task)), "in the tokens of a model too"
    if task == "token_classification":
        assert found["entities"]["message"] == "24 entities in 12 rows: 'PER' 12, 'LOC' 12."


def test_the_doctor_is_told_a_task_that_columns_do_not_tell(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", [{"text": "one text"}, {"text": "one text"}, {"text": ""}])
    assert {"duplicates", "empty_texts"} <= set(said(data, "--task", "fill-mask"))
    for more, words in ((("--task", "fil-mask"), "Did you mean 'fill_mask'"), ((), "no column 'label'"), (("--task", "feature-extraction"), "no rows")):
        code, told, problem = command("doctor", data, *more)
        assert code == 2 and words in problem and not told, problem
    assert command("doctor", "--task", "ner")[0] == 2


def test_the_doctor_finds_dev_rows_that_stand_in_train(tmp_path: Path) -> None:
    data = DATA["token_classification"][0]
    found = said(write(tmp_path / "a.jsonl", data), "--dev", write(tmp_path / "b.jsonl", data[:2]))
    assert found["leakage"]["severity"] == "error" and found["leakage"]["rows"] == [0, 1]


@pytest.mark.parametrize("task", [name for name in DATA if name != "text_classification"])
def test_bench_measures_models_of_each_task(task: str, trained: Trained) -> None:
    out = trained(task)
    for more in ((), ("--data", out.parent / "data.jsonl")):
        code, told, problem = command("bench", out, *more, "--seconds", "0.2", "--json")
        assert code == 0, problem
        found = json.loads(told)
        assert found["task"] == task and [v["name"] for v in found["variants"]] == ["fp32", "fp32 prepared", "bf16 prepared"] and found["rows"] >= 8
        assert (found["variants"][0]["metrics"] is not None) == bool(more)


# ---- the details by themselves --------------------------------------------------------------------------------------------------------------------------


def test_a_choice_of_classes_has_the_figures_of_the_confusion_score() -> None:
    dice, labels = np.random.default_rng(0), ("a", "b", "c")
    detail, score = Chosen(labels), ConfusionScore(labels)
    for _ in range(60):
        p = dice.dirichlet([1, 1, 1])
        scores, truth = dict(zip(labels, p.tolist(), strict=True)), labels[int(dice.integers(3))]
        choice = max(scores, key=scores.__getitem__)
        detail.add((choice, scores), truth)
        score.add(choice, truth, scores[choice])
    figures = {name: float(value[0]) for name, value in detail.figures(np.ones((1, 60))).items()}
    assert figures == pytest.approx(score.result()) and 0.1 < figures["ece"] < 0.6
    verdicts = detail.verdicts()
    assert verdicts.right is not None and verdicts.right.mean() == pytest.approx(figures["accuracy"])
    assert verdicts.confidence is not None and (np.exp(-verdicts.loss) <= verdicts.confidence + 1e-12).all()
    titles = [section.title for section in detail.sections({})]
    assert titles == ["By label", "Confusions", "Choices"] and [s.title for s in Chosen(None).sections({})] == ["Choices"]


def test_classes_that_come_with_the_rows_are_classes_too() -> None:
    detail = Chosen(())
    detail.add(("x", {"x": 0.7, "y": 0.3}), "x")
    detail.add(("z", {"x": 0.1, "z": 0.9}), "x")
    assert detail.choices == ("x", "y", "z") and detail.figures(np.ones((1, 2)))["accuracy"][0] == 0.5
    assert detail.take([1]).verdicts().loss[0] == pytest.approx(-np.log(0.1))


def test_hidden_tokens_have_the_figures_of_their_score() -> None:
    detail, score = Hidden(pairs=True), MaskedScore()
    for nats, hidden, right, known in ((4.0, 3, 1, True), (1.0, 2, 2, False), (0.0, 0, 0, True)):
        detail.add((nats, hidden, right), known)
        score.add({"nats": nats, "tokens": hidden, "right": right})
    figures = {name: float(value[0]) for name, value in detail.figures(np.ones((1, 3))).items()}
    assert figures == pytest.approx({**score.result(), "next_accuracy": 2 / 3})
    assert score.result() == pytest.approx({"perplexity": np.exp(1.0), "accuracy": 0.6}) and detail.facts() == {"nats": 5.0, "hidden": 5.0, "found": 3.0}
    assert detail.verdicts().loss.tolist() == pytest.approx([4 / 3, 0.5, 0.0]) and "next_accuracy" not in Hidden().figures(np.ones((1, 0)))


PLUGIN = """
from nabi.data import Finding
from nabi.errors import DataError
from nabi.tasks.next_sentence import NextSentence

class Rhymes(NextSentence):
    name, aliases, columns, told_by = "rhymes", (), ("verse", "other", "rhymes"), (("verse", "other"),)

    @classmethod
    def shown(cls, example):
        return example.get("verse"), example.get("other")

    @classmethod
    def said(cls, example, where):
        if not isinstance(example["rhymes"], bool):
            raise DataError(f"{where}: rhymes says neither yes nor no", value=example["rhymes"])
        return example["rhymes"]

    @classmethod
    def doubts(cls, table, said):
        yield Finding("yes", "info", f"{said.count(True)} rhymes", (), "")

TASK = Rhymes
"""


def test_the_doctor_asks_a_task_of_a_plugin_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_added", {"families": {}, "tasks": {}})  # other tests list what there is
    plugin = tmp_path / "rhymes.py"
    plugin.write_text(PLUGIN)
    rows = [{"verse": f"a{i}", "other": "b", "rhymes": True} for i in range(4)] + [{"verse": "", "other": "b", "rhymes": 1}]
    found = said(write(tmp_path / "data.jsonl", rows), "--plugin", plugin)
    assert found["unreadable"]["rows"] == [4] and found["empty_texts"]["rows"] == [4] and found["yes"]["message"].startswith("4 rhymes")
    assert found["single_label"]["rows"] == [0, 1, 2, 3], "its labels are classes"
