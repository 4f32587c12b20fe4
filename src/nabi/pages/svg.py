"""Charts as inline SVG, drawn by hand: lines, points, bars, a shaded matrix.

Colours are the page's CSS variables, so one drawing serves light and dark; series also differ by dash and by marker, never by hue alone.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from nabi.pages.sections import Bars, Lines, Matrix, Scatter

T = TypeVar("T")
WIDTH, HEIGHT = 460, 260
SQUARE = 440  # height of a chart whose axes are the same
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 12, 44
DIGIT = 7.7  # pixels: the widest digits among the fonts that a page falls back to (DejaVu Sans, at 12 pixels)
SHADES = 8  # of a matrix without numbers
SERIES = 4  # that page.html has colours and dashes for; a fifth looks like the first


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside [low, high], about ``count`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A tick's number."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"


def filled(text: str, *values: Any) -> str:
    """``text`` with the escaped values in the place of its {}."""
    return text.format(*(html.escape(str(value)) for value in values))


class Frame:
    """The axes of a chart, and where a value lies on the drawing.

    Args:
        title: for those who hear the page.
        x, y: names of the axes.
        across, up: (low, high) of the axes.
        height: of the drawing.
    """

    def __init__(self, title: str, x: str, y: str, across: tuple[float, float], up: tuple[float, float], height: int = HEIGHT) -> None:
        self.title, self.names, self.height = title, (x, y), height
        self.across, self.up = _wide(across), _wide(up)
        # room for the name of the axis (21 pixels), the longest number and the gap behind it (6)
        self.left = max(LEFT, math.ceil(27 + DIGIT * max((len(label(value)) for value in ticks(*self.up)), default=0)))
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.across
        return round(self.left + (value - low) / (high - low) * (WIDTH - self.left - RIGHT), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.up
        return round(self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM), 1)

    def add(self, text: str, *values: Any) -> None:
        """One element; ``values`` fill the {} of ``text`` and are escaped."""
        self.parts.append(filled(text, *values))

    def drawn(self) -> str:
        """The whole drawing."""
        axes: list[str] = []
        right, bottom = WIDTH - RIGHT, self.height - BOTTOM
        for value in ticks(*self.up):
            axes.append(filled('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>', self.left, right, self.y(value), self.y(value)))
            axes.append(filled('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>', self.left - 6, self.y(value) + 4, label(value)))
        for value in ticks(*self.across):
            axes.append(filled('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', self.x(value), self.x(value), bottom, bottom + 4))
            axes.append(filled('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>', self.x(value), bottom + 18, label(value)))
        axes.append(filled('<path class="axis" d="M{} {}V{}H{}"/>', self.left, TOP, bottom, right))
        axes.append(filled('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>', (self.left + right) / 2, self.height - 6, self.names[0]))
        middle = (TOP + bottom) / 2
        axes.append(filled('<text class="name" transform="translate(15 {}) rotate(-90)" text-anchor="middle">{}</text>', middle, self.names[1]))
        head = filled('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">', WIDTH, self.height, self.title)
        return head + "".join([*axes, *self.parts]) + "</svg>"


def lines(chart: Lines) -> str:
    """Curves from 0 on, or from where they begin below it; thin ones have no points."""
    points = [p for series in chart.series.values() for p in series]
    low, high = _range([x for x, _ in points])
    frame = Frame(chart.title, chart.x, chart.y, (min(0.0, low), high), _rounded(_range([y for _, y in points])))
    for number, (name, series) in _numbered(chart.series.items()):
        path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in series)
        thin = name in chart.thin
        frame.add('<polyline class="line s{} {}" points="{}"/>', number, "thin" if thin else "", path)
        if not thin:
            for x, y in series if len(series) <= 60 else series[-1:]:
                frame.parts.append(marker(number, frame.x(x), frame.y(y), 3.2))
    return frame.drawn()


def scatter(chart: Scatter) -> str:
    """Points over a diagonal."""
    span = (chart.low, chart.high)
    frame = Frame(chart.title, chart.x, chart.y, span, span, SQUARE)
    frame.add('<line class="diagonal" x1="{}" y1="{}" x2="{}" y2="{}"/>', *(f(v) for v in frame.across for f in (frame.x, frame.y)))
    weights = [w for series in chart.series.values() for _, _, w in series]
    even = not weights or min(weights) == max(weights)
    for number, series in _numbered(chart.series.values()):
        if not even:
            frame.add('<polyline class="line s{}" points="{}"/>', number, " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y, _ in series))
        for x, y, weight in series:
            size = 2.6 if even else 2.6 + 6 * math.sqrt(weight / max(weights))
            frame.parts.append(marker(number, frame.x(x), frame.y(y), size))
    return frame.drawn()


def bars(chart: Bars) -> str:
    """A histogram."""
    frame = Frame(chart.title, chart.x, chart.y, (chart.edges[0], chart.edges[-1]), _rounded((0, max(chart.counts))))
    for low, high, count in zip(chart.edges[:-1], chart.edges[1:], chart.counts, strict=True):
        x, top = frame.x(low), frame.y(count)
        frame.add('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>', x, top, round(max(0.5, frame.x(high) - x - 1), 1), round(frame.y(0) - top, 1))
    return frame.drawn()


def shaded(matrix: Matrix) -> str:
    """A matrix without numbers: one path a shade, so that 150 labels stay small."""
    size, counts = len(matrix.labels), matrix.counts
    cells: list[list[str]] = [[] for _ in range(SHADES)]
    for truth in range(size):
        total = int(counts[truth].sum())
        for guess in counts[truth].nonzero()[0].tolist():
            cells[min(SHADES - 1, int(counts[truth, guess] / total * SHADES))].append(f"M{guess} {truth}h1v1h-1z")
    paths = [filled('<path class="shade" style="--v:{}" d="{}"/>', round((i + 1) / SHADES, 3), "".join(c)) for i, c in enumerate(cells) if c]
    name = f"{size} labels: truth by row, answer by column, darker where a larger share of the truth's rows lies"
    head = filled('<svg class="matrix" viewBox="0 0 {} {}" role="img" aria-label="{}">', size, size, name)
    ground = filled('<rect class="ground" width="{}" height="{}"/>', size, size)
    return head + ground + "".join(paths) + "</svg>"


def marker(series: int, x: float, y: float, size: float) -> str:
    """A filled circle, an open square, an open triangle, a filled diamond: another shape for each series."""
    size = round(size, 1)
    if series == 0:
        return filled('<circle class="mark s{}" cx="{}" cy="{}" r="{}"/>', series, x, y, size)
    if series == 1:
        return filled('<rect class="mark open s{}" x="{}" y="{}" width="{}" height="{}"/>',
            series, round(x - size, 1), round(y - size, 1), round(2 * size, 1), round(2 * size, 1)
        )
    left, right, top, bottom = (round(value, 1) for value in (x - size, x + size, y - size, y + size))
    if series == 2:
        return filled('<path class="mark open s{}" d="{}"/>', series, f"M{x} {top}L{right} {bottom}H{left}Z")
    return filled('<path class="mark s{}" d="{}"/>', series, f"M{x} {top}L{right} {y}L{x} {bottom}L{left} {y}Z")


def legend(names: Sequence[str], thin: Sequence[str] = ()) -> str:
    """What each series is, with its marker; nothing for one series."""
    if len(names) < 2:
        return ""
    items = []
    for number, name in _numbered(names):
        line = filled('<line class="line s{} {}" x1="0" x2="26" y1="7" y2="7"/>', number, "thin" if name in thin else "")
        mark = "" if name in thin else marker(number, 13, 7, 3.2)
        drawing = f'<svg viewBox="0 0 26 14" width="26" height="14" aria-hidden="true">{line}{mark}</svg>'
        items.append(f"<span>{drawing} {html.escape(name)}</span>")
    return f'<p class="legend">{" ".join(items)}</p>'


def _numbered(series: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Each series with the number of its look."""
    return zip(itertools.cycle(range(SERIES)), series)


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _rounded(span: tuple[float, float]) -> tuple[float, float]:
    """Out to the next ticks."""
    low, high = _wide(span)
    marks = ticks(low, high)
    if len(marks) < 2:
        return low, high
    step = marks[1] - marks[0]
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _wide(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if high > low:
        return low, high
    return low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
