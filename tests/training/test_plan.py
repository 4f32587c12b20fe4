"""Learning rates against formulas written out here, and plans that can't be followed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nabi.errors import OptionError
from nabi.training.plan import Plan

TOTAL = 40


def warmed(warm: int, after: Any) -> list[float]:
    return [(n + 1) / warm if n < warm else after((n - warm) / (TOTAL - warm)) for n in range(TOTAL)]


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 1, 7], ids=str)
@pytest.mark.parametrize(
    ("schedule", "after"),
    [("linear", lambda p: 1 - p), ("cosine", lambda p: (1 + math.cos(math.pi * p)) / 2), ("constant", lambda p: 1.0)],
    ids=["linear", "cosine", "constant"],
)
def test_warm_up_then_decay(schedule: Any, after: Any, warmup: float) -> None:
    plan, warm = Plan(schedule=schedule, warmup=warmup), round(warmup * TOTAL) if warmup < 1 else int(warmup)
    assert [plan.rate(n, TOTAL) for n in range(TOTAL)] == pytest.approx(warmed(warm, after), abs=1e-12)


@pytest.mark.parametrize(("total", "share"), [(40, 0.1), (100, 0.25), (30, 0.5), (10, 0.1)])
def test_slanted_triangle_is_equation_3_of_howard_and_ruder(total: int, share: float) -> None:
    # cut = floor(T * cut_frac); p = t / cut, or 1 - (t - cut) / (cut * (1 / cut_frac - 1)); rate = (1 + p * (ratio - 1)) / ratio
    cut, ratio = math.floor(total * share), 32
    p = [t / cut if t < cut else 1 - (t - cut) / (cut * (1 / share - 1)) for t in range(total)]
    wanted = [(1 + x * (ratio - 1)) / ratio for x in p]
    plan = Plan(schedule="slanted", warmup=share)
    assert [plan.rate(t, total) for t in range(total)] == pytest.approx(wanted, abs=1e-12)
    assert plan.rate(cut, total) == 1.0 and plan.rate(0, total) == pytest.approx(1 / 32)


@given(st.sampled_from(["linear", "cosine", "constant", "slanted"]), st.integers(1, 300), st.one_of(st.floats(0, 0.999), st.integers(1, 400)))
def test_a_rate_is_always_a_share_of_the_peak(schedule: Any, total: int, warmup: float) -> None:
    plan = Plan(schedule=schedule, warmup=warmup)
    rates = [plan.rate(n, total) for n in range(total)]
    assert all(0 < rate <= 1 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("given", "steps"), [({}, 100), ({"epochs": 3}, 30), ({"epochs": 0.05}, 1), ({"epochs": 2.55}, 26), ({"epochs": 2, "steps": 7}, 7)], ids=str
)
def test_total(given: dict[str, Any], steps: int) -> None:
    assert Plan(**given).total(10) == steps
    assert Plan().total(50) == 150


@pytest.mark.parametrize(
    ("given", "steps"), [({"epochs": 3}, 10), ({"epochs": 100}, 100), ({"evaluate_every": 0.25}, 3), ({"evaluate_every": 0.01}, 1)], ids=str
)
def test_between_evaluations(given: dict[str, Any], steps: int) -> None:
    assert Plan(**given).between(10) == steps


@given(st.floats(0.1, 5), st.integers(1, 2000))
def test_a_run_that_is_evaluated_once_in_all_its_epochs_is_evaluated_at_its_end(epochs: float, steps: int) -> None:
    plan = Plan(epochs=epochs, evaluate_every=epochs)
    assert plan.between(steps) == plan.total(steps) >= epochs * steps - 1e-6


def test_updates_of_broken_epochs() -> None:
    assert Plan(epochs=1.8, evaluate_every=1.8).between(123) == 222 and Plan(epochs=1.1).total(10) == 11  # in floating point 1.1 * 10 is more than 11


@pytest.mark.parametrize(
    "given",
    [{"epochs": 0}, {"batch": 0}, {"tokens": -1}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"warmup": -1}, {"layer_decay": 0.0},
     {"layer_decay": 1.1}, {"steps": 0}, {"clip": -1.0}, {"unfreeze": -1}, {"windows": 0}, {"evaluate_every": 0.0}, {"beta1": 1.0},
     {"beta2": -0.1}, {"hidden_dropout": 1.0}, {"attention_dropout": -0.1}, {"head_dropout": 1.5}, {"patience": 0},
     {"head_rate": 0.0}, {"epochs": math.inf}, {"learning_rate": math.inf}],
    ids=str,
)  # fmt: skip
def test_a_plan_that_cannot_be_followed(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"the plan can't be followed: {next(iter(given))} is"):
        Plan(**given)


def test_all_problems_at_once() -> None:
    with pytest.raises(OptionError, match=r"epochs is 0, must be above 0; batch is -1.*warmup is -2"):
        Plan(epochs=0, batch=-1, warmup=-2)
