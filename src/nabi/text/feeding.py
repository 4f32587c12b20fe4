"""Texts for the training of a tokenizer, such that the process stays under a memory bound.

The library keeps each distinct word and, while it trains, each of its symbols with where each pair of symbols occurs. Nothing can be taken from it again,
so what goes in is watched (``sketch``) and the need is known before it arises:

    need = FIXED + PER_WORD * W + PER_SYMBOL[model] * S + IN_FLIGHT * threads * longest text

for W distinct words with S symbols in all (bytes for byte-level models, else characters), in bytes above what the process holds already. The constants are
upper bounds of what was measured with tokenizers 0.23.3 on words of 4 to 200 random letters (benchmarks/tokenizer_training.py measures them again).

As long as that stays below the bound the library gets the texts as they are. When it does not, its training is ended, the texts are counted to their end,
and it trains on the largest even sample that fits, with words cut at ``PIECE`` symbols: a second reading, of the source if it can be read again, else of a
file on the disk that holds a sample of at most ``SPOOLED`` times the bound.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from nabi.errors import InputError, OptionError, StorageError
from nabi.memory import peak, trim
from nabi.text.sketch import LEVELS, SHRINK, Sketches, Words, levels_of

FIXED = 32 << 20
PER_WORD = 120
PER_SYMBOL = {"BPE bytes": 160, "BPE": 240, "WordPiece": 240, "Unigram": 320, "WordLevel": 8}
IN_FLIGHT = 400  # bytes a character of a text takes while it is split into words
PIECE = 60  # whole characters of 1 to 4 bytes
CHUNK = 1 << 14  # characters: a longer text is given in pieces, cut where no word ends or begins differently
LONGEST = 1 << 18  # characters: a text without such a place is cut anyway
BATCH = 1 << 17  # characters that are counted at once
REFILL = 256  # how many texts the library asks for at once
SPOOLED = 8
MARGIN = 0.95
# one blank between two letters, digits or signs that nothing joins: cut before it, each pre-tokeniser sees the words that it saw before
_PLACE = re.compile(r"(?<=[!-~가-힣])(?= [!-~가-힣])")

Texts = Iterable[str | Sequence[str]] | Callable[[], Iterable[str | Sequence[str]]]


@dataclass
class Fed:
    """What a training was fed with.

    Attributes:
        texts, characters: how much there was to read.
        words, symbols: about how many distinct words it holds, and their symbols; None if no bound was set.
        need: the bytes that training on all of it would take at most, the process's own included.
        share: of the texts that was trained on; below 1 the bound was met.
    """

    texts: int = 0
    characters: int = 0
    words: float | None = None
    symbols: float | None = None
    need: int | None = None
    share: float = 1.0


class _Full(Exception):
    """Ends the library's training from within its iterator."""


