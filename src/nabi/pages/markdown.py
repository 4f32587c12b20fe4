"""Markdown with YAML metadata, as the hub's cards have it, from plain data: everything that comes from data is escaped.

Unusual: a card carries a line of its own, and a README.md without that line is the user's and is never replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nabi.pages.page import write

MARK = "<!-- written by nabi; without this line it is yours and is never replaced -->"


def write_card(path: Path, text: str) -> bool:
    """Write the card, unless a README.md that is not ours is there; says whether it was written.

    Raises:
        StorageError: it could not be written.
    """
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return False
    write(path, text)
    return True


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose cells are plain text."""
    lines = [head, ["---"] * len(head), *([escaped(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+", " ", text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]{}#|~]|(?<!\w)_|_(?!\w))", r"\\\1", one)


def fenced(code: str, language: str) -> list[str]:
    """A code block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, code, fence]


def yaml(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Plain data as YAML in block style; every scalar is written as JSON, which YAML reads the same."""
    lines: list[str] = []
    for key, item in value.items():
        lines += _under(f"{indent}{key if re.fullmatch(r'[a-z][a-z_0-9-]*', key) else json.dumps(key)}:", item, indent)
    return lines


def _under(head: str, item: Any, indent: str) -> list[str]:
    if isinstance(item, Mapping):
        return [head, *yaml(item, indent + "  ")]
    if not isinstance(item, list):
        return [f"{head} {_scalar(item)}"]
    lines = [head]
    for entry in item:
        if isinstance(entry, Mapping):
            first, *rest = yaml(entry, indent + "  ")
            lines += [f"{indent}- {first.strip()}", *rest]
        else:
            lines.append(f"{indent}- {_scalar(entry)}")
    return lines


def _scalar(item: Any) -> str:
    # a JSON escape of an emoji is two halves to YAML, and YAML holds no unprintable characters
    return json.dumps("".join(c if c.isprintable() else " " for c in item) if isinstance(item, str) else item, ensure_ascii=False)
