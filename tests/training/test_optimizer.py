"""AdamW by rows against torch's dense one, and what the plan's settings do to each group."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import nabi.training.optimizer
from nabi.model import Model
from nabi.ranks import Ranks
from nabi.training.loop import train
from nabi.training.optimizer import Optimizer
from nabi.training.plan import Plan
from training.small import feed, model, rows, same, weights

PLAN = Plan(steps=12, batch=4, learning_rate=1e-2, weight_decay=0.1, clip=0.05, schedule="cosine", warmup=3, seed=1)


def late(count: int) -> list[dict[str, Any]]:
    """Each text has a word that no other has."""
    return [{**row, "text": f"{row['text']} filler{i}"} for i, row in enumerate(rows(count))]


def reference(built: Model, plan: Plan) -> list[float]:
    """The same run, with the groups written out and torch's AdamW; returns the norms."""
    data = feed(built, late(48), plan)
    decayed, others = ([p for p in built.parameters() if (p.dim() > 1) == d] for d in (True, False))
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(plan.beta1, plan.beta2),
        eps=plan.eps,
    )
    norms = []
    built.train()
    for n in range(plan.total(data.steps_per_epoch)):
        adamw.zero_grad()
        (batch,) = data.step(n)
        (built(batch)["label"] / len(batch.parts["text"].layout)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(built.parameters(), plan.clip)))
        for group in adamw.param_groups:
            group["lr"] = plan.learning_rate * plan.rate(n, data.total)
        adamw.step()
    return norms


@pytest.mark.parametrize("large", [8, 10**9], ids=["rows only", "dense"])
def test_against_torch_over_a_run(large: int, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nabi.training.optimizer, "LARGE", large)
    # beta2 low and eps high enough that rounding stays rounding over twelve steps
    plan = dataclasses.replace(PLAN, beta2=0.95, eps=1e-6)
    ours, theirs = model(tokenizer, dropout=0.0), model(tokenizer, dropout=0.0)
    start = weights(ours)
    steps = list(train(ours, feed(ours, late(48), plan), plan))
    norms = reference(theirs, plan)
    assert [s.norm for s in steps] == pytest.approx(norms, rel=1e-4) and sorted(norms)[2] > plan.clip
    gaps = {name: float((x - y).abs().max()) for (name, x), y in zip(weights(ours).items(), weights(theirs).values(), strict=True)}
    moved = {name: float((x - start[name]).abs().max()) for name, x in weights(theirs).items()}
    print("largest difference", max(gaps.values()), "smallest move", min(moved.values()))
    assert max(gaps.values()) < 2e-5 and min(moved.values()) > 1e-3


