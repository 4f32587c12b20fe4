"""The loop: exact resume, exact gradients however the rows are cut, and nothing of the caller's is touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nabi.training.optimizer
from nabi import checkpoint
from nabi.batch import Batch, Target
from nabi.errors import TrainingError
from nabi.model import Model
from nabi.nn.body import Run
from nabi.nn.fast import PreparedLinear
from nabi.tasks.text_classification import ClassificationSettings, TextClassification
from nabi.training.loop import State, backward, total_counts, train
from nabi.training.plan import Plan
from training.small import feed, model, rows, same, text, weights

PLAN = Plan(steps=10, batch=8, tokens=60, learning_rate=1e-3, seed=3)
PLANS = {
    "usual": PLAN,
    "one micro-batch": dataclasses.replace(PLAN, tokens=8192),
    "gradual unfreezing": dataclasses.replace(PLAN, unfreeze=1, layer_decay=0.5, head_rate=2e-3),
    "slanted, balanced": dataclasses.replace(PLAN, schedule="slanted", sampler="balanced"),
    "bf16": dataclasses.replace(PLAN, precision="bf16"),
    "every dropout": dataclasses.replace(PLAN, hidden_dropout=0.3, attention_dropout=0.3, head_dropout=0.5),
}


def trained(tokenizer: Path, plan: Plan, to: int, built: Model | None = None, state: State | None = None) -> tuple[Model, State]:
    built = built or model(tokenizer)
    last: State | None = None
    for step in train(built, feed(built, rows(20), plan), plan, state):
        last = step.state()
        if step.number == to:
            break
    assert last is not None and last.step == to
    return built, last


@pytest.mark.parametrize("large", [4096, 10**9], ids=["rows only", "dense table"])
@pytest.mark.parametrize("name", PLANS)
def test_five_steps_saved_and_loaded_and_five_more_are_ten(name: str, large: int, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nabi.training.optimizer, "LARGE", large)
    plan = PLANS[name]
    whole, at_end = trained(tokenizer, plan, 10)
    half, middle = trained(tokenizer, plan, 5)
    assert not same(weights(half), weights(whole))
    checkpoint.save(half, tmp_path / "half")
    loaded = checkpoint.load(tmp_path / "half")
    assert ("body.embeddings.tokens.weight.rows" in middle.optimizer) == (large == 4096)
    resumed, again = trained(tokenizer, plan, 10, loaded, middle)
    assert same(weights(resumed), weights(whole)) and same(again.optimizer, at_end.optimizer)


def test_controls_of_exact_resume(tokenizer: Path) -> None:
    whole, _ = trained(tokenizer, PLAN, 10)
    for plan in (dataclasses.replace(PLAN, seed=4), dataclasses.replace(PLAN, steps=11)):
        assert not same(weights(trained(tokenizer, plan, 10)[0]), weights(whole))
    half, middle = trained(tokenizer, PLAN, 5)
    lost = dataclasses.replace(middle, optimizer={})
    assert not same(weights(trained(tokenizer, PLAN, 10, half, lost)[0]), weights(whole))


def test_the_state_is_a_copy(tokenizer: Path) -> None:
    built, plan = model(tokenizer), PLAN
    steps = train(built, feed(built, rows(20), plan), plan)
    state = next(steps).state(note="mine")
    before = {k: x.clone() for k, x in state.optimizer.items()}
    next(steps)
    steps.close()
    assert same(before, state.optimizer) and state.extra == {"note": "mine"}


# ---- gradients ---------------------------------------------------------------------------------------------------------------------------------


def gradient(built: Model, batches: list[Batch], plan: Plan, mean_of_means: bool = False) -> Tensor:
    built.zero_grad()
    built.train()
    counts = total_counts(built, batches)
    for batch in batches:
        own = {name: count * len(batches) for name, count in total_counts(built, [batch]).items()}
        backward(built, batch, own if mean_of_means else counts, plan, seed=0)
    return torch.cat([p.grad.double().flatten() for p in built.parameters() if p.grad is not None])


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def long_rows(count: int) -> list[dict[str, Any]]:
    import random

    dice = random.Random(1)
    return [{"text": text(dice, ("good",) if i % 3 else ("bad",), 1, 120 if i % 4 == 0 else 10), "label": "pos" if i % 3 else "neg"} for i in range(count)]


class TwoLosses(TextClassification):
    """The usual loss, and guessing each row's length from its first token: the two count differently."""

    name = "two_losses"

    def __init__(self, settings: ClassificationSettings) -> None:
        super().__init__(settings)
        self.targets = {**self.targets, "long": Target("row", dtype=torch.float32)}

    def encode(self, example: Any, *args: Any, **kwargs: Any) -> list[Any]:
        found = super().encode(example, *args, **kwargs)
        for row in found:
            row.targets["long"] = float(row.tokens)
        return found

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {**super().counts(targets), "long": float((targets["long"] > 9).sum())}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        logits, long = self.row.read(run, batch), batch.targets["long"]  # type: ignore[operator,union-attr]
        each = F.cross_entropy(logits, batch.targets["label"], reduction="none") * batch.targets["weight"]
        return {"label": each.sum(), "long": ((logits[:, 0] - long / 64) ** 2 * (long > 9)).sum()}


