"""Words and n-grams as 64-bit hashes, made by array operations: what the repetition rules and decontamination count by.

The hash of a word is its CRC-32, that of a window of n words the polynomial over them modulo 2^64, mixed once more; so they are the same in every process. In
scripts without spaces (Han, Kana, Thai, Lao, Khmer, Burmese) each character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_SPACELESS = re.compile(f"[{SPACELESS}]")
_WORDS = re.compile(f"[{SPACELESS}]|[^\\W{SPACELESS}]+")
# letters and digits of ASCII in lower case, all else a space
_FOLD = bytes(code + 32 if 65 <= code <= 90 else code if chr(code) == "_" or (code < 128 and chr(code).isalnum()) else 32 for code in range(256))
_BASE = np.uint64(0x9E3779B97F4A7C15)
_UNBASE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_SHIFT = np.uint64(31)


@lru_cache(1)  # several steps ask for the words of one document
def words_of(text: str) -> Sequence[bytes]:
    """The words of a text, case-folded, without punctuation, in UTF-8."""
    if text.isascii():
        return text.encode().translate(_FOLD).split()
    folded = text.casefold()
    words = _WORDS.findall(folded) if _SPACELESS.search(folded) else re.findall(r"\w+", folded)
    return " ".join(words).encode("utf-8", "surrogatepass").split(b" ") if words else []


def word_hashes(words: Sequence[bytes]) -> Hashes:
    """(n,) the hash of each word: its CRC-32, mixed."""
    return _mixed(np.fromiter(map(crc32, words), np.uint64, len(words)) + np.uint64(1))


def letter_hashes(text: str) -> Hashes:
    """(n,) the hash of each letter and digit, case-folded; all else is left out."""
    letters = re.sub(r"\W+", "", text.casefold())
    return _mixed(np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64) + np.uint64(1))


class Windows:
    """Hashes of all windows of any length over one sequence; after O(n) work each length costs a few array operations."""

    def __init__(self, hashes: Hashes) -> None:
        self.size = len(hashes)
        powers = np.full(self.size, _BASE)
        self._unpowers = np.full(self.size, _UNBASE)
        if self.size:
            powers[0] = self._unpowers[0] = 1
        sums: Any = np.cumsum(hashes * np.cumprod(powers, dtype=np.uint64), dtype=np.uint64)
        self._sums = np.concatenate((np.zeros(1, np.uint64), sums))
        self._unpowers = np.cumprod(self._unpowers, dtype=np.uint64)

    def of(self, n: int) -> Hashes:
        """(max(size - n + 1, 0),) the hash of the n items from each place on."""
        count = max(self.size - n + 1, 0)
        return _mixed((self._sums[n : n + count] - self._sums[:count]) * self._unpowers[:count])


def _mixed(values: Hashes) -> Hashes:
    values = (values ^ (values >> _SHIFT)) * _BASE
    return values ^ (values >> _SHIFT)
