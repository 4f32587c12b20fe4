"""A small CLIP from scratch on 658 pictures of emoji and their names: recall of names for pictures and of pictures for names, beside chance.

    python benchmarks/image_text.py DIR [--seeds 3] [--epochs 60] [--set image_hidden_size=96 ...]

DIR is the set emoji_captions (train.jsonl.gz, dev.jsonl.gz, the pictures beside them in NPZ). So few pairs are learnt by heart at once, so the model is
small, the pictures are shifted, mirrored, cropped and erased, and a name is now the caption, now one of its aliases, now the caption with its tags.
Dev has the captions alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

from nabi import Plan, evaluate, tasks
from nabi.data import read_table
from nabi.fitting import fit
from nabi.text.training import TokenizerSettings, train_tokenizer
from nabi.training.progress import Progress

COLUMNS = {"image": "index", "text": "caption"}
SIZE = {
    "hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 256, "max_positions": 24,
    "image_size": 64, "patch_size": 16, "image_hidden_size": 96, "image_layers": 3, "image_heads": 4, "image_intermediate_size": 384,
    "projection_size": 64,
}  # fmt: skip
AUGMENTATION = {"shift": 4, "flip": 0.5, "crop": 0.6, "erase": 0.25}
SHOWN = [f"recall@{k}{way}" for k in (1, 5) for way in ("/image_to_text", "/text_to_image")]


def named(row: dict[str, Any]) -> list[str]:
    """What a picture may be called in training."""
    caption, aliases = row["text"], [alias.replace("_", " ") for alias in row["aliases"]]
    return list(dict.fromkeys([caption, *aliases, *([f"{caption}, {', '.join(row['tags'])}"] if row["tags"] else [])]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=NUMBER")
    given = parser.parse_args()
    size = {**SIZE, **{key: int(value) for key, _, value in (entry.partition("=") for entry in given.set)}}
    kind = tasks.find("image_text_retrieval")
    train, dev = (kind.opened(read_table(given.data / f"{split}.jsonl.gz", COLUMNS)) for split in ("train", "dev"))
    rows = [{"image": row["image"], "text": named(row)} for row in train]
    print(f"{machine()}; {len(rows)} pairs, dev {len(dev)}")
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        words = TokenizerSettings(kind="wordpiece", vocab_size=1000, lowercase=True)
        train_tokenizer([text for row in rows for text in row["text"]], words).save(Path(folder))
        for seed in range(given.seeds):
            plan = Plan(
                epochs=given.epochs, batch=given.batch, learning_rate=given.rate, weight_decay=given.decay, seed=seed,
                hidden_dropout=given.dropout, attention_dropout=given.dropout,
            )  # fmt: skip
            began = time.perf_counter()
            settings = {"augmentation": AUGMENTATION}
            made = fit(kind.name, rows, family="clip", size=size, tokenizer=folder, settings=settings, plan=plan, progress=Progress("none"))
            found.append(evaluate(made.model, dev).metrics)
            seen = evaluate(made.model, [{**row, "text": row["text"][0]} for row in rows[:98]]).metrics
            told = "  ".join(f"{name} {found[-1][name]:.3f}" for name in SHOWN)
            print(f"seed {seed}: {told}  ({time.perf_counter() - began:.0f} s; recall@5 of 98 training pairs {seen['recall@5']:.3f})", flush=True)
    for name in (*SHOWN, "recall@1", "recall@5"):
        values = [figures[name] for figures in found]
        chance = found[0][f"chance@{name.partition('/')[0][-1]}"]
        mean = statistics.mean(values)
        print(f"{name:<26}{mean:.3f}  ({min(values):.3f} to {max(values):.3f}), chance {chance:.3f}, {mean / chance:.1f} times that")


if __name__ == "__main__":
    main()
