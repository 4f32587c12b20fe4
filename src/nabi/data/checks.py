"""Checks of labelled texts: what in the data would spoil the training or its score.

Texts are compared by 16-byte digests of two forms: ``folded`` (case and white space aside), as splits compare them, and ``bare`` (punctuation and
compatibility forms aside too). So beside the table itself a check keeps about 500 bytes a row, however long the texts are.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nabi.data.parsing import SURROGATE
from nabi.data.split import folded
from nabi.data.tables import Table
from nabi.errors import shortened

Severity = Literal["error", "warning", "info"]
Length = Callable[[str, str | None], int]
LONG = 2000
IMBALANCE = 5
# UTF-8 read as Latin-1 or Windows-1252: a lead byte shows as one of these letters, what follows as controls, signs or typographic marks
_FOLLOWS = "[\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
MOJIBAKE = re.compile(f"\ufffd|[ÃÂ]{_FOLLOWS}|[âãê-í]{_FOLLOWS}{{2}}")
CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
NUMBER = re.compile(r"\s*[+-]?\d+([.,]\d+)?\s*")
_NFC = "python -c \"import sys, unicodedata; sys.stdout.write(unicodedata.normalize('NFC', sys.stdin.read()))\" < FILE > nfc-FILE"

CODES: dict[str, tuple[Severity, str, str]] = {
    "not_text": ("error", "a text that is not a string", "write it as a string or leave the row out"),
    "missing_label": ("error", "no label", "label the row or leave it out"),
    "single_label": ("error", "the same label in all rows", "add rows of another label"),
    "leakage": ("error", "a dev text that is in train too", "take it out of one side; --dev 0.1 splits so that equal texts stay together"),
    "unseen_labels": ("error", "a dev label that train does not have", "add rows to train, or spell the labels alike"),
    "surrogates": ("error", "half of a surrogate pair, which is no character", "write it again: text.encode('utf-16', 'surrogatepass').decode('utf-16')"),
    "near_leakage": ("warning", "a dev text that differs from one in train by punctuation or letter forms only", "take it out of one side"),
    "empty_texts": ("warning", "an empty text: the model sees its special tokens only", "leave it out unless empty texts come in use too"),
    "long_texts": ("warning", "a text of more than", "nothing is cut: it is read in windows; --set options.long=truncate reads its beginning only"),
    "encoding": ("warning", "a text that looks wrongly decoded (such as Ã© or U+FFFD)", "write the file again from its source as UTF-8"),
    "control_characters": ("warning", "a text with control characters", "delete them: re.sub(r'[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]', '', text)"),
    "byte_order_mark": ("warning", "a byte order mark (U+FEFF) inside a text, as joined files have", "sed 's/\\xef\\xbb\\xbf//g' FILE > clean-FILE"),
    "decomposed": ("warning", "letters or Hangul syllables that are taken apart (not NFC), as some file systems write them", f"compose them: {_NFC}"),
    "duplicates": ("warning", "a text that came before with the same label", "leave the repeats out, or know that they weigh more"),
    "near_duplicates": ("warning", "a text that differs from an earlier one by punctuation or letter forms only", "leave one of them out"),
    "conflicting_labels": ("warning", "a text that also has another label", "decide for one label"),
    "imbalance": ("warning", "the commonest label", "train with --set task.class_weights=balanced and read macro_f1, or add rows of the rare labels"),
    "similar_labels": ("warning", "labels that differ only by case or white space", "spell them alike"),
    "mixed_label_types": ("warning", "labels of another type than most", "write all labels as one type"),
    "numbers_among_names": ("warning", "labels that are numbers where most are words, or words where most are numbers", "look whether a column has slipped"),
    "rare_labels": ("warning", "a label with a single row, which can't be in both train and dev", "add rows, or join it to another label"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data.

    Args:
        code: its name, a key of ``CODES``.
        severity: ``error``: the training fails or its score misleads; ``warning``: worth a look.
        message: what was found, how often, and the first places.
        rows: indexes of all the rows concerned: in the dev table for ``leakage``, ``near_leakage`` and ``unseen_labels``, else in the table.
        fix: what to do.
    """

    code: str
    severity: Severity
    message: str
    rows: tuple[int, ...]
    fix: str


