"""Step ``composed``: letters in one form (NFC, Unicode Standard Annex 15), so that equal texts are equal bytes; Hangul taken apart by a file system is joined.

Unusual: CPython sorts combining marks by insertion, so its time grows with the square of their number in a row (16,000 take a second). No writing has more
than a few; a text with more than ``MARKS`` in a row is dropped before it is sorted.
"""

from __future__ import annotations

import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.documents import Document

MARKS = 64


@dataclass(frozen=True)
class Composing:
    """Options of the step ``composed``.

    Attributes:
        form: NFC keeps what the reader sees; NFKC also folds full-width letters, ligatures and the like, which changes code.
    """

    form: Literal["NFC", "NFKC"] = "NFC"


class Composed:
    """Brings each text into one Unicode form; a document that it changes counts as ``composed: 1``."""

    name = "composed"

    def __init__(self, options: Composing) -> None:
        self.form = options.form

    def __call__(self, document: Document) -> str | None:
        text = document.text
        if text.isascii():
            return None
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        # most texts have too few marks in all to have too many in a row
        if _is_mark()[codes].sum() > MARKS and _longest_run(_is_mark()[codes]) > MARKS:
            return "combining marks without end"
        composed = unicodedata.normalize(self.form, text)
        if composed != text:
            document.text = composed
            document.changed["composed"] += 1
        return None


@cache
def _is_mark() -> NDArray[np.bool_]:
    """(0x110000,) whether a code point is sorted among its neighbours: its combining class is not 0."""
    return np.fromiter((unicodedata.combining(chr(code)) != 0 for code in range(sys.maxunicode + 1)), bool, sys.maxunicode + 1)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max(initial=0))
