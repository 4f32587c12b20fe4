"""Full tuning, LoRA and a frozen body side by side: accuracy, share of the parameters that learnt, what must be kept of each.

    python benchmarks/lora.py --rows 480      # of the set that ships
    python benchmarks/lora.py --train mrpc/train.jsonl.gz --dev mrpc/dev.jsonl.gz --columns text=text_a,text_pair=text_b --epochs 4

Prints a line a run and a table of the means; ``--json`` prints them as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nabi
from nabi import adapters, checkpoint
from nabi.data import read_table
from nabi.data.shipped import sms_spam
from nabi.evaluation import evaluate
from nabi.nn.lora import Lora
from nabi.tasks import find
from nabi.training.encoded import encoded
from nabi.training.feed import Feed
from nabi.training.plan import Plan

# name -> adapters, peak rate: the plan's own for all weights, ten times that for what starts from nothing; not tuned
WAYS: dict[str, tuple[Lora | None, float]] = {
    "all weights": (None, 1e-4),
    "LoRA 8, every linear layer": (Lora(rank=8), 1e-3),
    "LoRA 8, query and value": (Lora(rank=8, targets=("q", "v")), 1e-3),
    "head alone": (None, 1e-3),
}


def columns(text: str | None) -> dict[str, str] | None:
    return None if text is None else dict(pair.split("=") for pair in text.split(","))  # type: ignore[misc]


def run(way: str, seed: int, train: Any, dev: Any, given: argparse.Namespace) -> dict[str, Any]:
    """One training: its figure on dev, its share of learning parameters, the bytes of its weights, the seconds of its updates."""
    lora, rate = WAYS[way]
    plan = Plan(epochs=given.epochs, batch=given.batch, learning_rate=rate * given.rate, seed=seed)
    kind = find(given.task)
    model = checkpoint.load_for_training(given.base, kind.name, kind.fitted(train, "train", {}), seed=seed)
    if lora is not None:
        adapters.adapt(model, lora, given.base, seed)
    elif way == "head alone":
        model.body.requires_grad_(False)
    feed, began = Feed(model, encoded(model, train, model.options(), "train", print), plan), time.perf_counter()
    for _ in nabi.train(model, feed, plan):
        pass
    seconds = time.perf_counter() - began
    figures = evaluate(model, dev).metrics
    with tempfile.TemporaryDirectory() as folder:
        nabi.save(model, Path(folder) / "model")
        size = sum(path.stat().st_size for path in (Path(folder) / "model").glob("*.safetensors"))
    share = sum(p.numel() for p in model.parameters() if p.requires_grad) / sum(p.numel() for p in model.parameters())
    return {"way": way, "seed": seed, kind.main_metric: figures[kind.main_metric], "share": share, "bytes": size, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="text_classification")
    parser.add_argument("--train")
    parser.add_argument("--dev")
    parser.add_argument("--columns")
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--rows", type=int, help="of the training data, from its start")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.0, help="times each way's own rate")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.train is None:
        train, dev = sms_spam()
        rows = [train[i] for i in range(given.rows or 800)]
    else:
        table = read_table(given.train, columns(given.columns))
        rows, dev = [table[i] for i in range(min(given.rows or len(table), len(table)))], read_table(given.dev, columns(given.columns))
    train = read_table(rows)
    runs = []
    for way in WAYS:
        for seed in range(given.seeds):
            runs.append(run(way, seed, train, dev, given))
            print(json.dumps(runs[-1]) if given.json else runs[-1], flush=True)
    metric = find(given.task).main_metric
    print(f"\n{'':28} {metric:>18} {'learnt':>8} {'weights':>10} {'seconds':>8}")
    for way in WAYS:
        of = [r for r in runs if r["way"] == way]
        mean, low, high = (f([r[metric] for r in of]) for f in (statistics.mean, min, max))
        seconds = statistics.mean(r["seconds"] for r in of)
        print(f"{way:28} {mean:.4f} {low:.3f}-{high:.3f} {of[0]['share']:8.2%} {of[0]['bytes'] / 1e6:7.2f} MB {seconds:8.1f}")


if __name__ == "__main__":
    main()
