"""Answers that are spans of a text: exact match and F1 as SQuAD 2.0 (Rajpurkar et al. 2018) and KorQuAD 1.0 (Lim et al. 2019) count them.

Unusual: a row keeps what both of its possible answers score, the best span and no answer, how much the model prefers the second, and how likely it calls
either at each of a few temperatures. So the figures at any threshold, the best threshold and the best temperature come from one pass over the data.
"""

from __future__ import annotations

import re
import string
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nabi.metrics.calibration import TEMPERATURES, bins, ece, likeliest, resampled_ece
from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Bars, Block, Scatter, Section, Table

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
Sure = tuple[tuple[float, float], Sequence[tuple[float, float]]]
_QUOTES = str.maketrans(dict.fromkeys("'\"《》<>〈〉()‘’", " "))
WIDTH = 8  # has an answer, margin, then em, f1 and char_f1 of the span and of no answer


def squad_form(text: str) -> str:
    """A text as SQuAD's official script compares it: lower case, no ASCII punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def korquad_form(text: str) -> str:
    """A text as KorQuAD's official script compares it: quotes and brackets are spaces, then lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.translate(_QUOTES).lower().translate(_PUNCTUATION).split())


def exact(answer: str, truth: str) -> float:
    """1 if both are the same text in SQuAD's form, else 0."""
    return float(squad_form(answer) == squad_form(truth))


def word_f1(answer: str, truth: str) -> float:
    """F1 of the words of two texts in SQuAD's form; where one has none, 1 if the other has none either."""
    return _overlap(squad_form(answer).split(), squad_form(truth).split())


def character_f1(answer: str, truth: str) -> float:
    """F1 of the characters of two texts in KorQuAD's form, spaces left out; where one has none, 1 if the other has none either."""
    return _overlap(korquad_form(answer).replace(" ", ""), korquad_form(truth).replace(" ", ""))


def best_of(measure: Callable[[str, str], float], answer: str, truths: Iterable[str]) -> float:
    """The measure against the answer that fits best; no truths are the truth that there is no answer."""
    return max(measure(answer, truth) for truth in ([t for t in truths if squad_form(t)] or [""]))


def _overlap(answer: Sequence[str], truth: Sequence[str]) -> float:
    if not answer or not truth:
        return float(len(answer) == len(truth))
    return 2 * sum((Counter(answer) & Counter(truth)).values()) / (len(answer) + len(truth))


