"""Text classification: it learns each problem, its losses are the formulas, long texts are read whole, names are kept, bad labels are refused."""

from __future__ import annotations

import io
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nabi
from nabi import Plan, checkpoint, evaluate, fit
from nabi.errors import DataError, InputError, OptionError
from nabi.model import Model
from nabi.tasks.text_classification import ClassificationSettings
from nabi.training.loop import train
from nabi.training.progress import Progress
from training.small import BAD, GOOD, PLAIN, SIZE, feed, model, rows, text

FAST = Plan(steps=120, batch=16, learning_rate=3e-3, evaluate_every=50, hidden_dropout=0.0, attention_dropout=0.0, head_dropout=0.0)


def fitted(data: Any, tokenizer: Path, plan: Plan = FAST, **kwargs: Any) -> Any:
    progress = Progress("quiet", io.StringIO())
    return fit("text_classification", data, plan=plan, family="bert", size=SIZE, tokenizer=tokenizer, progress=progress, **kwargs)


# ---- it learns -----------------------------------------------------------------------------------------------------------------------------------


def test_single(tokenizer: Path) -> None:
    figures = evaluate(fitted(rows(96), tokenizer).model, rows(40, 1)).metrics
    assert figures["accuracy"] >= 0.95, figures


def pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Only which member is which decides."""
    dice, found = random.Random(seed), []
    for i in range(count):
        members = [text(dice, GOOD, 1, 3), text(dice, BAD, 1, 3)]
        found.append({"text": members[i % 2], "text_pair": members[1 - i % 2], "label": i % 2})
    return found


def test_pairs(tokenizer: Path) -> None:
    run = fitted(pairs(120), tokenizer, replace(FAST, steps=200))
    assert run.model.task.labels == ("0", "1")
    assert evaluate(run.model, pairs(40, 1)).metrics["accuracy"] >= 0.9
    swapped = [{**r, "text": r["text_pair"], "text_pair": r["text"]} for r in pairs(40, 1)]
    assert evaluate(run.model, swapped).metrics["accuracy"] <= 0.2
    without = [{**r, "text_pair": None} for r in pairs(4, 1)]
    assert len(run.model.predict(without)) == 4


def several(count: int, seed: int = 0) -> list[dict[str, Any]]:
    dice, kinds = random.Random(seed), {"good": GOOD, "bad": BAD}
    found = []
    for _ in range(count):
        names = [name for name in kinds if dice.random() < 0.5]
        words = [dice.choice(kinds[name]) for name in names] + dice.choices(PLAIN, k=5)
        found.append({"text": " ".join(dice.sample(words, len(words))), "label": names})
    return found


def test_multi_label(tokenizer: Path) -> None:
    run = fitted(several(120), tokenizer, replace(FAST, steps=250))
    assert run.model.task.problem == "multi" and run.model.task.labels == ("bad", "good")
    assert evaluate(run.model, several(40, 1)).metrics["f1"] >= 0.9
    answer = run.model.predict(several(30, 2)[3]["text"])
    assert isinstance(answer["label"], list) and all((answer["scores"][n] >= 0.5) == (n in answer["label"]) for n in ("bad", "good"))
    assert run.model.predict("the", threshold=0.0)["label"] == ["bad", "good"] and run.model.predict("good", threshold=1.0)["label"] == []


def numbers(count: int, seed: int = 0) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    return [{"text": " ".join(["good"] * k + dice.choices(PLAIN, k=8 - k)), "label": k / 4} for k in (dice.randint(0, 8) for _ in range(count))]


def test_regression(tokenizer: Path) -> None:
    run = fitted(numbers(120), tokenizer)
    assert run.model.task.problem == "regression" and run.model.task.main_metric == "pearson"
    figures = evaluate(run.model, numbers(40, 1)).metrics
    assert figures["pearson"] > 0.9 and figures["mse"] < 0.2, figures
    assert isinstance(run.model.predict("good good")["label"], float)


def test_regression_from_a_csv(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "stars.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in numbers(20)))
    run = fitted(tmp_path / "stars.csv", tokenizer, Plan(steps=2))
    assert run.model.task.problem == "regression"
    named = fitted(tmp_path / "stars.csv", tokenizer, Plan(steps=2), settings={"problem": "single"})
    assert named.model.task.problem == "single" and "0.5" in named.model.task.labels


# ---- losses ----------------------------------------------------------------------------------------------------------------------------------------


def logits_of(built: Model, examples: Sequence[dict[str, Any]]) -> torch.Tensor:
    return torch.tensor([list(built.predict(e, function_to_apply="none")["scores"].values()) for e in examples], dtype=torch.float64)


def loss_of(built: Model, examples: Sequence[dict[str, Any]]) -> float:
    (step,) = train(built, feed(built, examples, plan := Plan(steps=1, batch=len(examples))), plan)
    return step.loss


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    return x - x.exp().sum(-1, keepdim=True).log()


FORMULAS: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor, int], torch.Tensor]]] = {
    "cross entropy": ({}, lambda p, y: -p[y]),
    "focal": ({"loss": "focal", "focal_gamma": 3.0}, lambda p, y: -((1 - p[y].exp()) ** 3) * p[y]),
    "smoothing": ({"label_smoothing": 0.3}, lambda p, y: -(0.7 * p[y] + 0.3 * p.mean())),
}
WEIGHTS = {"none": None, "dict": {"b": 4.0}, "balanced": "balanced"}


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("name", FORMULAS)
def test_losses_by_hand(name: str, weighting: str, tokenizer: Path) -> None:
    dice = random.Random(0)
    examples = [{"text": text(dice, GOOD), "label": "abbccc"[i % 6]} for i in range(12)]
    given, formula = FORMULAS[name]
    task = checkpoint.tasks.find("text_classification")
    settings = task.fitted(examples, "here", {**given, "class_weights": WEIGHTS[weighting]})
    built = model(tokenizer, settings, dropout=0.0, init_std=0.3)
    w = {"none": [1, 1, 1], "dict": [1, 4, 1], "balanced": [12 / (3 * 2), 12 / (3 * 4), 12 / (3 * 6)]}[weighting]
    labels = ["abc".index(e["label"]) for e in examples]
    logs = log_softmax(logits_of(built, examples))
    wanted = sum(w[y] * float(formula(p, y)) for p, y in zip(logs, labels, strict=True)) / sum(w[y] for y in labels)
    assert loss_of(built, examples) == pytest.approx(wanted, rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 5 + ["b"] * 2 + ["c"] * 13
    settings = checkpoint.tasks.find("text_classification").fitted([{"text": "", "label": x} for x in labels], "here", {"class_weights": "balanced"})
    wanted = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(labels))
    assert list(settings.class_weights.values()) == pytest.approx(list(wanted))


def test_multi_label_and_regression_losses_by_hand(tokenizer: Path) -> None:
    examples = several(9)
    built = model(tokenizer, ClassificationSettings(("bad", "good"), "multi", class_weights={"good": 3.0}), dropout=0.0, init_std=0.3)
    total = 0.0
    for x, e in zip(logits_of(built, examples), examples, strict=True):
        p = 1 / (1 + (-x).exp())
        total -= (
            sum(w * math.log(q) if name in e["label"] else math.log(1 - q) for q, name, w in zip(p.tolist(), ("bad", "good"), (1, 3), strict=True))
            / 2
        )
    assert loss_of(built, examples) == pytest.approx(total / 9, rel=1e-5)
    built = model(tokenizer, ClassificationSettings(("score",), "regression"), dropout=0.0, init_std=0.3)
    examples = numbers(9)
    wanted = sum((float(x) - e["label"]) ** 2 for x, e in zip(logits_of(built, examples), examples, strict=True)) / 9
    assert loss_of(built, examples) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": {"plus": 2.0}}, "unknown label in class_weights: 'plus'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"loss": "focal", "problem": "multi"}, "are for single-label problems"),
        ({"labels": ("a", "a")}, "two labels have one name"),
        ({"loss": "focl"}, "Did you mean 'focal'"),
        ({"class_weihts": "balanced"}, "Did you mean 'class_weights'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str, tokenizer: Path) -> None:
    data = several(8) if settings.get("problem") == "multi" else rows(8)
    if "labels" in settings:
        data = [{"text": "x", "label": "a"}]
    with pytest.raises(OptionError, match=message):
        fitted(data, tokenizer, Plan(steps=1), settings=settings)


# ---- names ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 1], ("1", "9", "10")),
        (["부정", "긍정", "중립"], ("긍정", "부정", "중립")),
        (["b", "a", "10"], ("10", "a", "b")),
        ([1.0, 0.0, 2], ("0", "1", "2")),
        ([True, False, True], ("False", "True")),
        ([np.int64(3), np.int64(2), 1], ("1", "2", "3")),
        (["LABEL_1", "LABEL_0", "a b/c"], ("LABEL_0", "LABEL_1", "a b/c")),
    ],
    ids=str,
)
def test_label_names_are_kept(labels: list[Any], names: tuple[str, ...], tokenizer: Path, tmp_path: Path) -> None:
    data = [{"text": f"the {PLAIN[i]}", "label": label} for i, label in enumerate(labels * 3)]
    run = fitted(data, tokenizer, Plan(steps=2, batch=4), out=tmp_path / "out")
    loaded = nabi.load(run.out)
    assert run.model.task.labels == loaded.task.labels == names
    assert set(loaded.predict("the film")["scores"]) == set(names)
    assert {f"f1/{n}" for n in names} <= evaluate(loaded, data).metrics.keys()


def test_given_labels_set_the_order(tokenizer: Path) -> None:
    run = fitted(rows(8), tokenizer, Plan(steps=1), settings={"labels": ["pos", "neg", "other"]})
    assert run.model.task.labels == ("pos", "neg", "other")
    with pytest.raises(DataError, match="unknown label"):
        fitted(rows(8), tokenizer, Plan(steps=1), settings={"labels": ["pos", "other"]})


# ---- long texts ------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from training.small import vocabulary

    torch.set_num_threads(1)
    found: Model = fitted(rows(96), vocabulary(tmp_path_factory.mktemp("vocabulary"))).model
    return found


def test_the_end_decides(learned: Model) -> None:
    dice = random.Random(0)
    for i in range(20):
        words, wanted = ((GOOD, "pos"), (BAD, "neg"))[i % 2]
        other = (BAD, GOOD)[i % 2]
        # one word of the other kind at the beginning, three windows of nothing, and an end that says it often
        long = " ".join([other[0], *dice.choices(PLAIN, k=60), *dice.choices(words, k=60)])
        whole, cut = learned.predict(long), learned.predict(long, long="truncate")
        assert (whole["label"], whole["truncated"]) == (wanted, False) and whole["windows"] > 2
        assert (cut["label"] != wanted, cut["truncated"], cut["windows"]) == (True, True, 1)
        with pytest.raises(InputError, match=r"input 1 is too long: '123 tokens'. Expected at most 64. With long='window' it is read whole"):
            learned.predict(long, long="error")


def test_windows_are_averaged_by_length(learned: Model) -> None:
    dice = random.Random(1)
    long = " ".join([*dice.choices(PLAIN + GOOD, k=110), *dice.choices(PLAIN + BAD, k=40)])  # a short last window that says something else
    found = learned.predict(long, function_to_apply="none", stride=5)
    windows = learned.inputs.tokenizer.windows(long, max_length=64, stride=5)
    assert len(windows) == found["windows"] == 3
    total: dict[str, float] = {"neg": 0.0, "pos": 0.0}
    count, plain = 0, 0.0
    for window in windows:
        start, stop = window.offsets[1][0], window.offsets[-2][1]
        alone = learned.predict(long[start:stop], function_to_apply="none")["scores"]
        plain += alone["pos"] / len(windows)
        size = sum(not s for s in window.special)
        count += size
        total = {name: total[name] + size * alone[name] for name in total}
    assert {k: v / count for k, v in total.items()} == pytest.approx(found["scores"], abs=1e-4)
    assert abs(plain - found["scores"]["pos"]) > 1e-2, "control: windows that count alike"


def test_a_long_pair_is_windowed_over_its_longer_member(learned: Model) -> None:
    example = {"text": "good " * 5, "text_pair": " ".join(random.Random(0).choices(PLAIN, k=200))}
    assert learned.predict(example)["windows"] > 3
    flipped = {"text": example["text_pair"], "text_pair": example["text"]}
    assert learned.predict(flipped)["windows"] > 3


def test_the_longer_member_is_the_one_of_more_tokens(learned: Model) -> None:
    # five unknown words, each one token of 99 letters, beside 58 short words: windows over the letters would leave the words no room
    few, many = " ".join(["ж" * 99] * 5), " ".join(random.Random(0).choices(PLAIN, k=58))
    assert len(few) > len(many)
    assert learned.predict({"text": many, "text_pair": few})["windows"] == learned.predict({"text": few, "text_pair": many})["windows"] == 2


def test_a_long_training_text_counts_once(tokenizer: Path) -> None:
    built = model(tokenizer)
    long = {"text": " ".join(random.Random(0).choices(PLAIN, k=300)), "label": "pos"}
    fed = feed(built, [long, {"text": "good", "label": "neg"}], Plan(batch=2, windows=100))
    (batch,) = fed.step(0)
    assert built.task.counts(batch.targets)["label"] == pytest.approx(2.0) and len(batch.targets["weight"]) > 5


@pytest.mark.parametrize(("options", "message"), [({"max_length": 0}, "out of range"), ({"max_length": 65}, "1 to 64"), ({"stride": 62}, "stride"),
                                                  ({"long": "cut"}, "expected one of|Expected one of")], ids=str)  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], message: str, learned: Model) -> None:
    with pytest.raises(OptionError, match=message):
        learned.predict("a " * 100, **options)


# ---- batches ---------------------------------------------------------------------------------------------------------------------------------------


def test_many_at_once_are_each_alone_and_in_order(learned: Model) -> None:
    dice = random.Random(3)
    texts = [" ".join(dice.choices(PLAIN + GOOD + BAD, k=dice.randint(0, 150))) for _ in range(60)]
    together = learned.predict(texts)
    gaps = []
    for one, answer in zip(texts, together, strict=True):
        alone = learned.predict(one)
        assert (alone["label"], alone["windows"]) == (answer["label"], answer["windows"])
        gaps += [abs(alone["scores"][n] - answer["scores"][n]) for n in answer["scores"]]
    print("largest difference", max(gaps))
    assert max(gaps) < 1e-5
    narrow = list(learned.answers(texts, tokens=64))
    assert max(abs(a["score"] - b["score"]) for a, b in zip(narrow, together, strict=True)) < 1e-5


def test_an_empty_text_is_its_special_tokens(learned: Model) -> None:
    answers = learned.predict(["", " \n\t", "good"])
    assert answers[0]["scores"] == pytest.approx(answers[1]["scores"]) and answers[0]["windows"] == 1
    rows_ = learned.encode({"text": ""}, learned.options())
    assert len(rows_) == 1 and rows_[0].tokens == 2


@pytest.mark.parametrize("bad", ["a \ud83d", 5, None, ["a"], b"bytes", {"text": 5}, {"label": "pos"}, {"text": "a", "text_pair": 3}], ids=repr)
def test_an_input_that_is_no_text_is_named(bad: Any, learned: Model) -> None:
    with pytest.raises(InputError) as caught:
        list(learned.answers(["fine", bad]))
    assert caught.value.exit_code == 2
    if not isinstance(bad, str):
        assert "input 2" in str(caught.value)


def test_a_number_without_a_vector_is_named(learned: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer with holes or with more segments than the body; RoBERTa's rule for one segment is in tests/parity."""
    tables = learned.body.tables
    for name, high in (("tokens", 3), ("segments", 1)):
        monkeypatch.setattr(learned.body, "tables", {**tables, name: high})
        with pytest.raises(InputError, match=f"input 1 has {name} that the model has no vectors for: .*Expected 0 to {high - 1}") as caught:
            list(learned.answers([{"text": "good", "text_pair": "bad"}]))
        assert ("can't read pairs" in str(caught.value)) == (name == "segments")
    monkeypatch.setattr(learned.body, "tables", tables)
    assert list(learned.answers([{"text": "good", "text_pair": "bad"}]))


