"""What the examples of token classification say: the text, where its words lie, and the labels in any of the forms of the data."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any

from nabi.data import Finding, Table
from nabi.errors import DataError, InputError, shortened
from nabi.metrics.tagged import OUTSIDE, entities, parts_of
from nabi.tasks import Example

Span = tuple[int, int]
SHOWN = 6  # types of entities that are counted in a message


@dataclass(frozen=True)
class Labels:
    """Tags of words, one each, or spans of a text: (start, end, type), in order and apart."""

    tags: list[str] | None
    spans: list[tuple[int, int, str]]


def content(example: Example, words_only: bool, where: str, error: type[DataError | InputError] = InputError) -> tuple[str, list[Span] | None]:
    """The text, and where its words lie if they were given.

    Args:
        example: a mapping with ``tokens`` or ``text``.
        words_only: refuse a text that is not split.
        where: what to call it in an error.
        error: what is raised.
    """
    name, text = where or "an input", example.get("text")
    if "tokens" in example and not (isinstance(text, str) and example.keys() & {"spans", "char_tags"}):
        tokens = example["tokens"]
        if not isinstance(tokens, list | tuple) or not all(isinstance(token, str) for token in tokens):
            raise error(f"{name}: the tokens are not a list of words", value=tokens, expected='["Nabi", "flies"]', fix="write the rows as JSON lines")
        return " ".join(tokens), list(spans_of(tokens, 1))
    if not isinstance(text, str):
        raise error(f"{name} has no text", value=text, expected="a str, a list of words, {'text': ...} or {'tokens': [...]}")
    if words_only:
        raise error(f"{name} is not split into words", value=text, expected='a list of words such as ["Nabi", "flies"]', fix="several lists go into one list")
    return text, None


def spans_of(tokens: Sequence[str], between: int) -> Iterator[Span]:
    """Where words lie that are joined by so many characters."""
    at = 0
    for token in tokens:
        yield at, at + len(token)
        at += len(token) + between


def same(at: int) -> int:
    """Places in a text that was not changed."""
    return at


def mover(of: Sequence[Span], to: Sequence[Span]) -> Callable[[int], int]:
    """From places in a text to those in another that has the same words."""
    starts = [start for start, _ in of]

    def moved(at: int) -> int:
        k = max(bisect_right(starts, at) - 1, 0)
        return min(to[k][0] + at - of[k][0], to[k][1]) if to else at

    return moved


def labels_of(example: Example, names: Sequence[str], where: str) -> Labels:
    """The labels of an example; numbers stand for ``names``.

    Raises:
        DataError: there are none, or they do not fit the text.
    """
    text = example.get("text")
    if isinstance(text, str) and "spans" in example:
        return Labels(None, _spans(example["spans"], text, where))
    if isinstance(text, str) and "char_tags" in example:
        tags = _tags(example["char_tags"], names, f"{where}: char_tags", len(text), "characters")
        return Labels(None, [(start, end, type_) for type_, start, end in entities(tags)])
    if "tokens" in example and "tags" in example:
        tokens = example["tokens"]
        if not isinstance(tokens, list | tuple):
            raise DataError(f"{where}: the tokens are not a list of words", value=tokens, expected='["Nabi", "flies"]', fix="write the rows as JSON lines")
        return Labels(_tags(example["tags"], names, f"{where}: tags", len(tokens), "tokens"), [])
    raise DataError(f"{where} has no labels", value=sorted(example), expected="'tokens' and 'tags', or 'text' and 'spans' or 'char_tags'")


def _tags(value: Any, names: Sequence[str], what: str, count: int, of: str) -> list[str]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{what} is not a list", value=value, expected=f"one tag for each of the {count} {of}", fix="write the rows as JSON lines")
    if len(value) != count:
        raise DataError(f"{what}: another number than {of}", value=f"{len(value)} tags, {count} {of}", expected=f"one tag for each of the {of}")
    found = []
    for i, tag in enumerate(value):
        if isinstance(tag, Integral) and not isinstance(tag, bool):
            if names and not 0 <= int(tag) < len(names):
                raise DataError(f"{what}: a number that no label has", value=tag, expected=f"0 to {len(names) - 1}, for {', '.join(names)}")
            tag = names[int(tag)] if names else str(tag)
        if not isinstance(tag, str) or not tag.strip():
            raise DataError(f"{what}: tag {i + 1} is missing or no tag", value=repr(tag), expected="a name or a whole number")
        found.append(tag)
    return found


def _spans(value: Any, text: str, where: str) -> list[tuple[int, int, str]]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: the spans are not a list", value=value, expected="[[start, end, label], ...]", fix="write the rows as JSON lines")
    found = []
    for span in value:
        parts = [span.get(key) for key in ("start", "end", "label")] if isinstance(span, Mapping) else span
        if not isinstance(parts, list | tuple) or len(parts) != 3 or not isinstance(parts[2], str) or not parts[2].strip():
            raise DataError(f"{where}: this is no span", value=span, expected="[start, end, label]")
        start, end, label = parts
        if any(isinstance(at, bool) or not isinstance(at, Integral) for at in (start, end)) or not 0 <= int(start) < int(end) <= len(text):
            raise DataError(f"{where}: a span lies outside of the text", value=list(parts), expected=f"0 <= start < end <= {len(text)}, whole numbers")
        found.append((int(start), int(end), label))
    found.sort()
    for one, other in pairwise(found):
        if other[0] < one[1]:
            raise DataError(f"{where}: two spans overlap", value=[list(one), list(other)], expected="spans that lie apart", fix="keep one of them")
    return found


def doubts(table: Table, said: Sequence[Any]) -> Iterator[Finding]:
    """Tags that no scheme allows, and how many entities there are of each type."""
    broken, counts = [], Counter[str]()
    example = ""
    for i, found in enumerate(said):
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
