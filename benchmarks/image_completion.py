"""iGPT from scratch on digits of 14 x 14 pixels: bits per pixel beside guesses that know no neighbours, and halves completed in a picture.

    python benchmarks/image_completion.py DATA_DIR [--out DIR] [--minutes 12 | --steps N] [--threads 2] [--size digits] [--set plan.learning_rate=0.003]

DATA_DIR holds train.npz and dev.npz with ``images`` (N, 28, 28) and ``labels``. Images are scaled to 14 x 14, their 16 levels of grey come from k-means over
the images of training. Without --steps the speed of a few steps is measured and as many are made as fit into --minutes, evaluation and picture not counted.

Tried for the settings, 1,248 images each, bits per pixel on 300 images of dev: 32 images a step at .003 1.779; 8 at .003 1.552, at .001 1.556; 8 at .003 with
hidden size 64 and 4 layers 1.558 in less than half the time.

Printed: bits per pixel of the model on dev, of the two guesses of the task (the entropy of dev's own pixels, in all and place by place, which no table is
below), and of the same two tables made of the images of training, each count and one more. Written with --out: the model, and halves.png, a row for each
digit: the image, the half that stays, and five completions drawn at temperature 1.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from PIL import Image

from nabi import Plan, evaluate, fit, save
from nabi.config import override
from nabi.data import Table, read_table
from nabi.inspection.galleries import completions, halves
from nabi.model import Model
from nabi.training.progress import Progress

COLUMNS = {"image": "images", "label": "labels"}
PLAN = ["batch=8", "learning_rate=0.003", "schedule=cosine", "warmup=0.05", "beta2=0.95", "evaluate_every=1000"]
TRIAL, WARM = 24, 8  # steps that are timed, and steps before them
SCALE, DRAWS = 6, 5  # of the picture: points of a pixel, completions
Array = np.ndarray[Any, Any]


def colours(model: Model, table: Table) -> Array:
    """(N, T) numbers of colours."""
    return np.array([model.inputs.images.read(row["image"], "an image")[0]["tokens"] for row in table])


def tables(train: Array, dev: Array, count: int) -> tuple[float, float]:
    """Bits per pixel of dev under the frequencies of training, of all pixels and place by place."""
    whole = np.bincount(train.ravel(), minlength=count) + 1.0
    places = np.stack([np.bincount(column, minlength=count) + 1.0 for column in train.T])
    by_place = np.log2(places / places.sum(1, keepdims=True))[np.arange(dev.shape[1]), dev]
    return float(-np.log2(whole / whole.sum())[dev].mean()), float(-by_place.mean())


def picture(model: Model, dev: Table) -> Image.Image:
    """A row for each digit: the image, what stays of it, completions."""
    first: dict[Any, Any] = {}
    for row in dev:
        first.setdefault(row["label"], row["image"])
    found = halves(model, [first[label] for label in sorted(first)], count=DRAWS)
    drawn = completions(found.originals, found.completed, found.kept, gap=1)
    return Image.fromarray(drawn.repeat(SCALE, 0).repeat(SCALE, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="digits")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="plan.KEY=VALUE")
    a = parser.parse_args()
    if a.data is None:
        print("nothing measured: this needs DATA_DIR")
        return
    torch.set_num_threads(a.threads)
    train, dev = (read_table(a.data / f"{side}.npz", COLUMNS) for side in ("train", "dev"))
    given = [*PLAN, *(s.removeprefix("plan.") for s in a.settings)]
    print(f"{machine()}, fp32, {a.threads} threads, size {a.size}, plan {' '.join(given)}", flush=True)

    def trained(steps: int, stream: str) -> tuple[Any, float]:
        began = time.perf_counter()
        run = fit("image_completion", train, family="imagegpt", size=a.size, plan=override(Plan(steps=steps), given), progress=Progress(stream))
        return run, time.perf_counter() - began

    steps = a.steps
    if steps is None:
        few, more = (trained(count, "quiet")[1] for count in (WARM, WARM + TRIAL))  # both read the images; the first writes them to the cache
        few = min(few, trained(WARM, "quiet")[1])
        steps = max(1, round(a.minutes * 60 / max((more - few) / TRIAL, 1e-3)))
    run, seconds = trained(steps, "auto")
    model = run.model
    began = time.perf_counter()
    figures = evaluate(model, dev).metrics
    evaluated = time.perf_counter() - began
    count = model.body.colours
    whole, by_place = tables(colours(model, train), colours(model, dev), count)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{steps} steps in {seconds:.0f} s, {run.tokens / seconds:,.0f} pixels/s, {parameters:,} parameters; dev measured in {evaluated:.0f} s")
    print(f"{'bits per pixel on ' + format(len(dev), ',') + ' images of dev':<60}{figures['bits_per_pixel']:.4f}")
    print(f"{'the colours of each place, of training':<60}{by_place:.4f}")
    print(f"{'the colours of each place, of dev itself':<60}{figures['place_bits_per_pixel']:.4f}")
    print(f"{'the colours of all pixels, of training':<60}{whole:.4f}")
    print(f"{'the colours of all pixels, of dev itself':<60}{figures['marginal_bits_per_pixel']:.4f}")
    if a.out:
        save(model, a.out / "model")
        began = time.perf_counter()
        picture(model, dev).save(a.out / "halves.png")
        print(f"{a.out / 'halves.png'}: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