@dataclass
class Feeder:
    """Feeds a training under a bound.

    Args:
        model: a key of ``PER_SYMBOL``.
        words: what the pre-tokeniser makes of a text.
        memory: the most bytes that the process may hold; None for no bound.
    """

    model: str
    words: Words
    memory: int | None
    fed: Fed = field(default_factory=Fed)

    def train(self, texts: Texts, learn: Callable[[Iterator[Any], int | None], None]) -> Fed:
        """Feed ``learn`` with the texts, or with an even sample of them.

        Args:
            texts: strings or lists of strings; read once, and a second time if the bound asks for it: a callable gives a new iterator each time.
            learn: trains on an iterator of texts; the second argument is the length at which words are to be cut, or None. It is called a second time
                if the first was ended by an exception of the iterator.

        Returns:
            What was fed.

        Raises:
            InputError: something is not a text, or there is none.
            OptionError: the bound is too small.
            StorageError: the file for the second reading can't be written.
        """
        again = _again(texts)
        if self.memory is None:
            learn(self._watched(_flat(texts() if callable(texts) else texts)), None)
            self._end()
            return self.fed
        room = self._room()
        threads = _threads()
        longest = max(1024, min(LONGEST, room // (4 * IN_FLIGHT * threads)))
        sketches = Sketches(self.words, in_bytes=self.model == "BPE bytes")
        with _Spool(None if again else SPOOLED * self.memory) as spool:
            source = self._counted(_flat(texts() if callable(texts) else texts), sketches, spool, longest)
            try:
                learn(_by_refill(self._fitting(source, sketches, room, threads * longest * IN_FLIGHT), 4 * longest), None)
            except Exception as problem:
                if not _is_full(problem):
                    raise
                for _ in source:
                    pass
            else:
                self._end()
                self._measured(sketches, room, 0)
                return self.fed
            self._end()
            need, level = self._measured(sketches, room, 0), 0
            trim()
            room = self._room()
            while need > MARGIN * room or level < spool.level:
                level += 1
                if level == LEVELS:
                    raise self._small(need)
                need = self._need(sketches, level, cut=True) + threads * min(longest, CHUNK) * IN_FLIGHT
            self.fed.share = SHRINK**level
            warnings.warn(self._told(), stacklevel=4)
            sample = _sampled(_chunks(_flat(again()), min(longest, CHUNK), longest), level) if again else spool.read(level)
            learn(_by_refill((piece for text in sample for piece in _pieces(text, CHUNK)), 4 * longest), PIECE)
        return self.fed

    def _counted(self, texts: Iterable[str], sketches: Sketches, spool: _Spool, longest: int) -> Iterator[str]:
        """The texts in pieces, each counted soon after it was given."""
        waiting: list[str] = []
        size = 0
        for piece in _chunks(self._watched(texts), min(longest, CHUNK), longest):
            yield piece
            waiting.append(piece)
            size += len(piece)
            if size > BATCH:
                spool.write(waiting, sketches.add(waiting))
                waiting, size = [], 0
        spool.write(waiting, sketches.add(waiting))

    def _fitting(self, pieces: Iterator[str], sketches: Sketches, room: int, in_flight: int) -> Iterator[str]:
        """The pieces, until what the library would need is more than the room."""
        seen = size = 0
        for piece in pieces:
            size += len(piece)
            if sketches.texts != seen:
                seen = sketches.texts
                # what can be new in a piece is at most all of it, so there is nothing to ask before that could matter
                if FIXED + in_flight + size * 3 * (PER_SYMBOL[self.model] + PER_WORD) > room and self._need(sketches, 0) + in_flight > MARGIN * room:
                    raise _Full
            yield piece
        if self._need(sketches, 0) + in_flight > MARGIN * room:
            raise _Full

    def _watched(self, texts: Iterable[str]) -> Iterator[str]:
        for text in texts:
            self.fed.texts += 1
            self.fed.characters += len(text)
            yield text

    def _end(self) -> None:
        if not self.fed.characters:
            raise InputError("there is no text to train on", value=f"{self.fed.texts} texts, all empty" if self.fed.texts else "an empty iterator",
                             expected="at least one text with a character in it")  # fmt: skip

    def _need(self, sketches: Sketches, level: int, *, cut: bool = False) -> int:
        words, symbols = sketches.distinct(level)
        return int(FIXED + PER_WORD * (words + (symbols / PIECE if cut else 0)) + PER_SYMBOL[self.model] * symbols)

    def _measured(self, sketches: Sketches, room: int, level: int) -> int:
        need = self._need(sketches, level)
        self.fed.words, self.fed.symbols = sketches.distinct(0)
        assert self.memory is not None
        self.fed.need = need + self.memory - room
        return need

    def _room(self) -> int:
        """What may be taken above what the process holds."""
        assert self.memory is not None
        room = self.memory - held()
        if room < 2 * FIXED:
            raise self._small(2 * FIXED)
        return room

    def _small(self, need: int) -> OptionError:
        now = held()
        return OptionError("the memory bound is too small to train a tokenizer", value=f"{self.memory:,} bytes, of which the process holds {now:,}",
                           expected=f"{now + need:,} or more")  # fmt: skip

    def _told(self) -> str:
        fed = self.fed
        assert self.memory is not None and fed.need is not None
        return (
            f"training on all {fed.characters:,} characters could take {fed.need / 1e9:.2f} GB, for they hold about {fed.words:,.0f} distinct words with "
            f"{fed.symbols:,.0f} symbols, and the bound is {self.memory / 1e9:.2f} GB: trained on an even sample of {fed.share:.1%} of them, words cut at "
            f"{PIECE} symbols"
        )


class _Spool:
    """What an iterator that gives its texts only once has given, on the disk: all of it, or an even sample if that is more than ``most`` bytes."""

    def __init__(self, most: int | None) -> None:
        self._most, self.level, self._size = most, 0, 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Spool:
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

    def read(self, level: int) -> Iterator[str]:
        """The texts of a level."""
        assert self._file is not None
        for of, data in self._records(self._file):
            if of >= level:
                yield data.decode("utf-8")

    def _put(self, file: IO[bytes], level: int, data: bytes) -> None:
        file.write(bytes([level]) + len(data).to_bytes(4, "little") + data)
        self._size += len(data) + 5

    @staticmethod
    def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        file.seek(0)
        while head := file.read(5):
            yield head[0], file.read(int.from_bytes(head[1:], "little"))


def held() -> int:
    """The bytes of memory that this process holds now; the most that it ever held where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak()


def size_of(memory: int | str | None) -> int | None:
    """The bytes of ``"1GB"``, ``"512 MiB"`` or a number; None stays None.

    Raises:
        OptionError: it is no size.
    """
    if memory is None or (isinstance(memory, int) and not isinstance(memory, bool) and memory > 0):
        return memory
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", str(memory), re.IGNORECASE)
    if not isinstance(memory, str) or found is None or float(found[1]) == 0:
        raise OptionError("this is no amount of memory", value=memory, expected="such as 1GB, 512MiB, or a number of bytes")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def _threads() -> int:
    """How many threads the library splits texts with."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "off", "no", "n", "f"):
        return 1
    stated = os.environ.get("RAYON_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _again(texts: Texts) -> Callable[[], Iterable[Any]] | None:
    """How to read the texts once more; None if they can't be."""
    if isinstance(texts, str | bytes):
        raise InputError("one text was given where many are read", value=texts, fix="put it into a list")
    if callable(texts):
        return texts
    if not isinstance(texts, Iterable):
        raise InputError("these are no texts", value=texts, expected="an iterable of str, or a callable that gives one")
    return None if iter(texts) is texts else lambda: texts


def _flat(texts: Iterable[Any]) -> Iterator[str]:
    """The texts, one by one, each checked to be one."""
    number = 0
    for item in texts:
        for text in item if isinstance(item, list | tuple) else (item,):
            number += 1
            if not isinstance(text, str):
                fixes = {bytes: "decode it first", type(None): "leave it out", float: "leave out missing values"}
                raise InputError(f"text {number} is not a str but {type(text).__name__}", value=repr(text), fix=fixes.get(type(text), "convert it with str()"))
            if not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as problem:
                    fix = "read the file with the right encoding, or replace it: text.encode('utf-8', 'replace').decode()"
                    raise InputError(f"text {number} holds half of a surrogate pair at character {problem.start}", value=text, fix=fix) from None
            yield text


def _chunks(texts: Iterable[str], wanted: int, longest: int) -> Iterator[str]:
    """Each text, in pieces if it is longer than ``wanted``; of ``longest`` characters at most, and the others cut where no word notices."""
    for text in texts:
        if len(text) <= wanted:
            yield text
            continue
        start = 0
        while len(text) - start > wanted:
            place = _PLACE.search(text, start + wanted - wanted // 4, start + longest + 2)
            stop = min(place.start() if place else start + longest, len(text))
            yield text[start:stop]
            start = stop
        if start < len(text):
            yield text[start:]


def _pieces(text: str, most: int) -> Iterator[str]:
    for start in range(0, len(text), most):
        yield text[start : start + most]


def _sampled(pieces: Iterable[str], level: int) -> Iterator[str]:
    known: list[int] = []
    for number, piece in enumerate(pieces):
        if number % 4096 == 0:
            known = levels_of(number, 4096).tolist()
        if known[number % 4096] >= level:
            yield piece


def _by_refill(texts: Iterable[str], most: int) -> Iterator[Any]:
    """The texts with empty lists between them, such that ``REFILL`` in a row, which the library reads ahead, come to about ``most`` characters."""
    count = size = 0
    for text in texts:
        if size and size + len(text) > most:
            yield from ([] for _ in range(REFILL - count))
            count = size = 0
        yield text
        count, size = (count + 1) % REFILL, (size + len(text)) if count + 1 < REFILL else 0


def _is_full(problem: BaseException | None) -> bool:
    while problem is not None and not isinstance(problem, _Full):
        problem = problem.__cause__ or problem.__context__
    return problem is not None
