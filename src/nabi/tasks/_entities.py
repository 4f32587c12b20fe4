"""From the scores of tokens to entities: the incumbent's five strategies as its version 4 has them, and our own, ``auto``.

``auto`` asks what carries a label. It is a word where words stand apart: its first token's scores count, since nothing else was trained. It is a token
where the model learnt characters, and in scripts that write words together or inflect them by syllables. Then tags become entities, impossible
sequences repaired as the measure reads them (``nabi.metrics.tagged``), and a Korean particle that no token sets apart is taken off.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from nabi.metrics.detail import Array
from nabi.metrics.tagged import entities, parts_of
from nabi.text.particles import stem_end

Span = tuple[int, int]
Strategy = Literal["auto", "none", "simple", "first", "average", "max"]
_RUN = re.compile(r"\S+")
# scripts that put no space between words: kana, Han, Thai, Lao, Burmese, Khmer
_TOGETHER = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_CLITIC = re.compile(r"(?<=\w)['’][sS]$")
_KEPT = "#@%&*"  # marks that belong to the word that they stand at


@dataclass(frozen=True)
class Pieces:
    """The tokens of a text without the special ones, in order.

    Attributes:
        offsets: (start, end) of each in the text.
        scores: (P, C) probabilities.
        index: the place of the first among all tokens; the others follow.
        names: as the vocabulary spells them; unknown: whether each is the unknown token. Both empty where only ``auto`` asks.
    """

    offsets: Sequence[Span]
    scores: Array
    index: int = 0
    names: Sequence[str] = ()
    unknown: Sequence[bool] = ()


class Unit(NamedTuple):
    """What carries a label: where it lies, and the token whose scores count; None if there is none."""

    start: int
    end: int
    piece: int | None


def softmax(logits: Any) -> Array:
    """(P, C) -> (P, C), in float32."""
    x = np.asarray(logits, dtype=np.float32)
    powers: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    scores: Array = powers / powers.sum(axis=-1, keepdims=True)
    return scores


def owners(counts: Sequence[int], stride: int) -> list[range]:
    """For windows of so many tokens, which share ``stride`` with the next, the tokens that each is asked about: those with most context in it."""
    found, begin = [], 0
    for i, count in enumerate(counts):
        low = begin + (stride + 1) // 2 if i else 0
        shared = stride if i + 1 < len(counts) else 0
        high = begin + count - shared + (shared + 1) // 2
        found.append(range(low, high))
        begin += count - shared
    return found


# ---- auto --------------------------------------------------------------------------------------------------------------------------------------


def word_units(offsets: Sequence[Span], words: Sequence[Span]) -> list[Unit]:
    """A unit for each word, with the first token that begins in it."""
    starts, found = [start for start, _ in offsets], []
    for start, end in words:
        at = bisect_left(starts, start)
        while at < len(starts) and starts[at] < end and offsets[at][1] <= starts[at]:  # a token of nothing
            at += 1
        found.append(Unit(start, end, at if at < len(starts) and starts[at] < end else None))
    return found


def units_of(text: str, offsets: Sequence[Span], unit: str | None) -> list[Unit]:
    """What carries a label in a running text; ``unit`` is ``word``, ``piece``, or None where the model does not say."""
    if unit == "piece":
        return _piece_units(offsets, 0, len(text))
    # the words of all runs are looked up at once, for a text may have many
    found: list[Unit] = []
    words: list[Span] = []
    for run in _RUN.finditer(text):
        chunk = run[0]
        if _TOGETHER.search(chunk) or (unit is None and _HANGUL.search(chunk)):
            found += _piece_units(offsets, *run.span())
        else:
            words += _words(chunk, run.start())
    found += [u for u in word_units(offsets, words) if u.piece is not None]
    return sorted(found)


def _piece_units(offsets: Sequence[Span], start: int, end: int) -> list[Unit]:
    found, last = [], start
    for at in range(bisect_left(offsets, (start, start)), len(offsets)):
        begin, stop = offsets[at]
        if begin >= end:
            break
        if stop > max(begin, last):  # a character of several tokens is told by the first
            found.append(Unit(max(begin, last), stop, at))
            last = stop
    return found


def _words(chunk: str, at: int) -> Iterator[Span]:
    """A run without spaces: each mark around it, the word in it, and an English 's."""
    low, high = 0, len(chunk)
    while low < high and _is_mark(chunk[low]):
        low += 1
    while high > low and _is_mark(chunk[high - 1]):
        high -= 1
    yield from ((at + i, at + i + 1) for i in range(low))
    clitic = _CLITIC.search(chunk[low:high])
    middle = low + clitic.start() if clitic else high
    yield from ((at + a, at + b) for a, b in ((low, middle), (middle, high)) if a < b)
    yield from ((at + i, at + i + 1) for i in range(high, len(chunk)))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "P" and char not in _KEPT


def unit_tags(units: Sequence[Unit], scores: Array, labels: Sequence[str], outside: int) -> tuple[list[str], list[float]]:
    """The label of each unit and its probability; a unit without a token is outside."""
    best = scores.argmax(axis=-1) if len(scores) else []
    tags = [labels[outside if u.piece is None else int(best[u.piece])] for u in units]
    sure = [1.0 if u.piece is None else float(scores[u.piece].max()) for u in units]
    return tags, sure


