"""A tiny model on a tiny vocabulary, and texts that it can learn to tell apart: what the tests of training, tasks, pipelines and commands share."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import nabi
from nabi.model import Model
from nabi.tasks.text_classification import ClassificationSettings
from nabi.training.feed import Feed
from nabi.training.plan import Plan

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "poor", "dull")
PLAIN = tuple(a + b for a in ("the", "film", "plot", "cast", "song", "scene") for b in ("", "s", "ed", "ly", "er"))
ROWS = 4300  # of the vocabulary: over nabi.training.optimizer.LARGE, so that the table is updated by rows
SIZE = {"vocab_size": 1, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 64}


def vocabulary(folder: Path) -> Path:
    """A folder with a WordPiece vocabulary of whole words, letters and syllables."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + list("나비가는은이좋싫다")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN, *letters, *("##" + c for c in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    words = list(dict.fromkeys(words))
    words += [f"filler{i}" for i in range(ROWS - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def text(dice: random.Random, words: Sequence[str], low: int = 3, high: int = 12) -> str:
    """A sentence with one of ``words`` somewhere."""
    chosen = dice.choices(PLAIN, k=dice.randint(low, high))
    chosen.insert(dice.randint(0, len(chosen)), dice.choice(words))
    return " ".join(chosen)


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts labelled pos or neg by one word."""
    dice = random.Random(seed)
    return [{"text": text(dice, GOOD if i % 2 else BAD), "label": "pos" if i % 2 else "neg"} for i in range(count)]


def model(tokenizer: Path, settings: ClassificationSettings | None = None, *, dropout: float = 0.1, seed: int = 0, **size: Any) -> Model:
    """A fresh BERT of two small layers."""
    config = {**SIZE, "hidden_dropout": dropout, "attention_dropout": dropout, **size}
    return nabi.create("bert", config, "text_classification", settings or ClassificationSettings(labels=("neg", "pos")), tokenizer, seed=seed)


def feed(built: Model, examples: Sequence[Mapping[str, Any]], plan: Plan, **options: Any) -> Feed:
    """The feed of these examples."""
    chosen = built.options(options)
    return Feed(built, [built.encode(e, chosen, "train", f"row {i}", i) for i, e in enumerate(examples)], plan)


def weights(built: Model) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: x.clone() for name, x in built.state_dict().items()}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)
