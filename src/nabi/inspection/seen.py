"""The doctor's look at rows of images: what can't be read, equal pixels, empty pictures, sizes and colours that differ, and labels as for texts.

Of each image a hash of its pixels is kept and no more, so that a data set of any size can be looked at. Unusual: the checks of labelled
texts do the work on these hashes; two files that show the same pixels are one image, whatever their format.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nabi.data import Table, check_labelled
from nabi.data.checks import LONG, Finding, Length
from nabi.data.images import mode_of, pixels_of
from nabi.errors import UserError
from nabi.tasks import Task

_COLOURS = frozenset({"RGB", "YCbCr", "LAB", "HSV"})
_GREYS = frozenset({"L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N"})
# what else is read by a rule of data/images.py that may lose something
_RULES = {"RGBA": "transparency is dropped", "LA": "transparency is dropped", "PA": "transparency is dropped", "P": "a palette becomes its colours",
          "CMYK": "the colours of print are converted without a profile"}  # fmt: skip
_MOST = 5  # sizes that are named


@dataclass
class _Look:
    """What was seen of the images of a table, by row."""

    shown: list[str | None] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


def check_images(kind: type[Task], table: Table, dev: Table | None = None, *, length: Length | None = None, limit: int = LONG) -> list[Finding]:
    """What is wrong with rows whose ``image`` is one; errors come first.

    Args:
        kind: the task.
        table, dev: the rows to train on, and those to score.
        length, limit: of texts, which are not looked at here.

    Raises:
        DataError: a table has no column of images.
    """
    table, dev = kind.opened(table), dev and kind.opened(dev)
    for part in [table] if dev is None else [table, dev]:
        part.require(["image"])
    seen = _looked(table)
    found = [*_refused(seen, table), *_kinds(seen, table)]
    labelled = "label" in table.columns
    held_out = None if dev is None else _as_texts(_looked(dev), dev)
    said = check_labelled(_as_texts(seen, table), held_out)
    unsaid = {"not_text"} | (set() if labelled else {"missing_label", "single_label"})
    found += [replace(each, message=_of_images(each.message), fix=_of_images(each.fix)) for each in said if each.code not in unsaid]
    return sorted(found, key=lambda each: ("error", "warning", "info").index(each.severity))


def _looked(table: Table) -> _Look:
    seen = _Look()
    for index, row in enumerate(table):
        try:
            image = row.get("image")
            pixels, mode = pixels_of(image, table.where(index)), mode_of(image, table.where(index))
        except UserError as problem:
            seen.refused.append((index, str(problem)))
            seen.shown.append(None)
            seen.sizes.append("")
            seen.modes.append("")
            continue
        seen.shown.append(hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest())
        seen.sizes.append(f"{pixels.shape[0]} x {pixels.shape[1]}")
        seen.modes.append(mode)
        if (pixels == pixels[0, 0]).all():
            seen.empty.append(index)
    return seen


def _as_texts(seen: _Look, table: Table) -> Table:
    rows = [{"text": shown, "label": row.get("label")} for shown, row in zip(seen.shown, table, strict=True)]
    return Table(rows, table.name, sha256=table.sha256, places=table.where)


def _refused(seen: _Look, table: Table) -> Iterator[Finding]:
    if seen.refused:
        rows, messages = zip(*seen.refused, strict=True)
        message = f"{len(rows):,} of {len(table):,} images can't be read. {' | '.join(messages[:3])}{' | ...' if len(rows) > 3 else ''}"
        yield Finding("unreadable", "error", message, rows, "mend these files, or leave the rows out")


def _kinds(seen: _Look, table: Table) -> Iterator[Finding]:
    def told(code: str, severity: Any, rows: list[int], what: str, fix: str = "") -> Finding:
        places = "; ".join(table.where(i) for i in rows[:3]) + ("; ..." if len(rows) > 3 else "")
        return Finding(code, severity, f"{len(rows):,} of {len(table):,} rows: {what} ({places})", tuple(rows), fix)

    if seen.empty:
        fix = "leave it out, unless empty pictures come in use too"
        yield told("empty_images", "warning", seen.empty, "a picture whose pixels are all of one colour", fix)
    sizes = Counter(filter(None, seen.sizes))
    if len(sizes) > 1:
        usual, often = sizes.most_common(1)[0]
        odd = [i for i, size in enumerate(seen.sizes) if size not in ("", usual)]
        named = _named(sizes)
        what = f"a size (height x width) other than the commonest, {usual} ({often:,} rows); there are {len(sizes):,}: {named}"
        yield told("image_sizes", "info", odd, what, "all are resized as the model says; --set options.size=own keeps the size of each, where the model can")
    modes = Counter(filter(None, seen.modes))
    grey = [i for i, mode in enumerate(seen.modes) if mode in _GREYS]
    if grey and modes.keys() & _COLOURS:
        fewer = grey if 2 * len(grey) <= len(seen.modes) else [i for i, mode in enumerate(seen.modes) if mode in _COLOURS]
        what = f"{'grey' if fewer is grey else 'in colour'}, where most are not: {_named(modes)}"
        fix = "look whether a class is all grey: the model would learn that, and not what is shown"
        yield told("image_modes", "warning", fewer, what, fix)
    for rule in dict.fromkeys(_RULES[mode] for mode in modes if mode in _RULES):
        rows = [i for i, mode in enumerate(seen.modes) if _RULES.get(mode) == rule]
        yield told("image_conversions", "info", rows, f"an image of another kind: {rule}", "")


def _named(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} ({count:,})" for name, count in most[:_MOST]) + (", ..." if len(most) > _MOST else "")


def _of_images(text: str) -> str:
    return text.replace("a dev text", "a dev image").replace("a text", "an image").replace("equal texts", "equal images")
