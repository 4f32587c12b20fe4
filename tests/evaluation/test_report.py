"""The page: what a run leaves, that nothing in it can run or call out, that nothing is computed twice, and how large it is."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.cases import HOSTILE, Page, findings, made
from nabi import Plan, fit, fitting
from nabi.errors import StorageError
from nabi.evaluation import Evaluation, curve, evaluate
from nabi.evaluation import findings as found_in
from nabi.evaluation.curve import Curve
from nabi.evaluation.findings import Findings
from nabi.evaluation.report import evaluation_report, run_report
from nabi.model import Model
from nabi.pages import svg
from nabi.pages.page import cut, number, render, write
from nabi.pages.sections import Lines, Section
from nabi.training.progress import Progress
from nabi.training.runs import RunFolder
from training.small import SIZE, model, rows, vocabulary

PLAN = Plan(steps=12, batch=8, learning_rate=3e-3, evaluate_every=0.5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vocabulary(tmp_path_factory.mktemp("tokenizer"))


def run(out: Path, tokenizer: Path, **kwargs: Any) -> Any:
    given = {"data": rows(60), "dev": rows(40, 1), "plan": PLAN, "progress": Progress("quiet", io.StringIO()), **kwargs}
    return fit("text_classification", given.pop("data"), out=out, family="bert", size=SIZE, tokenizer=tokenizer, **given)


def test_what_a_run_leaves(tokenizer: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    fitted = run(tmp_path / "out", tokenizer, progress=Progress("quiet", said), command="nabi train --data 'my file.csv'")
    html = (tmp_path / "out" / "report.html").read_text()
    page, history = Page(html), json.loads((tmp_path / "out" / "history.json").read_text())
    assert re.search(r"report.html and README.md say how it went \(\d+\.\d s\)", said.getvalue())
    for title in ("Figures", "Course of training", "By label", "Confusions", "Calibration", "By length", "Worst errors", "Labels to check",
                  "How it was made", "How to use it"):  # fmt: skip
        assert title in page.text
    for name in ("accuracy", "macro_f1", "mcc", "ece"):
        low, high = history["intervals"][name]
        assert low <= high and all(f"{x:.4f}" in page.text for x in (fitted.metrics[name], low, high))
    assert history["data"]["sha256"] in page.text and history["dev"]["sha256"] in page.text and "plan.steps=12" in page.text and "plan.batch=8" in page.text
    assert "plan.warmup" not in page.text, "only settings that are not the usual ones"
    assert f"{sum(p.numel() for p in fitted.model.parameters()):,}" in page.text and "nabi train --data 'my file.csv'" in page.text
    assert f"load({str(tmp_path / 'out')!r})" in page.text and len(history["curve"]["loss"]) == 12 and history["facts"]["temperature"] > 0
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", html)
    assert not [word for word in ("http", "url(", "@import") if word in html.replace("http-equiv", "")]
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags) and not [n for n, _ in page.attributes if n.startswith("on")]
    assert "prefers-color-scheme: dark" in html and len(html) < 100_000


def test_hostile_rows_stay_text(tokenizer: Path, tmp_path: Path) -> None:
    label = '<b onclick="x">&"neg\u0007'
    data = [{"text": f"{r['text']} {HOSTILE}", "label": label if r["label"] == "neg" else "{{ pos }}"} for r in rows(60)]
    run(tmp_path / "out", tokenizer, data=data, dev=data[:40], command=f"nabi {HOSTILE}", plan=Plan(steps=2, batch=8))
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.text.count(HOSTILE) >= 2 and '<b onclick="x">&"neg\ufffd' in page.text and "{{ pos }}" in page.text
    assert not {"script", "img", "b"} & set(page.tags) and not [n for n, _ in page.attributes if n.startswith("on")]


def test_without_examples_no_text_of_a_row_is_left(tokenizer: Path, tmp_path: Path) -> None:
    dev = [{**r, "text": f"{r['text']} secret{i}"} for i, r in enumerate(rows(40, 1))]
    for name, examples in (("with", True), ("without", False)):
        run(tmp_path / name, tokenizer, dev=dev, examples_in_report=examples, plan=Plan(steps=2, batch=8))
    shown, hidden = ((tmp_path / name / "report.html").read_text() for name in ("with", "without"))
    assert "secret" in shown and "secret" not in hidden and "left out on request" in hidden and "row " in hidden
    assert not any("secret" in (tmp_path / name / "README.md").read_text() for name in ("with", "without"))


def test_without_dev_it_says_so(tokenizer: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", tokenizer, dev=None)
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "nothing was measured" in page.text and "Training loss" in page.text and "Confusions" not in page.text
    assert "nothing was measured" in (tmp_path / "out" / "README.md").read_text()


def test_the_evaluation_is_not_made_again(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, passes = Model.readings, []
    monkeypatch.setattr(Model, "readings", lambda self, rows, *args: passes.append(len(rows)) or real(self, rows, *args))
    run(tmp_path / "out", tokenizer)
    assert passes.count(40) == 3, "one forward over dev at each evaluation, none for the report"


def broken_off(out: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A run that ends after so many states."""
    with monkeypatch.context() as patch:
        save, count = RunFolder.save_last, [0]

        def then_stop(*args: Any) -> None:
            save(*args)
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt

        patch.setattr(RunFolder, "save_last", then_stop)
        with pytest.raises(KeyboardInterrupt):
            run(out, tokenizer)