def cuts(built: Model, examples: list[dict[str, Any]], plan: Plan) -> tuple[list[Batch], list[Batch]]:
    whole = feed(built, examples, dataclasses.replace(plan, tokens=10**6)).step(0)
    parts = feed(built, examples, plan).step(0)
    assert len(whole) == 1 and len(parts) > 3
    return whole, parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("settings", [{}, {"class_weights": {"neg": 5.0, "pos": 0.3}}, {"loss": "focal"}, {"label_smoothing": 0.2}], ids=str)
def test_one_loss_ragged_micro_batches_are_one_batch(settings: dict[str, Any], dtype: torch.dtype, tokenizer: Path) -> None:
    built = model(tokenizer, ClassificationSettings(labels=("neg", "pos"), **settings), dropout=0.0, init_std=0.2).to(dtype)
    plan = Plan(batch=24, tokens=100)
    whole, parts = cuts(built, long_rows(24), plan)
    assert sum(part.parts["text"].size for part in parts) > 24, "some texts have windows"
    wanted = gradient(built, whole, plan)
    found, control = gap(gradient(built, parts, plan), wanted), gap(gradient(built, parts, plan, mean_of_means=True), wanted)
    print(f"relative gap {found:.1e}, mean of means {control:.1e}")
    assert found < (1e-6 if dtype == torch.float32 else 1e-13) and control > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_two_losses_ragged_micro_batches_are_one_batch(dtype: torch.dtype, tokenizer: Path) -> None:
    started = model(tokenizer, dropout=0.0, init_std=0.2)
    task = TwoLosses(ClassificationSettings(labels=("neg", "pos")))
    task.build(started.body)
    task.initialise(torch.Generator().manual_seed(0))
    built = Model(started.body, task, started.inputs, started.origin).to(dtype)
    plan = Plan(batch=24, tokens=100, loss_weights={"label": 1.0, "long": 0.7})
    whole, parts = cuts(built, long_rows(24), plan)
    wanted = gradient(built, whole, plan)
    found, control = gap(gradient(built, parts, plan), wanted), gap(gradient(built, parts, plan, mean_of_means=True), wanted)
    print(f"relative gap {found:.1e}, mean of means {control:.1e}")
    assert found < (1e-6 if dtype == torch.float32 else 1e-13) and control > 1e-3
    assert gap(gradient(built, parts, dataclasses.replace(plan, loss_weights={})), wanted) > 1e-3


def test_the_loss_of_a_step_is_the_weighted_mean(tokenizer: Path) -> None:
    built = model(tokenizer, ClassificationSettings(labels=("neg", "pos"), class_weights={"neg": 5.0}), dropout=0.0, init_std=0.2)
    examples = rows(12)
    plan = Plan(steps=1, batch=12, tokens=30)
    with torch.no_grad():
        logits = torch.tensor([built.predict(e["text"], function_to_apply="none")["scores"].copy().popitem()[1] for e in examples])
        pairs = [list(built.predict(e["text"], function_to_apply="none")["scores"].values()) for e in examples]
    assert len(logits) == 12
    labels = torch.tensor([built.task.index[e["label"]] for e in examples])
    wanted = float(F.cross_entropy(torch.tensor(pairs), labels, weight=torch.tensor([5.0, 1.0])))
    (step,) = train(built, feed(built, examples, plan), plan)
    assert step.loss == pytest.approx(wanted, rel=1e-5) and step.losses == {"label": pytest.approx(wanted, rel=1e-5)}
    assert (step.number, step.total, step.epoch) == (1, 1, 1.0)


# ---- what the caller keeps ---------------------------------------------------------------------------------------------------------------------


