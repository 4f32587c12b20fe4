"""Answers of made-up models, and pages and cards of them: what the tests of evaluation share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from nabi.data import read_table
from nabi.evaluation import Evaluation, Kept
from nabi.evaluation.bootstrap import plain
from nabi.evaluation.findings import Findings, Made, Source
from nabi.metrics.classified import Classified
from nabi.tasks.text_classification import ClassificationSettings
from training.small import model, vocabulary

HOSTILE = '<script>document.title = "taken"</script><img src=x onerror="document.title = 1"> {0} {{ 7 * 7 }} {% raw %} ${x} 나비 \U0001f98b'


def classified(labels: Sequence[str], rows: int, seed: int = 0, sharp: float = 2.0) -> Classified:
    """A model that is often right: noise, and ``sharp`` more for the truth."""
    dice = np.random.default_rng(seed)
    made = Classified(labels)
    for _ in range(rows):
        logits, truth = dice.normal(size=len(labels)), int(dice.integers(len(labels)))
        logits[truth] += sharp
        made.add(logits, labels[truth])
    return made


def findings(folder: Path, labels: Sequence[str], rows: int, seed: int = 0, text: str = "a text") -> Findings:
    """What is found of such a model on rows that all bear ``text``."""
    detail = classified(labels, rows, seed)
    table = read_table([{"text": f"{text} " + "good " * (i % 9), "label": labels[detail.truth[i]]} for i in range(rows)])
    built = model(vocabulary(folder / "vocabulary"), ClassificationSettings(labels=tuple(labels)))
    return Findings(built, Evaluation("text_classification", "made up", "list", rows, plain(detail, rows), 1.0, Kept(table, detail)))


def made(found: Findings, **changes: Any) -> Made:
    """How that model came to be."""
    kept = found.evaluation.kept
    assert kept is not None
    history = [{"step": s, "epoch": s / 10, "loss": 1 / s, "metrics": found.evaluation.metrics} for s in (10, 20)]
    facts = {
        "name": "made-up", "folder": "runs/made-up", "command": "nabi train --task text_classification", "base": "minilm", "hub": None,
        "data": Source("train.jsonl", 60, "0" * 64), "dev": Source.of(kept.table, "0.1 of the rows, put aside"), "settings": {"plan.steps": 20},
        "seed": 0, "seconds": 12.0, "tokens": 3456, "history": history, "curve": [(float(i), 1 / i) for i in range(1, 21)],
    }  # fmt: skip
    return dataclasses.replace(Made(**facts), **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tags: names of elements; attributes: (name, value); text: all that is shown, joined.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data
