"""Step ``unsafe``: documents with words of a list that the user gives, one word or phrase a line; no list ships with nabi.

Case is folded, white space in a phrase is any white space. A word is found on word borders; a Korean one needs its border in front only, since particles and
endings follow it without a space, and one in Han, Kana or another script without spaces needs none. Unusual: the list becomes one pattern in the form of a
trie, so that the time hardly depends on its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nabi.data.corpus.documents import Document
from nabi.data.corpus.grams import SPACELESS, words_of
from nabi.errors import DataError, OptionError

LONGEST = 200
_HANGUL_END = re.compile("[\uac00-\ud7a3\u3131-\u318e]$")
_SPACELESS = re.compile(f"[{SPACELESS}]")


@dataclass(frozen=True)
class Unsafe:
    """Options of the step ``unsafe``.

    Attributes:
        words: path of the list: UTF-8, one word or phrase a line; blank lines and lines that begin with ``#`` are skipped.
        hits: a document may have so many.
        share: a document may have so many for each of its words, in 0..1; it is dropped if it has more than both allow.
    """

    words: str
    hits: int = 0
    share: float = 0.0


class UnsafeStep:
    """Drops documents in which words of the list occur too often.

    Raises:
        OptionError: a limit below 0.
        DataError: the list can't be read, is empty, or a line is longer than 200 characters.
    """

    name = "unsafe"

    def __init__(self, options: Unsafe) -> None:
        if options.hits < 0 or not 0 <= options.share <= 1:
            raise OptionError("a limit of the step unsafe is impossible", value=f"hits {options.hits}, share {options.share}",
                              expected="hits of 0 or more, share in 0..1")  # fmt: skip
        words = _listed(Path(options.words))
        self.options, self._pattern = options, pattern_of(words)
        # a text in ASCII can hold those in ASCII only, and has their first words among its own
        starts = [words_of(word)[:1] for word in words if word.isascii()]
        self._starts = frozenset(word for start in starts for word in start) if all(starts) else None

    def __call__(self, document: Document) -> str | None:
        text = document.text.casefold()
        if text.isascii() and self._starts is not None and self._starts.isdisjoint(words_of(document.text)):
            return None
        hits = sum(1 for _ in self._pattern.finditer(text))
        if hits > self.options.hits and (not self.options.share or hits > self.options.share * len(text.split())):
            return "unsafe words"
        return None


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError("the list of unsafe words can't be read", value=f"{path} ({problem})", expected="a file in UTF-8, one word or phrase a line") from None
    words = [" ".join(line.casefold().split()) for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise DataError("the list of unsafe words is empty", value=str(path), expected="one word or phrase a line")
    if long := next((word for word in words if len(word) > LONGEST), None):
        raise DataError("a line of the list of unsafe words is too long", value=long, expected=f"at most {LONGEST} characters, one word or phrase a line")
    return words


def pattern_of(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all the words (case-folded, single spaces), each with the borders that its script has."""
    strict: list[str] = []
    open_end: list[str] = []
    open_both: list[str] = []
    for word in sorted(set(words)):
        kind = open_both if _SPACELESS.search(word) else open_end if _HANGUL_END.search(word) else strict
        kind.append(word)
    parts = [f"{_trie(open_both)}"] if open_both else []
    parts += [rf"(?<!\w){_trie(open_end)}"] if open_end else []
    parts += [rf"(?<!\w){_trie(strict)}(?!\w)"] if strict else []
    return re.compile("|".join(parts))


def _trie(words: list[str]) -> str:
    """Alternatives that share their beginnings, so that at each place one path at most is followed."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _alternatives(root)


def _alternatives(node: dict[str, Any]) -> str:
    options = []
    for letter, below in sorted(node.items(), reverse=True):
        run = letter
        while len(below) == 1 and "" not in below:
            (letter, below), *_ = below.items()
            run += letter
        text = re.escape(run).replace("\\ ", r"\s{1,8}+")
        options.append(text + (_alternatives(below) if any(below) else ""))
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