def globals_of_torch() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.get_num_threads(),
        torch.backends.mkldnn.enabled,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_of_the_callers_is_touched_at_a_yield(precision: Any, tokenizer: Path) -> None:
    built, plan = model(tokenizer), dataclasses.replace(PLAN, precision=precision, unfreeze=1)
    torch.manual_seed(11)
    before, settings = torch.get_rng_state(), globals_of_torch()
    data = feed(built, rows(20), plan)
    for step in train(built, data, plan):
        assert torch.equal(torch.get_rng_state(), before) and globals_of_torch() == settings
        assert not built.training and not any(m.sparse for m in built.modules() if hasattr(m, "sparse"))
        built.predict("a good film")
        assert step.norm > 0 and step.tokens == sum(b.tokens for b in data.step(step.number - 1))
    assert torch.equal(torch.get_rng_state(), before) and globals_of_torch() == settings


def test_the_callers_generator_has_no_part_in_it(tokenizer: Path) -> None:
    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        ends.append(weights(trained(tokenizer, PLAN, 4)[0]))
    assert same(*ends)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_reads_on_the_way_is_a_packed_copy_without_dropout(recompute: bool, tokenizer: Path) -> None:
    """While layers are computed again in the backward pass, a copy must not call those of the model that is training."""
    built = model(tokenizer, dropout=0.5)
    plan = dataclasses.replace(PLAN, steps=1, recompute=recompute)
    encoded = [built.encode(row, built.options(), "predict", "") for row in rows(12)]
    given = [row for of_one in encoded for row in of_one]
    for step in train(built, feed(built, rows(40), plan), plan):
        assert step.number == 1
        reader = built.train().reader()
        assert reader is not built and reader.reader() is reader and reader.original is built
        plain, packed = (torch.tensor([list(x) for x in m.readings(given, built.options())]) for m in (built, reader))
        assert any(isinstance(m, PreparedLinear) for m in reader.modules()) and float((plain - packed).abs().max()) < 1e-5
        assert built.training and not reader.training
        with torch.no_grad():  # the control: dropout of one half is far more than rounding
            loud = dict(built.task.read(built.run(), built.pack(given), built.options()))
        assert float((torch.tensor([list(loud[i]) for i in range(len(given))]) - plain).abs().max()) > 1e-2


def test_closing_early_thaws_what_was_frozen(tokenizer: Path) -> None:
    built, plan = model(tokenizer), dataclasses.replace(PLAN, unfreeze=1)
    built.body.embeddings.positions.weight.requires_grad_(False)
    before = [p.requires_grad for p in built.parameters()]
    steps = train(built, feed(built, rows(20), plan), plan)
    next(steps)
    assert [p.requires_grad for p in built.parameters()] != before
    steps.close()
    assert [p.requires_grad for p in built.parameters()] == before


def test_what_the_caller_froze_stays_as_it_was(tokenizer: Path) -> None:
    built = model(tokenizer)
    frozen = built.body.embeddings.positions.weight.requires_grad_(False)
    before = frozen.clone()
    list(train(built, feed(built, rows(20), PLAN), PLAN))
    assert torch.equal(frozen, before) and not frozen.requires_grad


def test_a_loss_that_is_not_finite_stops_before_the_update(tokenizer: Path) -> None:
    built = model(tokenizer)
    steps = train(built, feed(built, rows(20), PLAN), PLAN)
    list(islice(steps, 2))
    with torch.no_grad():
        built.body.layers[0].norm.bias[0] = float("nan")
    before = weights(built)
    with pytest.raises(TrainingError, match=r"step 3: the loss is nan.*The weights are those of step 2.*learning_rate") as caught:
        next(steps)
    after = weights(built)
    assert all(torch.equal(before[k].nan_to_num(7.0), after[k].nan_to_num(7.0)) for k in before) and caught.value.exit_code == 1
    assert not built.training and all(p.requires_grad for p in built.parameters())


def test_a_gradient_that_is_not_finite_stops_too(tokenizer: Path) -> None:
    built = model(tokenizer)
    handle = built.task.row.out.weight.register_hook(lambda grad: grad * float("inf"))
    before = weights(built)
    with pytest.raises(TrainingError, match="step 1"):
        next(train(built, feed(built, rows(20), PLAN), PLAN))
    handle.remove()
    assert same(before, weights(built))


def test_it_learns_in_both_precisions(tokenizer: Path) -> None:
    ends: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        built, plan = model(tokenizer, dropout=0.0), Plan(steps=60, batch=16, learning_rate=3e-3, precision=precision)  # type: ignore[arg-type]
        losses = [step.loss for step in train(built, feed(built, rows(64), plan), plan)]
        ends[precision] = losses[-1]
        assert losses[0] > 0.6 and losses[-1] < 0.1, losses
        assert all(p.dtype == torch.float32 for p in built.parameters())
    print(ends)