def test_a_resumed_run_has_the_whole_course(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", tokenizer)
    broken_off(tmp_path / "parts", tokenizer, monkeypatch, at=1)
    before = json.loads((tmp_path / "parts" / "last" / "training.json").read_text())["extra"]
    assert len(before["curve"]["values"]) == 4 and before["tokens"] > 0 and before["seconds"] > 0
    run(tmp_path / "parts", tokenizer, resume=True)
    whole, parts = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "parts"))
    assert whole == parts and len(whole["curve"]["loss"]) == 12
    tokens = [re.search(r"computed</bdi></td><td><bdi>([\d,]+)", (tmp_path / n / "report.html").read_text()) for n in ("whole", "parts")]
    assert tokens[0] and tokens[1] and tokens[0][1] == tokens[1][1]


def test_a_best_model_of_an_earlier_process_is_evaluated_again(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, figures, calls = fitting.evaluate, [0.9, 0.2, 0.1], [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        if calls[0] < len(figures):
            found.metrics["macro_f1"] = figures[calls[0]]
        calls[0] += 1
        return found

    monkeypatch.setattr(fitting, "evaluate", counted)
    broken_off(tmp_path / "out", tokenizer, monkeypatch, at=1)
    run(tmp_path / "out", tokenizer, resume=True)
    assert calls[0] == 4 and "Confusions" in (tmp_path / "out" / "report.html").read_text()


def test_a_curve_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "LIMIT", 8)
    whole, parts = Curve(), Curve()
    for step in range(100):
        whole.add(float(step))
        parts.add(float(step))
        if step % 7 == 0:
            parts = Curve(json.loads(json.dumps(parts.state())))
    assert whole.state() == parts.state() and len(whole.values) < 8 and whole.each == 16
    assert whole.points()[0] == (16.0, sum(range(16)) / 16)


# ---- other shapes --------------------------------------------------------------------------------------------------------------------------------------


def test_many_labels_stay_small_and_quick(tmp_path: Path) -> None:
    labels = [f"a rather long name of an intent, number {i}" for i in range(150)]
    found = findings(tmp_path, labels, 5000, text="x" * 2000)
    began = time.perf_counter()
    html = run_report(found, made(found), found.model)
    seconds = time.perf_counter() - began
    print(f"{len(html) / 1e6:.2f} MB in {seconds:.1f} s")
    assert len(html) < 2_000_000 and seconds < 20
    page = Page(html)
    assert "150 labels" in page.text and "2,0" in page.text and page.tags.count("figure") == 4
    assert "x" * 400 not in page.text, "texts are cut"


def several(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": r["text"], "label": [w for w in ("good", "bad") if w in r["text"]]} for r in rows(count, seed)]


def numbers(count: int, seed: int) -> list[dict[str, Any]]:
    return [{"text": r["text"], "label": len(r["text"]) / 7} for r in rows(count, seed)]


@pytest.mark.parametrize(("kind", "titles"), [(several, ["By label", "Calibration", "Worst errors"]), (numbers, ["Truth and prediction", "Residuals"])])
def test_other_problems(kind: Any, titles: list[str], tokenizer: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", tokenizer, data=kind(60, 0), dev=kind(40, 1))
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert all(title in page.text for title in titles) and "Confusions" not in page.text and "svg" in page.tags


def test_a_task_that_keeps_nothing(tmp_path: Path) -> None:
    found = findings(tmp_path, ("a", "b"), 40)
    bare = Findings(found.model, Evaluation("text_length", "m", "list", 40, {"accuracy": 0.5, "f1/a": 0.25}, 1.0))
    page = Page(evaluation_report(bare, "nabi evaluate m"))
    assert "0.5000" in page.text and "0.2500" in page.text and "no intervals" in page.text and "Worst errors" not in page.text


def test_lengths_of_some_of_very_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_in, "MEASURED", 100)
    found = findings(tmp_path, ("a", "b"), 400)
    assert sum(s.rows for s in found.by_length) == 100 and found.lengths[0][-1] > 300
    assert "100 rows were drawn by chance" in run_report(found, made(found), found.model)


def test_length_and_label_slices(tmp_path: Path) -> None:
    found = findings(tmp_path, ("a", "b", "c"), 400)
    assert sum(s.rows for s in found.by_length) == 400 and len(found.by_length) == 4
    assert [s.figure for s in found.by_label] == sorted(found.evaluation.metrics[f"f1/{n}"] for n in "abc")
    kept = found.evaluation.kept
    assert kept is not None and (found.lengths[0] == range(400)).all()
    assert (found.lengths[1] == [len(found.model.inputs.tokenizer.encode(r["text"]).ids) for r in kept.table]).all()


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_scores_of_every_form_are_the_same_probabilities(function: str, tokenizer: Path) -> None:
    built = model(tokenizer)
    plain, other = (evaluate(built, rows(20), options=o, keep=True).kept for o in ({}, {"function_to_apply": function}))
    assert plain is not None and other is not None
    assert plain.detail.log_p == pytest.approx(other.detail.log_p, abs=1e-6)  # type: ignore[attr-defined]


def test_a_page_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "none"):
        with pytest.raises(StorageError, match=f"{place}/page.html could not be written"):
            write(tmp_path / place / "page.html", "x")


def test_words() -> None:
    assert [number(x) for x in (None, 3, 12345, 0.5, -1e-9, 123456.78, float("nan"))] == ["", "3", "12,345", "0.5000", "0.0000", "123,456.8", "nan"]
    assert cut("short") == "short" and cut("y" * 999, 10) == "y" * 10 + " … (999 characters)"


def test_each_of_four_curves_has_a_colour_a_dash_and_a_marker_of_its_own() -> None:
    chart = Lines("t", "x", "y", {name: [(0.0, i), (1.0, i + 1.0)] for i, name in enumerate("abcde")})
    html = render("t", "", [], [Section("s", [chart])])
    drawn = re.findall(r'<(circle|rect|path) class="mark (open )?s(\d)"', html.partition("<p class=\"legend\">")[0])
    assert list(dict.fromkeys(number for _, _, number in drawn)) == [str(i) for i in range(svg.SERIES)] and len(set(drawn)) == svg.SERIES
    style = html.partition("</style>")[0]
    for i in range(svg.SERIES):
        assert len(re.findall(rf"--s{i}: #", style)) == 3, "light, dark, print"
        assert re.search(rf"[.]s{i} {{ --c: var[(]--s{i}[)]", style)
    assert len({re.search(rf"[.]line[.]s{i}[^{{]*{{ stroke-dasharray: ([\d ]+)", style)[1] for i in range(1, svg.SERIES)}) == svg.SERIES - 1  # type: ignore[index]


@pytest.mark.parametrize("high", [0.00012, 1.0, 0.338, -12_345.5, 250_000.0])
def test_the_numbers_of_an_axis_end_before_its_name(high: float) -> None:
    drawn = svg.lines(Lines("a", "update", "value", {"a": [(0.0, min(0.0, high)), (10.0, max(0.0, high))]}))
    numbers = re.findall(r'class="tick" x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]+)<', drawn)
    assert numbers and all(float(x) - svg.DIGIT * len(number) >= 20 for x, number in numbers), numbers