# ---- bad labels ------------------------------------------------------------------------------------------------------------------------------------

BAD_LABELS: dict[str, tuple[list[Any], str]] = {
    "one class": (["a"] * 4, "there is only one class: \"list: \\['a'\\]|there is only one class"),
    "text and numbers": (["a", 1, "b", 2], "labels of mixed types: {'str': 1, 'number': 2}"),
    "lists and text": (["a", ["a"], "b"], "labels of mixed types: {'str': 1, 'list': 2}"),
    "tuples and numbers": ([1, ("a",), 2], "labels of mixed types: {'number': 1, 'list': 2}"),
    "missing": (["a", None, "b"], "row 2: the label is missing or no label: .*None"),
    "all missing": ([None, None], "row 1: the label is missing or no label"),
    "NaN": ([1.0, math.nan, 2.0], "row 2: the label is missing or no label: .*nan"),
    "infinite": ([1.0, math.inf], "row 2: the label is missing or no label"),
    "NaN in a regression": ([1.5, math.nan], "row 2: the label is not a number: .*nan"),
    "blank": (["a", " ", "b"], "row 2: the label is missing or no label"),
    "a dict": ([{"a": 1}, {"b": 2}], "row 1: the label is missing or no label"),
    "a blank in a list": ([["a"], ["a", ""]], "row 2: the label is missing or no label"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels(name: str, tokenizer: Path, tmp_path: Path) -> None:
    labels, message = BAD_LABELS[name]
    with pytest.raises(DataError, match=message) as caught:
        fitted([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)], tokenizer, Plan(steps=1), out=tmp_path / "out")
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def test_a_dev_label_that_training_did_not_see(tokenizer: Path, tmp_path: Path) -> None:
    dev = [*rows(4, 1), {"text": "x", "label": "posi"}]
    with pytest.raises(DataError, match=r"unknown label \(list, row 5\): 'posi'. Expected one of neg, pos. Did you mean 'pos'?"):
        fitted(rows(8), tokenizer, Plan(steps=1), dev=dev, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dev_text_that_is_none(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 2 has no text: "):
        fitted(rows(8), tokenizer, Plan(steps=1), dev=[rows(1)[0], {"text": 3, "label": "pos"}], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_warning_on_the_way(tokenizer: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = fitted(rows(16), tokenizer, Plan(steps=2), out=tmp_path / "out")
        nabi.load(run.out).predict("good")
