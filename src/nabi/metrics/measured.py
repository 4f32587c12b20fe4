"""Regression, row by row: what a report, an interval and a comparison are made of."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Bars, Scatter, Section, Table

POINTS = 1500  # of a scatter
EDGES = 21  # of the histogram of residuals


class Measured:
    """The number that was given and the one that is true, of each row.

    Args:
        fields: columns of a row that a report shows.
    """

    choices: tuple[str, ...] = ()

    def __init__(self, fields: tuple[str, ...] = ("text",)) -> None:
        self.fields = fields
        self._predicted, self._truth = array("d"), array("d")

    def add(self, answer: Any, truth: Any) -> None:
        """One row."""
        self._predicted.append(answer)
        self._truth.append(truth)

    def take(self, rows: Sequence[int]) -> Measured:
        """These rows alone."""
        taken = Measured(self.fields)
        taken._predicted.extend(self.predicted[rows])
        taken._truth.extend(self.truth[rows])
        return taken

    @cached_property
    def predicted(self) -> Array:
        """(R,)."""
        return np.array(self._predicted)

    @cached_property
    def truth(self) -> Array:
        """(R,)."""
        return np.array(self._truth)

    def figures(self, weights: Array) -> dict[str, Array]:
        """pearson, spearman, mse, each (B,)."""
        a, b = self.predicted, self.truth
        return {
            "pearson": _pearson(weights, a[None], b[None]),
            "spearman": _pearson(weights, _ranks(weights, a), _ranks(weights, b)),
            "mse": weights @ (a - b) ** 2 / weights.sum(axis=1),
        }

    def verdicts(self) -> Verdicts:
        """Loss is the squared error."""
        truth, predicted = ([f"{x:.4g}" for x in values] for values in (self.truth, self.predicted))
        return Verdicts(loss=(self.predicted - self.truth) ** 2, right=None, truth=truth, predicted=predicted)

    def facts(self) -> dict[str, float]:
        """The mean residual."""
        return {"mean_residual": float((self.predicted - self.truth).mean())}

    def sections(self, intervals: Intervals) -> list[Section]:
        """Truth against prediction, residuals."""
        residual = self.predicted - self.truth
        rows = np.arange(len(residual))
        note = ""
        if len(rows) > POINTS:
            rows, note = np.random.default_rng(0).choice(rows, POINTS, replace=False), f" ({POINTS:,} of {len(residual):,} rows)"
        both = np.concatenate([self.truth, self.predicted])
        low, high = float(both.min()), float(both.max())
        points = [(float(self.truth[i]), float(self.predicted[i]), 1.0) for i in rows]
        counts, edges = np.histogram(residual, bins=EDGES - 1)
        quantiles = np.quantile(residual, [0.05, 0.25, 0.5, 0.75, 0.95])
        spread = [("mean", float(residual.mean())), ("standard deviation", float(residual.std()))]
        spread += [(f"{share} % lie below", float(q)) for share, q in zip((5, 25, 50, 75, 95), quantiles, strict=True)]
        fourths = np.array_split(np.argsort(self.truth, kind="stable"), 4)
        by_truth = [
            (f"{self.truth[part].min():.4g} to {self.truth[part].max():.4g}", len(part), float(residual[part].mean()), float((residual[part] ** 2).mean()))
            for part in fourths
            if len(part)
        ]
        return [
            Section("Truth and prediction", [Scatter(f"Each point is a row{note}", "truth", "prediction", {"rows": points}, low, high)]),
            Section(
                "Residuals",
                [
                    Bars("Prediction minus truth", "residual", edges.tolist(), counts.tolist()),
                    Table(("prediction minus truth", ""), spread),
                    Table(("truth", "rows", "mean residual", "mean squared error"), by_truth, "By fourths of the truth."),
                ],
            ),
        ]


def _pearson(weights: Array, a: Array, b: Array) -> Array:
    """(B, R), (B or 1, R), (B or 1, R) -> (B,); 0 where one side does not vary."""
    total = weights.sum(axis=1, keepdims=True)
    raw = [(weights * x * x).sum(axis=1) for x in (a, b)]
    a, b = (x - (weights * x).sum(axis=1, keepdims=True) / total for x in (a, b))
    own = [(weights * x * x).sum(axis=1) for x in (a, b)]
    varies = (own[0] > 1e-20 * raw[0]) & (own[1] > 1e-20 * raw[1])  # below that it is rounding
    return np.where(varies, (weights * a * b).sum(axis=1) / np.sqrt(np.where(varies, own[0] * own[1], 1)), 0.0)


def _ranks(weights: Array, values: Array) -> Array:
    """(B, R): the rank of each row in each resample; rows that are equal, copies too, share their mean rank."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    ends = sizes.cumsum(axis=1)
    ranks: Array = (ends - (sizes - 1) / 2)[:, group]
    return ranks
