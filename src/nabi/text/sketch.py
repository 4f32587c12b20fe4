"""How many distinct words a stream of texts holds, and how many symbols these have together, in a fixed and small memory.

Of all words those are kept whose hash is small: their number over the share of hashes that count as small is the number of distinct words (the k minimum
values of Bar-Yossef et al., 2002, section 4). Unusual: it counts for nested samples of the texts too, so that one pass tells how much of the texts may
be taken; and words are found and hashed by numpy over code points, some 50 times faster than a tokenizer splits them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

KEPT = 1 << 14  # hashes of a sketch: its standard error is 1 / sqrt(KEPT) = 0.8 %
FIRST = 1 / 8  # the share of hashes that count as small at first: most words need no more than a look
SHRINK = 2**-0.5  # each sample holds this share of the one before it
LEVELS = 64
# what ends a word: a change between letters, digits, signs and white space, as in GPT-2's pattern; that, with signs and Han alone, as in BERT; white space;
# the blank alone; nothing
Words = Literal["classes", "signs", "spaces", "blanks", "texts"]
_SPACE, _LETTER, _DIGIT, _SIGN, _ALONE = range(5)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_STEP = 0x5851F42D4C957F2D  # odd, so it has an inverse modulo 2**64


class Sketches:
    """Counts distinct words over all texts (level 0) and over nested samples of them (level 1, 2, ...).

    Args:
        words: what a word is.
        in_bytes: whether a symbol is a byte of UTF-8; else it is a character.

    Attributes:
        texts: how many were counted.
    """

    def __init__(self, words: Words, *, in_bytes: bool) -> None:
        self._words, self._in_bytes, self.texts = words, in_bytes, 0
        self._levels = [_Sketch() for _ in range(LEVELS)]

    def add(self, texts: list[str]) -> NDArray[np.int64]:
        """Count some texts; returns the level of each: it is in the samples of this level and of all below it."""
        levels = levels_of(self.texts, len(texts))
        self.texts += len(texts)
        joined = "\n".join(texts)
        codes = np.frombuffer(joined.encode("utf-32-le"), dtype="<u4")
        if not len(codes):
            return levels
        starts, stops, hashes = _hashed(codes, self._words)
        sizes = stops - starts
        if self._in_bytes and not joined.isascii():
            ends = np.concatenate([[0], np.cumsum(_utf8_lengths(codes))])
            sizes = ends[stops] - ends[starts]
        sizes += self._words in ("classes", "spaces", "blanks")  # the space before it
        small = hashes < np.uint64(int(FIRST * 2.0**64))
        starts, sizes, hashes = starts[small], sizes[small], hashes[small]
        begins = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
        of = levels[np.searchsorted(begins, starts, side="right") - 1]
        for level, sketch in enumerate(self._levels):
            sketch.add(hashes, sizes)
            inside = of > level
            if not inside.any():
                break
            hashes, sizes, of = hashes[inside], sizes[inside], of[inside]
        return levels

    def distinct(self, level: int) -> tuple[float, float]:
        """About how many distinct words the sample of a level holds, and how many symbols they have together."""
        return self._levels[level].distinct()


class _Sketch:
    def __init__(self) -> None:
        self._bound = FIRST  # the share of all hashes that count as small
        self._hashes, self._sizes = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._new: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
        self._waiting = 0

    def add(self, hashes: NDArray[np.uint64], sizes: NDArray[np.int64]) -> None:
        small = hashes < np.uint64(int(self._bound * 2.0**64))
        hashes, sizes = hashes[small], sizes[small]
        self._new.append((hashes, sizes))
        self._waiting += len(hashes)
        if self._waiting > KEPT:
            self._merge()

    def _merge(self) -> None:
        hashes = np.concatenate([self._hashes, *(new for new, _ in self._new)])
        sizes = np.concatenate([self._sizes, *(new for _, new in self._new)])
        self._hashes, first = np.unique(hashes, return_index=True)
        self._sizes, self._new, self._waiting = sizes[first], [], 0
        while len(self._hashes) > 2 * KEPT:
            self._bound /= 2
            count = int(np.searchsorted(self._hashes, np.uint64(int(self._bound * 2.0**64))))
            self._hashes, self._sizes = self._hashes[:count], self._sizes[:count]

    def distinct(self) -> tuple[float, float]:
        self._merge()
        return len(self._hashes) / self._bound, float(self._sizes.sum()) / self._bound


def levels_of(first: int, count: int) -> NDArray[np.int64]:
    """The levels of the texts with the numbers ``first``, ``first + 1``, ...: by chance, but always the same."""
    share = (_mixed(np.arange(first + 1, first + 1 + count, dtype=np.uint64) * _MIX) >> np.uint64(11)).astype(np.float64) / 2.0**53
    found: NDArray[np.int64] = np.minimum(np.floor(np.log(np.maximum(share, 1e-300)) / np.log(SHRINK)), LEVELS - 1).astype(np.int64)
    return found


def _hashed(codes: NDArray[np.uint32], words: Words) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Where words begin and end, and their hashes: sum of code * STEP**place, from the word's first place on."""
    if words == "texts":
        kinds = np.where(codes == ord("\n"), _SPACE, _LETTER).astype(np.uint8)
    else:
        kinds = _kinds(words)[np.minimum(codes, 0xFFFF)]
    change = np.empty(len(kinds), bool)
    change[0] = True
    np.not_equal(kinds[1:], kinds[:-1], out=change[1:])
    if words == "signs":
        change |= kinds == _ALONE
    starts = np.flatnonzero(change)
    stops = np.append(starts[1:], len(codes))
    seen = kinds[starts] != _SPACE
    if words == "classes":  # a run of spaces is a word there
        seen[:] = True
    places, back = _powers(1 << max(16, int(len(codes) - 1).bit_length()))
    sums = np.add.reduceat(codes.astype(np.uint64) * places[: len(codes)], starts) * back[starts]
    starts, stops, sums = starts[seen], stops[seen], sums[seen]
    if words == "classes":  # one space belongs to the word behind it
        sums = np.where((codes[np.maximum(starts - 1, 0)] == ord(" ")) & (starts > 0), ~sums, sums)
    return starts, stops, _mixed(sums ^ (stops - starts).astype(np.uint64))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread over all bits (the finaliser of splitmix64, Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """STEP**i and its inverse modulo 2**64, for i below ``count``."""
    both = []
    for factor in (_STEP, pow(_STEP, -1, 1 << 64)):
        factors = np.full(count, factor, np.uint64)
        factors[0] = 1
        both.append(np.multiply.accumulate(factors))
    return both[0], both[1]


@cache
def _kinds(words: Words) -> NDArray[np.uint8]:
    """What each character of the basic plane is; those beyond count as its last, a letter."""
    found = np.full(0x10000, _LETTER, np.uint8)
    for code in range(0x10000):
        char = chr(code)
        if char == " " or (char.isspace() and words != "blanks"):
            found[code] = _SPACE
        elif words in ("spaces", "blanks"):
            continue
        elif words == "signs" and (0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF):
            found[code] = _ALONE
        else:
            kind = unicodedata.category(char)[0]
            sign = _ALONE if words == "signs" else _SIGN
            found[code] = _LETTER if kind == "L" or (kind in "MN" and words == "signs") else _DIGIT if kind == "N" else sign
    found[0xFFFF] = _LETTER
    return found


def _utf8_lengths(codes: NDArray[np.uint32]) -> NDArray[np.int64]:
    return 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
