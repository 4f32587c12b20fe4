"""What the process groups of the tests do; each function is run by every process of a group."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import torch

import nabi
import nabi.training.loop
from nabi import Plan, adapters
from nabi.batch import Row
from nabi.cli import cli
from nabi.fitting import _set_dropout as set_dropout
from nabi.model import Model
from nabi.nn.convolution import freeze_statistics
from nabi.ranks import ALONE, Ranks
from nabi.tasks.fill_mask import FillMaskSettings
from nabi.training.feed import Feed
from nabi.training.loop import State, Step, train
from nabi.training.optimizer import Optimizer
from nabi.training.progress import Progress
from nabi.training.spread import whole
from training.small import SIZE, rows, text, weights
from training.small import feed as feed_of
from training.small import model as model_of

WIDE = 0.2  # of fresh weights: with less, 30 steps teach nothing


def classifier(tokenizer: str, plan: Plan, dropout: float) -> tuple[Model, Feed]:
    """A text classifier and its rows."""
    built = model_of(Path(tokenizer), dropout=dropout, init_std=WIDE)
    return built, feed_of(built, rows(40), plan)


def pretrained(tokenizer: str, plan: Plan, dropout: float) -> tuple[Model, Feed]:
    """A model with two losses, masked tokens and next sentences, on pairs from 2 to 60 tokens."""
    size = {**SIZE, "hidden_dropout": dropout, "attention_dropout": dropout, "init_std": WIDE}
    built = nabi.create("bert", size, "pretraining", FillMaskSettings(mask_probability=0.3), tokenizer)
    dice = random.Random(1)
    pairs = [{"text": text(dice, ("good",), 1, high), "next": text(dice, ("bad",), 1, high), "is_next": bool(i % 2)} for i, high in enumerate([1, 4, 28] * 12)]
    return built, feed_of(built, pairs, plan)


def adapted(tokenizer: str, plan: Plan, dropout: float) -> tuple[Model, Feed]:
    """The classifier with a frozen body and adapters that change something."""
    built, feed = classifier(tokenizer, plan, dropout)
    adapters.adapt(built, nabi.Lora(rank=2), "nowhere")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if ".lora." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WIDE / 4)
    return built, feed


def paired(tokenizer: str, plan: Plan, dropout: float, task: str = "image_text_retrieval") -> tuple[Model, Feed]:
    """Two towers and seven pairs, so that the processes have uneven shares; all in one step."""
    from conformance import kit

    built = kit.model_of("clip", task, Path(tokenizer))
    set_dropout(built, Plan(hidden_dropout=dropout, attention_dropout=dropout))
    examples = kit.examples_of(task)[:7]
    return built, Feed(built, [built.encode(e, built.options(), "train", f"row {i}", i) for i, e in enumerate(examples)], plan)


def named(tokenizer: str, plan: Plan, dropout: float) -> tuple[Model, Feed]:
    """The same with labels."""
    return paired(tokenizer, plan, dropout, "zero_shot_image_classification")


MODELS = {"classifier": classifier, "pretraining": pretrained, "adapters": adapted, "pairs": paired, "labelled images": named}


def one_gradient(ranks: Ranks, tokenizer: str, kind: str, plan: dict[str, Any]) -> dict[str, Any]:
    """The gradient of the first step, before clipping, and the losses."""
    made = Plan(**plan)
    built, feed = MODELS[kind](tokenizer, made, 0.0)
    found: dict[str, torch.Tensor] = {}

    class Watched(Optimizer):
        def step(self, rate: float, norm: float) -> None:
            for name, p in self.model.named_parameters():
                assert (p.grad is not None) == p.requires_grad
                if p.grad is None:
                    continue
                found[name] = whole(p.grad.to_dense() if p.grad.is_sparse else p.grad).clone()

    nabi.training.loop.Optimizer = Watched  # type: ignore[misc]
    step = next(train(built, feed, made, ranks=ranks))
    return {"gradient": found, "losses": step.losses, "norm": step.norm, "tokens": step.tokens, "micro": len(feed.step(0, ranks.rank, ranks.world))}


def some_steps(ranks: Ranks, tokenizer: str, plan: dict[str, Any], to: int, state: str | None = None, dropout: float = 0.0) -> dict[str, Any]:
    """Train from ``state`` to a step: the losses, the weights, and what to go on from."""
    made = Plan(**plan)
    built, feed = classifier(tokenizer, made, dropout)
    before = None
    if state is not None:
        saved = torch.load(state)
        built.load_state_dict(saved["weights"])
        before = State(saved["step"], saved["optimizer"])
    losses, last = [], None
    for step in train(built, feed, made, before, ranks=ranks):
        losses.append(step.loss)
        if step.number == to:
            last = step
            break
    assert last is not None
    last.refresh()
    shares = ranks.all(last.state().optimizer)
    optimizer = {name: x for share in shares for name, x in share.items()}
    return {"losses": losses, "weights": weights(built), "optimizer": optimizer, "step": to, "shares": [len(share) for share in shares]}


def asked_to_stop(ranks: Ranks, tokenizer: str, plan: dict[str, Any], who: int, at: int) -> list[bool]:
    """One process is asked to stop before an update; what each step says of it."""
    made, stops = Plan(**plan), list[bool]()
    built, feed = classifier(tokenizer, made, 0.0)
    for step in train(built, feed, made, ranks=ranks, asked=lambda: ranks.rank == who and len(stops) + 1 == at):
        stops.append(step.stop)
    return stops


def met_late(ranks: Ranks, late: int, seconds: float) -> str:
    """One process is busy elsewhere when the others meet."""
    if ranks.rank == late:
        time.sleep(seconds)
    try:
        ranks.meet()
    except nabi.NabiError as error:
        return str(error)
    return "met"


def disagreed(ranks: Ranks, facts: list[dict[str, Any]]) -> str:
    """Each process was given other things."""
    try:
        ranks.agree(facts[ranks.rank])
    except nabi.NabiError as error:
        return str(error)
    return "agreed"


class Told(Progress):
    """Writes each step's loss to a file at once, so that it is there whatever is killed."""

    def __init__(self, path: Path) -> None:
        super().__init__("none")
        self.path = path

    def step(self, step: Step) -> None:
        with self.path.open("a") as file:
            file.write(f"{step.number} {step.loss.hex()}\n")


