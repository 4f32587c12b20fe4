"""From sections to one HTML page: self-contained, without a script, everything that comes from data escaped."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from nabi.files import whole
from nabi.pages import svg
from nabi.pages.sections import Bars, Block, Code, Lines, Matrix, Picture, Scatter, Section, Table

TEXT = 320  # characters of a row's text that are shown
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # what no page can hold; tabs and line ends stay
_KINDS: dict[type, str] = {Lines: "chart", Scatter: "chart", Bars: "chart", Matrix: "matrix", Table: "table", Code: "code", Picture: "picture", str: "text"}
Tile = tuple[str, Any, str]


@dataclass(frozen=True)
class _Group:
    """Blocks that stand side by side."""

    kind: str
    blocks: list[Block]


def render(title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title, lead: its head.
        tiles: (name, value, note) of the figures that everybody looks for.
        sections: in their order.
    """
    engine = jinja2.Environment(autoescape=True, finalize=_clean, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    engine.filters |= {"number": number, "draw": _draw, "legend": _legend, "grouped": _grouped, "numeric": _numeric, "address": _address}
    template = engine.from_string(resources.files("nabi.pages").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(title=title, lead=lead, tiles=tiles, sections=sections)


def number(value: Any) -> str:
    """A cell: whole numbers with separators, others to four places, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{round(value, 4) + 0.0:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def cut(text: str, limit: int = TEXT) -> str:
    """A text of a sensible length, and how long it was."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} … ({len(text):,} characters)"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: it could not be written.
    """
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="replace")


def _clean(value: Any) -> Any:
    return _UNSEEN.sub("\ufffd", value) if type(value) is str else value


def _numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, so that its head stands above them."""
    return any(isinstance(row[column], int | float) for row in table.rows)


def _grouped(blocks: Sequence[Block]) -> Iterator[_Group]:
    """Charts that follow each other stand side by side; all else stands alone."""
    row: list[Block] = []
    for block in blocks:
        kind = _KINDS[type(block)]
        if kind == "chart":
            row.append(block)
            continue
        if row:
            yield _Group("chart", row)
            row = []
        yield _Group(kind, [block])
    if row:
        yield _Group("chart", row)


def _address(picture: Picture) -> str:
    kind = "png" if picture.data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture.data).decode()}"


def _draw(block: Block) -> str:
    if isinstance(block, Lines):
        drawing = svg.lines(block)
    elif isinstance(block, Scatter):
        drawing = svg.scatter(block)
    elif isinstance(block, Bars):
        drawing = svg.bars(block)
    else:
        assert isinstance(block, Matrix)
        drawing = svg.shaded(block)
    return _UNSEEN.sub("\ufffd", drawing)


def _legend(block: Block) -> str:
    if isinstance(block, Lines):
        return svg.legend(list(block.series), block.thin)
    return svg.legend(list(block.series)) if isinstance(block, Scatter) else ""