class AnswerScore:
    """Exact match, F1 and character F1 over all rows, over those that have an answer, and over those that have none.

    Args:
        threshold: the margin above which no answer is given; None if a span always is.
        temperature: that the rows' own scores were made with; another one of ``TEMPERATURES`` may be set when they are there.
    """

    def __init__(self, threshold: float | None = None, temperature: float = 1.0) -> None:
        self.threshold, self.temperature, self._own = threshold, temperature, temperature
        self._numbers = array("d")
        self._sure = array("f")

    def add(self, span: str, margin: float, truths: Sequence[str], sure: Sure | None = None) -> None:
        """One row.

        Args:
            span: the best span of the text.
            margin: how much the model prefers no answer to it.
            truths: all the right answers; none if there is no answer.
            sure: the scores of span and no answer, and both at each of ``TEMPERATURES``; of all rows or of none.
        """
        if sure is not None:
            self._sure.extend(value for pair in (sure[0], *sure[1]) for value in pair)
        given = [best_of(measure, text, truths) for text in (span, "") for measure in (exact, word_f1, character_f1)]
        self._numbers.extend((float(bool(truths)), margin, *given))

    @property
    def numbers(self) -> Array:
        """(R, 8): has an answer, margin, em, f1 and char_f1 of the span, the same of no answer."""
        return np.array(self._numbers).reshape(-1, WIDTH)

    @property
    def sure(self) -> Array | None:
        """(R, 1 + temperatures, 2): how likely the span and no answer are, as given and at each temperature; None if the rows did not say."""
        found: Array = np.array(self._sure, dtype=np.float64).reshape(-1, 1 + len(TEMPERATURES), 2)
        return found.clip(0, 1) if len(found) and len(found) == len(self.numbers) else None

    def best_temperature(self) -> float | None:
        """That under which the rows are likeliest (Guo et al. 2017, section 4.2): that the span was right, or no answer, or neither; None if none is."""
        if self.sure is None:
            return None
        numbers, p = self.numbers, self.sure[:, 1:]
        # an article is no word for SQuAD's script, so span and no answer may both be right
        right = np.stack([numbers[:, 2] == 1, (numbers[:, 5] == 1) & (self.threshold is not None)], axis=1)
        p[..., 1] *= self.threshold is not None
        neither = ~right.any(axis=1, keepdims=True)
        return likeliest(np.where(neither, 1 - p.sum(axis=2), (p * right[:, None]).sum(axis=2)))

    def confidence(self, temperature: float | None = None) -> Array | None:
        """(R,) how likely the answer that is given is said to be, under the temperature in use or another one of ``TEMPERATURES``."""
        if self.sure is None:
            return None
        wanted = self.temperature if temperature is None else temperature
        column = 0 if wanted == self._own else 1 + TEMPERATURES.index(wanted)
        return np.where(self.silent(), self.sure[:, column, 1], self.sure[:, column, 0])

    def silent(self) -> Array:
        """(R,) bool: no answer is given."""
        margins: Array = self.numbers[:, 1]
        return np.zeros(len(margins), dtype=bool) if self.threshold is None else margins > self.threshold

    def given(self) -> Array:
        """(R, 3): em, f1, char_f1 of the answer that is given."""
        numbers = self.numbers
        each: Array = np.where(self.silent()[:, None], numbers[:, 5:8], numbers[:, 2:5])
        return each

    def best_threshold(self) -> float | None:
        """The margin between two rows that gives the highest F1, the least of equal ones; None if every row has an answer, or none has."""
        numbers = self.numbers
        if not 0 < numbers[:, 0].sum() < len(numbers):
            return None
        order = np.argsort(numbers[:, 1], kind="stable")
        margins = numbers[order, 1]
        # from no row answered to all of them, in the order of their margins
        totals = np.concatenate([[0.0], np.cumsum(numbers[order, 3] - numbers[order, 6])])
        apart = np.concatenate([[True], margins[1:] > margins[:-1], [True]])
        best = int(np.argmax(np.where(apart, totals, -np.inf)))
        if best == 0:
            return float(margins[0] - 1)
        return float(margins[-1] + 1 if best == len(margins) else (margins[best - 1] + margins[best]) / 2)

    def figures(self, weights: Array) -> dict[str, Array]:
        """em, f1, char_f1, then those over the rows with an answer and em over the rows without one, where there are any; each (B,)."""
        each, has = self.given(), self.numbers[:, 0]
        found = {name: _mean(weights, each[:, i]) for i, name in enumerate(("em", "f1", "char_f1"))}
        if has.any():
            found |= {f"has_answer_{name}": _mean(weights * has, each[:, i]) for i, name in enumerate(("em", "f1", "char_f1"))}
        for name, temperature in (("ece", None), ("ece_unscaled", 1.0)):
            confidence = self.confidence(temperature)
            if confidence is not None:
                found[name] = resampled_ece(confidence, each[:, 0] == 1, weights)
        if not has.all():
            found |= {"no_answer_em": _mean(weights * (1 - has), each[:, 0]), "always_no_answer": _mean(weights, 1 - has)}
        return found

    def result(self) -> dict[str, float]:
        """The figures of all rows, each between 0 and 1; ``always_no_answer`` is what em and f1 would be without any answer.

        ``ece`` is the calibration error of the scores, ``ece_unscaled`` what it would be without a temperature.
        """
        return {name: float(value[0]) for name, value in self.figures(np.ones((1, len(self.numbers)))).items()}