def check_labelled(
    table: Table, dev: Table | None = None, text: str = "text", label: str = "label", *, length: Length | None = None, limit: int = LONG
) -> list[Finding]:
    """Look for flaws of a classification set; errors come first. A ``text_pair`` column counts as part of the text.

    Each label of a list is checked. Where the labels are numbers with a fraction (regression), the checks of classes are left out.

    Args:
        table, dev: the rows to train on, and those to score.
        text, label: their columns.
        length: how long a text and its pair are, in tokens of a model; characters if None.
        limit: what is longer is reported.

    Raises:
        DataError: a table has no such column.
    """
    for part in [table] if dev is None else [table, dev]:
        part.require([text, label])
    keys = [_key(row, text) for row in table]
    labels = [_labels(row[label]) for row in table]
    found = [*_texts(table, text, length, limit), *_repeats(table, keys, labels)]
    found += _finding(table, "missing_label", [i for i, values in enumerate(labels) if None in values])
    classes = not _measures(labels)
    if classes:
        found += _classes(table, labels)
    if dev is not None:
        found += _leaks(dev, [_key(row, text) for row in dev], keys)
        if classes:
            known = {v for values in labels for v in values} | {None}
            new = [[v for v in _labels(row[label]) if v not in known] for row in dev]
            names = _named(v for values in new for v in values)
            found += _finding(dev, "unseen_labels", [i for i, values in enumerate(new) if values], names)
    return sorted(found, key=lambda finding: finding.severity != "error")


def bare(value: Any) -> str:
    """A text for loose comparison: compatibility forms composed (NFKC), case folded, no white space, punctuation or control characters.

    Symbols stay, and so does a text that has nothing else: ``:)`` is not ``:(``.
    """
    text = folded(value)
    return unicodedata.normalize("NFKC", text).casefold().translate(_DROPPED) or text


class _Dropped(dict[int, int | None]):
    """For ``str.translate``: each character's fate, worked out when it first occurs."""

    def __missing__(self, code: int) -> int | None:
        self[code] = fate = None if unicodedata.category(chr(code))[0] in "PZC" else code
        return fate


_DROPPED = _Dropped()
_Key = tuple[bytes, bytes] | None  # digests of the folded and the bare text; None for a row without one


def _finding(table: Table, code: str, rows: Iterable[int], detail: str = "", fix: str = "") -> Iterator[Finding]:
    """The finding about ``rows``, or nothing if there are none."""
    if found := tuple(sorted(rows)):
        severity, what, usual = CODES[code]
        places = "; ".join(table.where(i) for i in found[:3]) + ("; ..." if len(found) > 3 else "")
        yield Finding(code, severity, f"{len(found):,} of {len(table):,} rows: {what}{detail} ({places})", found, fix or usual)


def _texts(table: Table, column: str, length: Length | None, limit: int) -> Iterator[Finding]:
    found: dict[str, list[int]] = {}
    mended: dict[str, str] = {}
    longest = 0
    for index, row in enumerate(table):
        text, pair = row[column], row.get("text_pair")
        if not isinstance(text, str):
            found.setdefault("not_text", []).append(index)
            continue
        pair = pair if isinstance(pair, str) else None
        if not text.strip():
            found.setdefault("empty_texts", []).append(index)
        both = text if pair is None else f"{text}\n{pair}"
        for code in _characters(both):
            found.setdefault(code, []).append(index)
            if code == "encoding" and code not in mended and (good := _decoded(both)):
                mended[code] = f"{CODES[code][2]}: {shortened(both, 60)} is {shortened(good, 60)}"
        if "surrogates" in found and found["surrogates"][-1] == index:
            continue  # no tokenizer takes it
        size = len(both) if length is None else length(text, pair)
        if size > limit:
            found.setdefault("long_texts", []).append(index)
            longest = max(longest, size)
    unit = "characters" if length is None else "tokens, which is the model's limit"
    for code in ("not_text", "surrogates", "empty_texts", "long_texts", "encoding", "control_characters", "byte_order_mark", "decomposed"):
        detail = f" {limit:,} {unit}; the longest has {longest:,}" if code == "long_texts" else ""
        yield from _finding(table, code, found.get(code, ()), detail, mended.get(code, ""))


