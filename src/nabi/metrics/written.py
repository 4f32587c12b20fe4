"""Generated text, row by row: what a report, an interval and a comparison of translations, summaries and language models are made of."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.metrics.generated import ORDER, ROUGE, Tokens, TranslationCounts, language, rouge, splitter
from nabi.pages.sections import Bars, Section, Table

BINS = 20  # of a histogram


class _Rows:
    """(R, width) numbers whose weighted sums over rows give the figures."""

    width: ClassVar[int]
    choices: tuple[str, ...] = ()

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields
        self._numbers = array("d")

    @cached_property
    def numbers(self) -> Array:
        """(R, width)."""
        return np.array(self._numbers).reshape(-1, self.width)

    def _fill(self, fresh: _Rows, rows: Sequence[int]) -> None:
        fresh._numbers.frombytes(self.numbers[rows].tobytes())


class _Texts(_Rows):
    """Rows that keep both texts."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        super().__init__(fields)
        self._answers: list[str] = []
        self._truths: list[str] = []

    def _fill(self, fresh: _Rows, rows: Sequence[int]) -> None:
        super()._fill(fresh, rows)
        assert isinstance(fresh, _Texts)
        fresh._answers, fresh._truths = ([kept[i] for i in rows] for kept in (self._answers, self._truths))

    def facts(self) -> dict[str, float]:
        """The length of all answers over that of all references, in characters, and how many answers are empty."""
        answers, truths = (sum(map(len, texts)) for texts in (self._answers, self._truths))
        return {"length_ratio": answers / truths if truths else 0.0, "empty_answers": float(sum(not answer.strip() for answer in self._answers))}

    def _lengths(self) -> list[tuple[str, float]]:
        facts = self.facts()
        return [("characters of the answers over those of the references", facts["length_ratio"]), ("empty answers", facts["empty_answers"])]


class Translated(_Texts):
    """The translation that was given and the reference, of each row.

    Args:
        tokenizer: of BLEU; see :class:`nabi.metrics.TranslationScore`.
        fields: columns of a row that a report shows.

    Raises:
        OptionError: the tokenizer is unknown, or sacrebleu is not installed.
    """

    width = TranslationCounts.width

    def __init__(self, tokenizer: str = "13a", fields: tuple[str, ...] = ("source",)) -> None:
        super().__init__(fields)
        self._counts = TranslationCounts(tokenizer)

    def add(self, answer: Any, truth: Any) -> None:
        """One row."""
        self._numbers.extend(self._counts.of(answer, truth))
        self._answers.append(answer)
        self._truths.append(truth)

    def take(self, rows: Sequence[int]) -> Translated:
        """These rows alone."""
        taken = Translated(self._counts.tokenizer, self.fields)
        self._fill(taken, rows)
        return taken

    @cached_property
    def each(self) -> Array:
        """(R,) chrF of each row; BLEU is 0 for most short rows and tells them apart badly."""
        return self._counts.chrf(self.numbers)

    def figures(self, weights: Array) -> dict[str, Array]:
        """bleu, chrf, each (B,)."""
        sums = weights @ self.numbers
        return {"bleu": np.array([self._counts.bleu(row).score for row in sums]), "chrf": self._counts.chrf(sums)}

    def verdicts(self) -> Verdicts:
        """Loss is 100 minus the row's own chrF."""
        return Verdicts(loss=100 - self.each, right=None, truth=self._truths, predicted=self._answers, texts=True)

    def sections(self, intervals: Intervals) -> list[Section]:
        """How chrF spreads over the rows, what BLEU is made of, both signatures."""
        whole = self._counts.bleu(self.numbers.sum(axis=0))
        parts = [(f"precision of {n}-grams", float(p)) for n, p in zip(range(1, ORDER + 1), whole.precisions, strict=True)]
        parts += [("brevity penalty", float(whole.bp)), *self._lengths()]
        return [
            Section("Translations", [_spread("chrF of a row", self.each, 100.0), Table(("", ""), parts, "What BLEU is made of, in percent, and lengths.")]),
            Section("Signatures", [Table(("figure", "signature"), list(self._counts.signatures().items()))]),
        ]


