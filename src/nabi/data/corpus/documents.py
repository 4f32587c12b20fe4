"""What travels through a corpus build: ``Document``; who makes it: ``Source``; who changes or drops it: ``Step``; what could not be read: ``Trouble``.

Unusual: a build is a pure function of its recipe and its input. A source lists its ``Unit``s in a fixed order, each unit gives its documents in a fixed order,
and a step decides by the document alone. So the work can be cut anywhere, done anywhere, and done again after a kill with the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Origin:
    """One source of a recipe: what to read, and what is known of all that lies in it.

    Attributes:
        path: of a folder or file; for ``github`` what to fetch, such as ``owner/name``.
        kind: folder, git, archive, table, text, github, web or wiki; seen from the path if empty.
        include: names to read, such as ``*.py``; all if empty. A pattern without ``/`` is held against the name, one with it against the whole path.
        exclude: names to leave out; stronger than ``include``.
        column: of a table, the one with the text; ``content`` or ``text`` if empty.
        license: SPDX id of all that lies in it, where it does not say so itself.
        max_bytes: a longer document is left out and counted; so is a line of a table that is longer.
    """

    path: str
    kind: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    column: str = ""
    license: str = ""
    max_bytes: int = 1 << 20


@dataclass(slots=True)
class Document:
    """One text and where it came from.

    Attributes:
        text: as it stands now.
        path: as a reader would look it up: ``src/a.py``, ``dump.zip!b/c.py``, ``rows.jsonl:17``.
        facts: what the source or a step says about it: ``repo``, ``license``, ``language``, ``url``. Written beside the text.
        changed: what steps changed in it, such as ``mail: 2``; summed in the manifest.
    """

    text: str
    path: str
    facts: dict[str, str] = field(default_factory=dict)
    changed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Unit:
    """A part of a source that one worker reads from beginning to end.

    Attributes:
        key: which part, in the source's own words: a file, a member list, a row group.
        start, stop: where in it, in the source's own count.
        size: about how many bytes of text, for sharing out the work and for progress.
    """

    key: str
    start: int = 0
    stop: int = 0
    size: int = 0


@dataclass
class Trouble:
    """What could not be read, by reason, with a few examples: it is counted and told, and the build goes on.

    Attributes:
        counts: of reasons in a few fixed words: ``not UTF-8``, ``binary``, ``too long``, ``vanished``, ``unreadable``, ``link``.
        examples: up to ``most`` paths of each reason, with what was seen there.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    most: int = 5

    def add(self, reason: str, path: str, seen: str = "") -> None:
        """Count one thing that was left out."""
        self.counts[reason] += 1
        some = self.examples.setdefault(reason, [])
        if len(some) < self.most:
            some.append(f"{path}: {seen}" if seen else path)


class Source(Protocol):
    """Reads one origin; made from an ``Origin`` alone, so that another process or machine can make it again."""

    def units(self, work: Path) -> Iterator[Unit]:
        """What there is to read, in an order that depends on the input alone. Lists too long for memory may be kept as files in the folder ``work``.

        Raises:
            DataError: there is nothing to read there at all, or it is hostile (a link or name that leads outside, an archive that unpacks without end).
        """

    def read(self, unit: Unit, trouble: Trouble) -> Iterator[Document]:
        """The documents of one unit, in its order; what can't be read is told to ``trouble`` and left out.

        Raises:
            DataError: the source as a whole is broken or hostile.
        """


class Step(Protocol):
    """Changes a document in place, or says why it is dropped; made from options alone."""

    name: str

    def __call__(self, document: Document) -> str | None:
        """The reason in a few fixed words if the document is to be dropped, else None."""