def _characters(text: str) -> Iterator[str]:
    """The codes of what is wrong with a text's characters."""
    if CONTROL.search(text):
        yield "control_characters"
    if text.isascii():
        return
    if MOJIBAKE.search(text):
        yield "encoding"
    if SURROGATE.search(text):
        yield "surrogates"
    elif not unicodedata.is_normalized("NFC", text):
        yield "decomposed"
    if "\ufeff" in text:
        yield "byte_order_mark"


def _decoded(text: str) -> str | None:
    """What a text says that is UTF-8 read as Latin-1 or Windows-1252; None if it is not that alone."""
    for codec in ("cp1252", "latin-1"):
        try:
            return text.encode(codec).decode("utf-8")
        except UnicodeError:
            continue
    return None


def _repeats(table: Table, keys: list[_Key], labels: list[list[Any]]) -> Iterator[Finding]:
    equal: dict[bytes, list[int]] = {}
    for index, key in enumerate(keys):
        if key:
            equal.setdefault(key[0], []).append(index)
    agreeing, differing, near, opposed = [], [], [], 0
    for rows in equal.values():
        if len({frozenset(labels[i]) for i in rows}) > 1:
            differing += rows
        else:
            agreeing += rows[1:]
    first: dict[bytes, int] = {}
    for rows in equal.values():
        before = first.setdefault(keys[rows[0]][1], rows[0])  # type: ignore[index]
        if before != rows[0]:
            near.append(rows[0])
            opposed += set(labels[before]) != set(labels[rows[0]])
    yield from _finding(table, "duplicates", agreeing)
    yield from _finding(table, "near_duplicates", near, f"; {opposed:,} of them with another label" if opposed else "")
    yield from _finding(table, "conflicting_labels", differing)


def _leaks(dev: Table, keys: list[_Key], train: list[_Key]) -> Iterator[Finding]:
    equal, alike = {k[0] for k in train if k}, {k[1] for k in train if k}
    rows = [i for i, k in enumerate(keys) if k and k[0] in equal]
    yield from _finding(dev, "leakage", rows)
    yield from _finding(dev, "near_leakage", [i for i, k in enumerate(keys) if k and k[0] not in equal and k[1] in alike])


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
        spelt.setdefault(folded(name.replace("\ufeff", "")), []).append(name)
    groups = [sorted(names, key=lambda name: -len(where[name])) for names in spelt.values() if len(names) > 1]
    pairs = [(other, names[0]) for names in groups for other in names[1:]]
    edits = ", ".join(f"write {shortened(other)} as {shortened(name)}" for other, name in pairs[:6]) + (", ..." if len(pairs) > 6 else "")
    alike = [name for names in groups for name in names]
    yield from _finding(table, "similar_labels", {i for name in alike for i in where[name]}, _named(alike), edits)
    kinds = Counter(type(v).__name__ for values in labels for v in values if v is not None)
    usual = kinds.most_common(1)[0][0]
    odd = [i for i, values in enumerate(labels) if any(v is not None and type(v).__name__ != usual for v in values)]
    yield from _finding(table, "mixed_label_types", odd, f": {', '.join(k for k in kinds if k != usual)}, not {usual}")
    sides: tuple[list[str], list[str]] = [], []
    for name in where:
        if isinstance(name, str):
            sides[bool(NUMBER.fullmatch(name))].append(name)
    strange = min(sides, key=lambda names: sum(len(where[name]) for name in names)) if all(sides) else []
    yield from _finding(table, "numbers_among_names", {i for name in strange for i in where[name]}, _named(strange))
    rare = [name for name, rows in where.items() if len(rows) == 1]
    yield from _finding(table, "rare_labels", {where[name][0] for name in rare}, _named(rare))


def _named(labels: Iterable[Any]) -> str:
    names = sorted({shortened(v) for v in labels})
    return f": {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"


def _key(row: dict[str, Any], column: str) -> _Key:
    """What makes two rows the same text, and what makes them alike."""
    text, pair = row[column], row.get("text_pair")
    if not isinstance(text, str) or not text.strip():
        return None
    forms = ((f(text) + ("" if pair is None else f"\n{f(pair)}")).encode("utf-8", "surrogatepass") for f in (folded, bare))
    return tuple(hashlib.blake2b(form, digest_size=16).digest() for form in forms)  # type: ignore[return-value]


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
