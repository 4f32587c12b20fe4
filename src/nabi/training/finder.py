"""The learning-rate finder (Smith 2017, section 3.3): the rate rises from one update to the next, and the loss shows where learning begins and where it breaks.

It is a caller of the one loop, with a plan whose rate rises exponentially. Unusual: it works on the very model and gives it back bit for bit, so layer-wise
rates, a head's own rate, frozen bodies and adapters are tried as they will be trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nabi.errors import DataError, OptionError, TrainingError
from nabi.model import Model
from nabi.pages.page import render
from nabi.pages.page import write as write_text
from nabi.pages.sections import Code, Lines, Section, Table
from nabi.training.feed import Feed
from nabi.training.loop import train
from nabi.training.plan import Plan

SMOOTHING = 0.9  # share of the past in the mean of the losses: a few per cent of the range of rates
DIVERGED = 4.0  # times the best loss: there is nothing to see above
LEAST = 10  # updates before which neither rule says anything


@dataclass(frozen=True)
class Rates:
    """What the finder saw.

    Attributes:
        rates: of each update; losses: of each; smooth: their running mean, corrected for its start.
        diverged: whether the loss broke away before the highest rate.
        steepest: the rate at which the smoothed loss falls fastest over the logarithm of the rate.
        lowest: the rate at which it is lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    diverged: bool
    steepest: float
    lowest: float

    @property
    def suggestion(self) -> float:
        """A tenth of the rate with the lowest loss, which is near to breaking; to two digits."""
        return float(f"{self.lowest / 10:.1e}")

    def facts(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"suggestion": self.suggestion, "steepest": self.steepest, "lowest": self.lowest, "diverged": self.diverged} | {
            name: list(value) for name, value in found.items() if isinstance(value, tuple)
        }

    def write(self, path: str | Path) -> None:
        """Write the curve as a page (HTML), for people.

        Raises:
            StorageError: it could not be written.
        """
        across = [math.log10(rate) for rate in self.rates]
        curve = {"smoothed": list(zip(across, self.smooth, strict=True)), "each update": list(zip(across, self.losses, strict=True))}
        end = "The loss broke away, so higher rates were not tried." if self.diverged else "The loss had not broken away at the highest rate."
        chart = Lines("Loss while the learning rate rises", "learning rate, power of ten", "loss", curve, thin=("smoothed", "each update"))
        rules = Table(("rule", "rate"), (("a tenth of the rate with the lowest loss", f"{self.suggestion:.1e}"), ("steepest fall", f"{self.steepest:.1e}")))
        use = Code(f"--set plan.learning_rate={self.suggestion:.1e}")
        tiles = [("suggested rate", f"{self.suggestion:.1e}", "a tenth of the lowest loss's"), ("updates", len(self.rates), "")]
        sections = [Section("Loss by learning rate", [chart, end]), Section("Suggestions", [rules, use])]
        write_text(Path(path), render("Learning rates", "One short run in which the rate rises at every update (Smith 2017, section 3.3).", tiles, sections))


@dataclass(frozen=True)
class _Rising(Plan):
    """A plan whose rate rises exponentially from ``start`` to its peak."""

    start: float = 1e-7

    def rate(self, n: int, total: int) -> float:
        """The share of the peak rate at which step ``n`` of ``total`` learns."""
        return float((self.start / self.learning_rate) ** (1 - n / max(1, total - 1)))


def find_rate(model: Model, feed: Feed, plan: Plan, *, updates: int = 100, start: float = 1e-7, end: float = 1.0) -> Rates:
    """Try learning rates from ``start`` to ``end`` in one short run; the model is as before when this returns, bit for bit.

    Args:
        model: to be trained.
        feed: its data; only the rows are used, in the order of ``plan.seed``.
        plan: all but steps, schedule and rate hold: batch, decay, clipping, ``layer_decay`` and the ratio of ``head_rate`` to ``learning_rate``.
        updates: at most so many; it stops earlier where the smoothed loss is over four times its lowest, or is no number.
        start, end: the first and the last rate.

    Raises:
        OptionError: the rates do not rise, or there are too few updates.
        DataError: the loss broke away before anything could be seen.
    """
    if not 0 < start < end < math.inf or updates < 2 * LEAST:
        value = {"start": start, "end": end, "updates": updates}
        raise OptionError("these rates can't be tried", value=value, expected=f"0 < start < end, and at least {2 * LEAST} updates")
    same = {f.name: getattr(plan, f.name) for f in fields(Plan)}
    head = None if plan.head_rate is None else plan.head_rate / plan.learning_rate * end
    rising = _Rising(**{**same, "steps": updates, "learning_rate": end, "head_rate": head, "unfreeze": 0, "start": start})
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    before = {name: x.clone() for name, x in model.state_dict().items() if name not in frozen}  # with adapters these are few
    training, rates, losses, smooth = model.training, list[float](), list[float](), list[float]()
    diverged = False
    try:
        for step in train(model, Feed(model, feed.rows, rising), rising):
            rates.append(step.rate)
            losses.append(step.loss)
            smooth.append(_mean(losses))
            if len(smooth) > LEAST and smooth[-1] > DIVERGED * min(smooth):
                diverged = True
                break
    except TrainingError:  # a loss that is no number is what this looks for, and the loop stops at it
        diverged = True
    finally:
        model.load_state_dict(before, strict=False)
        model.train(training)
        for parameter in model.parameters():
            parameter.grad = None
    if len(rates) < LEAST:
        what = f"the loss was no number after {len(rates)} updates at rates up to {max(rates, default=start):.1e}"
        raise DataError(what, fix="look at the data, or lower start")
    return Rates(tuple(rates), tuple(losses), tuple(smooth), diverged, *_rules(rates, smooth))


def _mean(losses: Sequence[float]) -> float:
    """The running mean's newest value (Kingma and Ba 2014, section 3: corrected for its start)."""
    weights = [SMOOTHING ** (len(losses) - 1 - i) for i in range(len(losses))]
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


def _rules(rates: Sequence[float], smooth: Sequence[float]) -> tuple[float, float]:
    """The rate of the steepest fall and that of the lowest loss; the first updates say little, since their mean is of few."""
    lowest = min(range(LEAST // 2, len(rates)), key=smooth.__getitem__)
    slopes = [(smooth[i] - smooth[i - 1]) / math.log(rates[i] / rates[i - 1]) for i in range(1, lowest + 1)]
    steepest = min(range(LEAST // 2 - 1, len(slopes)), key=slopes.__getitem__, default=lowest - 1) + 1
    return rates[steepest], rates[lowest]
