"""Checks of labelled texts: what in the data would spoil the training or its score."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nabi.data.split import folded
from nabi.data.tables import Table
from nabi.errors import shortened

Severity = Literal["error", "warning"]
LONG = 2000
IMBALANCE = 5
# UTF-8 read as Latin-1 or Windows-1252: a lead byte shows as one of these letters, what follows as controls, signs or typographic marks
_FOLLOWS = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
MOJIBAKE = re.compile(f"\ufffd|[ÃÂ]{_FOLLOWS}|[âãê-í]{_FOLLOWS}{{2}}")

CODES: dict[str, tuple[Severity, str, str]] = {
    "not_text": ("error", "a text that is not a string", "write it as a string or leave the row out"),
    "missing_label": ("error", "no label", "label the row or leave it out"),
    "single_label": ("error", "the same label in all rows", "add rows of another label"),
    "leakage": ("error", "a dev text that is in train too", "take it out of one side; nabi.data.split keeps equal texts together"),
    "unseen_labels": ("error", "a dev label that train does not have", "add rows to train, or spell the labels alike"),
    "empty_texts": ("warning", "an empty text: the model sees its special tokens only", "leave it out unless empty texts come in use too"),
    "long_texts": ("warning", f"a text of more than {LONG:,} characters, read in windows", "nothing is cut; check that it is one text"),
    "encoding": ("warning", "a text that looks wrongly decoded (such as Ã© or U+FFFD)", "write the file again from its source as UTF-8"),
    "duplicates": ("warning", "a text that came before with the same label", "leave the repeats out, or know that they weigh more"),
    "conflicting_labels": ("warning", "a text that also has another label", "decide for one label"),
    "imbalance": ("warning", "the commonest label", "read macro_f1 beside accuracy; add rows of the rare labels"),
    "similar_labels": ("warning", "labels that differ only by case or white space", "spell them alike"),
    "mixed_label_types": ("warning", "labels of another type than most", "write all labels as one type"),
    "rare_labels": ("warning", "a label with a single row, which can't be in both train and dev", "add rows, or join it to another label"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data.

    Args:
        code: its name, a key of ``CODES``.
        severity: ``error``: the training fails or its score misleads; ``warning``: worth a look.
        message: what was found, how often, and the first places.
        rows: indexes of all the rows concerned: in the dev table for ``leakage`` and ``unseen_labels``, else in the table.
        fix: what to do.
    """

    code: str
    severity: Severity
    message: str
    rows: tuple[int, ...]
    fix: str


def check_labelled(table: Table, dev: Table | None = None, text: str = "text", label: str = "label") -> list[Finding]:
    """Look for flaws of a classification set; errors come first. A ``text_pair`` column counts as part of the text.

    Each label of a list is checked. Where the labels are numbers with a fraction (regression), the checks of classes are left out.
    Texts are compared ``folded``.

    Raises:
        DataError: a table has no such column.
    """
    for part in [table] if dev is None else [table, dev]:
        part.require([text, label])
    keys = [_key(row, text) for row in table]
    labels = [_labels(row[label]) for row in table]
    found = [*_texts(table, [row[text] for row in table]), *_repeats(table, keys, labels)]
    found += _finding(table, "missing_label", [i for i, values in enumerate(labels) if None in values])
    classes = not _measures(labels)
    if classes:
        found += _classes(table, labels)
    if dev is not None:
        seen = {k for k in keys if k}
        found += _finding(dev, "leakage", [i for i, row in enumerate(dev) if _key(row, text) in seen])
        if classes:
            known = {v for values in labels for v in values} | {None}
            new = [[v for v in _labels(row[label]) if v not in known] for row in dev]
            names = _named(v for values in new for v in values)
            found += _finding(dev, "unseen_labels", [i for i, values in enumerate(new) if values], names)
    return sorted(found, key=lambda finding: finding.severity != "error")


