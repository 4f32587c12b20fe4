"""Measures of generated text: BLEU and chrF of translations, ROUGE of summaries, perplexity and bits per byte of language models.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are the library sacrebleu's (Post 2018), ROUGE (Lin 2004) is ours. Unusual: all of them keep sums alone,
no text. sacrebleu tells the counts of a sentence for BLEU; for chrF its public names give the n-grams only, so the counts and the last formula are ours here.
Each row has one reference.
"""

from __future__ import annotations

import importlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from nabi.errors import OptionError, unknown

Array = np.ndarray[Any, Any]
TOKENIZERS = ("13a", "char", "intl", "none", "zh")  # of sacrebleu, those that need no further package
ORDER, CHARACTERS, BETA = 4, 6, 2  # n-grams of words in BLEU and of characters in chrF; weight of chrF's recall
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
Tokens = Literal["words", "characters", "ascii"]


def tokenizer_for(language: str) -> str:
    """sacrebleu's tokenizer for BLEU in a language: ``char`` for Korean, Japanese and Chinese, where words say little or are not set apart; else ``13a``.

    Args:
        language: code of the target language, such as ``ko`` or ``zh-TW``.
    """
    return "char" if re.split("[-_]", language.lower())[0] in ("ko", "ja", "zh") else "13a"


class TranslationCounts:
    """What BLEU and chrF need to know of a row, and both from the sums over rows.

    Args:
        tokenizer: of BLEU, one of ``TOKENIZERS``; two figures compare only if it is the same.

    Raises:
        OptionError: the tokenizer is unknown, or sacrebleu is not installed.
    """

    width = 2 + 2 * ORDER + 3 * CHARACTERS

    def __init__(self, tokenizer: str = "13a") -> None:
        if tokenizer not in TOKENIZERS:
            raise unknown("tokenizer of BLEU", tokenizer, TOKENIZERS)
        self.tokenizer = tokenizer
        self._library = _sacrebleu("sacrebleu.metrics")
        self._ngrams: Callable[[str, int], list[Counter[str]]] = _sacrebleu("sacrebleu.metrics.helpers").extract_all_char_ngrams
        # effective_order only says that sentences are meant; it does not touch the counts
        self._sentence = self._library.BLEU(tokenize=tokenizer, effective_order=True)

    def of(self, answer: str, truth: str) -> list[float]:
        """(width,): tokens of both, matches and n-grams by order; then by order of characters (n-grams of the answer, of the truth, matches)."""
        found = self._sentence.sentence_score(answer, [truth])
        counts = [found.sys_len, found.ref_len, *found.counts, *found.totals]
        for given, true in zip(self._ngrams(answer, CHARACTERS), self._ngrams(truth, CHARACTERS), strict=True):
            hits = sum(min(count, true[ngram]) for ngram, count in given.items())
            # the library's rule: n-grams longer than the truth are not held against the answer
            counts += [given.total() if true else 0, true.total(), hits]
        return counts

    def bleu(self, sums: Array) -> Any:
        """sacrebleu's score of a corpus from (width,) sums: ``score`` in 0-100, ``bp``, ``precisions``."""
        answer, truth, *rest = sums.tolist()
        hits, totals = rest[:ORDER], rest[ORDER : 2 * ORDER]
        return self._library.BLEU.compute_bleu(hits, totals, int(answer), int(truth), smooth_method=self._sentence.smooth_method)

    def chrf(self, sums: Array) -> Array:
        """(B, width) sums -> (B,) in 0-100: precision and recall are averaged over the orders that occur on both sides (Popović 2015, section 2)."""
        given, true, hits = sums[:, 2 + 2 * ORDER :].reshape(-1, CHARACTERS, 3).transpose(2, 0, 1)
        occurs = (given > 0) & (true > 0)
        orders = np.maximum(occurs.sum(axis=1), 1)
        precision, recall = ((hits / np.where(occurs, side, np.inf)).sum(axis=1) / orders for side in (given, true))
        below = BETA**2 * precision + recall
        score: Array = 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)
        return score

    def signatures(self) -> dict[str, str]:
        """sacrebleu's own description of how each figure was made, to be given with it."""
        found = {}
        for name, metric in (("bleu", self._library.BLEU(tokenize=self.tokenizer)), ("chrf", self._library.CHRF())):
            metric.corpus_score(["a"], [["a"]])  # it does not know the number of references before
            found[name] = str(metric.get_signature())
        return found


