"""A choice among candidates that each row brings along, row by row: what a report of zero-shot classification or multiple choice is made of.

Unusual: rows need not have the same candidates, nor as many, so there are no logits by label; of each row the probability of the choice is kept, and that of
the truth. Where candidates are no names of classes, as in multiple choice, accuracy is all there is.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from nabi.metrics import BINS
from nabi.metrics.classified import PAIRS, by_label
from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Bars, Section, Table

LEAST = 1e-300  # of a probability, so that it has a logarithm


class Chosen:
    """The choice and the truth of each row.

    Args:
        labels: the names of classes that are known from the start, further ones come with the rows; None if candidates are no classes.
        fields: columns of a row that a report shows.
    """

    def __init__(self, labels: Sequence[str] | None = None, fields: tuple[str, ...] = ("text",)) -> None:
        self.fields = fields
        self._labels = None if labels is None else dict.fromkeys(labels)
        self._said: list[tuple[str, str]] = []  # truth, choice
        self._sure = array("d")  # probability of the choice, and of the truth

    @property
    def choices(self) -> tuple[str, ...]:
        """The names of classes, none if candidates are no classes."""
        return tuple(self._labels or ())

    def add(self, answer: Any, truth: Any) -> None:
        """One row: (choice, probability by candidate), and the candidate that is right."""
        choice, scores = answer
        if self._labels is not None:
            self._labels |= dict.fromkeys(sorted(scores))
        self._said.append((truth, choice))
        self._sure.extend((scores[choice], scores.get(truth, 0.0)))

    def take(self, rows: Sequence[int]) -> Chosen:
        """These rows alone."""
        taken = Chosen(None if self._labels is None else self.choices, self.fields)
        taken._said = [self._said[i] for i in rows]
        taken._sure.frombytes(self._probabilities()[rows].tobytes())
        return taken

    def _probabilities(self) -> Array:
        """(R, 2): of the choice, of the truth."""
        return np.array(self._sure).reshape(-1, 2)

    def _right(self) -> Array:
        """(R,) bool."""
        return np.array([truth == choice for truth, choice in self._said], dtype=bool)

    def _members(self) -> tuple[Array, Array]:
        """(R, L) and (R, L): which label is the truth, and which was chosen."""
        index = {label: i for i, label in enumerate(self.choices)}
        found = np.zeros((2, len(self._said), len(index)))
        for row, names in enumerate(self._said):
            for side, name in enumerate(names):
                if name in index:
                    found[side, row, index[name]] = 1
        return found[0], found[1]

    def figures(self, weights: Array) -> dict[str, Array]:
        """accuracy; of classes also macro_f1, mcc, ece, f1/<label>, each (B,)."""
        right, total = self._right(), weights.sum(axis=1)
        accuracy = weights @ right / total
        if self._labels is None:
            return {"accuracy": accuracy}
        true, given = self._members()
        truths, guesses, hits = weights @ true, weights @ given, weights @ (true * given)
        occurs = truths + guesses > 0
        f1 = 2 * hits / np.where(occurs, truths + guesses, 1)
        covariance = accuracy * total * total - (truths * guesses).sum(axis=1)
        spread = (total**2 - (guesses**2).sum(axis=1)) * (total**2 - (truths**2).sum(axis=1))
        sure = self._probabilities()[:, 0]
        surplus = np.zeros((len(sure), BINS))  # of confidence over accuracy, by bin
        surplus[np.arange(len(sure)), np.minimum((sure * BINS).astype(int), BINS - 1)] = sure - right
        return {
            "accuracy": accuracy,
            "macro_f1": f1.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1),
            "mcc": np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0),
            "ece": np.abs(weights @ surplus).sum(axis=1) / total,
            **{f"f1/{label}": f1[:, i] for i, label in enumerate(self.choices)},
        }

    def verdicts(self) -> Verdicts:
        """Loss is the negative log probability of the right candidate."""
        sure = self._probabilities()
        return Verdicts(
            loss=-np.log(np.maximum(sure[:, 1], LEAST)),
            right=self._right(),
            truth=[truth for truth, _ in self._said],
            predicted=[choice for _, choice in self._said],
            confidence=sure[:, 0],
        )

    def facts(self) -> dict[str, float]:
        """None."""
        return {}

    def sections(self, intervals: Intervals) -> list[Section]:
        """How sure the choices are; of classes also the figures by label and the confusions."""
        counts, edges = np.histogram(self._probabilities()[:, 1], bins=10, range=(0.0, 1.0))
        name = "Probability of the right candidate"
        sections = [Section("Choices", [Bars(name, name, edges.tolist(), counts.tolist())])]
        if self._labels is None:
            return sections
        true, given = self._members()
        wrong = Counter(pair for pair in self._said if pair[0] != pair[1]).most_common(PAIRS)
        table = Table(("truth", "answered", "rows"), [(truth, choice, n) for (truth, choice), n in wrong], "The pairs that were confused most often.")
        confused = table if wrong else "No row got a wrong label."
        labels = by_label(self.choices, true.sum(axis=0), given.sum(axis=0), (true * given).sum(axis=0), intervals)
        return [Section("By label", [labels]), Section("Confusions", [confused]), *sections]
