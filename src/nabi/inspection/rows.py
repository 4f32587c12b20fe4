"""The doctor's look at rows of any task but text classification: each is shown to the checks of texts as a text, a pair and a label.

What its task can't read, it says itself; a task of a plugin says what its rows hold like any other. Unusual: which task a file is for is read off its columns
where nobody says it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nabi import tasks
from nabi.data import Table, check_labelled
from nabi.data.checks import LONG, Finding, Length
from nabi.errors import OptionError, UserError
from nabi.tasks import Task

_OF_CLASSES = {"single_label", "imbalance"}  # that say something of a label that is no name
_OF_NAMES = {"unseen_labels", "similar_labels", "mixed_label_types", "numbers_among_names", "rare_labels"}


def task_of(columns: Sequence[str], named: str | None = None) -> type[Task]:
    """The task that rows with these columns are for, text classification where nothing else tells; of several the one that the most columns tell.

    Raises:
        OptionError: the name is no task's.
    """
    if named is not None:
        return tasks.find(named)
    told = [(-len(needed), name) for name in tasks.names() for needed in tasks.find(name).told_by if set(needed) <= set(columns)]
    return tasks.find(min(told)[1] if told else "text_classification")


def check_rows(kind: type[Task], table: Table, dev: Table | None = None, *, length: Length | None = None, limit: int = LONG) -> list[Finding]:
    """What is wrong with rows of a task; errors come first.

    Args:
        kind: the task.
        table, dev: the rows to train on, and those to score.
        length, limit: as for :func:`nabi.data.check_labelled`.

    Raises:
        DataError: a table lacks a column of the task.
        OptionError: the task has no rows to learn from.
    """
    if not (kind.heads or kind.optional_heads):
        raise OptionError(f"{kind.name} learns from no rows", fix="name another task")
    table, dev = kind.opened(table), dev and kind.opened(dev)
    for part in [table] if dev is None else [table, dev]:
        part.require(kind.required(part.columns))
    refused = _Refused()
    labels = [refused.tried(kind, row, table.where(i), i) for i, row in enumerate(table)]
    shown = _shown(kind, table, labels)
    held_out = None if dev is None else _shown(kind, dev, [None] * len(dev))
    unsaid = _OF_NAMES | (set() if kind.classed else _OF_CLASSES) | (set() if kind.columns != ("text",) else {"conflicting_labels"}) | {"missing_label"}
    found = [each for each in check_labelled(shown, held_out, length=length, limit=limit) if each.code not in unsaid]
    found = [replace(each, fix="leave out rows of the commoner label, or add of the others") if each.code == "imbalance" else each for each in found]
    found = [*refused.told(table), *found, *kind.doubts(table, labels)]
    return sorted(found, key=lambda each: ("error", "warning", "info").index(each.severity))


class _Refused:
    """The rows that the task can't read, by what it says."""

    def __init__(self) -> None:
        self._said: list[tuple[int, str]] = []

    def tried(self, kind: type[Task], row: Mapping[str, Any], where: str, index: int) -> Any:
        """What the row says; None if it can't be read."""
        try:
            return kind.said(row, where)
        except UserError as problem:
            self._said.append((index, str(problem)))
            return None

    def told(self, table: Table) -> Iterator[Finding]:
        """One finding about all of them."""
        if self._said:
            rows, messages = zip(*self._said, strict=True)
            message = f"{len(rows):,} of {len(table):,} rows can't be read. {' | '.join(messages[:3])}{' | ...' if len(rows) > 3 else ''}"
            yield Finding("unreadable", "error", message, rows, "mend these rows, or leave them out")


def _shown(kind: type[Task], table: Table, labels: Sequence[Any]) -> Table:
    """A text, a pair and a label of each row."""
    rows = []
    for row, label in zip(table, labels, strict=True):
        text, pair = kind.shown(row)
        told = label if label is None or isinstance(label, str | int) else json.dumps(label, ensure_ascii=False, default=str)
        rows.append({"text": text, "text_pair": pair, "label": told})
    return Table(rows, table.name, unit=table.unit, numbers=[int(table.where(i).rpartition(" ")[2]) for i in range(len(table))], sha256=table.sha256)
