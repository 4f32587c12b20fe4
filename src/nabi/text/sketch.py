"""How many distinct words a stream of texts holds, and how many symbols these have together, in a fixed and small memory.

Of all words those are kept whose hash is small: their number over the share of hashes that count as small is the number of distinct words (the k minimum
values of Bar-Yossef et al., 2002, section 4). Unusual: it counts for nested samples of the texts too, so that one pass tells how much of the texts may
be taken; and words are found and hashed by numpy over bytes, many times faster than a tokenizer splits them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

KEPT = 1 << 14  # hashes of a sketch: its standard error is 1 / sqrt(KEPT) = 0.8 %
FIRST_BITS = 3
FIRST = 2.0**-FIRST_BITS  # the share of hashes that count as small at first: most words need no more than a look
SHRINK = 2**-0.5  # each sample holds this share of the one before it
LEVELS = 64
# what ends a word: a change between letters, digits, signs and white space, as in GPT-2's pattern; that, with signs and Han alone, as in BERT; white space;
# the blank alone; nothing
Words = Literal["classes", "signs", "spaces", "blanks", "texts"]
_SPACE, _LETTER, _DIGIT, _SIGN, _ALONE = range(5)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_STEP = np.uint64(0x5851F42D4C957F2D)
_HEADS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)  # the first 0 to 8 bytes of a window


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
        if not joined:
            return levels
        starts, sizes, hashes = _hashed(joined, self._words, self._in_bytes)
        begins = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
        if not joined.isascii():  # places are those of 16-bit units
            begins = np.cumsum([0, *(len(text.encode("utf-16-le")) // 2 + 1 for text in texts[:-1])])
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

    def error(self, level: int) -> float:
        """The standard error of both numbers, as a share of them."""
        return self._levels[level].error()


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

    def error(self) -> float:
        self._merge()
        return float(max(len(self._hashes), 1) ** -0.5)


def levels_of(first: int, count: int) -> NDArray[np.int64]:
    """The levels of the texts with the numbers ``first``, ``first + 1``, ...: by chance, but always the same."""
    share = (_mixed(np.arange(first + 1, first + 1 + count, dtype=np.uint64) * _MIX) >> np.uint64(11)).astype(np.float64) / 2.0**53
    found: NDArray[np.int64] = np.minimum(np.floor(np.log(np.maximum(share, 1e-300)) / np.log(SHRINK)), LEVELS - 1).astype(np.int64)
    return found


def _hashed(joined: str, words: Words, in_bytes: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Of the words whose hash is small: where they begin, their symbols, their hashes.

    A hash is made of a word's bytes of UTF-8, eight at a time. Only for the share of words whose first product is small it is finished.
    """
    data = joined.encode("utf-8")
    plain = len(data) == len(joined)
    table = _kinds(words)
    if plain:
        kinds = np.frombuffer(data.translate(_ascii_kinds(words)), np.uint8)
    else:
        units = np.frombuffer(joined.encode("utf-16-le"), "<u2")
        kinds = table[units]
    change = np.empty(len(kinds), bool)
    change[0] = True
    np.not_equal(kinds[1:], kinds[:-1], out=change[1:])
    if words == "signs":
        change |= kinds == _ALONE
    starts = np.flatnonzero(change)
    stops = np.append(starts[1:], len(kinds))
    if words != "classes":  # a run of spaces is a word there
        seen = kinds[starts] != _SPACE
        starts, stops = starts[seen], stops[seen]
    firsts, lasts = starts, stops
    if not plain:
        ends = np.concatenate([[0], np.cumsum(_utf8_lengths(units))])
        firsts, lasts = ends[starts], ends[stops]
    windows = np.ndarray((len(data) + 1,), "<u8", data + bytes(8), strides=(1,))
    lengths = lasts - firsts
    keys = (windows[firsts] & _HEADS[np.minimum(lengths, 8)]) ^ (lengths.astype(np.uint64) << np.uint64(57))
    if words == "classes":  # one space belongs to the word behind it
        spaced = np.frombuffer(data, np.uint8)[np.maximum(firsts - 1, 0)] == ord(" ")
        keys ^= (spaced & (firsts > 0)).astype(np.uint64) << np.uint64(56)
    keys *= _STEP
    longer = np.flatnonzero(lengths > 8)
    if len(longer):
        keys[longer] ^= _tails(windows, firsts[longer] + 8, lasts[longer])
        keys[longer] *= _STEP
    small = np.flatnonzero(keys < np.uint64(int(FIRST * 2.0**64)))
    sizes = (lengths if in_bytes else stops - starts)[small] + (words in ("classes", "spaces", "blanks"))  # the space before it
    return starts[small], sizes, (_mixed(keys[small]) >> np.uint64(FIRST_BITS))


def _tails(windows: NDArray[np.uint64], firsts: NDArray[np.int64], lasts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of the bytes ``firsts`` to ``lasts`` of each word, at least one: sum of the mixed windows of eight bytes times STEP**place."""
    counts = (lasts - firsts + 7) // 8
    begins = np.cumsum(counts) - counts
    place = np.arange(int(counts.sum())) - np.repeat(begins, counts)
    at = np.repeat(firsts, counts) + 8 * place
    parts = windows[at] & _HEADS[np.minimum(np.repeat(lasts, counts) - at, 8)]
    found: NDArray[np.uint64] = _mixed(np.add.reduceat(_mixed(parts) * _powers(1 << max(8, int(counts.max() - 1).bit_length()))[place], begins))
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread over all bits (the finaliser of splitmix64, Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _powers(count: int) -> NDArray[np.uint64]:
    """STEP**i modulo 2**64, for i below ``count``."""
    factors = np.full(count, _STEP, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


@cache
def _ascii_kinds(words: Words) -> bytes:
    return _kinds(words)[:256].tobytes()


@cache
def _kinds(words: Words) -> NDArray[np.uint8]:
    """What each character of the basic plane is; half of one beyond it, as of UTF-16, is a letter."""
    found = np.full(0x10000, _LETTER, np.uint8)
    for code in range(0x10000):
        char = chr(code)
        if words == "texts":
            found[code] = _SPACE if char == "\n" else _LETTER
        elif 0xD800 <= code < 0xE000:
            continue
        elif char == " " or (char.isspace() and words != "blanks"):
            found[code] = _SPACE
        elif words in ("spaces", "blanks"):
            continue
        elif words == "signs" and (0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF):
            found[code] = _ALONE
        else:
            kind = unicodedata.category(char)[0]
            sign = _ALONE if words == "signs" else _SIGN
            found[code] = _LETTER if kind == "L" or (kind in "MN" and words == "signs") else _DIGIT if kind == "N" else sign
    return found


def _utf8_lengths(units: NDArray[np.uint16]) -> NDArray[np.int64]:
    halves = (units >= 0xD800) & (units < 0xE000)  # two of them are four bytes
    return 1 + (units > 0x7F).astype(np.int64) + (units > 0x7FF) - halves