class Summarised(_Texts):
    """The summary that was given and the reference, of each row.

    Args:
        tokens, stem: as for :class:`nabi.metrics.SummaryScore`.
        fields: columns of a row that a report shows.

    Raises:
        OptionError: unknown ``tokens``, or a stemmer for characters.
    """

    width = len(ROUGE)

    def __init__(self, tokens: Tokens = "words", stem: Callable[[str], str] | None = None, fields: tuple[str, ...] = ("source",)) -> None:
        super().__init__(fields)
        self._tokens: Tokens = tokens
        self._stem, self._split = stem, splitter(tokens, stem)

    def add(self, answer: Any, truth: Any) -> None:
        """One row."""
        self._numbers.extend(rouge(answer, truth, self._split))
        self._answers.append(answer)
        self._truths.append(truth)

    def take(self, rows: Sequence[int]) -> Summarised:
        """These rows alone."""
        taken = Summarised(self._tokens, self._stem, self.fields)
        self._fill(taken, rows)
        return taken

    def figures(self, weights: Array) -> dict[str, Array]:
        """rouge1, rouge2, rougeL, rougeLsum, each (B,)."""
        means = weights @ self.numbers / weights.sum(axis=1, keepdims=True)
        return {name: means[:, i] for i, name in enumerate(ROUGE)}

    def verdicts(self) -> Verdicts:
        """Loss is 1 minus the row's ROUGE-L."""
        return Verdicts(loss=1 - self.numbers[:, ROUGE.index("rougeL")], right=None, truth=self._truths, predicted=self._answers, texts=True)

    def sections(self, intervals: Intervals) -> list[Section]:
        """How ROUGE-L spreads over the rows, and lengths."""
        told = "each character a token" if self._tokens == "characters" else f"tokens: {self._tokens}, {'by their stems' if self._stem else 'as they stand'}"
        spread = _spread("ROUGE-L of a row", self.numbers[:, ROUGE.index("rougeL")], 1.0)
        return [Section("Summaries", [spread, Table(("", ""), self._lengths(), f"ROUGE counts {told}.")])]


class Modelled(_Rows):
    """What a language model says of each row: nats, tokens, bytes.

    Args:
        fields: columns of a row that a report shows.
    """

    width = 3

    def __init__(self, fields: tuple[str, ...] = ("text",)) -> None:
        super().__init__(fields)

    def add(self, answer: Any, truth: Any = None) -> None:
        """One row, as for :class:`nabi.metrics.LanguageScore`."""
        nats, tokens, size = answer
        self._numbers.extend((nats, tokens, size))

    def take(self, rows: Sequence[int]) -> Modelled:
        """These rows alone."""
        taken = type(self)(self.fields)
        self._fill(taken, rows)
        return taken

    @cached_property
    def each(self) -> Array:
        """(R,) bits per byte of each row."""
        return language(*self.numbers[:, :3].T)["bits_per_byte"]

    def figures(self, weights: Array) -> dict[str, Array]:
        """perplexity, bits_per_byte, each (B,)."""
        return language(*(weights @ self.numbers[:, :3]).T)

    def verdicts(self) -> Verdicts:
        """Loss is the row's bits per byte, so that long rows are not the worst for their length."""
        nats, tokens, size = self.numbers[:, :3].T
        truth = [f"{t:,.0f} tokens, {b:,.0f} bytes" for t, b in zip(tokens, size, strict=True)]
        return Verdicts(loss=self.each, right=None, truth=truth, predicted=[f"{x:,.1f} nats" for x in nats])

    def facts(self) -> dict[str, float]:
        """Totals: nats, tokens, bytes."""
        return dict(zip(("nats", "tokens", "bytes"), self.numbers[:, :3].sum(axis=0).tolist(), strict=True))

    def sections(self, intervals: Intervals) -> list[Section]:
        """How bits per byte spread over the rows, and the totals that the figures are made of."""
        rows = [(name, value if name == "nats" else int(value)) for name, value in self.facts().items()]
        finite = self.each[np.isfinite(self.each)]
        spread = _spread("Bits per byte of a row", finite, float(finite.max(initial=1.0)))
        return [Section("Rows of text", [spread, Table(("", "in all"), rows, "Perplexity is by token, bits are by byte of UTF-8.")])]


