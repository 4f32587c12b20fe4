"""Wikitext to plain text: one pass over the marks, in time that is linear in the text whatever it holds.

Kept: running text, list items, headings as lines of their own, the labels of links. Left out: templates, tables, references, comments, files and
their captions, categories, formulas, galleries, tags. What a template would have written is therefore missing (``{{lang|ja|...}}``, units), and marks of
language variants (``-{zh-hans:...}-``) stay as they are.

Unusual: written here, since mwparserfromhell 0.7.2 (MIT, the well-kept parser) needs more than a minute for 100 kB of ``<ref>``, and leaves tables, captions
and categories in its text. Marks are nested at most 40 deep, as in MediaWiki's own templates; what opens deeper is read as text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_DEEPEST = 40
_TAG = r"</?[a-zA-Z][^<>]{0,1000}>"
# a table begins and ends at the start of a line, for `{{name|}}` holds its marks too
_MARK = re.compile(rf"\{{\{{|\}}\}}|(?m:^[ \t:]{{0,10}})\{{\||(?m:^[ \t]{{0,10}})\|\}}(?!\}})|\[\[|\]\]|\[(?=(?:https?:|ftp:|mailto:)|//)|\]|<!--|{_TAG}")
# tags whose content is no running text
_SKIPPED = frozenset((
    "ref", "references", "math", "chem", "ce", "gallery", "timeline", "score", "syntaxhighlight", "source", "graph", "templatedata", "templatestyles",
    "imagemap", "hiero", "mapframe", "maplink", "style", "script", "inputbox", "categorytree", "indicator",
))  # fmt: skip
_HEADING = re.compile(r"(={1,6})[ \t]*([^=\n][^\n]*?)[ \t]*\1")
_STRAY = re.compile(r" ?\([ ,;:·]{0,20}\)")
_CLOSES = {"}}": "{{", "|}": "{|", "]]": "[[", "]": "["}


def plain(text: str, files: Iterable[str] = ("file", "image"), categories: Iterable[str] = ("category",)) -> str:
    """The running text of a page.

    Args:
        text: wikitext.
        files, categories: how the wiki calls the namespaces whose links are left out, in lower case.
    """
    dropped = frozenset((*files, *categories))
    frames: list[tuple[str, list[str]]] = [("", [])]  # what opened it, and the text so far
    counts = dict.fromkeys(_CLOSES.values(), 0)
    ends: dict[str, int] = {}  # tag -> from where on it is known that nothing closes it
    at = 0
    while (mark := _MARK.search(text, at)) is not None:
        frames[-1][1].append(text[at : mark.start()])
        seen, at = mark[0].strip(" \t:"), mark.end()
        if seen == "<!--":
            end = text.find("-->", at)
            at = len(text) if end < 0 else end + 3
        elif seen in counts:
            if len(frames) <= _DEEPEST:
                frames.append((seen, []))
                counts[seen] += 1
            else:
                frames[-1][1].append(seen)
        elif seen[0] == "<":
            at = _after_tag(text, seen, at, frames[-1][1], ends)
        elif counts[opened := _CLOSES[seen]] and (seen not in ("]", "]]") or frames[-1][0] == opened):
            while frames[-1][0] != opened:  # opened inside and never closed
                counts[frames.pop()[0]] -= 1
            counts[opened] -= 1
            inside = "".join(frames.pop()[1])
            frames[-1][1].append(_shown(opened, inside, dropped))
        elif seen == "]":
            frames[-1][1].append(seen)
    frames[-1][1].append(text[at:])
    # what was never closed is text, save a table, which then reaches to the end
    return _lines("".join("".join(parts) for opened, parts in frames if opened != "{|"))


def _after_tag(text: str, tag: str, at: int, out: list[str], ends: dict[str, int]) -> int:
    """Where reading goes on behind an HTML tag."""
    name = re.match(r"</?([a-zA-Z]+)", tag)
    assert name is not None
    word = name[1].lower()
    if word in ("br", "p", "li", "tr"):
        out.append("\n")
    if tag[1] == "/" or tag.endswith("/>"):
        return at
    if word == "nowiki" or word in _SKIPPED:
        if at >= ends.get(word, len(text) + 1):
            return at
        close = re.compile(rf"</{word}\s{{0,20}}>", re.IGNORECASE).search(text, at)
        if close is None:
            ends[word] = at
            return at
        if word == "nowiki":
            out.append(text[at : close.start()])
        return close.end()
    return at


def _shown(opened: str, inside: str, dropped: frozenset[str]) -> str:
    """What a reader sees of a template, table or link."""
    if opened in ("{{", "{|"):
        return ""
    if opened == "[":
        return inside.partition(" ")[2].strip()
    target, piped, label = inside.partition("|")
    if target.partition(":")[0].strip().lower().replace("_", " ") in dropped and ":" in target:
        return ""
    return label if piped and label else target.strip().removeprefix(":")


def _lines(text: str) -> str:
    text = re.sub(r"'{2,5}|__[A-Z]{2,25}__", "", text)
    text = _STRAY.sub("", html.unescape(text).replace("\xa0", " "))
    out = [""]
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("----"):
            stripped = stripped.lstrip("-")
        if (heading := _HEADING.fullmatch(stripped)) is not None:
            stripped = heading[2]
        stripped = stripped.lstrip("*#:; ").replace("  ", " ")
        if stripped or out[-1]:
            out.append(stripped)
    return "\n".join(out).strip()
