"""Step ``contamination``: documents that share a long piece with a test text are dropped, so that a score on that test means something.

As GPT-3's appendix C (Brown et al. 2020): 13-grams of words without case and punctuation; a test text that is shorter is sought as a whole, down to 8 words,
below which it is ignored and counted. Unusual: a test text of which half the letters and more are Hangul, Han, Kana or of another script in which spaces say
little is sought by characters without spaces (30, down to 18). The index is exact: the 64-bit hashes in order, 10 bytes each; two texts of a billion windows
meet by chance in about one of 18 with an index of a million.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nabi.data.corpus.documents import Document
from nabi.data.corpus.grams import SPACELESS, Hashes, Windows, letter_hashes, word_hashes, words_of
from nabi.data.tables import read_table
from nabi.errors import DataError, OptionError

MOST = 50_000_000
_BY_LETTERS = re.compile(f"[{SPACELESS}\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_LETTER = re.compile(r"[^\W\d_]")
_PARAGRAPHS = re.compile(r"\n[ \t\r]{0,100}\n")
TEXTS = (".txt", ".md")


@dataclass(frozen=True)
class Contamination:
    """Options of the step ``contamination``.

    Attributes:
        files: the test files: any table that nabi reads, or .txt and .md, of which each paragraph is a text.
        columns: of the tables, those to take; every string in them if empty, also inside lists.
        words: length in words of a piece that may not be shared.
        characters: the same in characters, for scripts that are sought by characters.
        action: drop the document, or only count it (as ``contaminated`` in what changed).
    """

    files: tuple[str, ...]
    columns: tuple[str, ...] = ()
    words: int = 13
    characters: int = 30
    action: Literal["drop", "count"] = "drop"


class ContaminationStep:
    """Drops a document that shares a piece with a test file; the reason names the file.

    Attributes:
        ignored: test file -> how many of its texts are too short to be sought.

    Raises:
        OptionError: no files, or a length below 4.
        DataError: a file can't be read, holds nothing that can be sought, or all have more than 50 million pieces.
    """

    name = "contamination"

    def __init__(self, options: Contamination) -> None:
        if not options.files:
            raise OptionError("the step contamination needs test files", fix='name them: files = ["test.jsonl"]')
        if min(options.words, options.characters) < 4:
            raise OptionError("pieces this short are shared by chance", value=f"words {options.words}, characters {options.characters}", expected="4 or more")
        self.drop = options.action == "drop"
        self.names = [Path(file).name for file in options.files]
        self.ignored: Counter[str] = Counter()
        by_words, by_letters = _Index(options.words), _Index(options.characters)
        for number, file in enumerate(options.files):
            found = 0
            for text in _texts(Path(file), options.columns):
                letters = len(_BY_LETTERS.findall(text))
                if letters and 2 * letters >= len(_LETTER.findall(text)):
                    taken = by_letters.add(letter_hashes(text), number)
                else:
                    taken = by_words.add(word_hashes(words_of(text)), number)
                found += taken
                self.ignored[self.names[number]] += not taken
            if not found:
                raise DataError("no text of this test file is long enough to be sought", value=file,
                                expected=f"{by_words.shortest} words or {by_letters.shortest} characters",
                                fix="name its text columns, or shorter pieces")  # fmt: skip
        self._words, self._letters = by_words.closed(), by_letters.closed()

    def __call__(self, document: Document) -> str | None:
        text = document.text
        found = self._words.find(Windows(word_hashes(words_of(text)))) if self._words.lengths else -1
        if found < 0 and self._letters.lengths and not text.isascii() and _BY_LETTERS.search(text):
            found = self._letters.find(Windows(letter_hashes(text)))
        if found < 0:
            return None
        if self.drop:
            return f"in test file {self.names[found]}"
        document.changed[f"in test file {self.names[found]}"] += 1
        return None


class _Index:
    """Hashes of pieces by their length, and the first file that each comes from."""

    def __init__(self, length: int) -> None:
        self.length, self.shortest = length, math.ceil(0.6 * length)
        self._open: dict[int, list[tuple[Hashes, int]]] = defaultdict(list)
        self._size = 0
        self.lengths: dict[int, tuple[Hashes, NDArray[np.uint16], NDArray[np.bool_], np.uint64]] = {}

    def add(self, hashes: Hashes, file: int) -> bool:
        """Take up a text; False if it is too short."""
        if len(hashes) < self.shortest:
            return False
        n = min(self.length, len(hashes))
        windows = Windows(hashes).of(n)
        self._size += len(windows)
        if self._size > MOST:
            raise DataError("the test files have too many pieces", value=self._size, expected=f"at most {MOST:,}", fix="name the columns that matter")
        self._open[n].append((windows, file))
        return True

    def closed(self) -> _Index:
        """Sorted, to be searched."""
        for n, parts in sorted(self._open.items()):
            every = np.concatenate([windows for windows, _ in parts])
            files = np.concatenate([np.full(len(windows), file, np.uint16) for windows, file in parts])
            hashes, places = np.unique(every, return_index=True)
            bits = min(len(hashes).bit_length() + 5, 24)
            near, shift = np.zeros(1 << bits, bool), np.uint64(64 - bits)
            near[hashes >> shift] = True
            self.lengths[n] = hashes, files[places], near, shift
        self._open.clear()
        return self

    def find(self, windows: Windows) -> int:
        """The number of the file that one of the windows comes from; -1 if there is none."""
        for n, (hashes, files, near, shift) in self.lengths.items():
            here = windows.of(n)
            # almost all are ruled out by their first bits
            here = here[near[here >> shift]]
            places = np.minimum(np.searchsorted(hashes, here), len(hashes) - 1)
            hits = places[hashes[places] == here]
            if len(hits):
                return int(files[hits].min())
        return -1


def _texts(path: Path, columns: tuple[str, ...]) -> Iterator[str]:
    if path.suffix.lower() in TEXTS:
        try:
            yield from _PARAGRAPHS.split(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as problem:
            raise DataError("the test file can't be read", value=f"{path} ({problem})", expected="a text in UTF-8") from None
        return
    table = read_table(path)
    if columns:
        table.require(columns)
    for row in table:
        yield from _strings(row[name] for name in columns or row)


def _strings(values: Iterable[Any]) -> Iterator[str]:
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value
