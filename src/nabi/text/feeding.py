"""Texts for the training of a tokenizer, such that the process stays under a memory bound.

The library keeps each distinct word and, while it trains, each of its symbols with where each pair of symbols occurs. Nothing can be taken from it again,
so what goes in is watched (``sketch``) and the need is known before it arises:

    need = FIXED + PER_WORD * W + PER_SYMBOL[model] * S + IN_FLIGHT * threads * longest text

for W distinct words with S symbols in all (bytes for byte-level models, else characters), in bytes above what the process holds already. The constants are
upper bounds of what was measured with tokenizers 0.23.3 on words of 4 to 200 random letters (benchmarks/tokenizer_training.py measures them again).

As long as that stays below the bound the library gets the texts as they are; words are counted only once the bound could be met even if each of them were new.
When it is met, the library's training is ended, the texts are counted to their end, and it trains on an even sample that fits, with words cut at ``PIECE``
symbols. Unusual: real texts take a third of what the constants say, so the memory of that training is measured, and it is done again on the larger sample
that this measure lets hope for, as long as one is worth it. The texts are read again, from the source if that can be, else from a file on the disk that holds
a sample of at most ``SPOOLED`` times the bound.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nabi.errors import InputError, OptionError
from nabi.memory import peak, trim
from nabi.text.reading import BATCH, CHUNK, LONGEST, Reader, Spool, Texts, again, pieces, refills, sampled
from nabi.text.sketch import LEVELS, SHRINK, Sketches, Words

FIXED = 32 << 20
PER_WORD = 120
PER_SYMBOL = {"BPE bytes": 160, "BPE": 240, "WordPiece": 240, "Unigram": 800, "WordLevel": 8}
IN_FLIGHT = 400  # bytes a character of a text takes while it is split into words
PIECE = 60  # whole characters of 1 to 4 bytes
SPOOLED = 8
MARGIN = 0.95
WAITING = 32  # the texts that wait to be counted may take this part of the room
OBJECT = 64  # bytes of a text beside its characters
ERRORS = 3  # standard errors that an estimate may be wrong by: a few long words are a small sample
STEADY = 1.25  # how much more a further symbol may take than those before it
STRIDE = 6  # how much larger it may be than the one that was measured
WORTH = 1.3  # how much larger a sample must be to train once more


@dataclass
class Fed:
    """What a training was fed with.

    Attributes:
        texts, characters: how much there was to read.
        words, symbols: about how many distinct words it holds, and their symbols; None if nothing made it necessary to count them.
        need: the bytes that training on all of it would take at most, the process's own included; None if no bound was set.
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
            texts: strings or lists of strings; read once, and again if the bound asks for it: a callable gives a new iterator each time.
            learn: trains on an iterator of lists of texts; the second argument is the length at which words are to be cut, or None. It is called again
                if the first call was ended by an exception of the iterator, and where what it took lets hope that a larger sample fits.

        Returns:
            What was fed.

        Raises:
            InputError: something is not a text, or there is none.
            OptionError: the bound is too small.
            StorageError: the file for the second reading can't be written.
        """
        reader, source = Reader(), again(texts)
        first = texts() if callable(texts) else texts
        if self.memory is None:
            learn(reader.batches(first), None)
            self._end(reader)
            return self.fed
        room, threads = self._room(), _threads()
        longest = max(1024, min(LONGEST, room // (4 * IN_FLIGHT * threads)))
        wanted = min(longest, CHUNK)
        with Spool(None if source else SPOOLED * self.memory) as spool:
            watch = _Watch(self.model, self.words, spool, room - threads * longest * IN_FLIGHT)
            batches = reader.batches(first, wanted, longest)
            try:
                learn(refills(watch.fitting(batches)), None)
            except Exception as problem:
                if not _is_full(problem):
                    raise
            else:
                self._end(reader)
                self._measured(watch, room)
                return self.fed
            watch.rest(batches)
            self._end(reader)
            self._measured(watch, room)

            def sample(level: int) -> int:
                """Train on a sample; the bytes that it took."""
                texts = spool.read(level) if source is None else sampled(Reader().batches(source(), wanted, longest), level)
                with _Growth() as growth:
                    learn(refills(pieces(texts)), PIECE)
                return growth.most

            level = self._largest(watch, sample, spool.level, threads * wanted * IN_FLIGHT)
        self.fed.share = SHRINK**level
        warnings.warn(self._told(), stacklevel=4)
        return self.fed

    def _largest(self, watch: _Watch, sample: Callable[[int], int], first: int, in_flight: int) -> int:
        """Train on samples of growing size, each as large as what the last ones took lets hope; the level of the last."""
        trim()
        room, level = int(MARGIN * self._room()), first
        while (need := watch.need(level, cut=True) + in_flight) > room:
            level += 1
            if level == LEVELS:
                raise self._small(need)
        took, rate = sample(level), float(PER_SYMBOL[self.model] + PER_WORD / PIECE)
        while level > first:
            trim()
            room, symbols, larger = int(MARGIN * self._room()), watch.symbols(level), level
            while larger > first and took + rate * (watch.symbols(larger - 1) - symbols) <= room and watch.symbols(larger - 1) <= STRIDE * symbols:
                larger -= 1
            if watch.symbols(larger) < WORTH * symbols:
                break
            before, level = took, larger
            took = max(before, sample(level))
            rate = min(rate, STEADY * (took - before) / (watch.symbols(level) - symbols) + 1)
        return level

    def _end(self, reader: Reader) -> None:
        self.fed.texts, self.fed.characters = reader.texts, reader.characters
        if not reader.characters:
            raise InputError("there is no text to train on", value=f"{reader.texts} texts, all empty" if reader.texts else "an empty iterator",
                             expected="at least one text with a character in it")  # fmt: skip

    def _measured(self, watch: _Watch, room: int) -> None:
        assert self.memory is not None
        self.fed.need = watch.most() + self.memory - room
        if watch.counted:
            self.fed.words, self.fed.symbols = watch.distinct(0)

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
        part = f"an even sample of {fed.share:.1%} of them" if fed.share < 1 else "all of them"
        return (
            f"training on all {fed.characters:,} characters could take {fed.need / 1e9:.2f} GB, for they hold about {fed.words:,.0f} distinct words with "
            f"{fed.symbols:,.0f} symbols, and the bound is {self.memory / 1e9:.2f} GB: trained on {part}, with words cut at {PIECE} symbols"
        )


class _Watch:
    """Knows what training on the texts so far would take at most; counts words only where it must.

    Args:
        model, words: as of ``Feeder``.
        spool: gets what is counted.
        room: the bytes that may be taken.

    Attributes:
        counted: whether there was anything to count.
    """

    def __init__(self, model: str, words: Words, spool: Spool, room: int) -> None:
        self._model, self._spool, self._room = model, spool, room
        self._in_bytes = model == "BPE bytes"
        self._sketches = Sketches(words, in_bytes=self._in_bytes)
        # a word of one byte is one of 256, so those that can be many have two symbols or more
        self._new = PER_SYMBOL[model] + (PER_WORD / 2 if self._in_bytes else PER_WORD)
        self._waiting: list[str] = []
        self._symbols = self._bytes = 0
        self._sums = np.zeros(LEVELS)
        self.counted = False

    def fitting(self, batches: Iterator[list[str]]) -> Iterator[list[str]]:
        """The batches, until what the library would need is more than the room."""
        for batch in batches:
            yield batch
            self._add(batch)
            if self.most() > MARGIN * self._room or self._bytes > self._room // WAITING:
                self._count()
                if self.most() > MARGIN * self._room:
                    raise _Full

    def rest(self, batches: Iterator[list[str]]) -> None:
        """Count the other batches."""
        for batch in batches:
            self._add(batch)
            if self._symbols > 4 * BATCH or len(self._waiting) > BATCH:
                self._count()
        self._count()

    def most(self) -> int:
        """The bytes that training on what was seen would take at most."""
        return int((self.need(0) if self.counted else FIXED) + self._new * self._symbols)

    def need(self, level: int, *, cut: bool = False) -> int:
        """The bytes that training on what was counted of a level would take at most."""
        words, symbols = self.distinct(level)[0] * self._doubt(level), self.symbols(level)
        return int(FIXED + PER_WORD * (words + (symbols / PIECE if cut else 0)) + PER_SYMBOL[self._model] * symbols)

    def symbols(self, level: int) -> float:
        """The symbols that the distinct words of a level have at most: no more than there are in all, and what is estimated with its error."""
        return min(self.distinct(level)[1] * self._doubt(level), float(self._sums[level:].sum()))

    def distinct(self, level: int) -> tuple[float, float]:
        """As ``Sketches.distinct``."""
        return self._sketches.distinct(level)

    def _doubt(self, level: int) -> float:
        return 1 + ERRORS * self._sketches.error(level)

    def _add(self, batch: list[str]) -> None:
        joined = "".join(batch)
        symbols = len(joined) if joined.isascii() or not self._in_bytes else len(joined.encode("utf-8"))
        self._symbols += symbols + len(batch)  # a space may be set before each
        self._bytes += (len(joined) if joined.isascii() else 4 * len(joined)) + OBJECT * len(batch)
        self._waiting += batch

    def _count(self) -> None:
        waiting, self._waiting, self._symbols, self._bytes = self._waiting, [], 0, 0
        self.counted = True
        for start, stop in _spans(waiting):
            texts = waiting[start:stop]
            levels = self._sketches.add(texts)
            sizes = [1 + (len(text) if text.isascii() or not self._in_bytes else len(text.encode("utf-8"))) for text in texts]
            self._sums += np.bincount(levels, sizes, LEVELS)
            self._spool.write(texts, levels)


def _spans(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Where to cut a list such that its parts have about 4 * ``BATCH`` characters."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size > 4 * BATCH:
            yield start, number + 1
            start, size = number + 1, 0
    if start < len(texts):
        yield start, len(texts)


class _Growth:
    """How much more memory the process held at most while this was open, as a thread sees that looks every few milliseconds."""

    EVERY = 0.003

    def __enter__(self) -> _Growth:
        trim()
        self._before = self._most = held()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self.EVERY):
            self._most = max(self._most, held())

    @property
    def most(self) -> int:
        """In bytes."""
        return self._most - self._before


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


def _is_full(problem: BaseException | None) -> bool:
    while problem is not None and not isinstance(problem, _Full):
        problem = problem.__cause__ or problem.__context__
    return problem is not None
