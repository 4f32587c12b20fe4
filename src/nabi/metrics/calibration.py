"""Calibration of probabilities: the reliability diagram, its error, and temperature scaling (Guo et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nabi.metrics import BINS

Array = np.ndarray[Any, Any]
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are tried; at a bound the rows do not say which is best
TEMPERATURES = tuple(HOTTEST ** (i / 30) for i in range(-30, 31))  # where only the probabilities of an outcome are kept, not all logits; 1 is among them
LEAST = 1e-6  # probability that is counted of what a model calls impossible, so that one row does not decide
FEW = 20  # rows below which no temperature is fitted


def log_softmax(logits: Array) -> Array:
    """(R, L) -> (R, L)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def bins(confidence: Array, right: Array) -> Array:
    """(BINS, 3): rows, mean confidence and share of right answers in each of ``BINS`` bins of equal width."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(number, weights, BINS) for weights in (None, confidence, right.astype(float))]
    with np.errstate(invalid="ignore"):
        return np.stack([sums[0], sums[1] / sums[0], sums[2] / sums[0]], axis=1)


def ece(confidence: Array, right: Array) -> float:
    """The expected calibration error: the mean distance of confidence and accuracy in a bin, weighted by its rows."""
    table = bins(confidence, right)
    filled = table[table[:, 0] > 0]
    return float((filled[:, 0] * np.abs(filled[:, 1] - filled[:, 2])).sum() / len(confidence))


def resampled_ece(confidence: Array, right: Array, weights: Array) -> Array:
    """(B,): the same when row r is taken weights[b, r] times."""
    surplus = np.zeros((len(confidence), BINS))
    surplus[np.arange(len(confidence)), np.minimum((confidence * BINS).astype(int), BINS - 1)] = confidence - right
    error: Array = np.abs(weights @ surplus).sum(axis=1) / weights.sum(axis=1)
    return error


def noise(confidence: Array, draws: int = 100, seed: int = 0) -> float:
    """The calibration error that a perfectly calibrated model of these confidences shows on average, for the number of rows alone."""
    dice = np.random.default_rng(seed)
    return float(np.mean([ece(confidence, dice.random(len(confidence)) < confidence) for _ in range(draws)]))


def temperature(logits: Array, truth: Array) -> float:
    """The divisor of the logits under which the truth is likeliest.

    The loss is convex in its inverse, so Newton's method inside a bracket finds it.

    Args:
        logits: (R, L). truth: (R,) label numbers.
    """
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    wanted = logits[np.arange(len(truth)), truth].mean()
    for _ in range(60):
        p = np.exp(log_softmax(inverse * logits))
        mean = (p * logits).sum(axis=1)
        slope, bend = mean.mean() - wanted, ((p * logits * logits).sum(axis=1) - mean * mean).mean()
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / bend if bend > 0 else high
        new = step if low < step < high else (low + high) / 2
        if abs(new - inverse) <= 1e-9 * inverse:
            break
        inverse = new
    return float(1 / inverse)


def likeliest(p: Array) -> float | None:
    """Which of ``TEMPERATURES`` makes what happened likeliest; None if the rows are too few, or none is: all were right, or all wrong.

    Args:
        p: (R, temperatures) probability of what happened in each row.
    """
    if len(p) < FEW:
        return None
    best = int(np.argmin(-np.log(np.maximum(p, LEAST)).sum(axis=0)))
    return TEMPERATURES[best] if 0 < best < len(TEMPERATURES) - 1 else None


@dataclass(frozen=True)
class Calibration:
    """How far confidence can be trusted, as the model is and with its logits divided by a temperature.

    Attributes:
        logits: (R, L). truth: (R,) label numbers.
    """

    logits: Array
    truth: Array

    @cached_property
    def temperature(self) -> float:
        """Fitted on all rows."""
        return temperature(self.logits, self.truth)

    @cached_property
    def cross_fitted(self) -> Array:
        """(R, L) log probabilities, each half of the rows under the temperature of the other half, so that nothing is measured where it was fitted."""
        half = np.random.default_rng(0).permutation(len(self.truth)) % 2 == 0
        result = np.empty_like(self.logits)
        for side in (half, ~half):
            result[side] = log_softmax(self.logits[side] / temperature(self.logits[~side], self.truth[~side]))
        return result

    def confidence(self, log_p: Array) -> tuple[Array, Array]:
        """((R,) probability of the likeliest label, (R,) whether it is right)."""
        best = log_p.argmax(axis=1)
        return np.exp(log_p[np.arange(len(best)), best]), best == self.truth

    def loss(self, log_p: Array) -> float:
        """Mean negative log likelihood."""
        return float(-log_p[np.arange(len(self.truth)), self.truth].mean())
