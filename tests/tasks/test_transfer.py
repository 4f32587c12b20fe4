"""Transfer of image classifiers: the statistics that a network from scratch learns and a carried one keeps, exact resume with them, what each way moves."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nabi import Lora, Plan, checkpoint, evaluate, fit, load, tasks, train
from nabi.errors import OptionError
from nabi.model import Model
from nabi.training.feed import Feed
from nabi.training.loop import Step
from nabi.training.progress import Progress

TASK = "image_classification"
SIZE = {"image_size": 16, "stem": "small", "stem_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "block": "basic"}
PLAN = Plan(steps=60, batch=32, learning_rate=1e-2, evaluate_every=100.0)


def pictures(classes: range, each: int, seed: int = 0) -> list[dict[str, Any]]:
    """Waves of one direction a class, of any phase, length, contrast and colour, under noise."""
    dice, found = np.random.default_rng(seed), []
    y, x = np.mgrid[:16, :16]
    for k in list(classes) * each:
        angle, length = np.pi * k / 6, dice.uniform(3, 5)
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / length + dice.uniform(0, 6.3))
        picture = 128 + 60 * wave[:, :, None] * dice.uniform(0.2, 1, 3) + dice.normal(0, 40, (16, 16, 3))
        found.append({"image": np.clip(picture, 0, 255).astype(np.uint8), "label": f"class {k}"})
    return found


def fitted(rows: list[dict[str, Any]], plan: Plan = PLAN, **given: Any) -> Model:
    start: dict[str, Any] = {} if "base" in given else {"family": "resnet", "size": SIZE}
    return fit(TASK, rows, plan=plan, progress=Progress("quiet", io.StringIO()), **start, **given).model


def statistics(model: Model) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in model.named_buffers() if "running" in name or "tracked" in name}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that knows three directions."""
    folder = tmp_path_factory.mktemp("base") / "model"
    checkpoint.save(fitted(pictures(range(0, 6, 2), 40)), folder)
    return folder


def test_a_network_from_scratch_learns_its_statistics_and_a_carried_one_keeps_them(base: Path) -> None:
    learnt = statistics(load(base))
    assert {int(x) for name, x in learnt.items() if "tracked" in name} == {60}
    short, few = replace(PLAN, steps=3), pictures(range(1, 6, 2), 4)
    carried = fitted(few, short, base=base)
    assert same(statistics(carried), learnt)
    assert not torch.equal(carried.state_dict()["body.stem.input.convolution.weight"], load(base).state_dict()["body.stem.input.convolution.weight"])
    moved = statistics(fitted(few, replace(short, batch_statistics=True), base=base))
    assert {int(x) for name, x in moved.items() if "tracked" in name} == {63}
    assert same(statistics(fitted(few, replace(short, batch_statistics=False))), statistics(checkpoint.create("resnet", SIZE, TASK, carried.task.settings)))


class Broken(Exception):
    pass


@pytest.mark.parametrize("carried", [False, True])
def test_a_run_that_is_gone_on_with_has_the_statistics_of_the_unbroken_one(carried: bool, base: Path, tmp_path: Path) -> None:
    class Breaks(Progress):
        def step(self, step: Step) -> None:
            if step.number == 5:
                raise Broken

    plan, rows = replace(PLAN, steps=8, save_every=2), pictures(range(3), 20)
    start: dict[str, Any] = {"base": base} if carried else {"family": "resnet", "size": SIZE}
    with pytest.raises(Broken):
        fit(TASK, rows, plan=plan, out=tmp_path / "broken", progress=Breaks("quiet", io.StringIO()), **start)
    fitted(rows, plan, out=tmp_path / "broken", resume=True, **({"base": base} if carried else {}))
    fitted(rows, plan, out=tmp_path / "whole", **({"base": base} if carried else {}))
    whole, broken = (load_file(tmp_path / side / "model.safetensors") for side in ("whole", "broken"))
    assert same(whole, broken)
    at_rest = statistics(load(tmp_path / "whole"))
    assert same(at_rest, statistics(load(base))) == carried


def test_micro_batches_are_exact_once_the_statistics_are_kept(base: Path) -> None:
    rows, plan = pictures(range(3), 4), replace(PLAN, steps=2, batch=12, eps=1.0, learning_rate=1.0, warmup=0.0)  # eps: an update as smooth as the gradient

    def moved(tokens: int, given: Path | None) -> Tensor:
        model = fitted(rows, replace(plan, tokens=tokens), **({"base": given} if given else {}))
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    begun = torch.cat([p.detach().flatten() for p in load(base).parameters()])
    whole, cut = moved(100, base), moved(3, base)
    assert float((whole - begun).abs().max()) > 1e-2 and torch.allclose(whole, cut, atol=1e-5)
    assert not torch.allclose(moved(100, None), moved(3, None), atol=1e-3)  # control: those of a batch are of what is computed at once


def adapted(base: Path | None, rows: list[dict[str, Any]], plan: Plan, frozen: bool = False) -> Model:
    """Carried by the loop, as a caller of it does."""
    settings = tasks.find(TASK).fitted(rows, "few", {})
    model = checkpoint.load_for_training(base, TASK, settings, seed=1) if base else checkpoint.create("resnet", SIZE, TASK, settings, seed=1)
    model.body.requires_grad_(not frozen)
    encoded = [model.encode(row, model.options(), "train", f"row {i}", i) for i, row in enumerate(rows)]
    for _ in train(model, Feed(model, encoded, plan), plan):
        pass
    return model


def test_the_four_ways_learn_and_move_what_they_should(base: Path) -> None:
    few, dev = pictures(range(1, 6, 2), 4, seed=1), pictures(range(1, 6, 2), 20, seed=2)
    plan = replace(PLAN, steps=40, batch=12)
    ways = {
        "frozen": adapted(base, few, plan, frozen=True),
        "uniform": adapted(base, few, replace(plan, learning_rate=3e-3)),
        "weakly and strongly": adapted(base, few, replace(plan, learning_rate=1e-3, head_rate=1e-2, layer_decay=0.5)),
        "scratch": adapted(None, few, plan),
    }
    figures = {name: evaluate(model, dev).metrics["accuracy"] for name, model in ways.items()}
    assert min(figures.values()) >= 0.8, figures
    begun = load(base).body.state_dict()

    def moved(name: str) -> list[float]:
        return [float((p.detach() - begun[path]).abs().mean()) for path, p in ways[name].body.named_parameters() if path.endswith("convolution.weight")]

    assert max(moved("frozen")) == 0.0
    assert all(a < b for a, b in zip(moved("weakly and strongly"), moved("uniform"), strict=True))
    weakly = moved("weakly and strongly")
    assert weakly[0] < 0.5 * weakly[-1]  # the lower, the weaker


def test_adapters_are_refused_where_there_is_nothing_to_adapt(base: Path) -> None:
    with pytest.raises(OptionError, match="lora"):
        fitted(pictures(range(3), 2), replace(PLAN, steps=1), base=base, lora=Lora())
