"""MinHash with banding: texts that share most of their shingles get an equal key (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.3 and 3.4).

A *token* is a run of ASCII letters, digits, ``_`` and two-byte UTF-8 letters (Latin with accents, Greek, Cyrillic, Hebrew, Arabic), or one character of three
or four bytes (a Hangul syllable, a kana, a Han character, an emoji): so texts without spaces have shingles, too. White space and punctuation only separate, so
a Python file that is indented or formatted anew stays the same. A *shingle* is ``words`` tokens in a row, as one 64-bit hash.

Unusual: everything is done on all bytes of a text at once, in numpy. Eight bytes of each token are loaded as one number, so most words are hashed in one step,
and a permutation is one 32-bit multiplication by an odd number (the shingle's hash is well mixed already). A minimum needs no set, so nothing is sorted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nabi.errors import OptionError

Hashes = NDArray[np.uint64]

BLOCK = 1 << 17  # bytes of a text that are looked at in one go; cut at white space
PERMUTATIONS = 28  # rows of a block of permutations: 28 x 3,000 shingles x 4 bytes stay in a core's cache
_ALL = (1 << 64) - 1
# what a byte is: 0 separates, 1 is a letter, 2 begins a letter of two bytes, 3 or 4 begins a character of so many bytes, 5 goes on with what began before
_KIND = bytes(
    5 if 0x80 <= b < 0xC0 else 2 if 0xC3 <= b < 0xE0 else 3 if 0xE0 <= b < 0xF0 else 4 if b >= 0xF0 else int(chr(b).isalnum() or b == 0x5F) if b < 0x80 else 0
    for b in range(256)
)  # 0xC2 begins Latin-1's signs and the no-break space: they separate
# three-byte characters that separate: spaces and punctuation, of CJK too, selectors of a letter's or emoji's form, the byte order mark, full-width punctuation
_SIGN = np.zeros(1 << 16, bool)
for _first, _last in ((0x1680, 0x1680), (0x2000, 0x206F), (0x3000, 0x303F), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)):
    _SIGN[_first : _last + 1] = True
for _first, _last in ((0xFF00, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65)):
    _SIGN[_first : _last + 1] = True
_MASK = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
# odd numbers without a pattern: the fractions of the golden ratio, of e and of the square roots of 2 and 3
_GOLDEN, _MIX, _JOIN, _LAST = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xB7E151628AED2A6B, 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B))
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Near:
    """When two texts are near duplicates.

    Attributes:
        threshold: from which Jaccard similarity of their shingles on, 0 to 1.
        bands, rows: two texts are compared if one of ``bands`` groups of ``rows`` minima is equal; ``probability`` says how likely that is.
        words: tokens in a shingle; a text with fewer tokens has no near duplicates.
        seed: of the permutations.
    """

    threshold: float = 0.8
    bands: int = 14
    rows: int = 8
    words: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise OptionError("threshold of near duplicates", value=self.threshold, expected="a Jaccard similarity above 0 and up to 1", fix="take 0.8")
        for name, most in (("bands", 1024), ("rows", 64), ("words", 64)):
            if not 1 <= getattr(self, name) <= most:
                usual = "the usual values are 14 bands of 8 rows, 5 words"
                raise OptionError(f"{name} of near duplicates", value=getattr(self, name), expected=f"1 to {most}", fix=usual)
        if not 0 <= self.seed <= _ALL:
            raise OptionError("seed of near duplicates", value=self.seed, expected="0 to 2**64 - 1")

    def probability(self, jaccard: float) -> float:
        """How likely two texts of this Jaccard similarity share a key: 1 - (1 - j^rows)^bands (Leskovec et al., 3.4.2)."""
        return float(1.0 - (1.0 - jaccard**self.rows) ** self.bands)


class MinHash:
    """The shingles and the band keys of texts; the same on every machine.

    Args:
        near: its numbers and its seed.
    """

    def __init__(self, near: Near) -> None:
        self.near = near
        drawn = splitmix(near.seed, near.bands * near.rows + near.rows + near.bands)
        minima = near.bands * near.rows
        self.multipliers = (drawn[:minima, None] >> _HALF).astype(np.uint32) | np.uint32(1)
        self.row_multipliers = drawn[minima : minima + near.rows] | np.uint64(1)
        self.band_offsets = drawn[minima + near.rows :]

    def shingles(self, text: str) -> Hashes:
        """The text's set of shingles, as sorted unique hashes (S,); empty if it has fewer than ``words`` tokens."""
        found = list(self._shingles(encoded(text)))
        if not found:
            return np.empty(0, np.uint64)
        hashes = np.sort(np.concatenate(found))
        different: Hashes = hashes[np.concatenate((np.ones(1, bool), hashes[1:] != hashes[:-1]))]
        return different

    def keys(self, text: str) -> Hashes | None:
        """One key for each band (bands,), never 0; None if the text has fewer than ``words`` tokens. Keys of different bands are different."""
        return self.keys_of(encoded(text))

    def keys_of(self, data: bytes) -> Hashes | None:
        """``keys`` of a text that is ``encoded`` already."""
        minima: NDArray[np.uint32] | None = None
        for shingles in self._shingles(data):
            hashes = (shingles >> _HALF).astype(np.uint32)
            least = np.concatenate([(m * hashes).min(axis=1) for m in np.split(self.multipliers, range(PERMUTATIONS, len(self.multipliers), PERMUTATIONS))])
            minima = least if minima is None else np.minimum(minima, least)
        if minima is None:
            return None
        keys = (minima.reshape(self.near.bands, self.near.rows) * self.row_multipliers).sum(axis=1, dtype=np.uint64) + self.band_offsets
        keys = mixed(keys)
        keys[keys == 0] = 1
        return keys

    def _shingles(self, data: bytes) -> Iterator[Hashes]:
        """Hashes of the shingles in their order, as often as they occur, a block of the text at a time."""
        words, carried = self.near.words, np.empty(0, np.uint64)
        for start, stop in blocks(data):
            hashes = tokens(data[start:stop])
            if len(carried):
                hashes = np.concatenate((carried, hashes))
            count = len(hashes) - words + 1
            if count > 0:
                joined = hashes[:count].copy()
                for i in range(1, words):
                    joined *= _JOIN
                    joined += hashes[i : i + count]
                yield mixed(joined)
            carried = hashes[max(0, len(hashes) - words + 1) :]


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared part of two sets of shingles, |a and b| / |a or b|; both sorted and unique. Two empty sets share nothing: 0."""
    if not len(a) or not len(b):
        return 0.0
    both = np.sort(np.concatenate((a, b)))
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def encoded(text: str) -> bytes:
    """The text in NFC as UTF-8; a lone surrogate as the three bytes that it would have."""
    return text.encode() if text.isascii() else unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where to cut a text so that no token is cut: at a line end or a space, every ``BLOCK`` bytes or after the next white space there is."""
    start = 0
    while len(data) - start > BLOCK:
        stop = max(data.rfind(space, start, start + BLOCK) for space in (b"\n", b" ")) + 1
        if not stop:
            stop = min((place + 1 for space in (b"\n", b" ") if (place := data.find(space, start + BLOCK)) >= 0), default=len(data))
        yield start, stop
        start = stop
    if start < len(data):
        yield start, len(data)


