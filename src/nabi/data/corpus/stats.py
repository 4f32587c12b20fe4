"""``stats``: what is in a corpus, or in any source, counted in one pass: sizes, lines, languages, licences, endings of names, repositories.

Unusual: memory does not grow with the corpus. A percentile comes from a histogram whose bins are less than 1 % wide; a table of names takes no new ones past
``counts.MOST``.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabi.data.corpus.counts import Tally, tally
from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.manifest import read_manifest
from nabi.data.corpus.packed import lines
from nabi.data.corpus.reading import measured
from nabi.data.corpus.sources import open_origin
from nabi.data.corpus.work import MANIFEST
from nabi.data.corpus.writing import extension
from nabi.pages.page import Tile, render
from nabi.pages.sections import Bars, Block, Section, Table

STEPS = 128  # bins in an octave: 0.55 % wide
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
FEW = 20  # rows of a table on the page
NAMES = {"language": "languages", "license": "licenses", "extension": "extensions", "repo": "repositories"}


class Lengths:
    """How long things are, to 1 %."""

    def __init__(self) -> None:
        self.count = self.total = self.most = 0
        self.least = -1
        self._bins: dict[int, int] = {}

    def add(self, length: int) -> None:
        """One more."""
        self.count += 1
        self.total += length
        self.most = max(self.most, length)
        self.least = length if self.least < 0 else min(self.least, length)
        place = length if length < STEPS else STEPS + int((math.log2(length) - 7) * STEPS)
        self._bins[place] = self._bins.get(place, 0) + 1

    def percentile(self, share: float) -> int:
        """The length that ``share`` of 100 are not longer than."""
        wanted, passed = max(1, math.ceil(self.count * share / 100)), 0
        for place in sorted(self._bins):
            passed += self._bins[place]
            if passed >= wanted:
                return min(self.most, max(self.least, self._middle(place)))
        return 0

    @staticmethod
    def _middle(place: int) -> int:
        return place if place < STEPS else round(2 ** ((place - STEPS + 0.5) / STEPS + 7))

    def octaves(self) -> tuple[list[float], list[int]]:
        """Powers of two as edges, and the counts between them."""
        counts: dict[int, int] = {}
        for place, count in self._bins.items():
            power = max(0, (max(1, place).bit_length() - 1) if place < STEPS else 7 + (place - STEPS) // STEPS)
            counts[power] = counts.get(power, 0) + count
        first, last = min(counts, default=0), max(counts, default=0)
        return [float(power) for power in range(first, last + 2)], [counts.get(power, 0) for power in range(first, last + 1)]

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        mean = round(self.total / self.count, 1) if self.count else 0
        places = {f"p{share}": self.percentile(share) for share in PERCENTILES}
        return {"total": self.total, "mean": mean, "least": max(0, self.least), **places, "most": self.most}


@dataclass
class Stats:
    """What was counted.

    Attributes:
        name: of the corpus or source.
        bytes, lines: of each document's text.
        splits: documents and bytes of train and dev.
        tables: language, license, extension, repo -> documents and bytes of each.
        unreadable: reason -> how many.
    """

    name: str
    bytes: Lengths = field(default_factory=Lengths)
    lines: Lengths = field(default_factory=Lengths)
    splits: Tally = field(default_factory=dict)
    tables: dict[str, Tally] = field(default_factory=lambda: {name: {} for name in NAMES})
    unreadable: dict[str, int] = field(default_factory=dict)

    def add(self, document: Document, split: str = "") -> None:
        """Count a document."""
        size = measured(document.text)
        if size is None:
            self.unreadable["not UTF-8"] = self.unreadable.get("not UTF-8", 0) + 1
            return
        text = document.text
        self.bytes.add(size)
        self.lines.add(text.count("\n") + (not text.endswith("\n") and bool(text)))
        if split:
            tally(self.splits, split, 1, size)
        for name, table in self.tables.items():
            tally(table, extension(document.facts.get("path") or document.path) if name == "extension" else document.facts.get(name, ""), 1, size)

    def facts(self, most: int = 200) -> dict[str, Any]:
        """As plain data; of each table the most frequent names."""
        tables = {NAMES[name]: {key: {"documents": n, "bytes": size} for key, (n, size) in top(table, most)} for name, table in self.tables.items()}
        splits = {name: {"documents": n, "bytes": size} for name, (n, size) in self.splits.items()}
        facts = {"name": self.name, "documents": self.bytes.count, "bytes": self.bytes.facts(), "lines": self.lines.facts(), "splits": splits}
        return {**facts, **tables, "unreadable": dict(sorted(self.unreadable.items()))}


def top(table: Tally, most: int) -> list[tuple[str, list[int]]]:
    """The names with the most documents."""
    return sorted(table.items(), key=lambda item: (-item[1][0], item[0]))[:most]


def corpus_stats(path: str | Path) -> Stats:
    """Count what is in a folder that ``build`` made, or in any source: a folder, a file, an archive.

    Raises:
        DataError: there is nothing there, or it can't be read.
        OptionError: a package that it needs is not installed.
    """
    path = Path(path)
    stats = Stats(path.name or str(path))
    if (path / MANIFEST).exists():
        for file in read_manifest(path)["files"]:
            for line in lines(path / file["name"]):
                row = json.loads(line)
                stats.add(Document(row.pop("text"), row.pop("path"), row), file["split"])
        return stats
    trouble = Trouble()
    with closing(_documents(str(path), trouble)) as documents:
        for document in documents:
            stats.add(document)
    for reason, count in trouble.counts.items():
        stats.unreadable[reason] = stats.unreadable.get(reason, 0) + count
    return stats


def _documents(path: str, trouble: Trouble) -> Generator[Document]:
    source = open_origin(Origin(path))
    with tempfile.TemporaryDirectory(prefix="nabi-") as lists:
        for unit in source.units(Path(lists)):
            yield from source.read(unit, trouble)


def told(stats: Stats) -> list[str]:
    """For a terminal."""
    found = [f"{stats.name}: {stats.bytes.count:,} documents, {stats.bytes.total:,} bytes, {stats.lines.total:,} lines"]
    found += [f"  {name:<10} {n:>10,} documents {size:>16,} bytes" for name, (n, size) in stats.splits.items()]
    head = "".join(f"{name:>11}" for name in ("mean", "least", *(f"{share} %" for share in PERCENTILES), "most"))
    found.append(f"  {'length':<10} {head}")
    for name, lengths in (("bytes", stats.bytes), ("lines", stats.lines)):
        facts = lengths.facts()
        found.append(f"  {name:<10} " + "".join(f"{value:>11,}" for key, value in facts.items() if key != "total"))
    for name, table in stats.tables.items():
        if not set(table) <= {""}:
            found.append(f"  {NAMES[name]}")
            found += [f"    {key or '(none)':<30} {n:>10,} documents {size:>16,} bytes" for key, (n, size) in top(table, 10)]
    found += [f"  {reason:<30} {count:>10,} left out" for reason, count in sorted(stats.unreadable.items())]
    return found


def page(stats: Stats) -> str:
    """A self-contained page with tables and charts."""
    tiles: list[Tile] = [("documents", stats.bytes.count, ""), ("bytes", stats.bytes.total, ""), ("lines", stats.lines.total, "")]
    tiles += [(name, n, f"{size:,} bytes") for name, (n, size) in stats.splits.items()]
    sections = [Section("Length", _lengths(stats))]
    for name, table in stats.tables.items():
        if not set(table) <= {""}:
            sections.append(Section(NAMES[name].capitalize(), [_table(name, table, stats.bytes)]))
    if stats.unreadable:
        sections.append(Section("Left out", [Table(("reason", "how many"), sorted(stats.unreadable.items()))]))
    return render(stats.name, "What is in this corpus, counted.", tiles, sections)


def _lengths(stats: Stats) -> list[Block]:
    kinds = (("bytes", stats.bytes), ("lines", stats.lines))
    rows = [(name, *(value for value in lengths.facts().values())) for name, lengths in kinds]
    head = ("", "in all", "mean", "shortest", *(f"{share} % are not longer" for share in PERCENTILES), "longest")
    charts: list[Block] = [
        Bars(f"Documents by their {name}", f"{name} of a document, as a power of 2", *lengths.octaves(), "documents")
        for name, lengths in kinds
        if lengths.count
    ]
    return [Table(head, rows, "Of the text of each document; percentiles to 1 %."), *charts]


def _table(name: str, table: Tally, all_of_them: Lengths) -> Table:
    rows = [(key or "(none)", n, 100 * n / all_of_them.count, size, 100 * size / max(1, all_of_them.total)) for key, (n, size) in top(table, FEW)]
    more = f"The {FEW} with the most documents of {len(table):,}." if len(table) > FEW else ""
    return Table((name, "documents", "% of documents", "bytes", "% of bytes"), rows, more)
