"""Intervals, paired differences and McNemar's test, against formulas and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from evaluation.cases import classified
from nabi.evaluation import bootstrap
from nabi.evaluation.bootstrap import distributions, draws, interval, intervals, mcnemar, resamples, share_p


def test_draws_are_whole_and_repeat() -> None:
    first = np.concatenate(list(draws(50)))
    assert first.shape == (1000, 50) and (first.sum(axis=1) == 50).all() and set(np.unique(first)) > {0.0, 1.0, 2.0}
    assert (first == np.concatenate(list(draws(50)))).all() and (first != np.concatenate(list(draws(50, seed=1)))).any()
    assert abs(first.mean() - 1) < 1e-9 and first.var() == pytest.approx(1 - 1 / 50, abs=0.02)


def test_blocks_are_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draws(70)))
    monkeypatch.setattr(bootstrap, "_BLOCK", 700)
    assert (np.concatenate(list(draws(70))) == whole).all()


def test_fewer_resamples_of_very_many_rows() -> None:
    assert [resamples(n) for n in (1, 100_000, 200_000, 10_000_000)] == [1000, 1000, 500, 100]


def test_the_interval_of_an_accuracy_is_the_binomials() -> None:
    detail = classified(("a", "b"), 400)
    low, high = intervals(detail, 400)["accuracy"]
    share = detail.verdicts().right.mean()
    width = 2 * 1.96 * math.sqrt(share * (1 - share) / 400)
    assert low < share < high and high - low == pytest.approx(width, rel=0.15)
    wider = intervals(detail.take(range(100)), 100)["accuracy"]
    assert wider[1] - wider[0] > 1.5 * (high - low)  # control: of a fourth of the rows it is twice as wide


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # the accuracy of this kind of model on endless rows
    truth = classified(("a", "b"), 40_000, seed=99).verdicts().right.mean()
    hits = 0
    for seed in range(100):
        low, high = intervals(classified(("a", "b"), 150, seed=seed), 150, seed)["accuracy"]
        hits += low <= truth <= high
    assert 88 <= hits <= 99


def test_paired_is_sharper_than_apart() -> None:
    first = classified(("a", "b", "c"), 300)
    second = first.take(range(300))
    second.logits[:15] = -second.logits[:15]  # the same model, but for 15 rows
    found = distributions([first, second], 300)
    paired = found[1]["accuracy"] - found[0]["accuracy"]
    apart = distributions([second], 300, seed=7)[0]["accuracy"] - found[0]["accuracy"]
    assert paired.std() < apart.std() / 2 and interval(paired)[1] < 0 < interval(apart)[1]
    assert share_p(paired) < 0.02 < share_p(apart)
    same = distributions([first, first], 300)
    assert (same[0]["macro_f1"] == same[1]["macro_f1"]).all() and share_p(same[0]["mcc"] - same[1]["mcc"]) == 1.0


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (5, 1), (10, 25), (0, 12), (400, 480), (30_000, 31_000)])
def test_mcnemar(first: int, second: int) -> None:
    wanted = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(wanted, rel=1e-6)
