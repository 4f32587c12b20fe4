"""Zero-shot classification: as the incumbent's version 4, batched over labels, long texts read whole, trained on labels of one's own, bad input refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from nabi import Plan, checkpoint, evaluate
from nabi.batch import batch_of
from nabi.errors import CheckpointError, DataError, InputError, OptionError, UserError
from nabi.nn.body import Run
from tasks.read import LABELS, folder, golden
from tasks.written import command, fitted
from training.small import BAD, GOOD, PLAIN, SIZE, rows, text, vocabulary

CASES = [case for case in golden()["cases"] if case["task"] == "zero-shot-classification"]
TOLERANCE = 1e-5
Pipes = Callable[..., Any]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Pipes:
    base = tmp_path_factory.mktemp("read")

    @cache
    def made(name: str, seed: int = 0) -> Any:
        return nabi.pipeline("zero-shot-classification", folder(name, base / f"{name}-{seed}", seed))

    return made


def told(case: dict[str, Any], pipe: Any) -> list[dict[str, float]]:
    """The score of each label, for each text of a case; of labels that are named twice, the first."""
    found = pipe(case["given"], **case["options"])
    return scored(found if isinstance(found, list) else [found])


def scored(found: Any) -> list[dict[str, float]]:
    return [dict(zip(reversed(x["labels"]), reversed(x["scores"]), strict=True)) for x in (found if isinstance(found, list) else [found])]


def farthest(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    return max(abs(x[name] - y[name]) for x, y in zip(a, b, strict=True) for name in x)


# ---- as the incumbent --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.filterwarnings("ignore:none of the checkpoint's labels begins with 'entail'", "ignore:truncation")
def test_version_4_gives_the_same_labels_and_scores(name: str, pipes: Pipes) -> None:
    cases = [case for case in CASES if case["model"] == name]
    assert len(cases) >= 48
    for case in cases:
        found, wanted = pipes(name)(case["given"], **case["options"]), case["answer"]
        assert isinstance(found, list) == isinstance(wanted, list)
        for x, y in zip(*(a if isinstance(a, list) else [a] for a in (found, wanted)), strict=True):
            assert list(x) == ["sequence", "labels", "scores"] and (x["sequence"], x["labels"]) == (y["sequence"], y["labels"]), case
            assert x["scores"] == pytest.approx(y["scores"], abs=TOLERANCE), case
            assert json.loads(json.dumps(x)) == x


def test_version_4_takes_labels_by_place_and_texts_by_name(pipes: Pipes) -> None:
    pipe, labels = pipes("nli"), ["good", "bad"]
    wanted = pipe("the good film", candidate_labels=labels)
    named = pipe(sequences="the good film", candidate_labels="good, bad")
    assert wanted == named == pipe("the good film", labels) == pipe({"sequences": "the good film"}, labels)
    assert pipe(["the good film"], labels, multi_label=True) == [pipe("the good film", labels, multi_label=True)]
    for args in ((), ("the good film", labels, True)):
        with pytest.raises(InputError, match=f"called with its inputs: '{len(args)} positional arguments'"):
            pipe(*args)


def test_control_other_weights_and_other_outputs_miss_the_golden_scores(pipes: Pipes) -> None:
    cases = [case for case in CASES if case["model"] == "nli" and len(set(case["answer"][0]["labels"] if isinstance(case["answer"], list) else "ab")) > 1]
    assert all(farthest(told(case, pipes("nli", 1)), scored(case["answer"])) >= 100 * TOLERANCE for case in cases)
    pipe = pipes("nli", 0)
    task, right = pipe.model.task, pipe.model.task.entailment
    try:
        task.entailment, task.contradiction = 1, 0  # neutral for entailment
        assert all(farthest(told(case, pipe), scored(case["answer"])) >= 100 * TOLERANCE for case in cases)
    finally:
        task.entailment, task.contradiction = right, 0


@pytest.mark.parametrize(
    ("labels", "outputs"), [(LABELS["nli"], (2, 0)), (LABELS["nli_first"], (0, 2)), (LABELS["nli_middle"], (1, 0)), (LABELS["nli_nameless"], (1, 0))], ids=str
)
def test_entailment_and_contradiction_are_found_as_version_4_finds_them(labels: tuple[str, ...], outputs: tuple[int, int]) -> None:
    kind = checkpoint.tasks.find("zero_shot_classification")
    made: Any = kind(kind.Settings(labels=labels))
    assert (made.entailment, made.contradiction) == outputs


def test_labels_without_entailment_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"none of the checkpoint's labels begins with 'entail' \(LABEL_0, LABEL_1\)"):
        nabi.load(folder("nli_nameless", tmp_path / "nameless"), "zero_shot_classification")


# ---- rows of one pack ----------------------------------------------------------------------------------------------------------------------------------


def test_a_score_does_not_depend_on_what_else_is_asked(pipes: Pipes) -> None:
    pipe, dice = pipes("nli"), random.Random(0)
    texts = [text(dice, GOOD + BAD, 1, 40) for _ in range(12)]
    labels = ["good", "bad", "film", "songs", "나비", "the plot of the scene"]
    alone = [pipe(t, candidate_labels=labels, multi_label=True) for t in texts]
    together = pipe(texts, candidate_labels=labels, multi_label=True)
    shuffled = pipe(texts[::-1], candidate_labels=labels[::-1], multi_label=True)[::-1]
    one = [{name: pipe(t, candidate_labels=[name])["scores"][0] for name in labels} for t in texts[:3]]
    small = scored(list(pipe.model.answers(texts, pipe.model.options({"candidate_labels": labels, "multi_label": True}), tokens=60)))
    assert farthest(scored(alone), scored(together)) <= TOLERANCE and farthest(scored(alone), scored(shuffled)) <= TOLERANCE
    assert farthest(scored(alone)[:3], one) <= TOLERANCE and farthest(scored(alone), small) <= TOLERANCE
    assert farthest(scored(alone), scored(pipe(texts[1:] + texts[:1], candidate_labels=labels, multi_label=True))) >= 100 * TOLERANCE  # other texts


def test_all_labels_of_all_texts_share_batches(pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, seen = pipes("nli"), []
    forward = type(pipe.model.body).forward

    def counted(self: Any, batch: Any, *given: Any, **named: Any) -> Any:
        seen.append(batch.parts["text"].size)
        return forward(self, batch, *given, **named)

    monkeypatch.setattr(type(pipe.model.body), "forward", counted)
    pipe(["good film", "bad film", "the songs"], candidate_labels=["good", "bad", "film", "songs"])
    assert seen == [12]


# ---- long texts --------------------------------------------------------------------------------------------------------------------------------------


def test_a_long_text_is_read_whole_and_each_window_holds_the_hypothesis(pipes: Pipes) -> None:
    model, long = pipes("nli").model, "the film was good and the plot was dull " * 20
    options = model.options({"candidate_labels": "good, bad", "stride": 4})
    made = model.encode({"text": long}, options)
    ends = {0: model.inputs.tokenizer.encode("This example is good.").ids[1:], 1: model.inputs.tokenizer.encode("This example is bad.").ids[1:]}
    for row in made:
        tokens = row.parts["text"]["tokens"]
        assert len(tokens) <= 64 and tokens[-len(ends[row.notes["candidate"]]) :] == ends[row.notes["candidate"]]
    whole, cut = model.predict(long, candidate_labels="good, bad"), model.predict(long, candidate_labels="good, bad", long="truncate")
    assert (whole["windows"], whole["truncated"], cut["windows"], cut["truncated"]) == (max(8, whole["windows"]), False, 1, True)
    with pytest.raises(InputError, match=r"input 1 is too long: '\d+ tokens'. Expected at most 64"):
        model.predict(long, candidate_labels="good, bad", long="error")
    # by hand: logits of windows, averaged by their length
    with torch.no_grad():
        logits = model.task.row.read(Run(model.body), batch_of(made, range(len(made)), {}))
    weight = torch.tensor([float(row.notes["content"]) for row in made])
    entailed = torch.stack([(logits[:, 2] * weight)[mine].sum() / weight[mine].sum() for mine in ([r.notes["candidate"] == k for r in made] for k in (0, 1))])
    assert scored(model.predict(long, candidate_labels="good, bad", stride=4))[0]["good"] == pytest.approx(float(entailed.softmax(0)[0]), abs=TOLERANCE)


# ---- it learns ---------------------------------------------------------------------------------------------------------------------------------------


def test_it_learns_its_own_labels_and_keeps_them(tmp_path: Path) -> None:
    plan = Plan(steps=250, batch=16, learning_rate=3e-3, evaluate_every=250, hidden_dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    given = {"family": "bert", "size": SIZE, "tokenizer": vocabulary(tmp_path / "tokens"), "out": tmp_path / "out"}
    names = {"pos": "good", "neg": "bad"}
    data = [{**row, "label": names[row["label"]]} for row in rows(96)]
    fitted("zero_shot_classification", data, plan, settings={"hypothesis_template": "the film was {}"}, **given)
    model = nabi.load(tmp_path / "out")
    assert (model.task.name, model.task.settings.candidates, model.task.settings.hypothesis_template) == (
        "zero_shot_classification", ("bad", "good"), "the film was {}",
    )  # fmt: skip
    held_out = [{**row, "label": names[row["label"]]} for row in rows(40, 1)]
    figures = evaluate(model, held_out).metrics
    assert figures["accuracy"] >= 0.9 and {"macro_f1", "f1/good", "f1/bad"} <= figures.keys(), figures
    usual, same, other = (model.predict("good film", hypothesis_template=template) for template in (None, "the film was {}", "{}"))
    assert usual == same != other
    wrong = [{**row, "label": {"good": "bad", "bad": "good"}[row["label"]]} for row in held_out]
    assert evaluate(model, wrong).metrics["accuracy"] <= 0.1


def test_the_loss_counts_an_example_once_however_many_labels_it_has(tmp_path: Path) -> None:
    kind = checkpoint.tasks.find("zero_shot_classification")
    built = nabi.create("bert", SIZE, kind.name, kind.Settings(candidates=("good", "bad", "film")), vocabulary(tmp_path / "tokens"))
    options = built.options()
    long = {"text": " ".join(random.Random(0).choices(PLAIN, k=150)), "label": "good"}
    made = [row for i, e in enumerate([{"text": "good", "label": "bad"}, long]) for row in built.encode(e, options, "train", f"row {i}", i)]
    batch = batch_of(made, range(len(made)), built.task.targets)
    assert len(made) > 9 and built.task.counts(batch.targets) == pytest.approx({"label": 2.0})
    assert [row.targets["label"] for row in made[:3]] == [0, 1, 0]


# ---- bad input ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("good", {}, InputError, "input 1 has no candidate labels. Expected a list of names, or 'a, b, c'. Give candidate_labels"),
        ("good", {"candidate_labels": []}, InputError, "input 1 has no candidate labels"),
        ("good", {"candidate_labels": " , ,"}, InputError, "input 1 has no candidate labels"),
        ("good", {"candidate_labels": ["a", " "]}, InputError, "the candidate labels are no names"),
        ("good", {"candidate_labels": [1, 2]}, OptionError, "'candidate_labels' has the wrong type"),
        ({"text": "good", "candidate_labels": [1]}, {}, InputError, "the candidate labels are no names"),
        ("good", {"candidate_labels": "a", "hypothesis_template": "no place"}, OptionError, "can't be filled: 'no place'. Expected a sentence with {}"),
        ("good", {"candidate_labels": "a", "hypothesis_template": "{} and {}"}, OptionError, "template can't be filled"),
        ("good", {"candidate_labels": "a", "hypothesis_template": "{label}"}, OptionError, "template can't be filled"),
        ("good", {"candidate_labels": "a", "hypothesis_template": "{"}, OptionError, "template can't be filled"),
        ("good", {"candidate_labels": "a", "hypothesis_template": "{{}}"}, OptionError, "template can't be filled"),
        ("good", {"candidate_label": "a"}, OptionError, "Did you mean 'candidate_labels'"),
        ("good", {"candidate_labels": "a", "max_length": 65}, OptionError, "max_length is out of range"),
        ("", {"candidate_labels": "a"}, InputError, "input 1 has no text"),
        ({"txt": "good"}, {"candidate_labels": "a"}, InputError, "input 1 has no text"),
        (["good", 3], {"candidate_labels": "a"}, InputError, "input 2 has no text: '3'"),
        ("good", {"candidate_labels": "a " * 80}, InputError, "the pair that each window repeats is too long"),
    ],
    ids=str,
)
def test_bad_input_is_refused(given: Any, options: dict[str, Any], error: type[UserError], message: str, pipes: Pipes) -> None:
    with pytest.raises(error) as found:
        pipes("nli")(given, **options)
    assert message in str(found.value) and found.value.exit_code == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "good", "label": "god", "candidate_labels": ["good", "bad"]}, r"unknown label \(.*\): 'god'. Expected.*Did you mean 'good'"),
        ({"text": "good", "label": None}, "the label is missing or no label"),
        ({"text": "good", "label": " "}, "the label is missing or no label"),
    ],
    ids=str,
)
def test_bad_labels_are_refused(row: dict[str, Any], message: str, pipes: Pipes) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(pipes("nli").model, [row], options={} if "candidate_labels" in row else {"candidate_labels": "good, bad"})
    with pytest.raises(DataError):
        fitted("zero_shot_classification", [row], Plan(steps=1), family="bert", tokenizer="minilm")


def test_a_model_with_one_output_is_refused(pipes: Pipes) -> None:
    kind = checkpoint.tasks.find("zero_shot_classification")
    with pytest.raises(OptionError, match="needs entailment and contradiction"):
        kind(kind.Settings(labels=("score",)))
    with pytest.raises(CheckpointError, match="id2label does not fit"):
        kind.from_hf({"id2label": {"0": "a"}}, {"row": 2}, {})


def test_the_command_line_answers_and_refuses(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    checkpoint.save(nabi.load(folder("nli", tmp_path / "nli"), "zero-shot-classification"), path)
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "good film", "candidate_labels": ["good", "bad"]}) + "\n")
    code, out, _ = command("predict", path, "--data", tmp_path / "in.jsonl", "--json")
    answer = json.loads(out.splitlines()[0])
    assert code == 0 and set(answer["labels"]) == {"good", "bad"}, out
    code, out, _ = command("predict", path, "good film", "--set", "candidate_labels=good, bad", "--set", "multi_label=true")
    assert code == 0 and out.split("\t")[0] in ("good", "bad"), out
    code, _, told = command("predict", path, "good film")
    assert code == 2 and "has no candidate labels" in told
