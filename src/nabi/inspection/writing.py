"""How a text came about, as plain text: the most probable next tokens of each step, or the beams of a search as a tree: ``nabi predict --steps``.

It knows the records of ``Model.stream`` and nothing of models. Unusual: a tree has a trunk. What leads to the answer goes straight down and only what branches
off is indented, so a search of a hundred steps fits a narrow terminal. Widths are counted in cells of a terminal, of which a character of Chinese, Japanese
or Korean takes two.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+$")
LONGEST_NAME, LONGEST_BAR = 24, 30  # cells


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: none for what combines with the character before it, two for a wide one (Unicode's annex 11)."""
    return sum(_cells(c) for c in text)


def _cells(c: str) -> int:
    # the second and third part of a syllable of Hangul that is written in its parts join the first
    if unicodedata.category(c) in ("Mn", "Me") or "\u1160" <= c <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def fitted(text: str, width: int) -> str:
    """A text with spaces behind it, or cut and with an ellipsis at its end, so that it takes ``width`` cells."""
    if cells(text) > width:
        used, end = 0, 0
        while end < len(text) and used + _cells(text[end]) <= width - 1:
            used, end = used + _cells(text[end]), end + 1
        text = text[:end] + "…" if width > 0 else ""
    return text + " " * (width - cells(text))


def quoted(text: str) -> str:
    """A text in quotes; what a terminal would act on, or not show, as an escape."""
    return '"' + "".join(c if c == " " or unicodedata.category(c)[0] not in "CZ" else c.encode("unicode_escape").decode() for c in text) + '"'


def in_order(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The records of a stream: those of the first answer as they come, those of each other answer together behind them, the last record last."""
    held: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record.get("index"):
            held[record["index"]].append(record)
            continue
        if "answer" in record:
            for index in sorted(held):
                yield from held[index]
        yield record


def view(records: Iterable[dict[str, Any]], line: Callable[[Any], str], width: int = 80) -> Iterator[str]:
    """Lines about a stream: a table for each token that was chosen, a tree for each search, at last the answer.

    Args:
        records: of ``Model.stream``, with ``top_alternatives`` for the tables, with ``watch`` for trees.
        line: the answer in words, such as the task's ``line``.
        width: cells of a line.
    """
    at, step = (0, 0), 0  # the answer and the piece of the text that the records are about
    search: list[dict[str, Any]] = []
    for record in in_order(records):
        if "answer" in record:
            sequences = record["answer"]["sequences"]
            yield f"{line(record['answer'])}  ({record['finish_reason']})"
            yield from (f"answer {i}: {each['text']}" for i, each in enumerate(sequences[1:], 2))
            continue
        if at != (place := (record.get("index", 0), record["piece"])):
            at, step = place, 0
            if "token" in record or "beams" in record:
                yield ", ".join([*([f"answer {at[0] + 1}"] if at[0] else []), *([f"piece {at[1] + 1}"] if at[1] else [])] or ["piece 1"])
        if "beams" in record:
            search.append(record)
        elif "token" in record:
            step += 1
            yield from table(record, step, width)
        elif search:
            yield from tree(search, width)
            search = []


def table(record: dict[str, Any], step: int, width: int) -> Iterator[str]:
    """The most probable tokens of one step, the chosen one marked; it stands last where it is none of them."""
    rows = [*record["alternatives"]]
    if record["token"] not in [token for _, token, _ in rows]:
        rows.append((record["name"], record["token"], record["logprob"]))
    name_width = max(4, min(LONGEST_NAME, width - 15, max(12, width // 3)))
    bar_width = min(LONGEST_BAR, width - name_width - 17)
    for i, (name, token, logprob) in enumerate(rows):
        chance = math.exp(logprob)
        bar = "#" * round(chance * bar_width) if bar_width > 4 else ""
        mark = ">" if token == record["token"] else " "
        yield f"{step if not i else '':>4} {mark} {fitted(quoted(name), name_width)} {f'{chance:.1%}':>6}  {bar}".rstrip()


@dataclass(eq=False)
class _Node:
    """A token of a beam search, and what followed it."""

    name: str = ""
    text: str = ""
    score: float = 0.0
    step: int = 0
    ended: bool = False
    children: list[_Node] = field(default_factory=list)

    def add(self, beam: dict[str, Any], step: int, ended: bool) -> _Node:
        node = _Node(beam["name"], beam["text"], beam["score"], step, ended)
        self.children.append(node)
        return node


def tree(search: Sequence[dict[str, Any]], width: int = 80) -> Iterator[str]:
    """The beams of a search.

    Args:
        search: its steps, as ``Model.stream`` tells them with ``watch``.
        width: cells of a line.
    """
    root = _Node()
    before, ended = [root], []
    for record in search:
        parents = before
        ended += [parents[beam["parent"]].add(beam, record["step"] + 1, True) for beam in record["ended"]]
        before = [parents[beam["parent"]].add(beam, record["step"] + 1, False) for beam in record["beams"]]
    answer = max(ended, key=lambda node: node.score) if ended else None
    lines = list(_lines(root, answer, len(search), _heights(root, answer)))
    most = max(len(line[2]) for line in lines)
    label_width = max(8, min(max(cells(line[0]) for line in lines), width - 11 - most))
    beams = max(len(record["beams"]) for record in search)
    yield fitted(f"{len(search)} steps, {beams} beams: * the answer, . ended, x pruned, o open", width).rstrip()
    for label, score, state in lines:
        yield f"{fitted(label, label_width)} {score:>8.3f}  {state}".rstrip()


def _heights(root: _Node, answer: _Node | None) -> dict[_Node, float]:
    """How long the longest branch from each node is; endless for those that lead to the answer. Without recursion, as a search may have a thousand steps."""
    order = [root]
    for node in order:
        order += node.children
    heights: dict[_Node, float] = {}
    for node in reversed(order):
        heights[node] = math.inf if node is answer else max((heights[child] for child in node.children), default=-1) + 1
    return heights


def _lines(root: _Node, answer: _Node | None, steps: int, heights: dict[_Node, float]) -> Iterator[tuple[str, float, str]]:
    """(label, score, state) of each line."""
    stack: list[tuple[_Node, str, str]] = []  # what is still to be drawn, its first line's indent and that of the others

    def push(node: _Node, indent: str) -> None:
        trunk = max(node.children, key=lambda child: (heights[child], child.score))
        others = sorted((child for child in node.children if child is not trunk), key=lambda child: -child.score)
        stack.append((trunk, indent, indent))
        stack.extend((child, indent + "├─", indent + "│ ") for child in reversed(others))

    if root.children:
        push(root, "")
    while stack:
        node, first, indent = stack.pop()
        chain = [node]
        while len(node.children) == 1:
            node = node.children[0]
            chain.append(node)
        if node is answer:
            mark, state = "*", "the answer"
        elif node.ended:
            mark, state = ".", f"ended at {node.step}"
        elif not node.children:
            mark, state = ("o", "left open") if node.step == steps else ("x", f"pruned at {node.step + 1}")
        else:
            mark, state = "*" if heights[node] == math.inf else "o", ""
        yield f"{first}{mark} {quoted(_words(chain))}", node.score, state
        if node.children:
            push(node, indent)


def _words(chain: Sequence[_Node]) -> str:
    """The text of these tokens; the names of those that add none, unless they are the bytes of a character that a later one completes."""
    words = ""
    for node in chain:
        words = _BYTES.sub("", words) + node.text if node.text else words + node.name
    return words
