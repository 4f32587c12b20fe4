"""Texts in batches, for the training of a tokenizer: checked to be texts, long ones in pieces, and kept on the disk where they can be read only once."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from typing import IO, Any

import numpy as np

from nabi.errors import InputError, StorageError
from nabi.text.sketch import LEVELS, levels_of

CHUNK = 1 << 14  # characters: a longer text is given in pieces, cut where no word ends or begins differently
LONGEST = 1 << 18  # characters: a text without such a place is cut anyway
BATCH = 1 << 17  # characters that are given at once
REFILL = 256  # how many texts the library wants at least when it asks for some
# one blank between two letters, digits or signs that nothing joins: cut before it, each pre-tokeniser sees the words that it saw before
_PLACE = re.compile(r"(?<=[!-~가-힣])(?= [!-~가-힣])")

Texts = Iterable[str | Sequence[str]] | Callable[[], Iterable[str | Sequence[str]]]


class Reader:
    """Reads texts in batches and counts them.

    Attributes:
        texts, characters: how much was read.
    """

    def __init__(self) -> None:
        self.texts = self.characters = 0

    def batches(self, texts: Iterable[Any], wanted: int = CHUNK, longest: int = LONGEST) -> Iterator[list[str]]:
        """The texts in lists of about ``BATCH`` characters, those of more than ``wanted`` in pieces of at most ``longest``.

        Raises:
            InputError: something is not a text.
        """
        batch: list[str] = []
        size = 0
        for item in texts:
            for text in item if isinstance(item, list | tuple) else (item,):
                self.texts += 1
                if not isinstance(text, str):
                    fixes = {bytes: "decode it first", type(None): "leave it out", float: "leave out missing values"}
                    what = f"text {self.texts} is not a str but {type(text).__name__}"
                    raise InputError(what, value=repr(text), fix=fixes.get(type(text), "convert it with str()"))
                length = len(text)
                self.characters += length
                if not text.isascii():
                    self._whole(text)
                if length <= wanted:
                    batch.append(text)
                    size += length
                    if size > BATCH or len(batch) > BATCH // 16:
                        yield batch
                        batch, size = [], 0
                    continue
                for piece in chunks(text, wanted, longest):
                    batch.append(piece)
                    size += len(piece)
                    if size > BATCH:
                        yield batch
                        batch, size = [], 0
        if batch:
            yield batch

    def _whole(self, text: str) -> None:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as problem:
            fix = "read the file with the right encoding, or replace it: text.encode('utf-8', 'replace').decode()"
            raise InputError(f"text {self.texts} holds half of a surrogate pair at character {problem.start}", value=text, fix=fix) from None


def chunks(text: str, wanted: int, longest: int) -> Iterator[str]:
    """A text in pieces of about ``wanted`` characters, cut where no word notices, or else of ``longest``."""
    start = 0
    while len(text) - start > wanted:
        place = _PLACE.search(text, start + wanted - wanted // 4, start + longest + 2)
        stop = min(place.start() if place else start + longest, len(text))
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def pieces(batches: Iterable[list[str]], most: int = CHUNK) -> Iterator[list[str]]:
    """The batches with texts of at most ``most`` characters, cut anywhere."""
    for batch in batches:
        if max(map(len, batch)) <= most:
            yield batch
        else:
            yield [text[start : start + most] for text in batch for start in range(0, len(text), most)]


def refills(batches: Iterable[list[str]]) -> Iterator[list[str]]:
    """The batches, each with so many empty texts that the library, which reads ahead, asks for one at a time."""
    for batch in batches:
        yield batch + [""] * (REFILL - len(batch))


def sampled(batches: Iterable[list[str]], level: int) -> Iterator[list[str]]:
    """Of the batches what is in the sample of a level."""
    number = 0
    for batch in batches:
        kept = list(compress(batch, (levels_of(number, len(batch)) >= level).tolist()))
        number += len(batch)
        if kept:
            yield kept


class Spool:
    """What an iterator that gives its texts only once has given, on the disk: all of it, or an even sample if that is more than ``most`` bytes."""

    def __init__(self, most: int | None) -> None:
        self._most, self.level, self._size = most, 0, 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Spool:
        if self._most is not None:
            self._file = tempfile.TemporaryFile(prefix="nabi-tokenizer-")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, texts: list[str], levels: np.ndarray[Any, Any]) -> None:
        if self._file is None or self._most is None:
            return
        try:
            for text, level in zip(texts, levels.tolist(), strict=True):
                if level >= self.level:
                    self._put(self._file, level, text.encode("utf-8"))
            while self._size > self._most and self.level < LEVELS - 1:
                self.level += 1
                old, self._size = self._file, 0
                self._file = tempfile.TemporaryFile(prefix="nabi-tokenizer-")  # noqa: SIM115
                with old:
                    for level, data in self._records(old):
                        if level >= self.level:
                            self._put(self._file, level, data)
        except OSError as problem:
            raise StorageError(f"the texts, which can be read only once, could not be kept in {tempfile.gettempdir()}: {problem}") from problem

    def read(self, level: int) -> Iterator[list[str]]:
        """The texts of a level, in batches."""
        assert self._file is not None
        yield from Reader().batches(data.decode("utf-8") for of, data in self._records(self._file) if of >= level)

    def _put(self, file: IO[bytes], level: int, data: bytes) -> None:
        file.write(bytes([level]) + len(data).to_bytes(4, "little") + data)
        self._size += len(data) + 5

    @staticmethod
    def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        file.seek(0)
        while head := file.read(5):
            yield head[0], file.read(int.from_bytes(head[1:], "little"))


def again(texts: Texts) -> Callable[[], Iterable[Any]] | None:
    """How to read the texts once more; None if they can't be."""
    if isinstance(texts, str | bytes):
        raise InputError("one text was given where many are read", value=texts, fix="put it into a list")
    if callable(texts):
        return texts
    if not isinstance(texts, Iterable):
        raise InputError("these are no texts", value=texts, expected="an iterable of str, or a callable that gives one")
    return None if iter(texts) is texts else lambda: texts
