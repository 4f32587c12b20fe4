"""Spans of a context that is read in windows: what a token is in the context, and which spans a window's logits prefer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nabi.metrics.detail import Array
from nabi.text.encoding import Encoding

# scripts that write words without spaces between them, or whose particles stand without one: a word is no unit of an answer
_GLUED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Window:
    """What answering needs of a window: where its context lies, which token stands for no answer, and what each token is in the context.

    Attributes:
        first, stop: the context's tokens; begin: which of the whole context's is the first.
        null: the token of no answer: the classification token, else the first special one, else the first.
        classifies: whether it is a classification token.
        offsets, words: of the context's tokens.
    """

    first: int
    stop: int
    begin: int
    null: int
    classifies: bool
    offsets: list[tuple[int, int]]
    words: list[int | None]

    @classmethod
    def of(cls, window: Encoding, cls_id: int | None, begin: int) -> Window:
        first, stop = window.extent(1)
        special = [i for i, is_special in enumerate(window.special) if is_special]
        own = [i for i in special if window.ids[i] == cls_id]
        return cls(first, stop, begin, (own or special or [0])[0], bool(own), window.offsets[first:stop], window.words[first:stop])

    def tokens(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and last token of the characters from ``start`` to ``end``, if the window has all of them."""
        inside = [i for i, (a, b) in enumerate(self.offsets) if a < end and b > start and a < b]
        if not inside:
            return None
        # at the edge of a window, another may hold the characters that are missing here
        if (inside[0] == 0 and self.offsets[0][0] > start) or (inside[-1] == len(self.offsets) - 1 and self.offsets[-1][1] < end):
            return None
        return self.first + inside[0], self.first + inside[-1]

    def characters(self, first: int, last: int, align: bool | str, context: str) -> tuple[int, int, int | None] | None:
        """Where the context's tokens from ``first`` to ``last`` lie in it, widened to words as ``align`` says; None if they are empty.

        Third comes where the last token begins, None if it was widened to a word of several.
        """
        start, end = self._unit(first, align, context), self._unit(last, align, context)
        a, b = self.offsets[start[0]][0], self.offsets[end[-1]][1]
        return (a, b, self.offsets[last][0] if len(end) == 1 else None) if a < b else None

    def _unit(self, token: int, align: bool | str, context: str) -> list[int]:
        """The tokens of its word, or the token alone."""
        word = self.words[token]
        if not align or word is None:
            return [token]
        low = high = token
        while low and self.words[low - 1] == word:
            low -= 1
        while high + 1 < len(self.words) and self.words[high + 1] == word:
            high += 1
        full = [i for i in range(low, high + 1) if self.offsets[i][0] < self.offsets[i][1]] or [token]
        glued = align == "auto" and _GLUED.search(context[self.offsets[full[0]][0] : self.offsets[full[-1]][1]])
        return [token] if glued else full


@dataclass(frozen=True)
class Found:
    """A span of the context.

    Attributes:
        start, end: its characters; surface: where it ended with the particle that was cut off.
        tokens: its first and last, counted in the whole context.
        score: the product of its probabilities; logit: the sum of its logits; both without a temperature.
        terms: (which distributions, sum of its logits) of each span whose probabilities add up to the score.
    """

    start: int
    end: int
    surface: int
    tokens: tuple[int, int]
    score: float
    logit: float
    terms: tuple[tuple[int, float], ...]

    def told(self, context: str, score: float) -> dict[str, Any]:
        """As an answer."""
        told = {"answer": context[self.start : self.end], "score": score, "start": self.start, "end": self.end}
        return told if self.surface == self.end else {**told, "surface": context[self.start : self.surface]}


@dataclass(frozen=True)
class Distributions:
    """What start and end are drawn from: one pair over the whole document, or one a window.

    Attributes:
        logits: (2, K) each, of start and of end.
        silent: (2,) each, of no answer.
        takes_part: whether no answer is one of the places.
    """

    logits: list[Array]
    silent: list[Array]
    takes_part: bool

    @classmethod
    def of_document(cls, logits: Sequence[Array], windows: Sequence[Window], silent: Array) -> Distributions:
        """The tokens of all windows, each with the highest of its logits, and one place of no answer."""
        best = np.full((2, max(w.begin + w.stop - w.first for w in windows)), -np.inf)
        for each, w in zip(logits, windows, strict=True):
            here = best[:, w.begin : w.begin + w.stop - w.first]
            np.maximum(here, each[:, w.first : w.stop], out=here)
        return cls([best], [silent], True)

    def sums(self, temperature: float = 1.0) -> list[Array]:
        """(2,) each: the logarithm of what start's and end's powers sum to, their logits divided by the temperature."""
        nulls = self.silent if self.takes_part else [None] * len(self.logits)
        return [_log_sum(each, null, temperature) for each, null in zip(self.logits, nulls, strict=True)]

    def none(self, sums: Sequence[Array], temperature: float = 1.0) -> float:
        """The probability of no answer, of the window that is least sure of it; ``sums`` are those of the temperature."""
        if not self.takes_part:
            return 0.0
        return min(float(np.exp((null / temperature - total).sum())) for null, total in zip(self.silent, sums, strict=True))

    def at(self, temperature: float, terms: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[float], float]:
        """The probability of each answer, given by the ``terms`` of its spans, and of none, at a temperature."""
        sums = self.sums(temperature)
        totals = [float(each.sum()) for each in sums]
        return [sum(math.exp(logit / temperature - totals[i]) for i, logit in spans) for spans in terms], self.none(sums, temperature)


def _log_sum(logits: Array, null: Array | None, temperature: float) -> Array:
    every = logits if null is None else np.concatenate([logits, null[:, None]], axis=1)
    if not every.shape[1]:
        return np.zeros(2)
    every = every / temperature
    high = every.max(axis=1)
    total: Array = high + np.log(np.exp(every - high[:, None]).sum(axis=1))
    return total


def best_spans(start: Array, end: Array, longest: int, count: int) -> list[tuple[int, int, float]]:
    """(first, last, score) of the ``count`` spans of at most ``longest`` tokens with the highest product, best first; none with 0."""
    bands = [start[: len(start) - d] * end[d:] for d in range(min(longest, len(start)))]
    if not bands:
        return []
    scores = np.concatenate(bands)
    firsts = np.concatenate([np.arange(len(band)) for band in bands])
    lengths = np.repeat(np.arange(len(bands)), [len(band) for band in bands])
    chosen = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
    chosen = chosen[np.lexsort((lengths[chosen], firsts[chosen], -scores[chosen]))]
    return [(int(firsts[i]), int(firsts[i] + lengths[i]), float(scores[i])) for i in chosen if scores[i] > 0]