def _finding(table: Table, code: str, rows: Iterable[int], detail: str = "") -> Iterator[Finding]:
    """The finding about ``rows``, or nothing if there are none."""
    if found := tuple(sorted(rows)):
        severity, what, fix = CODES[code]
        places = "; ".join(table.where(i) for i in found[:3]) + ("; ..." if len(found) > 3 else "")
        yield Finding(code, severity, f"{len(found):,} of {len(table):,} rows: {what}{detail} ({places})", found, fix)


def _texts(table: Table, texts: list[Any]) -> Iterator[Finding]:
    strings = [(i, t) for i, t in enumerate(texts) if isinstance(t, str)]
    yield from _finding(table, "not_text", [i for i, t in enumerate(texts) if not isinstance(t, str)])
    yield from _finding(table, "empty_texts", [i for i, t in strings if not t.strip()])
    yield from _finding(table, "long_texts", [i for i, t in strings if len(t) > LONG])
    yield from _finding(table, "encoding", [i for i, t in strings if MOJIBAKE.search(t)])


def _repeats(table: Table, keys: list[str], labels: list[list[Any]]) -> Iterator[Finding]:
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        if key:
            groups.setdefault(key, []).append(index)
    agreeing, differing = [], []
    for rows in groups.values():
        if len({frozenset(labels[i]) for i in rows}) > 1:
            differing += rows
        else:
            agreeing += rows[1:]
    yield from _finding(table, "duplicates", agreeing)
    yield from _finding(table, "conflicting_labels", differing)


def _classes(table: Table, labels: list[list[Any]]) -> Iterator[Finding]:
    where: dict[Any, list[int]] = {}
    for index, values in enumerate(labels):
        for value in values:
            if value is not None:
                where.setdefault(value, []).append(index)
    if not where:
        return
    common, most = max(where.items(), key=lambda item: len(item[1]))
    fewest = min(map(len, where.values()))
    if len(where) == 1:
        yield from _finding(table, "single_label", most, f", {shortened(common)}")
    elif len(most) >= IMBALANCE * fewest:
        yield from _finding(table, "imbalance", most, f", {shortened(common)} ({len(most) / len(table):.1%}; the rarest has {fewest:,})")
    spelt: dict[str, list[str]] = {}
    for name in {v for v in where if isinstance(v, str)}:
        spelt.setdefault(folded(name), []).append(name)
    alike = [name for names in spelt.values() if len(names) > 1 for name in names]
    yield from _finding(table, "similar_labels", {i for name in alike for i in where[name]}, _named(alike))
    kinds = Counter(type(v).__name__ for values in labels for v in values if v is not None)
    usual = kinds.most_common(1)[0][0]
    odd = [i for i, values in enumerate(labels) if any(v is not None and type(v).__name__ != usual for v in values)]
    yield from _finding(table, "mixed_label_types", odd, f": {', '.join(k for k in kinds if k != usual)}, not {usual}")
    rare = [name for name, rows in where.items() if len(rows) == 1]
    yield from _finding(table, "rare_labels", {where[name][0] for name in rare}, _named(rare))


def _named(labels: Iterable[Any]) -> str:
    names = sorted({shortened(v) for v in labels})
    return f": {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"


def _key(row: dict[str, Any], text: str) -> str:
    """What makes two rows the same text; empty for a row that has none."""
    if not isinstance(row[text], str) or not row[text].strip():
        return ""
    return folded(row[text]) + ("" if row.get("text_pair") is None else f"\n{folded(row['text_pair'])}")


def _labels(value: Any) -> list[Any]:
    """The labels of a row; None for one that is null, blank or not a number."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [None if _blank(v) else v if isinstance(v, str | int | float) else shortened(v) for v in values]


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))


def _measures(labels: list[list[Any]]) -> bool:
    """Whether the labels are measures, not names: numbers, one of them with a fraction. A CSV's numbers are strings."""
    try:
        numbers = [float(v) for values in labels for v in values if v is not None]
    except ValueError:
        return False
    return any(not number.is_integer() for number in numbers)
