"""What a task counts, and how counts of tasks become those of a build. Plain data (dicts of whole numbers), added up in the order of the tasks.

Unusual: a table of names never grows without end. Past ``MOST`` names new ones are counted as ``(other)``; the order is fixed, so the result is, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nabi.data.corpus.documents import Trouble

MOST = 10_000
EXAMPLES = 5
OTHER = "(other)"
Tally = dict[str, list[int]]  # name -> [documents, bytes]


def tally(table: Tally, name: str, documents: int, size: int) -> None:
    """Count documents and their bytes under a name."""
    if name not in table and len(table) >= MOST:
        name = OTHER
    pair = table.setdefault(name, [0, 0])
    pair[0] += documents
    pair[1] += size


class StepCount:
    """What one step did.

    Attributes:
        documents, bytes: [in, out].
        dropped: reason -> [documents, bytes].
        examples: reason -> a few paths.
        changed: what was changed -> how often.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents, self.bytes = [0, 0], [0, 0]
        self.dropped: Tally = {}
        self.examples: dict[str, list[str]] = {}
        self.changed: dict[str, int] = {}

    def drop(self, reason: str, path: str, size: int) -> None:
        """One document that ends here."""
        tally(self.dropped, reason, 1, size)
        some = self.examples.setdefault(reason, [])
        if len(some) < EXAMPLES:
            some.append(path)

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))

    def add(self, facts: Mapping[str, Any]) -> None:
        """Add those of another task."""
        for mine, other in ((self.documents, facts["documents"]), (self.bytes, facts["bytes"])):
            mine[0] += other[0]
            mine[1] += other[1]
        for reason, (documents, size) in facts["dropped"].items():
            tally(self.dropped, reason, documents, size)
        add_examples(self.examples, facts["examples"])
        for name, count in facts["changed"].items():
            self.changed[name] = self.changed.get(name, 0) + count


def add_examples(table: dict[str, list[str]], more: Mapping[str, list[str]]) -> None:
    """Keep the first few of each reason."""
    for reason, some in more.items():
        kept = table.setdefault(reason, [])
        kept += some[: EXAMPLES - len(kept)]


def add_trouble(total: Trouble, facts: Mapping[str, Any]) -> None:
    """Add what another task could not read."""
    total.counts.update(facts["counts"])
    add_examples(total.examples, facts["examples"])
