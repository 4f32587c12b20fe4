"""What a report is made of, as plain data: sections of paragraphs, tables, matrices and charts.

A task describes what it found in these; ``nabi.evaluation`` draws them, so a new task adds a section and no edit of the report. A cell of a table is
a str, an int, a float, None (nothing was measured) or a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A picture inside the page, as a cell or as a block.

    Attributes:
        data: a PNG or JPEG file.
        name: what it shows, for those who don't see it.
        width, height: on the page, in CSS pixels.
        caption: what stands above it where it is a block.
    """

    data: bytes
    name: str
    width: int
    height: int
    caption: str = ""


Cell = str | int | float | Picture | None


@dataclass(frozen=True)
class Table:
    """Rows under a head.

    Attributes:
        head: the columns' names.
        rows: as many cells in each.
        caption: what the rows are.
        folded: shown on request, because it is long.
        prose: columns of running text, which take the room that is left.
    """

    head: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    caption: str = ""
    folded: bool = False
    prose: tuple[str, ...] = ()


@dataclass(frozen=True)
class Matrix:
    """Counts of truth (rows) by prediction (columns), shaded by their share of the row.

    Attributes:
        labels: names of rows and columns.
        counts: (L, L) whole numbers.
    """

    labels: tuple[str, ...]
    counts: Any


@dataclass(frozen=True)
class Lines:
    """Curves over one axis.

    Attributes:
        title: what is drawn.
        x, y: what the axes are.
        series: name -> (x, y) pairs in the order of x.
        thin: names of series that are drawn thin, without points.
    """

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]
    thin: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scatter:
    """Points of a square; with a diagonal on which both values are equal.

    Attributes:
        title: what is drawn.
        x, y: what the axes are.
        series: name -> (x, y, weight) points; the area of a point shows its weight.
        low, high: of both axes.
    """

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float, float]]]
    low: float
    high: float


@dataclass(frozen=True)
class Bars:
    """How often values fall into neighbouring bins.

    Attributes:
        title: what is drawn.
        x: what is counted.
        edges: (B+1,) of the bins; counts: (B,).
        y: what is counted up.
    """

    title: str
    x: str
    edges: Sequence[float]
    counts: Sequence[int]
    y: str = "rows"


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    code: str


Block = str | Table | Matrix | Lines | Scatter | Bars | Code | Picture


@dataclass(frozen=True)
class Section:
    """A headed part of a report; a block that is a str is a paragraph."""

    title: str
    blocks: Sequence[Block]
