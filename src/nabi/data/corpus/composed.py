"""Step ``composed``: letters in one form (NFC, Unicode Standard Annex 15), so that equal texts are equal bytes; Hangul taken apart by a file system is joined.

Unusual: CPython sorts combining marks by insertion, so its time grows with the square of their number in a row (16,000 take a second). No writing has more
than a few; a text with more than ``MARKS`` in a row is dropped before it is sorted.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal

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
        if max((match.end() - match.start() for match in _marks().finditer(text)), default=0) > MARKS:
            return "combining marks without end"
        composed = unicodedata.normalize(self.form, text)
        if composed != text:
            document.text = composed
            document.changed["composed"] += 1
        return None


@cache
def _marks() -> re.Pattern[str]:
    """Runs of two combining marks and more: what has to be sorted."""
    codes = [code for code in range(0x300, sys.maxunicode + 1) if unicodedata.combining(chr(code))]
    known = set(codes)
    starts, ends = [c for c in codes if c - 1 not in known], [c for c in codes if c + 1 not in known]
    ranges = "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in zip(starts, ends, strict=True))
    return re.compile(f"[{ranges}]{{2,}}+")
