"""Image classes from scratch: a ViT on mnist beside logistic regression and k-NN, a ViT and a ResNet on cifar10, side by side.

    python benchmarks/image_classes.py DATA_DIR [--sets mnist cifar10] [--minutes 15] [--seed 0] [--threads 2]

DATA_DIR holds a folder a set with train.npz and dev.npz (mnist: images, labels; cifar10: jpeg, labels). A network is trained by ``fit`` for as many epochs as
end within ``--minutes``: the speed is measured in a short run before, whose weights are thrown away. The dev figure is that of the best of ten evaluations, as
``fit`` keeps it. Logistic regression and k-NN (of 3, by distance) read the pixels as they are, scaled to 0 ... 1. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from nabi import Plan, fit
from nabi.config import to_dict
from nabi.data import Table, read_table
from nabi.data.images import pixels_of
from nabi.training.progress import Progress

PLAN = Plan(batch=64, weight_decay=0.05, schedule="cosine", tokens=1 << 14)


@dataclass(frozen=True)
class Network:
    """What is trained, and how."""

    family: str
    size: str | dict[str, Any]
    plan: Plan
    augmentation: dict[str, float]


@dataclass(frozen=True)
class Set:
    """A data set: its columns, channels, networks."""

    columns: dict[str, str]
    channels: int
    networks: tuple[Network, ...]


# a narrow network begins to learn far sooner from larger weights: on 2,500 digits accuracy .66 after 4 epochs with 0.06, .28 with the usual 0.02
SMALL_VIT = {
    "image_size": 32, "patch_size": 4, "hidden_size": 128, "num_layers": 6, "num_heads": 4, "intermediate_size": 256,
    "pooling": "mean", "init_std": 0.06,
}  # fmt: skip
SETS = {
    "mnist": Set({"image": "images", "label": "labels"}, 1, (Network("vit", "digits", replace(PLAN, batch=32, learning_rate=1e-3), {"shift": 2}),)),
    "cifar10": Set(
        {"image": "jpeg", "label": "labels"},
        3,
        (
            Network("vit", SMALL_VIT, replace(PLAN, learning_rate=1e-3), {"shift": 4, "flip": 0.5}),
            Network("resnet", "cifar-20", replace(PLAN, learning_rate=3e-3), {"shift": 4, "flip": 0.5}),
        ),
    ),
}


def trained(network: Network, train: Table, dev: Table, minutes: float, seed: int) -> str:
    """A line about one network."""

    def run(plan: Plan, on: Any, held_out: Any) -> Any:
        quiet = Progress("quiet", io.StringIO())
        settings = {"augmentation": network.augmentation}
        return fit("image_classification", on, family=network.family, size=network.size, plan=plan, dev=held_out, settings=settings, progress=quiet)

    plan = replace(network.plan, seed=seed)
    began = time.perf_counter()
    some = list(train)[:: max(1, len(train) // 640)][:640]  # of all classes
    run(replace(plan, steps=2), some, None)  # what is done once is left out of the speed
    short = time.perf_counter()
    run(replace(plan, steps=10), some, None)
    each = (time.perf_counter() - short) / (10 * plan.batch)
    left = minutes * 60 - (time.perf_counter() - began)
    epochs = max(1, int(0.9 * left / (each * (len(train) + len(dev) / 3))))
    plan = replace(plan, epochs=epochs, evaluate_every=max(1, epochs / 10))
    found = run(plan, train, dev)
    count = sum(p.numel() for p in found.model.parameters())
    seconds = time.perf_counter() - began
    chosen = {name: value for name, value in to_dict(plan).items() if value != getattr(Plan(), name)}
    about = f"size {network.size}, plan {chosen}, augmentation {network.augmentation}"
    return f"{network.family:<24}{found.metrics['accuracy']:>9.4f}{seconds:>8.0f}{count:>12,}  {about}"


def numbers(table: Table, channels: int) -> tuple[Any, list[str]]:
    """(N, H * W * C) and the labels."""
    return np.stack([pixels_of(row["image"], "an image", channels).ravel() / 255 for row in table]), [str(row["label"]) for row in table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--minutes", type=float, default=15.0, help="for each network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    print(f"{machine()}, fp32, seed {a.seed}", flush=True)
    for name in a.sets:
        of = SETS[name]
        train, dev = (read_table(a.data / name / f"{side}.npz", of.columns) for side in ("train", "dev"))
        print(f"\n{name + f', {len(train):,} + {len(dev):,}':<24}{'accuracy':>9}{'seconds':>8}{'parameters':>12}", flush=True)
        x, y = numbers(train, of.channels)
        seen, truth = numbers(dev, of.channels)
        for what, model in (("logistic regression", LogisticRegression(max_iter=200)), ("k-NN", KNeighborsClassifier(3, weights="distance"))):
            began = time.perf_counter()
            accuracy = model.fit(x, y).score(seen, truth)
            print(f"{what:<24}{accuracy:>9.4f}{time.perf_counter() - began:>8.0f}", flush=True)
        for network in of.networks:
            print(trained(network, train, dev, a.minutes, a.seed), flush=True)


if __name__ == "__main__":
    main()
