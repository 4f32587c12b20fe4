"""Transfer in small: a ResNet trained on seven classes of cifar10 is carried to the other three with few labels, in four ways.

    python benchmarks/images_transfer.py DATA_DIR [--quick] [--seeds 0 1 2] [--labels 10 30 100] [--bodies DIR] [--out transfer.html]

DATA_DIR holds train.npz and dev.npz (columns jpeg, labels). The three classes are the last of the alphabet, so nobody chose them. A seed decides the body, the
images with labels, the fresh head and the order. All ways make the same number of updates on the same images with the same augmentation; what is measured is
the accuracy after the last update on the dev images of the three classes, so nothing is picked on dev within a run. The spread is the sample standard
deviation over the seeds. ``--bodies`` keeps the trained bodies, and takes those that are there. ``--quick`` is one seed and a body of two epochs, to see that
it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import machine

from nabi import Plan, checkpoint, evaluate, fit, tasks, train
from nabi.config import to_dict
from nabi.data import read_table
from nabi.data.augmenting import Augmentation
from nabi.pages.page import render
from nabi.pages.sections import Lines, Section, Table
from nabi.training.feed import Feed
from nabi.training.progress import Progress

TASK, COLUMNS = "image_classification", {"image": "jpeg", "label": "labels"}
NEW = ("horse", "ship", "truck")
SIZE = {
    "image_size": 32, "stem": "small", "stem_size": 16, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1], "block": "basic", "shrink_first": True,
}  # fmt: skip
AUGMENTATION = Augmentation(shift=4, flip=0.5)
BODY = Plan(epochs=24, batch=64, learning_rate=3e-3, weight_decay=0.05, evaluate_every=24)
FEW = Plan(steps=150, batch=30, weight_decay=0.05, schedule="cosine", tokens=1 << 14)


@dataclass(frozen=True)
class Way:
    """How a network is carried over."""

    plan: Plan
    carried: bool = True
    frozen: bool = False


# chosen on dev at 10 and 30 labels with seed 0 and a shorter body: 1 setting of the first way, 2 of each other (3e-4 and 1e-3 of the body; 1e-3 and 3e-3)
WAYS = {
    "frozen body": Way(replace(FEW, learning_rate=1e-2), frozen=True),
    "uniform rate": Way(replace(FEW, learning_rate=3e-4)),
    "body weakly, head strongly": Way(replace(FEW, learning_rate=3e-4, head_rate=1e-2, layer_decay=0.5)),
    "from scratch": Way(replace(FEW, learning_rate=1e-3), carried=False),
}


def adapted(way: Way, body: Path, rows: list[dict[str, Any]], dev: list[dict[str, Any]], seed: int) -> float:
    """Dev accuracy of a network that was carried to these rows."""
    settings = tasks.find(TASK).fitted(rows, "few", {"augmentation": AUGMENTATION})
    model = checkpoint.load_for_training(body, TASK, settings, seed=seed) if way.carried else checkpoint.create("resnet", SIZE, TASK, settings, seed=seed)
    model.body.requires_grad_(not way.frozen)
    plan = replace(way.plan, seed=seed)
    encoded = [model.encode(row, model.options(), "train", f"row {i}", i) for i, row in enumerate(rows)]
    for _ in train(model, Feed(model, encoded, plan), plan):
        pass
    return evaluate(model, dev).metrics["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--labels", nargs="+", type=int, default=[10, 30, 100], help="a class")
    parser.add_argument("--bodies", type=Path)
    parser.add_argument("--out", type=Path, help="a page with table and plot")
    a = parser.parse_args()
    seeds, plan = (a.seeds[:1], replace(BODY, epochs=2, evaluate_every=2)) if a.quick else (a.seeds, BODY)
    old, new = {}, {}
    for side in ("train", "dev"):
        rows = list(read_table(a.data / f"{side}.npz", COLUMNS))
        old[side], new[side] = ([row for row in rows if (row["label"] in NEW) == wanted] for wanted in (False, True))
    few = " ".join(map(str, a.labels))
    print(f"{machine()}\n{len(old['train']):,} images of seven classes, then {few} a class of {', '.join(NEW)}; seeds {seeds}", flush=True)
    found: dict[tuple[str, int], list[float]] = {(way, n): [] for way in WAYS for n in a.labels}
    began = time.perf_counter()
    with contextlib.ExitStack() as held:
        bodies = a.bodies or Path(held.enter_context(tempfile.TemporaryDirectory()))
        for seed in seeds:
            body = bodies / f"body-{seed}"
            if not body.exists():
                quiet, settings = Progress("quiet", io.StringIO()), {"augmentation": to_dict(AUGMENTATION)}
                run = fit(TASK, old["train"], family="resnet", size=SIZE, plan=replace(plan, seed=seed), dev=old["dev"], settings=settings, progress=quiet)
                checkpoint.save(run.model, body)
                print(f"body {seed}: {run.metrics['accuracy']:.3f} on dev of its seven classes, {run.seconds:.0f} s", flush=True)
            for n in a.labels:
                dice = random.Random(f"{seed} {n}")
                few_rows = [row for name in NEW for row in dice.sample([r for r in new["train"] if r["label"] == name], n)]
                for name, way in WAYS.items():
                    found[name, n].append(adapted(way, body, few_rows, new["dev"], seed))
                print(f"seed {seed}, {n:>3} a class: " + "  ".join(f"{name} {found[name, n][-1]:.3f}" for name in WAYS), flush=True)
    seconds = time.perf_counter() - began
    figures = {key: (statistics.mean(x), statistics.stdev(x) if len(x) > 1 else 0.0) for key, x in found.items()}
    print(f"\n{'mean and spread':<28}" + "".join(f"{n:>16}" for n in a.labels))
    for name in WAYS:
        print(f"{name:<28}" + "".join(f"{figures[name, n][0]:>9.3f} ±{figures[name, n][1]:.3f}" for n in a.labels))
    print(f"{seconds:.0f} s in all, {torch.get_num_threads()} threads; {len(new['dev'])} dev images, chance {1 / len(NEW):.3f}", flush=True)
    if a.out:
        a.out.write_text(page(figures, a.labels, f"{machine()}; seeds {seeds}; {seconds:.0f} s"), encoding="utf-8")


def page(figures: dict[tuple[str, int], tuple[float, float]], labels: list[int], lead: str) -> str:
    """Table and plot."""
    rows = [(name, *(f"{figures[name, n][0]:.3f} ± {figures[name, n][1]:.3f}" for n in labels)) for name in WAYS]
    series = {name: [(float(n), figures[name, n][0]) for n in labels] for name in WAYS}
    chart = Lines("dev accuracy by number of labels", "labels a class", "accuracy", series)
    table = Table(("way", *(f"{n} a class" for n in labels)), rows, "mean and sample standard deviation over the seeds")
    return render("Seven classes carried to three others", lead, [], [Section("Dev accuracy", [chart, table])])


if __name__ == "__main__":
    main()
