"""Measures against scikit-learn, SciPy and plain loops, on random answers with labels that are missing on one side."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as reference

from nabi.metrics import BINS, ConfusionScore, CorrelationScore, MultiLabelScore

LABELS = ("a", "b", "c", "d")


def answers(seed: int, truths: str, guesses: str, count: int = 200) -> list[tuple[str, str, float]]:
    dice = random.Random(seed)
    return [(dice.choice(guesses), dice.choice(truths), dice.choice([0.0, 1.0, 1 / 3, dice.random()])) for _ in range(count)]


@pytest.mark.parametrize(
    ("truths", "guesses"), [("abcd", "abcd"), ("abc", "abc"), ("ab", "bc"), ("a", "abd"), ("aaaab", "a"), ("a", "a"), ("a", "b")]
)
def test_confusion(truths: str, guesses: str) -> None:
    for seed in range(3):
        rows, score = answers(seed, truths, guesses), ConfusionScore(LABELS)
        for row in rows:
            score.add(*row)
        predicted, true = [r[0] for r in rows], [r[1] for r in rows]
        found = score.result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each = reference.f1_score(true, predicted, labels=list(LABELS), average=None, zero_division=0)
            wanted = {
                "accuracy": reference.accuracy_score(true, predicted),
                "macro_f1": reference.f1_score(true, predicted, average="macro", zero_division=0),
                "mcc": reference.matthews_corrcoef(true, predicted),
                "ece": ece(rows),
                **{f"f1/{name}": value for name, value in zip(LABELS, each, strict=True)},
            }
        assert list(found) == list(wanted)
        assert found == pytest.approx(wanted, abs=1e-12)
        assert all(type(value) is float for value in found.values())


def ece(rows: list[tuple[str, str, float]]) -> float:
    """Guo et al. 2017, section 2: the sum over bins of |B| / n * |accuracy - confidence|."""
    total = 0.0
    for b in range(BINS):
        inside = [(g == t, c) for g, t, c in rows if b / BINS <= c < (b + 1) / BINS or (b == BINS - 1 and c == 1.0)]
        if inside:
            total += len(inside) / len(rows) * abs(sum(right for right, _ in inside) / len(inside) - sum(c for _, c in inside) / len(inside))
    return total


def test_calibrated_and_overconfident() -> None:
    good, bad = ConfusionScore("ab"), ConfusionScore("ab")
    for i in range(1000):
        good.add("a", "a" if i % 10 < 7 else "b", 0.7)
        bad.add("a", "a" if i % 10 < 7 else "b", 1.0)
    assert good.result()["ece"] == pytest.approx(0.0, abs=1e-9) and bad.result()["ece"] == pytest.approx(0.3)


def test_multi_label() -> None:
    dice = random.Random(0)
    score = MultiLabelScore(LABELS)
    predicted, true = [], []
    for _ in range(200):
        guess, truth = ([name for name in "abc" if dice.random() < 0.4] for _ in range(2))
        score.add(guess, truth)
        predicted.append([int(name in guess) for name in LABELS])
        true.append([int(name in truth) for name in LABELS])
    y, p = np.array(true), np.array(predicted)
    each = reference.f1_score(y, p, average=None, zero_division=0)
    wanted = {
        "accuracy": reference.accuracy_score(y, p),
        "precision": reference.precision_score(y, p, average="micro"),
        "recall": reference.recall_score(y, p, average="micro"),
        "f1": reference.f1_score(y, p, average="micro"),
        "macro_f1": reference.f1_score(y, p, average="macro", zero_division=0),
        **{f"f1/{name}": value for name, value in zip(LABELS, each, strict=True)},
    }
    assert score.result() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_correlation(ties: bool) -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=300)
    b = a**3 + draw.normal(size=300)
    if ties:
        a, b = a.round(), b.round()
    score = CorrelationScore()
    for pair in zip(a, b, strict=True):
        score.add(*map(float, pair))
    wanted = {"pearson": scipy.stats.pearsonr(a, b)[0], "spearman": scipy.stats.spearmanr(a, b)[0], "mse": ((a - b) ** 2).mean()}
    assert score.result() == pytest.approx(wanted, abs=1e-12)


def test_nothing_and_nothing_that_varies() -> None:
    assert set(ConfusionScore(LABELS).result().values()) == {0.0}
    assert set(MultiLabelScore(LABELS).result().values()) == {0.0}
    assert set(CorrelationScore().result().values()) == {0.0}
    flat = CorrelationScore()
    for value in (1.0, 2.0, 3.0):
        flat.add(5.0, value)
    assert flat.result() == {"pearson": 0.0, "spearman": 0.0, "mse": pytest.approx(29 / 3)}
