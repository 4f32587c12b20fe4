"""Single-label classification, row by row: what a report, an interval and a comparison are made of."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from nabi.metrics import BINS
from nabi.metrics.calibration import FEW, Calibration, bins, ece, log_softmax, noise, resampled_ece
from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Block, Matrix, Scatter, Section, Table

FOLD = 12  # labels beyond which a table by label is folded and a confusion matrix has no numbers
PAIRS = 15  # confused pairs that are listed


class Classified:
    """The logits and the truth of each row.

    Args:
        labels: all label names, in the order of the logits.
        fields: columns of a row that a report shows.
    """

    def __init__(self, labels: Sequence[str], fields: tuple[str, ...] = ("text",)) -> None:
        self.labels, self.fields = tuple(labels), fields
        self._index = {label: i for i, label in enumerate(self.labels)}
        self._logits, self._truth = array("d"), array("q")

    @property
    def choices(self) -> tuple[str, ...]:
        """The label names."""
        return self.labels

    def add(self, logits: Any, truth: Any) -> None:
        """One row: (L,) logits, or any values that a softmax turns into the probabilities, and the name of its label."""
        self._logits.extend(logits)
        self._truth.append(self._index[truth])

    def take(self, rows: Sequence[int]) -> Classified:
        """These rows alone."""
        taken = Classified(self.labels, self.fields)
        taken._logits.frombytes(self.logits[rows].tobytes())
        taken._truth.frombytes(self.truth[rows].tobytes())
        return taken

    @cached_property
    def logits(self) -> Array:
        """(R, L)."""
        return np.frombuffer(self._logits, dtype=np.float64).reshape(-1, len(self.labels)).copy()

    @cached_property
    def truth(self) -> Array:
        """(R,) label numbers."""
        return np.frombuffer(self._truth, dtype=np.int64).copy()

    @cached_property
    def log_p(self) -> Array:
        """(R, L) log probabilities."""
        return log_softmax(self.logits)

    @cached_property
    def calibration(self) -> Calibration:
        """Of these rows."""
        return Calibration(self.logits, self.truth)

    @cached_property
    def confidence(self) -> Array:
        """(R,) probability of the prediction."""
        highest: Array = np.exp(self.log_p.max(axis=1))
        return highest

    @cached_property
    def predicted(self) -> Array:
        """(R,) label numbers."""
        best: Array = self.logits.argmax(axis=1)
        return best

    @cached_property
    def counts(self) -> Array:
        """(L, L) rows by truth and prediction."""
        size = len(self.labels)
        counts: Array = np.bincount(self.truth * size + self.predicted, minlength=size * size).reshape(size, size)
        return counts

    @cached_property
    def _cells(self) -> tuple[Array, Array, Array]:
        """(rows ordered by truth and prediction, where each pair that occurs begins, the pairs)."""
        cell = self.truth * len(self.labels) + self.predicted
        order = np.argsort(cell, kind="stable")
        pairs, starts = np.unique(cell[order], return_index=True)
        return order, starts, pairs

    def figures(self, weights: Array) -> dict[str, Array]:
        """accuracy, macro_f1, mcc, ece, f1/<label>, each (B,)."""
        order, starts, pairs = self._cells
        size = len(self.labels)
        sums = np.add.reduceat(weights[:, order], starts, axis=1)  # (B, C) rows of each pair
        truths, guesses, hits = (np.zeros((len(weights), size)) for _ in range(3))
        for column, pair in enumerate(pairs.tolist()):
            truth, guess = divmod(pair, size)
            truths[:, truth] += sums[:, column]
            guesses[:, guess] += sums[:, column]
            if truth == guess:
                hits[:, truth] += sums[:, column]
        total, right = truths.sum(axis=1), hits.sum(axis=1)
        occurs = truths + guesses > 0
        f1 = 2 * hits / np.where(occurs, truths + guesses, 1)
        covariance = right * total - (truths * guesses).sum(axis=1)
        spread = (total**2 - (guesses**2).sum(axis=1)) * (total**2 - (truths**2).sum(axis=1))
        return {
            "accuracy": right / total,
            "macro_f1": f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1),
            "mcc": np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0),
            "ece": resampled_ece(self.confidence, self.predicted == self.truth, weights),
            **{f"f1/{label}": f1[:, i] for i, label in enumerate(self.labels)},
        }

    def verdicts(self) -> Verdicts:
        """Loss is the negative log likelihood; a label is doubtful by confident learning (Northcutt et al. 2021, section 3.1): the model is wrong, and as
        sure of its own label as it is on average of the rows that bear it."""
        rows, p = np.arange(len(self.truth)), np.exp(self.log_p)
        usual = np.array([p[self.truth == i, i].mean() if (self.truth == i).any() else np.inf for i in range(len(self.labels))])
        right = self.predicted == self.truth
        return Verdicts(
            loss=-self.log_p[rows, self.truth],
            right=right,
            truth=[self.labels[i] for i in self.truth],
            predicted=[self.labels[i] for i in self.predicted],
            confidence=self.confidence,
            doubtful=~right & (self.confidence >= usual[self.predicted]),
        )

    def facts(self) -> dict[str, float]:
        """The temperature, and the calibration error without and with one; empty for few rows."""
        if len(self.truth) < FEW:
            return {}
        scaled = ece(*self.calibration.confidence(self.calibration.cross_fitted))
        return {"temperature": self.calibration.temperature, "ece": ece(*self.calibration.confidence(self.log_p)), "ece_scaled": scaled}

    def sections(self, intervals: Intervals) -> list[Section]:
        """Figures by label, confusions, calibration."""
        table = by_label(self.labels, self.counts.sum(axis=1), self.counts.sum(axis=0), self.counts.diagonal(), intervals)
        return [Section("By label", [table]), Section("Confusions", self._confusions()), Section("Calibration", self._reliability())]

    def _confusions(self) -> list[Block]:
        blocks: list[Block] = []
        wrong = self.counts - np.diag(self.counts.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
        pairs = [divmod(int(cell), len(self.labels)) for cell in order if wrong.flat[cell]]
        total = self.counts.sum(axis=1)
        if not pairs:
            blocks.append("No row got a wrong label.")
        elif len(self.labels) > 2:
            rows = [(self.labels[t], self.labels[p], int(wrong[t, p]), float(wrong[t, p] / total[t])) for t, p in pairs]
            blocks.append(Table(("truth", "answered", "rows", "share of the truth's rows"), rows, "The pairs that were confused most often."))
        return [Matrix(self.labels, self.counts), *blocks]

    def _reliability(self) -> list[Block]:
        if len(self.truth) < FEW:
            return [f"{len(self.truth)} rows are too few to measure it; it takes {FEW}."]
        plain = self.calibration.confidence(self.log_p)
        scaled = self.calibration.confidence(self.calibration.cross_fitted)
        tables = bins(*plain), bins(*scaled)
        losses = self.calibration.loss(self.log_p), self.calibration.loss(self.calibration.cross_fitted)
        title = "Confidence and accuracy, by bin of confidence"
        names = ("as it is", "with a temperature")
        series = {n: [(float(c), float(a), float(k)) for k, c, a in table if k] for n, table in zip(names, tables, strict=True)}
        rows = [("calibration error (ECE)", ece(*plain), ece(*scaled)), ("loss (negative log likelihood)", *losses)]
        shown: list[tuple[Any, ...]] = []
        for b in range(BINS):
            each = [value for table in tables for value in (int(table[b, 0]), *((float(x) for x in table[b, 1:]) if table[b, 0] else (None, None)))]
            if tables[0][b, 0] or tables[1][b, 0]:
                shown.append((f"{b / BINS:.2f} to {(b + 1) / BINS:.2f}", *each))
        remarks = (
            f"A perfectly calibrated model with these confidences shows an error of {noise(plain[0]):.4f} on so few rows. The temperature that fits all "
            f"rows is {self.calibration.temperature:.4f}; the model is saved without it. The column with a temperature is measured by 2-fold cross-fitting: "
            "each half of the rows is scaled by the temperature of the other half. No answer changes, only how sure the model says it is."
        )
        head = ("confidence", "rows", "mean", "accuracy", "rows, scaled", "mean, scaled", "accuracy, scaled")
        return [
            Scatter(title, "confidence", "accuracy", series, 0.0, 1.0),
            Table(("", *names), rows),
            remarks,
            Table(head, shown, "The points of the picture.", folded=True),
        ]


def by_label(labels: Sequence[str], true: Array, given: Array, hits: Array, intervals: Intervals) -> Table:
    """Precision, recall and F1 by label; of many labels the worst come first.

    Args:
        true, given, hits: (L,) rows that bear the label, that got it, and both.
        intervals: of the figures ``f1/<label>``.
    """
    rows: list[tuple[Any, ...]] = []
    for label, n, g, hit in zip(labels, true.tolist(), given.tolist(), hits.tolist(), strict=True):
        low, high = intervals.get(f"f1/{label}", (None, None)) if n else (None, None)
        rows.append((label, n, g, hit / g if g else None, hit / n if n else None, 2 * hit / (n + g) if n + g else None, low, high))
    many = len(rows) > FOLD
    if many:
        rows.sort(key=lambda row: (row[5] is None, row[5]))
    head = ("label", "rows", "given", "precision", "recall", "F1", "F1 from", "F1 to")
    caption = "The labels, the worst first. " if many else ""
    return Table(head, rows, f"{caption}From and to: 95 % interval; a label without rows here has none.", folded=many)
