"""How sure a figure is: percentile intervals by the bootstrap (Efron 1979), paired differences, McNemar's exact test (1947).

Rows are drawn with replacement; all figures of one or two models are taken from the same draws, so their differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nabi.metrics.detail import Array, Detail

RESAMPLES = 1000
WORK = 100_000_000  # draws at most: on more than 100,000 rows there are fewer resamples, which are surer there anyway
LEAST = 100
_BLOCK = 2_000_000  # weights in memory at a time


def resamples(rows: int) -> int:
    """How many resamples are drawn of so many rows."""
    return min(RESAMPLES, max(LEAST, WORK // max(rows, 1)))


def draws(rows: int, seed: int = 0) -> Iterator[Array]:
    """Blocks of weights, (b, rows) float64: how often each row is in each resample."""
    dice, left = np.random.default_rng(seed), resamples(rows)
    while left:
        count = min(left, max(1, _BLOCK // rows))
        taken = dice.integers(rows, size=(count, rows)) + np.arange(count)[:, None] * rows
        yield np.bincount(taken.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)
        left -= count


def distributions(details: Sequence[Detail], rows: int, seed: int = 0) -> list[dict[str, Array]]:
    """For each detail the figures of every resample, (resamples,) by name; the draws are the same for all details."""
    blocks = [[detail.figures(weights) for detail in details] for weights in draws(rows, seed)]
    return [{name: np.concatenate([block[i][name] for block in blocks]) for name in blocks[0][i]} for i in range(len(details))]


def interval(values: Array) -> tuple[float, float]:
    """The 95 % percentile interval."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def intervals(detail: Detail, rows: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each figure."""
    (found,) = distributions([detail], rows, seed)
    return {name: interval(values) for name, values in found.items()}


def share_p(differences: Array) -> float:
    """Twice the smaller share of resamples in which the difference is 0 or on the other side, at most 1; one resample is added, so it is never 0."""
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(differences) + 1))


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that two models are equally often right, from the rows that only one of them has right."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(x) for x in logs))


def plain(detail: Detail, rows: int) -> dict[str, float]:
    """The figures with each row taken once."""
    found: dict[str, Any] = detail.figures(np.ones((1, rows)))
    return {name: float(values[0]) for name, values in found.items()}
