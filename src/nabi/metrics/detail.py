"""What an evaluation keeps of each row so that a report, an interval or a comparison can be made of it without computing the answers again.

A task that offers it has ``detail(options)``, beside ``score()`` which keeps nothing. Unusual: every figure is a function of how often each row is
taken, so a thousand resamples of the bootstrap (Efron 1979), a slice and the plain figure are one computation on a matrix of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nabi.pages.sections import Section

Array = np.ndarray[Any, Any]
Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Verdicts:
    """One entry a row, in the order of the rows.

    Attributes:
        loss: (R,) how badly the model did; larger is worse.
        right: (R,) bool, or None where an answer is not simply right or wrong.
        truth, predicted: as the report shows them.
        confidence: (R,) probability of the prediction, or None.
        doubtful: (R,) bool: the label itself may be wrong; None where this can't be told.
        texts: truth and predicted are texts, long and as private as the rows', not labels or numbers.
    """

    loss: Array
    right: Array | None
    truth: list[str]
    predicted: list[str]
    confidence: Array | None = None
    doubtful: Array | None = None
    texts: bool = False


class Detail(Protocol):
    """The rows of one evaluation."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns of a row that the report shows as its text."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The labels that answers are taken from, none if there are none; two models are compared only if theirs agree."""

    def add(self, answer: Any, truth: Any) -> None:
        """One row, as for ``Score.add``."""

    def take(self, rows: Sequence[int]) -> Detail:
        """These rows alone."""

    def figures(self, weights: Array) -> dict[str, Array]:
        """The score's figures when row r is taken weights[b, r] times: (B, R) -> (B,) by name; with ones, what ``Score.result`` gives."""

    def verdicts(self) -> Verdicts:
        """What happened to each row."""

    def sections(self, intervals: Intervals) -> list[Section]:
        """The task's own part of a report; ``intervals`` are those of the figures, by name."""

    def facts(self) -> dict[str, float]:
        """Further figures that are worth keeping beside the metrics, such as a temperature."""


@runtime_checkable
class Detailed(Protocol):
    """A task whose evaluations can be reported in detail."""

    def detail(self, options: Any) -> Detail:
        """A fresh detail for answers given under these options."""
