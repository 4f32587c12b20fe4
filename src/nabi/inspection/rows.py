"""The doctor's look at rows of any task but text classification: each is shown to the checks of texts as a text, a pair and a label.

What its task can't read, it says itself. Unusual: which task a file is for is read off its columns where nobody says it.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nabi import tasks
from nabi.data import Table, check_labelled
from nabi.data.checks import LONG, Finding, Length
from nabi.errors import OptionError, UserError, shortened
from nabi.metrics.tagged import OUTSIDE, entities, parts_of
from nabi.tasks import Task

# the columns that tell a task
_TOLD = (
    ("token_classification", ("tags",)), ("token_classification", ("spans",)), ("token_classification", ("char_tags",)),
    ("multiple_choice", ("question", "choices")), ("question_answering", ("question", "context")), ("question_answering", ("questions", "context")),
    ("next_sentence", ("text", "next")), ("sentence_similarity", ("text", "text_pair", "score")), ("text2text_generation", ("source", "target")),
)  # fmt: skip
_OF_CLASSES = {"single_label", "imbalance"}  # that say something of a label that is no name
_OF_NAMES = {"unseen_labels", "similar_labels", "mixed_label_types", "numbers_among_names", "rare_labels"}
SHOWN = 6  # kinds of labels that are counted in a message


def task_of(columns: Sequence[str], named: str | None = None) -> type[Task]:
    """The task that rows with these columns are for, text classification where nothing else tells.

    Raises:
        OptionError: the name is no task's.
    """
    told = next((name for name, needed in _TOLD if set(needed) <= set(columns)), "text_classification")
    return tasks.find(named or told)


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
    read, refused = _reader(kind), _Refused()
    labels = [refused.tried(read, row, table.where(i), i) for i, row in enumerate(table)]
    shown = _shown(kind, table, labels)
    held_out = None if dev is None else _shown(kind, dev, [None] * len(dev))
    choice = kind.name in ("multiple_choice", "next_sentence", "pretraining")
    unsaid = _OF_NAMES | (set() if choice else _OF_CLASSES) | (set() if kind.columns != ("text",) else {"conflicting_labels"}) | {"missing_label"}
    found = [each for each in check_labelled(shown, held_out, length=length, limit=limit) if each.code not in unsaid]
    found = [replace(each, fix="leave out rows of the commoner label, or add of the others") if each.code == "imbalance" else each for each in found]
    found = [*refused.told(table), *found]
    if kind.name == "token_classification":
        found += _tags(table, labels)
    if kind.name == "question_answering":
        silent = [i for i, label in enumerate(labels) if label == ()]
        if silent:
            message = f"{len(silent):,} of {len(table):,} rows have no answer, so the model learns to give none."
            found.append(Finding("no_answers", "info", message, tuple(silent), ""))
    return sorted(found, key=lambda each: ("error", "warning", "info").index(each.severity))


class _Refused:
    """The rows that the task can't read, by what it says."""

    def __init__(self) -> None:
        self._said: list[tuple[int, str]] = []

    def tried(self, read: Callable[[Mapping[str, Any], str], Any], row: Mapping[str, Any], where: str, index: int) -> Any:
        """What the row says; None if it can't be read."""
        try:
            return read(row, where)
        except UserError as problem:
            self._said.append((index, str(problem)))
            return None

    def told(self, table: Table) -> Iterator[Finding]:
        """One finding about all of them."""
        if self._said:
            rows, messages = zip(*self._said, strict=True)
            message = f"{len(rows):,} of {len(table):,} rows can't be read. {' | '.join(messages[:3])}{' | ...' if len(rows) > 3 else ''}"
            yield Finding("unreadable", "error", message, rows, "mend these rows, or leave them out")


def _reader(kind: type[Task]) -> Callable[[Mapping[str, Any], str], Any]:
    """(row, where) -> what holds of it, in a form that can be compared."""
    if kind.name == "token_classification":
        from nabi.tasks._tagged_examples import content, labels_of

        def tags(row: Mapping[str, Any], where: str) -> Any:
            content(row, False, where)
            found = labels_of(row, (), where)
            return tuple(found.tags) if found.tags is not None else tuple(found.spans)

        return tags
    if kind.name == "question_answering":
        from nabi.tasks.question_answering import answer_places

        return lambda row, where: tuple(answer_places(row, where))
    if kind.name in ("multiple_choice", "next_sentence", "pretraining", "sentence_similarity"):
        task = kind(kind.Settings())
        return lambda row, where: task.truth(row, where)
    label = kind.columns[1] if len(kind.columns) > 1 else None
    return lambda row, where: None if label is None else row.get(label)


def _shown(kind: type[Task], table: Table, labels: Sequence[Any]) -> Table:
    """A text, a pair and a label of each row."""
    rows = []
    for row, label in zip(table, labels, strict=True):
        text, pair = row.get(kind.columns[0]), None
        if kind.name == "token_classification":
            tokens = row.get("tokens")
            text = row["text"] if isinstance(row.get("text"), str) else " ".join(map(str, tokens)) if isinstance(tokens, list | tuple) else tokens
        elif kind.name == "question_answering":
            text, pair = row.get("context"), row.get("question")
        elif kind.name == "multiple_choice":
            choices = row.get("choices")
            text, pair = row.get("question"), "\n".join([str(row.get("context") or ""), *(map(str, choices) if isinstance(choices, list | tuple) else [])])
        elif kind.name in ("next_sentence", "pretraining", "sentence_similarity"):
            pair = row.get("text_pair" if kind.name == "sentence_similarity" else "next")
        told = label if isinstance(label, str | int) else json.dumps(label, ensure_ascii=False, default=str)
        rows.append({"text": text, "text_pair": pair, "label": told})
    return Table(rows, table.name, unit=table.unit, numbers=[int(table.where(i).rpartition(" ")[2]) for i in range(len(table))], sha256=table.sha256)


def _tags(table: Table, labels: Sequence[Any]) -> Iterator[Finding]:
    """Tags that no scheme allows, and how many entities there are of each type."""
    broken, counts = [], Counter[str]()
    example = ""
    for i, found in enumerate(labels):
        if not found:
            continue
        tags = [tag for tag in found if isinstance(tag, str)]
        if not tags:
            counts.update(span[2] for span in found)
            continue
        counts.update(type_ for type_, _, _ in entities(tags))
        for before, tag in zip([OUTSIDE, *tags], tags, strict=False):
            if tag[:2] == "I-" and (parts_of(before)[0] not in ("B", "I") or parts_of(before)[1] != parts_of(tag)[1]):
                example = example or f"{tag} behind {before}"
                broken.append(i)
                break
    if broken:
        places = "; ".join(table.where(i) for i in broken[:3]) + ("; ..." if len(broken) > 3 else "")
        message = f"{len(broken):,} of {len(table):,} rows: a tag inside an entity that nothing begins, such as {example} ({places})"
        yield Finding("broken_tags", "warning", message, tuple(broken), "write B- where an entity begins; it is read as its begin anyway")
    if counts:
        told = ", ".join(f"{shortened(name)} {count:,}" for name, count in counts.most_common(SHOWN)) + (", ..." if len(counts) > SHOWN else "")
        yield Finding("entities", "info", f"{counts.total():,} entities in {len(table):,} rows: {told}.", (), "")
    else:
        warnings.warn(f"{table.name} has no entities, so there is nothing to learn", stacklevel=2)
