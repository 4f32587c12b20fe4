"""The loop: a generator that trains and yields after every update; logging, evaluation, saving and stopping are the caller's ordinary code.

The gradient of a step is the sum over the losses of weight * total / count, the counts summed over all micro-batches beforehand, so it is the same
however ragged the rows and however they are cut. Unusual: dropout is seeded by (seed, step, micro-batch, rank), so nothing random is ever saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nabi.batch import Batch
from nabi.data.order import mixed
from nabi.errors import TrainingError
from nabi.memory import trimmed
from nabi.model import Model
from nabi.ranks import ALONE, Ranks
from nabi.training.feed import Feed
from nabi.training.optimizer import Optimizer
from nabi.training.plan import Plan
from nabi.training.spread import Spread

TRIMMED = 16  # updates on a CPU before free memory is given back
_TOKENS, _STOP = " tokens", " stop"  # told beside the losses, in one exchange; no loss has such a name


@dataclass
class State:
    """All that a run needs to go on, besides the model's weights.

    Attributes:
        step: updates done.
        optimizer: its tensors by parameter name.
        extra: what the caller wants back, plain data.
    """

    step: int
    optimizer: dict[str, Tensor]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Step:
    """One update that was done.

    Attributes:
        number: counted from 1; total: of the whole run; epoch: how many were begun before this update.
        losses: mean by name, over what each loss counts.
        loss: their weighted sum.
        rate: the learning rate of the top group.
        norm: of the gradient before clipping.
        tokens: that were computed; seconds: it took.
        stop: whether the caller of any process asked to stop.
    """

    number: int
    total: int
    epoch: float
    losses: dict[str, float]
    loss: float
    rate: float
    norm: float
    tokens: int
    seconds: float
    stop: bool
    _spread: Spread
    _optimizer: Optimizer

    def refresh(self) -> None:
        """Put the weights into the model that was given; only where its layers are cut over processes they are not there yet, and all have to call it."""
        self._spread.refresh()

    def state(self, **extra: Any) -> State:
        """What to save so that the run goes on exactly here; valid until the next update.

        Of several processes each gets the optimizer's tensors that ``dealt`` gives it, and all have to call it.
        """
        return State(self.number, self._optimizer.state(), extra)


def train(
    model: Model, feed: Feed, plan: Plan, state: State | None = None, *, ranks: Ranks = ALONE, asked: Callable[[], bool] = lambda: False
) -> Iterator[Step]:
    """Train ``model`` in place, yielding after every update.

    Args:
        model: with weights; on resuming those that were saved with ``state``.
        feed: what each step reads.
        plan: how to train.
        state: where to go on, whole on every process.
        ranks: the processes that share each update; each gives the same model, feed, plan and state.
        asked: whether this process was asked to stop, looked at before each update; ``Step.stop`` tells it to all.

    Raises:
        TrainingError: a loss or gradient is not finite; the weights are still those before that step.
    """
    spread = Spread(model, plan, ranks)
    optimizer = Optimizer(spread.model, plan, ranks)
    begin = 0
    if state is not None:
        begin = state.step
        optimizer.restore(state.optimizer)
    trainable = [p.requires_grad for p in model.parameters()]
    try:
        steps: Iterable[int] = range(begin, feed.total)
        if model.device.type == "cpu":
            steps = trimmed(steps, lambda _: 1, TRIMMED)
        for n in steps:
            yield _step(spread, optimizer, feed, plan, n, ranks, asked())
    finally:
        spread.end()
        for parameter, was in zip(model.parameters(), trainable, strict=True):
            parameter.requires_grad_(was)


def _step(spread: Spread, optimizer: Optimizer, feed: Feed, plan: Plan, n: int, ranks: Ranks, asked: bool) -> Step:
    began, model = time.perf_counter(), spread.model
    device = model.device
    rate = plan.learning_rate * plan.rate(n, feed.total)
    batches = [batch.to(device) for batch in feed.step(n, ranks.rank, ranks.world)]
    counts = total_counts(model, batches, ranks)
    totals: dict[str, Tensor] = {}
    optimizer.begin(n // feed.steps_per_epoch)
    spread.begin()
    model.train()
    try:
        for micro, batch in enumerate(batches):
            with spread.exchanging(micro == len(batches) - 1):
                for name, value in backward(spread.losses, batch, counts, plan, seed=mixed(plan.seed, n, micro, ranks.rank)).items():
                    totals[name] = totals.get(name, 0) + value
    finally:
        optimizer.end()
        model.eval()
    tokens = sum(batch.tokens for batch in batches if batch.real)
    told = ranks.sums({**{name: float(total) for name, total in totals.items()}, _TOKENS: tokens, _STOP: asked})
    means = {name: told[name] / counts[name] for name in totals}
    norm = optimizer.norm()
    loss = sum(plan.loss_weights.get(name, 1.0) * mean for name, mean in means.items())
    if not (math.isfinite(norm) and math.isfinite(loss)):
        raise TrainingError(
            f"step {n + 1}: the loss is {loss:g} and its gradient's norm {norm:g}; examples {feed.examples(n)[:8]}. The weights are those of step {n}. "
            "Lower plan.learning_rate, raise plan.warmup, or look at these examples."
        )
    optimizer.step(rate, norm)
    model.task.updated()
    place = (n + 1) / feed.steps_per_epoch
    return Step(n + 1, feed.total, place, means, loss, rate, norm, int(told[_TOKENS]), time.perf_counter() - began, told[_STOP] > 0, spread, optimizer)


def total_counts(model: Model, batches: list[Batch], ranks: Ranks = ALONE) -> dict[str, float]:
    """How much each loss counts over a whole step and all processes, in float64, before any forward."""
    counts: dict[str, float] = {}
    for batch in batches:
        for name, count in model.task.counts(batch.targets).items():
            counts[name] = counts.get(name, 0.0) + (count if batch.real else 0.0)
    return {name: count or 1.0 for name, count in ranks.sums(counts).items()}


def backward(losses_of: Callable[[Batch], dict[str, Tensor]], batch: Batch, counts: Mapping[str, float], plan: Plan, *, seed: int) -> dict[str, Tensor]:
    """Add one micro-batch's share to the gradient; returns the sums by name, detached.

    The caller's random generators are as they were when this returns.

    Args:
        losses_of: the model, or what stands for it.
        batch: on its device.
        counts: what each loss is divided by.
        plan: precision and weights of losses.
        seed: of dropout.
    """
    device = next(iter(batch.parts.values())).example.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed >> 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            losses = losses_of(batch)
    if not batch.real:  # fillers keep this process in step with the others and count nothing
        losses = {name: 0.0 * total for name, total in losses.items()}
    weighted = [plan.loss_weights.get(name, 1.0) * total / counts[name] for name, total in losses.items()]
    torch.stack([w.float() for w in weighted]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: total.detach().double() for name, total in losses.items()}