def tokens(data: bytes) -> Hashes:
    """The hash of each token of a text in UTF-8, in their order (N,)."""
    padded = b"\0" + data + bytes(8)
    kinds = np.frombuffer(padded.translate(_KIND), np.uint8)
    eights: Hashes = np.ndarray((len(padded) - 7,), np.dtype("<u8"), padded, strides=(1,))  # the eight bytes that begin at each byte, as one number
    plain = data.isascii()
    if plain:
        letter = kinds.view(bool)
    else:
        double = kinds == 2
        letter = (kinds == 1) | double
        letter[1:] |= double[:-1]
    edges = np.flatnonzero(letter[1:] != letter[:-1]) + 1
    starts, sizes = edges[::2], edges[1::2] - edges[::2]
    if not plain:
        alone = np.flatnonzero((kinds == 3) | (kinds == 4))
        lengths = kinds[alone].astype(np.intp)
        code = eights[alone]
        code = ((code & np.uint64(15)) << np.uint64(12)) | ((code >> np.uint64(2)) & np.uint64(0xFC0)) | ((code >> np.uint64(16)) & np.uint64(63))
        kept = (lengths == 4) | ~_SIGN[code]
        starts, sizes = np.concatenate((starts, alone[kept])), np.concatenate((sizes, lengths[kept]))
        order = np.argsort(starts, kind="stable")
        starts, sizes = starts[order], sizes[order]
    hashes = eights[starts] & _MASK[np.minimum(sizes, 8)]
    long = np.flatnonzero(sizes > 8)
    if len(long):  # the further eights of each long word, weighed by their place and added up
        more = (sizes[long] - 1) >> 3
        ends = np.cumsum(more)
        begins = ends - more
        place = np.arange(int(ends[-1])) - np.repeat(begins, more) + 1
        left = np.repeat(sizes[long], more) - 8 * place
        parts = mixed(eights[np.repeat(starts[long], more) + 8 * place] & _MASK[np.minimum(left, 8)])
        powers = np.cumprod(np.full(int(more.max()), _GOLDEN))
        hashes[long] = mixed(hashes[long]) + np.add.reduceat(parts * powers[place - 1], begins)
    return mixed(hashes)


def mixed(hashes: Hashes) -> Hashes:
    """Each number scrambled one to one, so that every bit of the result depends on every bit (multiply and shift, as in SplitMix64); in place."""
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    hashes *= _LAST
    hashes ^= hashes >> _HALF
    return hashes


def splitmix(seed: int, count: int) -> Hashes:
    """The first ``count`` numbers of a SplitMix64 generator (Steele, Lea and Flood 2014): the same in every version of numpy."""
    state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