def auto_entities(text: str, units: Sequence[Unit], tags: Sequence[str], sure: Sequence[float], *, each: bool, trim: bool) -> list[dict[str, Any]]:
    """``{"label", "score", "text", "start", "end", "surface"}``: ``surface`` has the particle that ``text`` lacks."""
    found = []
    for type_, first, last in entities(tags, each):
        start, end = units[first].start, units[last - 1].end
        stem = stem_end(text, start, end, units[last - 1].start) if trim else end
        score = sum(sure[first:last]) / (last - first)
        found.append({"label": type_, "score": score, "text": text[start:stem], "start": start, "end": stem, "surface": text[start:end]})
    return found


# ---- the incumbent's strategies ------------------------------------------------------------------------------------------------------------------


def as_v4(
    text: str, pieces: Pieces, strategy: Strategy, labels: Sequence[str], joined: Callable[[Sequence[str]], str], prefixed: bool
) -> list[dict[str, Any]]:
    """Entities as the incumbent's version 4 makes them, outside ones not yet left out.

    Args:
        text: that the offsets are in.
        pieces: with names.
        strategy: not ``auto``.
        labels: in the order of the scores.
        joined: the text of token names, as the tokenizer's decoder joins them.
        prefixed: the vocabulary marks tokens that continue a word (##).
    """
    names = [text[a:b] if odd else name for name, odd, (a, b) in zip(pieces.names, pieces.unknown, pieces.offsets, strict=True)]
    if strategy in ("none", "simple"):
        best = pieces.scores.argmax(axis=-1) if len(names) else []
        items = [
            {"label": labels[int(c)], "score": float(pieces.scores[i, c]), "index": pieces.index + i, "word": names[i], "start": a, "end": b}
            for i, (c, (a, b)) in enumerate(zip(best, pieces.offsets, strict=True))
        ]
        return items if strategy == "none" else _grouped(items, joined)
    groups: list[list[int]] = []
    for i, (a, b) in enumerate(pieces.offsets):
        # without such marks the incumbent goes by the space before
        inside = len(pieces.names[i]) != b - a if prefixed else a > 0 and " " not in text[a - 1 : a + 1]
        if groups and inside and not pieces.unknown[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    words = []
    for group in groups:
        scores = pieces.scores[group]
        chosen = {"first": scores[0], "max": scores[int(scores.max(axis=-1).argmax())], "average": scores.mean(axis=0)}[strategy]
        best_class = int(chosen.argmax())
        word = joined([names[i] for i in group])
        start, end = pieces.offsets[group[0]][0], pieces.offsets[group[-1]][1]
        words.append({"label": labels[best_class], "score": float(chosen[best_class]), "word": word, "start": start, "end": end})
    return _grouped(words, joined)


def _grouped(items: Sequence[dict[str, Any]], joined: Callable[[Sequence[str]], str]) -> list[dict[str, Any]]:
    """Neighbours of one type, unless the later one begins an entity."""
    groups: list[list[dict[str, Any]]] = []
    for item in items:
        if groups and not item["label"].startswith("B-") and _type(item["label"]) == _type(groups[-1][-1]["label"]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return [
        {
            "label": group[0]["label"].split("-", 1)[-1],
            "score": sum(item["score"] for item in group) / len(group),
            "word": joined([item["word"] for item in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def _type(label: str) -> str:
    return label[2:] if label[:2] in ("B-", "I-") else label


def without_overlaps(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities of several windows that begin inside each other the longest, then the surest, as the incumbent keeps them with ``stride``."""
    kept: list[dict[str, Any]] = []
    for item in sorted(found, key=lambda each: each["start"]):
        if kept and kept[-1]["start"] <= item["start"] < kept[-1]["end"]:
            if (item["end"] - item["start"], item["score"]) > (kept[-1]["end"] - kept[-1]["start"], kept[-1]["score"]):
                kept[-1] = item
        else:
            kept.append(item)
    return kept


# ---- from spans to tags --------------------------------------------------------------------------------------------------------------------------


def span_tags(offsets: Sequence[Span], spans: Sequence[tuple[int, int, str]], known: Sequence[str], outside: str) -> tuple[list[str], list[int]]:
    """(a tag for each token, the numbers of spans that no token lies in); a token belongs to the span that it shares most characters with.

    Args:
        offsets: of the tokens.
        spans: (start, end, type), apart and in order.
        known: the model's labels, which tell the scheme.
    """
    members: list[list[int]] = [[] for _ in spans]
    ends = [end for _, end, _ in spans]
    for i, (a, b) in enumerate(offsets):
        near = range(bisect_right(ends, a), bisect_left(spans, (b,)))  # those that end behind its start and begin before its end
        shares = [(min(b, spans[k][1]) - max(a, spans[k][0]), -k) for k in near]
        if shares and b > a:
            members[-max(shares)[1]].append(i)
    tags = [outside] * len(offsets)
    prefixes = {label[0]: label[0] for label in known if label != outside and label[1:2] == "-" and parts_of(label)[1] == label[2:]}
    last, alone = next((p for p in "EL" if p in prefixes), ""), next((p for p in "SU" if p in prefixes), "")
    inner = "M" if "M" in prefixes else "I"
    for (_, _, type_), pieces in zip(spans, members, strict=True):
        for n, i in enumerate(pieces):
            first, final = n == 0, n == len(pieces) - 1
            prefix = (alone or "B") if first and final else "B" if first else (last or inner) if final else inner
            tags[i] = f"{prefix}-{type_}" if prefixes else type_
    return tags, [k for k, pieces in enumerate(members) if not pieces]