def test_rows_only_is_dense_adamw_on_the_same_gradients() -> None:
    """Hand-made gradients, some rows late, some never, over 50 steps in float32."""
    from nabi.nn.linear import Embedding
    from nabi.training.optimizer import _Table

    draw = torch.Generator().manual_seed(0)
    table, dense = Embedding(40, 8), torch.nn.Parameter(torch.empty(40, 8))
    with torch.no_grad():
        table.weight.normal_(generator=draw)
        dense.copy_(table.weight)
    plan = Plan(weight_decay=0.1)
    sparse, adamw = _Table(table, 0.5, plan), torch.optim.AdamW([dense], weight_decay=0.1)
    for step in range(50):
        hit = torch.randint(0, 10 + step // 2, (6,), generator=draw)
        values = torch.randn(6, 8, generator=draw)
        table.weight.grad = torch.sparse_coo_tensor(hit[None], values, (40, 8), check_invariants=True)
        dense.grad = table.weight.grad.to_dense()
        adamw.param_groups[0]["lr"] = 0.5 * 0.01 * (step + 1) / 50
        sparse.step(0.01 * (step + 1) / 50)
        adamw.step()
    assert len(sparse.rows) == len(set(sparse.rows.tolist())) and 10 < len(sparse.rows) < 40
    gap = float((table.weight.detach() - dense.detach()).abs().max())
    print("largest difference after 50 steps", gap)
    assert gap < 1e-6


@pytest.mark.parametrize("large", [8, 10**9], ids=["rows only", "dense"])
def test_state_round_trip(large: int, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nabi.training.optimizer, "LARGE", large)
    built = model(tokenizer)
    steps = train(built, feed(built, late(48), PLAN), PLAN)
    for _ in range(4):
        state = next(steps).state().optimizer
    fresh = Optimizer(built, PLAN)
    fresh.restore(state)
    assert same(fresh.state(), state) and len(state) > 30
    steps.close()


class Two(Ranks):
    world = 2


def test_moments_by_row_become_those_of_all_rows_and_come_back(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nabi.training.optimizer, "LARGE", 8)
    built = model(tokenizer)
    steps = train(built, feed(built, late(48), PLAN), PLAN)
    for _ in range(4):
        state = next(steps).state().optimizer
    steps.close()
    several, names = Optimizer(built, PLAN, Two()), {id(p): name for name, p in built.named_parameters()}
    several.restore(state)
    assert not several.tables
    whole = {f"{names[id(p)]}.{what}": x for p, held in several.dense.state.items() for what, x in held.items()}
    again = Optimizer(built, PLAN)
    again.restore(whole)
    back, tables = again.state(), [name.removesuffix(".rows") for name in state if name.endswith(".rows")]
    assert tables
    for name in tables:
        rows_, count = state[f"{name}.rows"], len(built.get_parameter(name))
        assert int(back[f"{name}.step"]) == int(whole[f"{name}.step"]) == int(state[f"{name}.step"]) == 4
        for what in ("exp_avg", "exp_avg_sq"):
            wanted = torch.zeros(count, state[f"{name}.{what}"].shape[1])
            wanted[rows_] = state[f"{name}.{what}"]
            assert wanted.any() and torch.equal(whole[f"{name}.{what}"], wanted)
            found = torch.zeros_like(wanted)
            found[back[f"{name}.rows"]] = back[f"{name}.{what}"]
            assert torch.equal(found, wanted)


def one_step(tokenizer: Path, plan: Plan, seed: int = 0) -> tuple[Model, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    built = model(tokenizer, dropout=0.0, seed=seed)
    before = weights(built)
    steps = train(built, feed(built, rows(8), plan), plan)
    next(steps)
    after = weights(built)
    return built, before, {name: after[name] - before[name] for name in after}


ONE = Plan(steps=5, batch=8, schedule="constant", warmup=0, learning_rate=1e-3, weight_decay=0.0, clip=0.0)


@pytest.mark.parametrize("large", [8, 10**9], ids=["rows only", "dense"])
def test_layer_wise_rates(large: int, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nabi.training.optimizer, "LARGE", large)
    # Adam's first update is the rate times the sign of the gradient, so the largest move of a group is its rate
    built, _, moves = one_step(tokenizer, dataclasses.replace(ONE, layer_decay=0.5, head_rate=7e-3))
    names = {id(p): name for name, p in built.named_parameters()}
    largest = [max(float(moves[names[id(p)]].abs().max()) for p in group.parameters()) for group in built.groups()]
    assert largest == pytest.approx([1e-3 / 8, 1e-3 / 4, 1e-3 / 2, 7e-3], rel=1e-2)


@pytest.mark.parametrize("large", [8, 10**9], ids=["rows only", "dense"])
def test_matrices_decay_and_vectors_do_not(large: int, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nabi.training.optimizer, "LARGE", large)
    _, before, without = one_step(tokenizer, ONE)
    _, _, decayed = one_step(tokenizer, dataclasses.replace(ONE, weight_decay=0.5))
    kinds = set()
    for name, start in before.items():
        wanted = start * -1e-3 * 0.5 if start.dim() > 1 else torch.zeros_like(start)
        assert torch.allclose(decayed[name] - without[name], wanted, atol=3e-7), name
        kinds.add((start.dim() > 1, name.rpartition(".")[2]))
    assert kinds == {(True, "weight"), (False, "weight"), (False, "bias")}


def test_clipping(tokenizer: Path) -> None:
    for clip in (0.01, 0.0, 1e6):
        built, plan = model(tokenizer), dataclasses.replace(ONE, clip=clip)
        steps = train(built, feed(built, rows(8), plan), plan)
        step = next(steps)
        left = torch.stack([p.grad.to_dense().norm() for p in built.parameters() if p.grad is not None]).norm()
        assert step.norm > 0.05
        assert float(left) == pytest.approx(0.01 if clip == 0.01 else step.norm, rel=1e-3)


def test_gradual_unfreezing(tokenizer: Path) -> None:
    plan = dataclasses.replace(ONE, steps=8, batch=8, unfreeze=1, weight_decay=0.1)
    built = model(tokenizer)
    names = {id(p): name for name, p in built.named_parameters()}
    groups = [[names[id(p)] for p in group.parameters()] for group in built.groups()]
    moved, before = [], weights(built)
    for step in train(built, feed(built, rows(16), plan), plan):
        if step.number % 2 == 0:
            now = weights(built)
            moved.append([any(not torch.equal(now[n], before[n]) for n in group) for group in groups])
            before = now
    assert moved == [[False, False, False, True], [False, False, True, True], [False, True, True, True], [True, True, True, True]]
