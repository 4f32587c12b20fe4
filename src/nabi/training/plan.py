"""The plan of a run: every setting of training, with the usual values; and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nabi.errors import OptionError

Schedule = Literal["linear", "cosine", "constant", "slanted"]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: times over the data, ``steps`` overrides it; None is 3, or as many as make 100 updates of a small set.
        steps: updates in all.
        batch: examples in an update.
        tokens: the most tokens that are computed at once; larger updates are done in parts, with the same result.
        learning_rate: its peak.
        head_rate: the heads' own peak; as ``learning_rate`` if None.
        layer_decay: each group of layers below learns at this share of the one above (Howard and Ruder 2018, section 3.2: 1/2.6).
        weight_decay: on matrices; biases and norms have none.
        beta1, beta2, eps: of AdamW (Loshchilov and Hutter 2017).
        schedule: ``linear``, ``cosine`` and ``constant`` after warm-up; ``slanted`` is the slanted triangle (Howard and Ruder 2018, equation 3).
        warmup: share of the steps over which the rate rises, or a number of steps if 1 or more.
        clip: largest norm of the gradient; 0 for no limit.
        unfreeze: how many groups, from the top, are trained in the first epoch, and how many more in each that follows; 0 for all at once.
        patience: stop after so many evaluations without a better figure; None never stops early.
        evaluate_every: epochs between evaluations; None is 1, or as many as make 10 evaluations of a long run.
        save_every: updates between two checkpoints; None saves at each evaluation. One with the best figure so far is always saved, and the last one.
        keep_every: the checkpoint of each so many updates is kept for good; None keeps the last two.
        save_waits: whether training stands still while a checkpoint is written; otherwise it goes on, and a copy of the weights is written behind it.
        spike: stop when the loss stays so many times its usual deviation above its usual value (``training.faults.Spikes``); None never does.
        precision: of the products in training, ``fp32`` or ``bf16``; parameters stay float32.
        parallel: how several processes share an update: ``ddp``, each holds all, or ``fsdp``, each holds its part of weights, gradients and moments.
        recompute: keep only what goes from layer to layer and compute the rest again in the backward pass: less memory, about a third more time.
        sampler: ``shuffle`` reads each example once an epoch; ``balanced`` draws each class equally often.
        windows: of a long text, train on at most so many windows an epoch, drawn anew each time; token shards are read whole.
        batch_statistics: whether batch norms take the statistics of what is computed at once, and move their running ones; None: only of a model from
            scratch, since fine-tuning keeps those of its base. With them an update is the whole batch's only if ``tokens`` lets it be computed at once.
        hidden_dropout, attention_dropout, head_dropout: in place of the model's own; None leaves them.
        loss_weights: by loss name, where a task has several.
        seed: of order, dropout, corruption and fresh heads.
    """

    epochs: float | None = None
    steps: int | None = None
    batch: int = 32
    tokens: int = 8192
    learning_rate: float = 1e-4
    head_rate: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule = "linear"
    warmup: float = 0.1
    clip: float = 1.0
    unfreeze: int = 0
    patience: int | None = None
    evaluate_every: float | None = None
    save_every: int | None = None
    keep_every: int | None = None
    save_waits: bool = False
    spike: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    recompute: bool = False
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    windows: int = 4
    batch_statistics: bool | None = None
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    head_dropout: float | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("epochs", "batch", "tokens", "learning_rate", "head_rate", "evaluate_every", "windows", "eps", "spike")
        problems = [f"{n} is {value}, must be above 0" for n in positive if (value := getattr(self, n)) is not None and not 0 < value < math.inf]
        problems += [f"{n} is {getattr(self, n)}, must be 0 or more" for n in ("weight_decay", "warmup", "clip", "unfreeze", "seed") if getattr(self, n) < 0]
        counts = ("steps", "patience", "save_every", "keep_every")
        problems += [f"{n} is {value}, must be at least 1" for n in counts if (value := getattr(self, n)) is not None and value < 1]
        shares = ("beta1", "beta2", "hidden_dropout", "attention_dropout", "head_dropout")
        problems += [f"{n} is {value}, must be in [0, 1)" for n in shares if (value := getattr(self, n)) is not None and not 0 <= value < 1]
        if not 0 < self.layer_decay <= 1:
            problems.append(f"layer_decay is {self.layer_decay}, must be in (0, 1]")
        if problems:
            raise OptionError("the plan can't be followed: " + "; ".join(problems))

    def total(self, steps_per_epoch: int) -> int:
        """Updates in all."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            return max(3 * steps_per_epoch, 100)
        return _steps(self.epochs, steps_per_epoch)

    def between(self, steps_per_epoch: int) -> int:
        """Updates between two evaluations."""
        if self.evaluate_every is None:
            return max(steps_per_epoch, math.ceil(self.total(steps_per_epoch) / 10))
        return _steps(self.evaluate_every, steps_per_epoch)

    def rate(self, n: int, total: int) -> float:
        """The share of the peak rate at which step ``n`` of ``total`` learns, counted from 0; in (0, 1]."""
        rise = min(total, round(self.warmup * total) if self.warmup < 1 else int(self.warmup))
        if self.schedule == "slanted":
            ratio = 32  # how much smaller the lowest rate is than the highest (Howard and Ruder 2018)
            cut = max(1, rise)
            p = n / cut if n < cut else max(0.0, 1 - (n - cut) / max(1, total - cut))
            return (1 + p * (ratio - 1)) / ratio
        if n < rise:
            return (n + 1) / rise
        left = (total - n) / max(1, total - rise)
        return {"linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "constant": 1.0}[self.schedule]


def _steps(epochs: float, steps_per_epoch: int) -> int:
    """The updates of so many epochs, a broken one counted whole: one rule, so that a run evaluated once in all its epochs is not evaluated twice."""
    return max(1, math.ceil(round(epochs * steps_per_epoch, 6)))
