"""Multi-label classification, row by row: what a report, an interval and a comparison are made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from nabi.metrics.calibration import bins, ece
from nabi.metrics.classified import by_label
from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Block, Scatter, Section, Table


class MultiLabelled:
    """The logits, the labels given and the labels that hold, of each row.

    Args:
        labels: all label names, in the order of the logits.
        fields: columns of a row that a report shows.
    """

    def __init__(self, labels: Sequence[str], fields: tuple[str, ...] = ("text",)) -> None:
        self.labels, self.fields = tuple(labels), fields
        self._logits: list[Array] = []
        self._given: list[Array] = []
        self._true: list[Array] = []

    @property
    def choices(self) -> tuple[str, ...]:
        """The label names."""
        return self.labels

    def add(self, answer: Any, truth: Any) -> None:
        """One row: ((L,) logits, names of the labels given), names of those that hold."""
        logits, given = answer
        self._logits.append(np.asarray(logits, dtype=np.float64))
        self._given.append(np.array([label in given for label in self.labels]))
        self._true.append(np.array([label in truth for label in self.labels]))

    def take(self, rows: Sequence[int]) -> MultiLabelled:
        """These rows alone."""
        taken = MultiLabelled(self.labels, self.fields)
        taken._logits, taken._given, taken._true = ([kept[i] for i in rows] for kept in (self._logits, self._given, self._true))
        return taken

    @cached_property
    def logits(self) -> Array:
        """(R, L)."""
        return np.stack(self._logits)

    @cached_property
    def given(self) -> Array:
        """(R, L) bool."""
        return np.stack(self._given)

    @cached_property
    def true(self) -> Array:
        """(R, L) bool."""
        return np.stack(self._true)

    def figures(self, weights: Array) -> dict[str, Array]:
        """accuracy (all labels right), precision, recall, f1 (micro), macro_f1, f1/<label>, each (B,)."""
        hits, given, true = (weights @ x.astype(float) for x in (self.given & self.true, self.given, self.true))
        f1 = _f1(hits, given, true)
        all_hits, all_given, all_true = hits.sum(axis=1), given.sum(axis=1), true.sum(axis=1)
        return {
            "accuracy": weights @ (self.given == self.true).all(axis=1).astype(float) / weights.sum(axis=1),
            "precision": all_hits / np.maximum(all_given, 1),
            "recall": all_hits / np.maximum(all_true, 1),
            "f1": _f1(all_hits, all_given, all_true),
            "macro_f1": f1.mean(axis=1),
            **{f"f1/{label}": f1[:, i] for i, label in enumerate(self.labels)},
        }

    def verdicts(self) -> Verdicts:
        """Loss is the mean over labels of the binary cross-entropy."""
        signed = np.where(self.true, -self.logits, self.logits)
        return Verdicts(
            loss=np.logaddexp(0.0, signed).mean(axis=1),
            right=(self.given == self.true).all(axis=1),
            truth=[self._names(row) for row in self.true],
            predicted=[self._names(row) for row in self.given],
        )

    def facts(self) -> dict[str, float]:
        """The calibration error over all pairs of a row and a label."""
        return {"ece": ece(*self._pairs())}

    def sections(self, intervals: Intervals) -> list[Section]:
        """Figures by label, calibration."""
        hits = (self.given & self.true).sum(axis=0)
        by = by_label(self.labels, self.true.sum(axis=0), self.given.sum(axis=0), hits, intervals)
        return [Section("By label", [by]), Section("Calibration", self._reliability())]

    def _reliability(self) -> list[Block]:
        table = bins(*self._pairs())
        points = [(float(c), float(a), float(k)) for k, c, a in table if k]
        return [
            Scatter("Probability of a label and how often it holds", "probability", "share", {"row and label": points}, 0.0, 1.0),
            f"Over all {self.true.size:,} pairs of a row and a label the calibration error is {ece(*self._pairs()):.4f}.",
            Table(("mean probability", "share that holds", "pairs"), [(c, a, int(k)) for c, a, k in points], "The points of the picture.", folded=True),
        ]

    def _pairs(self) -> tuple[Array, Array]:
        return 1 / (1 + np.exp(-np.clip(self.logits, -700, 700))).ravel(), self.true.ravel()

    def _names(self, row: Array) -> str:
        return ", ".join(label for label, there in zip(self.labels, row, strict=True) if there) or "none"


def _f1(hits: Array, given: Array, true: Array) -> Array:
    result: Array = 2 * hits / np.maximum(given + true, 1)
    return result
