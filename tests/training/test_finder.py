"""The learning-rate finder: it suggests what trains, stops where training breaks, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi
from conformance.kit import randomised
from nabi import adapters, checkpoint, fit
from nabi.errors import DataError, OptionError
from nabi.model import Model
from nabi.nn.lora import Lora
from nabi.training import finder
from nabi.training.finder import find_rate
from nabi.training.loop import train
from nabi.training.plan import Plan
from nabi.training.progress import Progress
from training.small import SIZE, feed, model, rows, same, weights

PLAN = Plan(batch=8, seed=1)
ROWS = rows(80)


def searched(built: Model, plan: Plan = PLAN, updates: int = 20, **given: Any) -> finder.Rates:
    return find_rate(built, feed(built, ROWS, plan), plan, updates=updates, **given)


def end_of_training(tokenizer: Path, rate: float, lora: bool) -> float:
    """The mean loss of the last ten of 60 updates."""
    plan = dataclasses.replace(PLAN, steps=60, learning_rate=rate)
    built = with_adapters(tokenizer) if lora else model(tokenizer)
    losses = [step.loss for step in train(built, feed(built, ROWS, plan), plan)]
    return sum(losses[-10:]) / 10


def with_adapters(tokenizer: Path) -> Model:
    built = randomised(model(tokenizer, dropout=0.0))  # frozen weights as large as trained ones, so that there is something to adapt
    adapters.adapt(built, Lora(rank=4), "nowhere")
    return built


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_the_suggested_rate_trains_where_a_hundredth_of_it_does_not(lora: bool, tokenizer: Path) -> None:
    built = with_adapters(tokenizer) if lora else model(tokenizer)
    found = searched(built, updates=100)
    assert 1e-7 < found.suggestion < found.lowest <= 1 and 1e-7 < found.steepest <= found.lowest
    good, slow = (end_of_training(tokenizer, found.suggestion / x, lora) for x in (1, 100))
    assert good < 0.5 < 0.55 < slow


def test_the_model_and_the_callers_generator_are_as_before(tokenizer: Path) -> None:
    for built in (model(tokenizer), with_adapters(tokenizer)):
        built.train()
        before, generator = weights(built), torch.get_rng_state()
        learning = [p.requires_grad for p in built.parameters()]
        found = searched(built)
        assert same(weights(built), before) and torch.equal(torch.get_rng_state(), generator) and built.training
        assert [p.requires_grad for p in built.parameters()] == learning and all(p.grad is None for p in built.parameters())
        assert searched(built) == found  # by the seed alone
        assert searched(built, dataclasses.replace(PLAN, seed=2)).losses != found.losses
        assert len(set(found.losses)) > 15  # something was learnt in between


def test_it_stops_where_the_loss_breaks_away(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = model(tokenizer)
    before = weights(built)
    found = searched(built, dataclasses.replace(PLAN, clip=0.0), 40, end=1e4)
    assert found.diverged and len(found.rates) < 40 and found.suggestion < 1 and same(weights(built), before)
    calm = searched(built, updates=40, end=1e-5)
    assert not calm.diverged and len(calm.rates) == 40 and calm.rates[0] == pytest.approx(1e-7) and calm.rates[-1] == pytest.approx(1e-5)
    steps = [b / a for a, b in zip(calm.rates, calm.rates[1:], strict=False)]
    assert max(steps) / min(steps) < 1.0001  # equal ratios
    # a loss that is no number ends it too
    real, calls = Model.forward, []

    def broken(self: Model, batch: Any) -> Any:
        calls.append(1)
        return {name: x * float("nan") for name, x in real(self, batch).items()} if len(calls) > 20 else real(self, batch)

    monkeypatch.setattr(Model, "forward", broken)
    cut = searched(built, updates=40)
    assert cut.diverged and len(cut.rates) == 20 and same(weights(built), before)
    with pytest.raises(DataError, match="no number after 0 updates"):
        searched(built)
    assert same(weights(built), before)


def test_the_plan_holds(tokenizer: Path) -> None:
    usual = searched(model(tokenizer)).losses
    for changed in ({"layer_decay": 0.5}, {"head_rate": 1e-3}, {"weight_decay": 0.5}, {"clip": 0.01}, {"hidden_dropout": 0.5}):
        plan = dataclasses.replace(PLAN, **changed)  # type: ignore[arg-type]
        built = model(tokenizer, dropout=0.5) if "hidden_dropout" in changed else model(tokenizer)
        assert searched(built, plan).losses != usual, changed
    # a head's rate is kept as a share of the peak
    one, two = (dataclasses.replace(PLAN, learning_rate=rate, head_rate=10 * rate) for rate in (1e-4, 1e-3))
    assert searched(model(tokenizer), one).losses == pytest.approx(searched(model(tokenizer), two).losses, rel=1e-4)


def test_the_rules_on_a_curve_that_is_known() -> None:
    rates = [10 ** (-6 + i / 10) for i in range(60)]
    smooth = [2.0 if r < 1e-4 else 1.0 + (-4 - torch.tensor(r).log10().item()) * 0.5 if r < 1e-2 else r * 100 for r in rates]
    steepest, lowest = finder._rules(rates, smooth)
    assert 9e-5 < steepest < 1.1e-2 and 5e-3 < lowest < 1.01e-2
    with pytest.raises(OptionError, match="these rates can't be tried"):
        find_rate(None, None, PLAN, start=1.0, end=0.1)  # type: ignore[arg-type]


def test_fit_finds_a_rate_and_writes_nothing_but_a_page(tokenizer: Path, tmp_path: Path) -> None:
    given = {"family": "bert", "size": SIZE, "tokenizer": tokenizer, "plan": PLAN, "progress": Progress("quiet")}
    found = fit("text_classification", ROWS, out=tmp_path / "out", find_rate=True, **given)  # type: ignore[arg-type]
    assert found.rates is not None and not list(tmp_path.iterdir()) and found.rates.suggestion > 1e-6
    found.rates.write(tmp_path / "rates.html")
    page = (tmp_path / "rates.html").read_text()
    assert f"{found.rates.suggestion:.1e}" in page and "<svg" in page and "<script" not in page
    assert json.loads(json.dumps(found.rates.facts()))["rates"] == list(found.rates.rates)
    checkpoint.save(found.model, tmp_path / "base")
    again = fit("text_classification", ROWS, tmp_path / "base", find_rate=True, lora=Lora(rank=2), plan=PLAN, progress=Progress("quiet"))
    assert again.rates is not None and nabi.load(tmp_path / "base").state_dict().keys() < again.model.state_dict().keys()
