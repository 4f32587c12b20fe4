"""Measures of answers against the truth, accumulated row by row; nothing that grows with the data but what a measure needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from nabi.metrics.generated import LanguageScore, SummaryScore, TranslationScore

__all__ = ["BINS", "ConfusionScore", "CorrelationScore", "LanguageScore", "MultiLabelScore", "SummaryScore", "TranslationScore"]

BINS = 15  # of the expected calibration error (Guo et al. 2017, section 2)


class ConfusionScore:
    """Single-label classification: accuracy, F1 by label, macro F1, Matthews correlation, calibration error.

    Args:
        labels: all label names.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.counts: Counter[tuple[str, str]] = Counter()  # (truth, predicted)
        self._bins = np.zeros((BINS, 3))  # count, sum of confidence, correct

    def add(self, predicted: str, truth: str, confidence: float = 1.0) -> None:
        """One answer; ``confidence`` is the probability of the predicted label."""
        self.counts[truth, predicted] += 1
        bin_ = min(int(confidence * BINS), BINS - 1)
        self._bins[bin_] += (1, confidence, float(predicted == truth))

    def result(self) -> dict[str, float]:
        """accuracy, macro_f1 (over the labels that occur), mcc, ece, f1/<label>."""
        total = sum(self.counts.values())
        right = sum(n for (truth, predicted), n in self.counts.items() if truth == predicted)
        truths: Counter[str] = Counter()
        guesses: Counter[str] = Counter()
        for (truth, predicted), n in self.counts.items():
            truths[truth] += n
            guesses[predicted] += n
        f1 = {label: _f1(self.counts[label, label], guesses[label], truths[label]) for label in self.labels}
        occurring = [label for label in self.labels if truths[label] or guesses[label]]
        # Gorodkin 2004, equation 8: the K-category correlation, equal to Matthews' for two
        covariance = right * total - sum(truths[label] * guesses[label] for label in self.labels)
        spread = (total**2 - sum(n * n for n in guesses.values())) * (total**2 - sum(n * n for n in truths.values()))
        filled = self._bins[self._bins[:, 0] > 0]
        ece = float(np.abs(filled[:, 1] - filled[:, 2]).sum() / total) if total else 0.0
        return {
            "accuracy": right / total if total else 0.0,
            "macro_f1": sum(f1[label] for label in occurring) / len(occurring) if occurring else 0.0,
            "mcc": covariance / math.sqrt(spread) if spread else 0.0,
            "ece": ece,
            **{f"f1/{label}": value for label, value in f1.items()},
        }


class MultiLabelScore:
    """Multi-label classification: micro precision, recall and F1, macro F1, exact-match accuracy, F1 by label.

    Args:
        labels: all label names.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._counts = {label: [0, 0, 0] for label in labels}  # hits, predicted, true
        self._rows = self._exact = 0

    def add(self, predicted: Sequence[str], truth: Sequence[str]) -> None:
        """One answer: the labels that were given and those that hold."""
        given, true = set(predicted), set(truth)
        self._rows += 1
        self._exact += given == true
        for label in given | true:
            count = self._counts[label]
            count[0] += label in given and label in true
            count[1] += label in given
            count[2] += label in true

    def result(self) -> dict[str, float]:
        """accuracy (all labels right), precision, recall, f1 (micro), macro_f1, f1/<label>."""
        hits, given, true = (sum(c[i] for c in self._counts.values()) for i in range(3))
        f1 = {label: _f1(*count) for label, count in self._counts.items()}
        return {
            "accuracy": self._exact / self._rows if self._rows else 0.0,
            "precision": hits / given if given else 0.0,
            "recall": hits / true if true else 0.0,
            "f1": _f1(hits, given, true),
            "macro_f1": sum(f1.values()) / len(f1),
            **{f"f1/{label}": value for label, value in f1.items()},
        }


class CorrelationScore:
    """Regression: Pearson's and Spearman's correlation (ties take their mean rank) and the mean squared error."""

    def __init__(self) -> None:
        self._pairs: list[tuple[float, float]] = []

    def add(self, predicted: float, truth: float) -> None:
        """One answer."""
        self._pairs.append((predicted, truth))

    def result(self) -> dict[str, float]:
        """pearson, spearman, mse; a correlation is 0 where one side does not vary."""
        values = np.array(self._pairs, dtype=np.float64).reshape(-1, 2)
        if not len(values):
            return {"pearson": 0.0, "spearman": 0.0, "mse": 0.0}
        a, b = values[:, 0], values[:, 1]
        return {"pearson": _pearson(a, b), "spearman": _pearson(_ranks(a), _ranks(b)), "mse": float(((a - b) ** 2).mean())}


def _f1(hits: int, predicted: int, true: int) -> float:
    return 2 * hits / (predicted + true) if predicted + true else 0.0


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / spread if spread else 0.0


def _ranks(a: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(a, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray = ends - (counts - 1) / 2
    ranked: np.ndarray = means[inverse]
    return ranked