class TranslationScore:
    """Translation: BLEU and chrF of the whole corpus, both from 0 to 100, as sacrebleu gives them.

    A row without an answer counts with its reference; a row without either counts for nothing; without any match or any row both figures are 0. The
    library remembers up to 65,536 tokenised lines for its speed; nothing else grows with the data.

    Args:
        tokenizer: of BLEU, one of ``TOKENIZERS``; see :func:`tokenizer_for`.

    Raises:
        OptionError: the tokenizer is unknown, or sacrebleu is not installed.
    """

    def __init__(self, tokenizer: str = "13a") -> None:
        self._counts = TranslationCounts(tokenizer)
        self._sums = np.zeros(self._counts.width)

    @property
    def details(self) -> dict[str, str]:
        """sacrebleu's signature of each figure."""
        return self._counts.signatures()

    def add(self, answer: str, truth: str) -> None:
        """One row: the translation that was given, and the reference."""
        self._sums += self._counts.of(answer, truth)

    def result(self) -> dict[str, float]:
        """bleu, chrf."""
        return {"bleu": float(self._counts.bleu(self._sums).score), "chrf": float(self._counts.chrf(self._sums[None])[0])}


class SummaryScore:
    """Summarisation: the F-measure of ROUGE-1, -2, -L and -Lsum (Lin 2004), from 0 to 1, as means over rows.

    Equal to the package rouge-score with ``tokens="ascii"``, and with ``"words"`` wherever the text is ASCII. A row whose answer or reference has no token
    scores 0, both empty included; without rows all figures are 0.

    Args:
        tokens: ``words``: runs of letters, digits and marks of any script, in lower case; ``characters``: each of these apart, so that a Korean noun
            matches whatever its particle; ``ascii``: runs of a-z and 0-9, everything else is lost, as in published English figures.
        stem: from a word to its stem, for words over 3 letters, such as ``nltk.stem.porter.PorterStemmer().stem``.

    Raises:
        OptionError: unknown ``tokens``, or a stemmer for characters.
    """

    def __init__(self, tokens: Tokens = "words", stem: Callable[[str], str] | None = None) -> None:
        self._split = splitter(tokens, stem)
        self._sums, self._rows = [0.0] * len(ROUGE), 0

    def add(self, answer: str, truth: str) -> None:
        """One row: the summary that was given, and the reference; a line is a sentence to ROUGE-Lsum."""
        self._sums = [total + value for total, value in zip(self._sums, rouge(answer, truth, self._split), strict=True)]
        self._rows += 1

    def result(self) -> dict[str, float]:
        """rouge1, rouge2, rougeL, rougeLsum."""
        return {name: total / max(self._rows, 1) for name, total in zip(ROUGE, self._sums, strict=True)}


class LanguageScore:
    """Language modelling: perplexity by token and bits by UTF-8 byte; only the latter compares models of different tokenizers.

    Without tokens the perplexity is 0, which no measured one is (they are at least 1); without bytes the bits are 0.
    """

    def __init__(self) -> None:
        self._nats, self._tokens, self._bytes = 0.0, 0, 0

    def add(self, answer: tuple[float, int, int], truth: object = None) -> None:
        """One row.

        Args:
            answer: its negative log likelihood in nats, the tokens that were predicted, the UTF-8 bytes of their text.
            truth: not looked at; the text is within the answer.
        """
        nats, tokens, size = answer
        self._nats, self._tokens, self._bytes = self._nats + nats, self._tokens + tokens, self._bytes + size

    def result(self) -> dict[str, float]:
        """perplexity, bits_per_byte."""
        found = language(*(np.array([float(x)]) for x in (self._nats, self._tokens, self._bytes)))
        return {name: float(values[0]) for name, values in found.items()}


def language(nats: Array, tokens: Array, size: Array) -> dict[str, Array]:
    """perplexity, bits_per_byte, each (B,), from (B,) sums; a perplexity that no float holds is infinite."""
    with np.errstate(over="ignore"):
        perplexity = np.where(tokens > 0, np.exp(nats / np.maximum(tokens, 1)), 0.0)
    return {"perplexity": perplexity, "bits_per_byte": np.where(size > 0, nats / math.log(2) / np.maximum(size, 1), 0.0)}