class Answered(AnswerScore):
    """The same, row by row: what a report, an interval and a comparison are made of.

    Args:
        threshold, temperature: as for :class:`AnswerScore`.
        fields: columns of a row that a report shows.
    """

    choices: tuple[str, ...] = ()

    def __init__(self, threshold: float | None = None, temperature: float = 1.0, fields: tuple[str, ...] = ("question",)) -> None:
        super().__init__(threshold, temperature)
        self.fields = fields
        self._spans: list[str] = []
        self._truths: list[str] = []

    def add(self, span: str, margin: float, truths: Sequence[str], sure: Sure | None = None) -> None:
        super().add(span, margin, truths, sure)
        self._spans.append(span)
        self._truths.append(" | ".join(dict.fromkeys(truths)))

    def take(self, rows: Sequence[int]) -> Answered:
        """These rows alone."""
        taken = Answered(self.threshold, self._own, self.fields)
        taken.temperature = self.temperature
        taken._numbers.frombytes(self.numbers[rows].tobytes())
        if self.sure is not None:
            taken._sure.frombytes(self.sure[rows].astype(np.float32).tobytes())
        taken._spans, taken._truths = [self._spans[i] for i in rows], [self._truths[i] for i in rows]
        return taken

    def verdicts(self) -> Verdicts:
        """Loss is 1 minus the row's own F1."""
        each, silent = self.given(), self.silent()
        predicted = ["" if s else span for s, span in zip(silent, self._spans, strict=True)]
        confidence = self.confidence()
        return Verdicts(loss=1 - each[:, 1], right=each[:, 0] == 1, truth=self._truths, predicted=predicted, confidence=confidence, texts=True)

    def facts(self) -> dict[str, float]:
        """The threshold and the temperature in use, and the best ones for these rows."""
        both = {"threshold": self.threshold, "best_threshold": self.best_threshold()}
        if self.sure is not None:
            both |= {"temperature": self.temperature, "best_temperature": self.best_temperature()}
        return {name: value for name, value in both.items() if value is not None}

    def sections(self, intervals: Intervals) -> list[Section]:
        """How F1 spreads over the rows, and how often no answer was given."""
        counts, edges = np.histogram(self.given()[:, 1], bins=10, range=(0.0, 1.0))
        has, silent = self.numbers[:, 0] == 1, self.silent()
        rows = [(name, int((side & ~silent).sum()), int((side & silent).sum())) for name, side in (("has an answer", has), ("has none", ~has))]
        told = "A span was always given." if self.threshold is None else f"No answer is given from a margin of {self.threshold:.4f} on."
        table = Table(("the text", "a span given", "no answer given"), rows, told)
        answers = Section("Answers", [Bars("F1 of a row", "F1 of a row", edges.tolist(), counts.tolist()), table])
        return [answers] if self.sure is None else [answers, Section("Calibration", self._reliability())]

    def _reliability(self) -> list[Block]:
        right = self.given()[:, 0] == 1
        told, plain = self.confidence(), self.confidence(1.0)
        assert told is not None and plain is not None
        names = ("as it is", "without the temperature") if self.temperature != 1 else ("as it is",)
        series = {n: [(float(c), float(a), float(k)) for k, c, a in bins(p, right) if k] for n, p in zip(names, (told, plain), strict=False)}
        rows: list[tuple[Any, ...]] = [("calibration error (ECE)", *(ece(p, right) for _, p in zip(names, (told, plain), strict=False)))]
        return [
            Scatter("Score and share of right answers, by bin of score", "score", "exact match", series, 0.0, 1.0),
            Table(("", *names), rows),
            f"The scores are made with a temperature of {self.temperature:.4f}. No answer changes by it, only how sure the model says it is.",
        ]


def _mean(weights: Array, values: Array) -> Array:
    total = weights.sum(axis=1)
    mean: Array = weights @ values / np.where(total > 0, total, 1)
    return mean