class Restored(Modelled):
    """What a model says of the targets of noised texts, and how many of the spans that were taken out it finds."""

    width = 5

    def add(self, answer: Any, truth: Any = None) -> None:
        """One row: (nats, tokens, bytes, spans, restored)."""
        self._numbers.extend(answer)

    def figures(self, weights: Array) -> dict[str, Array]:
        """perplexity, bits_per_byte, spans_restored, each (B,)."""
        spans, restored = (weights @ self.numbers[:, 3:]).T
        return {**super().figures(weights), "spans_restored": restored / np.maximum(spans, 1)}

    def facts(self) -> dict[str, float]:
        """Totals: nats, tokens, bytes, spans, restored."""
        return {**super().facts(), **dict(zip(("spans", "restored"), self.numbers[:, 3:].sum(axis=0).tolist(), strict=True))}


class Hidden(_Rows):
    """What a masked language model says of each row: nats, tokens that were hidden, how many of them it finds; and whether it knew the pair.

    Args:
        fields: columns of a row that a report shows.
        pairs: rows are pairs of which the second text is the next or not.
    """

    width = 4

    def __init__(self, fields: tuple[str, ...] = ("text",), pairs: bool = False) -> None:
        super().__init__(fields)
        self._pairs = pairs

    def add(self, answer: Any, truth: Any = None) -> None:
        """One row: (nats, tokens, right), and whether the pair was known; None if rows are no pairs."""
        self._numbers.extend((*answer, float(bool(truth))))

    def take(self, rows: Sequence[int]) -> Hidden:
        """These rows alone."""
        taken = Hidden(self.fields, self._pairs)
        self._fill(taken, rows)
        return taken

    def figures(self, weights: Array) -> dict[str, Array]:
        """perplexity, accuracy of hidden tokens; of pairs also next_accuracy; each (B,)."""
        nats, tokens, right, known = (weights @ self.numbers).T
        found = {"perplexity": np.exp(np.minimum(nats / np.maximum(tokens, 1), 700.0)), "accuracy": right / np.maximum(tokens, 1)}
        return {**found, "next_accuracy": known / weights.sum(axis=1)} if self._pairs else found

    def verdicts(self) -> Verdicts:
        """Loss is the row's nats by token."""
        nats, tokens, right, _ = self.numbers.T
        told = [f"{r:,.0f} found, {n:,.1f} nats" for r, n in zip(right, nats, strict=True)]
        return Verdicts(loss=nats / np.maximum(tokens, 1), right=None, truth=[f"{t:,.0f} hidden tokens" for t in tokens], predicted=told)

    def facts(self) -> dict[str, float]:
        """Totals: nats, tokens that were hidden, tokens that were found."""
        return dict(zip(("nats", "hidden", "found"), self.numbers[:, :3].sum(axis=0).tolist(), strict=True))

    def sections(self, intervals: Intervals) -> list[Section]:
        """How nats by token spread over the rows, and the totals that the figures are made of."""
        rows = [(name, value if name == "nats" else int(value)) for name, value in self.facts().items()]
        each = self.verdicts().loss
        spread = _spread("Nats by hidden token of a row", each, float(each.max(initial=1.0)))
        return [Section("Hidden tokens", [spread, Table(("", "in all"), rows, "Each row hides the same tokens in every evaluation.")])]


def _spread(title: str, values: Array, highest: float) -> Bars:
    counts, edges = np.histogram(values, bins=BINS, range=(0.0, highest))
    return Bars(title, title, edges.tolist(), counts.tolist())