# ---- ROUGE -----------------------------------------------------------------------------------------------------------------------------------------------


class _Kept(dict[int, str]):
    """For ``str.translate``: letters, digits and marks stay, since a mark within a word (Hindi vowels) is no end of it; all else is a blank."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if unicodedata.category(character)[0] in "LNM" else " "
        return self[code]


_KEPT = _Kept()


def splitter(tokens: Tokens, stem: Callable[[str], str] | None = None) -> Callable[[str], list[str]]:
    """From a text to the tokens that ROUGE counts; see :class:`SummaryScore`."""
    if tokens not in ("words", "characters", "ascii"):
        raise unknown("tokens of ROUGE", tokens, ("words", "characters", "ascii"))
    if stem and tokens == "characters":
        raise OptionError("characters have no stem", fix="leave stem out, or take tokens='words'")

    def split(text: str) -> list[str]:
        if tokens == "ascii":
            words = re.findall("[a-z0-9]+", text.lower())
        else:
            # composed, so that a Korean syllable is one character however it was typed
            words = unicodedata.normalize("NFC", text.lower()).translate(_KEPT).split()
        if stem:
            words = [stem(word) if len(word) > 3 else word for word in words]  # as ROUGE-1.5.5 does
        return list("".join(words)) if tokens == "characters" else words

    return split


def rouge(answer: str, truth: str, split: Callable[[str], list[str]]) -> tuple[float, float, float, float]:
    """F-measures of ROUGE-1, -2, -L and -Lsum of one row."""
    given, true = split(answer), split(truth)
    lines = [[split(line) for line in text.split("\n")] for text in (answer, truth)]
    length = _rows(true, given)[-1].bit_count()
    return _ngrams_f(given, true, 1), _ngrams_f(given, true, 2), _f(length, len(given), len(true)), _summary_f(*lines)


def _f(hits: int, given: int, true: int) -> float:
    return 2 * hits / (given + true) if given and true else 0.0


def _ngrams_f(given: Sequence[str], true: Sequence[str], n: int) -> float:
    """Lin 2004, section 2."""
    a, b = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (given, true))
    return _f((a & b).total(), a.total(), b.total())


def _rows(true: Sequence[str], given: Sequence[str]) -> list[int]:
    """The table of the longest common subsequence, a row for each beginning of ``true``: bit j is set where one more word of ``given``, the jth, makes it
    longer (bit-parallel: Crochemore et al. 2001, section 4)."""
    full = (1 << len(given)) - 1
    places: Counter[str] = Counter()
    for j, word in enumerate(given):
        places[word] |= 1 << j
    vector, rows = full, [0]
    for word in true:
        met = vector & places[word]
        vector = ((vector + met) | (vector - met)) & full
        rows.append(full ^ vector)
    return rows


def _common(true: Sequence[str], given: Sequence[str]) -> set[int]:
    """Places in ``true`` of one longest common subsequence; of several the one that the package rouge-score reads, so that unions agree with it."""
    rows = _rows(true, given)
    i, j, length, found = len(true), len(given), rows[-1].bit_count(), set()
    while i and j:
        if true[i - 1] == given[j - 1]:
            found.add(i - 1)
            i, j, length = i - 1, j - 1, length - 1
            continue
        shorter_true = (rows[i - 1] & ((1 << j) - 1)).bit_count()
        shorter_given = length - (rows[i] >> (j - 1) & 1)
        if shorter_given > shorter_true:
            j -= 1
        else:
            i, length = i - 1, shorter_true
    return found


def _summary_f(given: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float:
    """Lin 2004, section 3.2: for each line of the reference the union of what it shares with the lines of the answer. A word counts no more often than it
    occurs on either side, which the paper does not say and ROUGE-1.5.5 does."""
    left = Counter(word for line in given for word in line)
    size = left.total()
    left &= Counter(word for line in true for word in line)
    hits = 0
    for line in true:
        union = set().union(*(_common(line, other) for other in given))
        for place in sorted(union):
            if left[line[place]] > 0:
                left[line[place]] -= 1
                hits += 1
    return _f(hits, size, sum(map(len, true)))


def _sacrebleu(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise OptionError("BLEU and chrF need the package sacrebleu, which is not installed", fix="install it: pip install 'nabi[metrics]'") from None
