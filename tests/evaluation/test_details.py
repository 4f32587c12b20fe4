"""What an evaluation keeps of its rows: the same figures as the scores, under any weights; calibration; doubtful labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from evaluation.cases import classified
from nabi.metrics import ConfusionScore, CorrelationScore, MultiLabelScore
from nabi.metrics.calibration import COLDEST, Calibration, ece, log_softmax, noise, temperature
from nabi.metrics.classified import Classified
from nabi.metrics.detail import Detail
from nabi.metrics.measured import Measured
from nabi.metrics.multi_label import MultiLabelled

LABELS = ("a", "b", "c", "never")
Add = Callable[[Any, int], None]  # (a detail or a score, a row)


def single(rows: int) -> tuple[Callable[[], Detail], Callable[[], Any], Add, Add]:
    dice = np.random.default_rng(0)
    logits, truth = dice.normal(size=(rows, 4)) * 2, dice.integers(3, size=rows)
    p = np.exp(log_softmax(logits))

    def scored(score: Any, i: int) -> None:
        score.add(LABELS[p[i].argmax()], LABELS[truth[i]], float(p[i].max()))

    return lambda: Classified(LABELS), lambda: ConfusionScore(LABELS), lambda detail, i: detail.add(logits[i], LABELS[truth[i]]), scored


def several(rows: int) -> tuple[Callable[[], Detail], Callable[[], Any], Add, Add]:
    dice = np.random.default_rng(1)
    logits = dice.normal(size=(rows, 4)) - [0, 0, 0, 9]
    given = [[LABELS[i] for i in np.flatnonzero(row > 0)] for row in logits]
    true = [[LABELS[i] for i in range(3) if dice.random() < 0.4] for _ in range(rows)]
    return (
        lambda: MultiLabelled(LABELS),
        lambda: MultiLabelScore(LABELS),
        lambda detail, i: detail.add((logits[i], given[i]), true[i]),
        lambda score, i: score.add(given[i], true[i]),
    )


def number(rows: int) -> tuple[Callable[[], Detail], Callable[[], Any], Add, Add]:
    dice = np.random.default_rng(2)
    truth = dice.normal(size=rows).round(1)  # with ties
    predicted = (truth + dice.normal(size=rows)).round(1)
    add: Add = lambda kept, i: kept.add(float(predicted[i]), float(truth[i]))  # noqa: E731
    return Measured, CorrelationScore, add, add


@pytest.mark.parametrize("kind", [single, several, number])
def test_figures_are_those_of_the_score_on_the_rows_repeated(kind: Callable[[int], Any]) -> None:
    rows = 120
    detail_of, score_of, keep, score = kind(rows)
    detail = detail_of()
    for i in range(rows):
        keep(detail, i)
    dice = random.Random(0)
    weights = np.array([[1.0] * rows, *([float(dice.choice([0, 0, 1, 2, 3])) for _ in range(rows)] for _ in range(5)), [0.0] * (rows - 1) + [3.0]])
    figures = detail.figures(weights)
    for b, counts in enumerate(weights):
        plain = score_of()
        for i, count in enumerate(counts):
            for _ in range(int(count)):
                score(plain, i)
        assert {name: values[b] for name, values in figures.items()} == pytest.approx(plain.result(), abs=1e-9)
    assert abs(figures[next(iter(figures))][0] - figures[next(iter(figures))][1]) > 1e-3  # control: other weights, other figures


@pytest.mark.parametrize("kind", [single, several, number])
def test_some_rows_alone(kind: Callable[[int], Any]) -> None:
    detail_of, _, keep, _ = kind(40)
    whole, part = detail_of(), detail_of()
    chosen = [3, 5, 8, 13, 21]
    for i in range(40):
        keep(whole, i)
    for i in chosen:
        keep(part, i)
    ones = np.ones((1, 5))
    taken, wanted = whole.take(chosen), part
    assert {n: v[0] for n, v in taken.figures(ones).items()} == {n: v[0] for n, v in wanted.figures(ones).items()}
    assert taken.verdicts().truth == wanted.verdicts().truth and taken.fields == whole.fields


# ---- calibration -----------------------------------------------------------------------------------------------------------------------------------------


def answers(rows: int, scale: float, seed: int = 0, labels: int = 5) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits that are ``scale`` times too large for the labels drawn from them."""
    dice = np.random.default_rng(seed)
    logits = dice.normal(size=(rows, labels)) * 2
    p = np.exp(log_softmax(logits))
    truth = (p.cumsum(axis=1) > dice.random((rows, 1))).argmax(axis=1)
    return logits * scale, truth


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_a_known_temperature_is_found(scale: float) -> None:
    logits, truth = answers(60_000, scale)
    found = temperature(logits, truth)
    assert found == pytest.approx(scale, rel=0.02)

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / np.exp(log_t))[np.arange(len(truth)), truth].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-8})
    assert loss(np.log(found)) <= best.fun + 1e-12 and found == pytest.approx(np.exp(best.x), rel=1e-4)


