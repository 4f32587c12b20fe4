"""Tagged sequences: entities from tags, and their precision, recall and F1 (Tjong Kim Sang and De Meulder 2003, section 2.4).

An entity counts if its type, its start and its end are right. Tags are read as conlleval and seqeval's usual mode read them: an I that follows
nothing of its type begins an entity. Spans of characters are also scored as KLUE does (Park et al. 2021, section 3.5): F1 by tag of each character,
the outside tag left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Section, Table

OUTSIDE = "O"
Entity = tuple[str, int, int]  # type, start, end; the end is not in it
_PREFIXES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}  # BIO, BIOES, BMES and BILOU say the same with other letters


def parts_of(tag: str) -> tuple[str, str]:
    """(prefix, type) of a tag: one of B, I, E, S, or O and nothing; a plain tag is an I of itself."""
    if tag in (OUTSIDE, ""):
        return OUTSIDE, ""
    if tag in ("B", "I", "E", "S"):  # of a set with one type, which has no name
        return tag, "_"
    if tag[1:2] == "-" and tag[0] in _PREFIXES:
        return _PREFIXES[tag[0]], tag[2:]
    return "I", tag


def entities(tags: Sequence[str], each: bool = False) -> list[Entity]:
    """The entities of a tag sequence, places counted in tags; impossible sequences are repaired, not dropped.

    Args:
        tags: BIO, BIOES, BILOU, BMES or plain ones.
        each: every tag that is not outside is one of its own, as parts of speech are.
    """
    found: list[Entity] = []
    before, kind = OUTSIDE, ""
    for i, tag in enumerate(tags):
        prefix, type_ = parts_of(tag)
        if prefix != OUTSIDE:
            if not each and prefix in "IE" and before in ("B", "I") and type_ == kind:
                found[-1] = (type_, found[-1][1], i + 1)
            else:
                found.append((type_, i, i + 1))
        before, kind = prefix, type_
    return found


def counted(predicted: Iterable[Entity], truth: Iterable[Entity], words: tuple[int, int] | None = None) -> dict[str, tuple[int, int, int]]:
    """(hits, predicted, true) under ``entity/TYPE``; under ``word`` of words, and under ``char/TAG`` of characters where there are none.

    Args:
        predicted, truth: of one row.
        words: how many have the right tag, and how many there are; None if places are characters.
    """
    given, true = set(predicted), set(truth)
    found: dict[str, list[int]] = {}
    _count(found, "entity/", {(e[0], e) for e in given}, {(e[0], e) for e in true})
    if words is None:
        _count(found, "char/", set(_characters(given)), set(_characters(true)))
    else:
        found["word"] = [words[0], words[1], words[1]]
    return {name: (a, b, c) for name, (a, b, c) in found.items()}


def _characters(spans: Iterable[Entity]) -> Iterable[tuple[str, int]]:
    return ((("I-" if i > start else "B-") + type_, i) for type_, start, end in spans for i in range(start, end))


def _count(found: dict[str, list[int]], front: str, given: set[tuple[str, Any]], true: set[tuple[str, Any]]) -> None:
    for place, items in enumerate((given & true, given, true)):
        for name, _ in items:
            found.setdefault(front + name, [0, 0, 0])[place] += 1


def _figures(sums: Mapping[str, Array], types: Sequence[str], rows: int) -> dict[str, Array]:
    """The figures of (B, 3) sums by name, each (B,)."""
    none = np.zeros((rows, 3))
    each = np.stack([sums.get(f"entity/{type_}", none) for type_ in types]) if types else none[None]
    whole, f1 = each.sum(axis=0), _f1(each)
    found = {
        "f1": _f1(whole),
        "precision": whole[:, 0] / np.maximum(whole[:, 1], 1),
        "recall": whole[:, 0] / np.maximum(whole[:, 2], 1),
        "macro_f1": _mean(f1, each),
    }
    if "word" in sums:
        found["accuracy"] = sums["word"][:, 0] / np.maximum(sums["word"][:, 1], 1)
    characters = [value for name, value in sorted(sums.items()) if name.startswith("char/")]
    if characters:
        found["char_f1"] = _mean(_f1(np.stack(characters)), np.stack(characters))
    return {**found, **{f"f1/{type_}": f1[i] for i, type_ in enumerate(types)}}


def _f1(sums: Array) -> Array:
    found: Array = 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1e-12)
    return found


def _mean(f1: Array, sums: Array) -> Array:
    """Over those that occur."""
    there = (sums[..., 1] + sums[..., 2]) > 0
    found: Array = (f1 * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return found


class TaggedScore:
    """Entities: micro precision, recall and F1 (seqeval's), macro F1 over the types that occur, F1 by type.

    Args:
        types: all entity types.
    """

    def __init__(self, types: Sequence[str]) -> None:
        self.types = tuple(types)
        self._sums: dict[str, Array] = {}

    def add(self, answer: Any, truth: Any) -> None:
        """One row: (entities, (right, all) words or None for places in characters), and the entities that hold."""
        predicted, words = answer
        for name, counts in counted(predicted, truth, words).items():
            self._sums[name] = self._sums.get(name, np.zeros(3)) + counts

    def result(self) -> dict[str, float]:
        """f1, precision, recall, macro_f1, f1/<type>; accuracy of words, or char_f1 (macro over the tags of characters)."""
        figures = _figures({name: value[None] for name, value in self._sums.items()}, self.types, 1)
        return {name: float(value[0]) for name, value in figures.items()}


class Tagged:
    """The entities of each row that were found and that hold.

    Args:
        types: all entity types.
        fields: columns of a row that a report shows.
    """

    def __init__(self, types: Sequence[str], fields: tuple[str, ...] = ("text",)) -> None:
        self.types, self.fields = tuple(types), fields
        self._rows: list[dict[str, tuple[int, int, int]]] = []
        self._said: list[tuple[str, str]] = []

    @property
    def choices(self) -> tuple[str, ...]:
        """The entity types."""
        return self.types

    def add(self, answer: Any, truth: Any) -> None:
        """One row, as for ``TaggedScore``."""
        predicted, words = answer
        self._rows.append(counted(predicted, truth, words))
        self._said.append((_said(truth), _said(predicted)))

    def take(self, rows: Sequence[int]) -> Tagged:
        """These rows alone."""
        taken = Tagged(self.types, self.fields)
        taken._rows, taken._said = [self._rows[i] for i in rows], [self._said[i] for i in rows]
        return taken

    def figures(self, weights: Array) -> dict[str, Array]:
        """Those of ``TaggedScore``, each (B,)."""
        names = sorted({name for row in self._rows for name in row})
        sums = {name: weights @ np.array([row.get(name, (0, 0, 0)) for row in self._rows], dtype=np.float64) for name in names}
        return _figures(sums, self.types, len(weights))

    def verdicts(self) -> Verdicts:
        """Loss is how many entities are missing or too many."""
        sums = np.array([np.sum([c for name, c in row.items() if name.startswith("entity/")] or [(0, 0, 0)], axis=0) for row in self._rows])
        loss = (sums[:, 1] + sums[:, 2] - 2 * sums[:, 0]).astype(np.float64)
        return Verdicts(loss=loss, right=loss == 0, truth=[truth for truth, _ in self._said], predicted=[given for _, given in self._said])

    def facts(self) -> dict[str, float]:
        """None."""
        return {}

    def sections(self, intervals: Intervals) -> list[Section]:
        """Figures by type."""
        rows = []
        for type_ in self.types:
            hits, given, true = (sum(row.get(f"entity/{type_}", (0, 0, 0))[i] for row in self._rows) for i in range(3))
            low, high = intervals[f"f1/{type_}"]
            f1 = 2 * hits / (given + true) if given + true else 0.0
            rows.append((type_, true, given, hits / given if given else None, hits / true if true else None, f1, f"{low:.3f} to {high:.3f}"))
        head = ("type", "entities", "found", "precision", "recall", "F1", "95 % interval")
        return [Section("By type", [Table(head, rows, "An entity counts if its type, start and end are right.")])]


def _said(found: Iterable[Entity]) -> str:
    return ", ".join(type_ for type_, _, _ in sorted(found, key=lambda e: e[1])) or "none"
