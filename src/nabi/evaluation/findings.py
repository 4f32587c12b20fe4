"""What a report and a card say, worked out once: intervals, slices, versions, and how a model was made."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from nabi.data import Table
from nabi.data.pixels import RESAMPLES
from nabi.data.shards import TokenShards
from nabi.evaluation.bootstrap import intervals, plain, resamples
from nabi.evaluation.scoring import Evaluation
from nabi.metrics.detail import Array, Verdicts
from nabi.model import Model

SLICES = 4  # by length
MEASURED = 4000  # rows whose length is measured, since that reads them once more
FEW = 20  # rows of a label below which its figure says little


@dataclass(frozen=True)
class Slice:
    """Some of the rows.

    Attributes:
        name: which; rows: how many.
        figure: the main figure on them; low, high: its 95 % interval.
    """

    name: str
    rows: int
    figure: float
    low: float
    high: float


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: as it was given; rows, sha256: of the table.
        how: how it was chosen, in words.
    """

    name: str
    rows: int
    sha256: str
    how: str = ""

    @classmethod
    def of(cls, table: Table | TokenShards, how: str = "") -> Source:
        """Of a table."""
        return cls(table.name, len(table), table.sha256, how)


@dataclass(frozen=True)
class Made:
    """How a model was made.

    Attributes:
        name: of the model, from its folder.
        folder: where it lies, as given.
        command: the call that made it.
        base: what it started from, in words; hub: its id, if it has one.
        data, dev: its rows.
        settings: of plan, task and options, those that differ from the usual ones.
        seed: of the run.
        seconds, tokens: of the whole run, resumed parts included.
        history: the evaluations.
        curve: (step, training loss).
        plugins: files that it needs.
    """

    name: str
    folder: str
    command: str
    base: str
    hub: str | None
    data: Source
    dev: Source | None
    settings: Mapping[str, Any]
    seed: int
    seconds: float
    tokens: int
    history: Sequence[Mapping[str, Any]]
    curve: Sequence[tuple[float, float]]
    plugins: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Findings:
    """A model's evaluation, and all that follows from it.

    Attributes:
        model: that was evaluated.
        evaluation: with what it kept.
        options: of the task, under which it answered.
    """

    model: Model
    evaluation: Evaluation
    options: Mapping[str, Any] | None = None

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % interval by figure; empty for a task that keeps no rows."""
        kept = self.evaluation.kept
        return intervals(kept.detail, len(kept.table)) if kept else {}

    @property
    def resamples(self) -> int:
        """That the intervals are taken from."""
        return resamples(self.evaluation.rows)

    @cached_property
    def facts(self) -> dict[str, float]:
        """The task's further figures, such as the temperature."""
        return self.evaluation.kept.detail.facts() if self.evaluation.kept else {}

    @cached_property
    def verdicts(self) -> Verdicts | None:
        """What happened to each row."""
        return self.evaluation.kept.detail.verdicts() if self.evaluation.kept else None

    @property
    def main(self) -> str:
        """The task's main figure."""
        return self.model.task.main_metric

    @cached_property
    def lengths(self) -> tuple[Array, Array]:
        """(S,) numbers of rows, all or ``MEASURED`` drawn by chance, and (S,) the tokens that the model reads of each, shared parts of windows included."""
        assert self.evaluation.kept is not None
        table, options = self.evaluation.kept.table, self.model.options(self.options)
        chosen = np.arange(len(table))
        if len(table) > MEASURED:
            chosen = np.sort(np.random.default_rng(0).choice(chosen, MEASURED, replace=False))
        return chosen, np.array([sum(row.tokens for row in self.model.encode(table[i], options, "evaluate")) for i in chosen.tolist()])

    @cached_property
    def by_length(self) -> list[Slice]:
        """The main figure on rows of about the same number of tokens, shortest first; empty if the rows can't be told apart by length, or are no texts."""
        kept = self.evaluation.kept
        if kept is None or "text" not in self.model.task.parts or len(kept.table) < 2 * SLICES:
            return []
        chosen, lengths = self.lengths
        edges = np.unique(np.quantile(lengths, np.arange(1, SLICES) / SLICES))
        number, found = np.searchsorted(edges, lengths, side="left"), []
        for part in np.unique(number):
            rows, longest = chosen[number == part], lengths[number == part]
            detail = kept.detail.take(rows.tolist())
            low, high = intervals(detail, len(rows))[self.main]
            name = f"{longest.min()} to {longest.max()} tokens" if longest.min() < longest.max() else f"{longest.min()} tokens"
            found.append(Slice(name, len(rows), plain(detail, len(rows))[self.main], low, high))
        return found if len(found) > 1 else []

    @cached_property
    def by_label(self) -> list[Slice]:
        """F1 of each label that occurs, the weakest first; empty where there are no labels."""
        kept = self.evaluation.kept
        if kept is None or self.verdicts is None or not kept.detail.choices:
            return []
        rows = Counter(name for truth in self.verdicts.truth for name in ([truth] if truth in kept.detail.choices else truth.split(", ")))
        names = [label for label in kept.detail.choices if rows[label] and f"f1/{label}" in self.evaluation.metrics]
        slices = [Slice(label, rows[label], self.evaluation.metrics[f"f1/{label}"], *self.intervals[f"f1/{label}"]) for label in names]
        return sorted(slices, key=lambda s: s.figure)

    @cached_property
    def parameters(self) -> int:
        """Numbers in the model's weights, shared ones once."""
        return sum(p.numel() for p in self.model.original.parameters())


def images_read(model: Model) -> list[tuple[str, str]]:
    """How a model reads images, in one line for a table; nothing for one that reads none."""
    pictures = model.inputs.pictures
    if pictures is None:
        return []
    s = pictures.settings
    size = "its own size" if s.size is None else f"{s.size} pixels on the shorter side" if isinstance(s.size, int) else f"{s.size[0]} x {s.size[1]} pixels"
    cropped = f", of which the middle {s.crop[0]} x {s.crop[1]}" if s.crop else ""
    scale = "" if not s.mean and not s.std else f", mean {_numbers(s.mean) or 0}, deviation {_numbers(s.std) or 1}"
    rescale = "1/255" if abs(s.rescale * 255 - 1) < 1e-6 else f"{s.rescale:.6g}"
    pieces = f"{len(s.clusters)} colours" if s.clusters else f"patches of {pictures.side} x {pictures.side}" if pictures.side > 1 else "pixels"
    told = f"{size} ({RESAMPLES[s.resample]}){cropped}, {'in colour' if s.channels == 3 else 'grey'}, times {rescale}{scale}; read as {pieces}"
    return [("images", told)]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{x:.4g}" for x in (values[:1] if len(set(values)) == 1 else values))


def versions() -> dict[str, str]:
    """Of what a figure may depend on."""
    # nabi's own stands above this file, and whoever runs it has imported that
    ours = sys.modules[__name__.partition(".")[0]].__version__
    return {"nabi": ours, "torch": torch.__version__, "python": platform.python_version(), "platform": platform.platform()}