def fitted(ranks: Ranks, tokenizer: str, out: str, plan: dict[str, Any], resume: bool, losses: str) -> dict[str, float]:
    """A whole run with checkpoints."""
    size = {**SIZE, "hidden_dropout": 0.2, "attention_dropout": 0.2, "init_std": WIDE}
    given: dict[str, Any] = {"dev": rows(21, 1), "family": "bert", "size": size, "tokenizer": tokenizer}
    return nabi.fit("text_classification", rows(60), out=out, plan=Plan(**plan), resume=resume, progress=Told(Path(losses)), **given).metrics


def commanded(ranks: Ranks, words: list[str]) -> int:
    """``nabi WORDS`` in every process."""
    cli.main(words, prog_name="nabi", standalone_mode=False)
    return 0


SPREADS: dict[str, dict[str, Any]] = {
    "alone, recomputed": {"recompute": True},
    "ddp": {},
    "fsdp": {"parallel": "fsdp"},
    "fsdp, recomputed": {"parallel": "fsdp", "recompute": True},
}


def every_cell(ranks: Ranks, tokenizer: str) -> dict[str, float]:
    """For each family and task: how far the gradient of a step is from the one of one process, as a share of its largest value."""
    from conformance import kit

    gradients: dict[str, torch.Tensor] = {}

    class Watched(Optimizer):
        def step(self, rate: float, norm: float) -> None:
            for name, p in self.model.named_parameters():
                if p.grad is not None:
                    gradients[name] = whole(p.grad.to_dense() if p.grad.is_sparse else p.grad).clone()

    nabi.training.loop.Optimizer = Watched  # type: ignore[misc]
    found = {}
    for family, task in kit.CELLS:
        built = kit.model_of(family, task, Path(tokenizer))
        encoded: list[list[Row]] = [[] for _ in range(8)]
        for row in kit.encoded(built):
            encoded[row.example].append(row)
        seen: dict[str, dict[str, torch.Tensor]] = {}
        for name, changed in {"alone": {}, **SPREADS}.items():
            plan = Plan(steps=1, batch=8, tokens=12, hidden_dropout=0.0, attention_dropout=0.0, head_dropout=0.0, **changed)
            set_dropout(built, plan)
            freeze_statistics(built)  # those of a batch are of what is computed at once
            gradients.clear()
            next(train(built, Feed(built, encoded, plan), plan, ranks=ALONE if name.startswith("alone") else ranks)).refresh()
            seen[name] = dict(gradients)
        largest = max(float(x.abs().max()) for x in seen["alone"].values())
        for name in SPREADS:
            assert seen[name].keys() == seen["alone"].keys(), (family, task, name, seen[name].keys() ^ seen["alone"].keys())
            gaps = {n: float((x - seen["alone"][n]).abs().max()) / largest for n, x in seen[name].items()}
            found[f"{family}, {task}, {name}"] = max(gaps.values())
    return found


def with_batch_statistics(ranks: Ranks) -> dict[str, dict[str, torch.Tensor]]:
    """The weights and statistics that two steps leave, for each way to spread them: one process computes all images at once, two a half each."""
    from conformance import kit

    found = {}
    for name, changed in {"alone": {}, **SPREADS}.items() if ranks.world > 1 else {"alone": {}}.items():
        built = kit.model_of("resnet", "image_classification", Path())
        examples = kit.examples_of("image_classification")
        encoded = [built.encode(e, built.options({"size": (32, 32 + 16 * (i % 2))}), "train", "", i) for i, e in enumerate(examples)]
        # the first update is of seven images in two groups, the second of one, which leaves a process without; eps: an update as smooth as the gradient
        plan = Plan(steps=2, batch=7, tokens=20 if ranks.world > 1 else 100, learning_rate=1e-2, warmup=0.0, eps=1.0, **changed)
        if name != "alone" or ranks.world == 1:
            for step in train(built, Feed(built, encoded, plan), plan, ranks=ranks):
                step.refresh()
        found[name] = {key: x.clone() for key, x in built.state_dict().items()}
    return found


def fitted_differently(ranks: Ranks, tokenizer: str) -> str:
    """Each process was given another plan."""
    given: dict[str, Any] = {"family": "bert", "size": SIZE, "tokenizer": tokenizer, "progress": Progress("none")}
    try:
        nabi.fit("text_classification", rows(20), plan=Plan(steps=2, batch=4 + ranks.rank), **given)
    except nabi.NabiError as error:
        return str(error)
    return "trained"