def test_a_model_without_errors_meets_the_bound() -> None:
    truth = np.arange(50) % 2
    assert temperature(np.eye(2)[truth], truth) == pytest.approx(COLDEST, rel=1e-3)
    assert temperature(np.zeros((50, 2)), truth) > 0  # no answer is better than another


def test_scaling_mends_what_is_too_sure() -> None:
    logits, truth = answers(4000, 3.0)
    found = Calibration(logits, truth)
    before, after = (found.confidence(x) for x in (log_softmax(logits), found.cross_fitted))
    assert ece(*before) > 0.15 and ece(*after) < 0.03
    assert (before[1] == after[1]).all(), "no answer changes"
    inside = found.loss(log_softmax(logits / found.temperature))
    assert inside < found.loss(found.cross_fitted) < found.loss(log_softmax(logits)), "what is measured where it was fitted looks better than it is"


def test_the_noise_of_a_calibrated_model() -> None:
    dice = np.random.default_rng(5)
    confidence = dice.uniform(0.5, 1, 500)
    mine = ece(confidence, dice.random(500) < confidence)
    assert 0.3 * noise(confidence) < mine < 2.5 * noise(confidence) and noise(confidence) > 0.02
    assert ece(confidence, dice.random(500) < confidence - 0.3) > 4 * noise(confidence)  # control


# ---- labels that may be wrong ------------------------------------------------------------------------------------------------------------------------------


def test_planted_wrong_labels_are_doubtful() -> None:
    clean = classified(("a", "b", "c"), 600, sharp=6.0)
    assert (~clean.verdicts().right).sum() <= 3 and clean.verdicts().doubtful.sum() <= 1
    planted, noisy = set(range(0, 600, 40)), Classified(("a", "b", "c"))
    for i in range(600):
        truth = int(clean.truth[i])
        noisy.add(clean.logits[i], "abc"[(truth + 1) % 3 if i in planted else truth])
    found = set(np.flatnonzero(noisy.verdicts().doubtful).tolist())
    assert len(found & planted) >= 12 and len(found - planted) <= 1
    order = np.argsort(-noisy.verdicts().loss)[: len(planted)]
    assert len(set(order.tolist()) & planted) >= 14, "they have the highest loss"


def confusions(detail: Classified) -> Sequence[Any]:
    return next(s for s in detail.sections({}) if s.title == "Confusions").blocks


def test_the_most_confused_pairs() -> None:
    detail = Classified(("x", "y", "z"))
    for answer, truth, count in (("x", "x", 5), ("z", "y", 3), ("y", "z", 1)):
        for _ in range(count):
            detail.add([float(answer == name) for name in "xyz"], truth)
    matrix, table = confusions(detail)
    assert matrix.counts.tolist() == [[5, 0, 0], [0, 0, 3], [0, 1, 0]]
    assert table.rows == [("y", "z", 3, 1.0), ("z", "y", 1, 1.0)]
    assert confusions(detail.take(range(5)))[1] == "No row got a wrong label."


def test_few_rows_have_no_temperature() -> None:
    assert classified(("a", "b"), 19).facts() == {} and set(classified(("a", "b"), 20).facts()) == {"temperature", "ece", "ece_scaled"}
