"""Step ``rules``: the user's own patterns, run by RE2, which never goes back in the text: no pattern takes exponential or quadratic time in one search.

Unusual: that alone is not enough. A counted repeat after an ambiguous beginning (``[ab]*a[ab]{500}c``) makes RE2 give up its automaton and follow every state
at each character, 20 s a megabyte; so a pattern may have ``STATES`` states at most. And many searches one after the other, each to the end of the text, are
quadratic (``a.*b|a``); so a match lies within one line, and replacing in one document has a budget of characters looked at, beyond which the document is
dropped. Both limits count, they measure no time, so every machine decides alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from nabi.data.corpus.documents import Document
from nabi.errors import OptionError

STATES = 200
BUDGET = 200_000_000
MATCH = 4000
_LINE_END = re.compile(r"(?<!\\)(?:\\\\)*\\n|\n")
_ABOVE = re.compile(r"[^\x00-\x7f]")


@dataclass(frozen=True)
class Rule:
    """One pattern and what to do where it matches.

    Attributes:
        name: a few words; the reason or the count in the manifest.
        pattern: in RE2's syntax; ``(?i)`` at its beginning folds case.
        action: drop the document, or replace each match.
        mark: what to write instead, as it stands.
    """

    name: str
    pattern: str
    action: Literal["drop", "replace"] = "drop"
    mark: str = ""


@dataclass(frozen=True)
class Rules:
    """Options of the step ``rules``.

    Attributes:
        rules: held against each document in this order.
    """

    rules: tuple[Rule, ...]


class RulesStep:
    """Drops documents, or replaces matches and counts them in ``document.changed``, by the user's rules.

    Raises:
        OptionError: a pattern that RE2 can't do or that is too large, two rules of one name, or google-re2 is not installed.
    """

    name = "rules"

    def __init__(self, options: Rules) -> None:
        names = [rule.name for rule in options.rules]
        if twice := next((name for name in names if not name or names.count(name) > 1), None) if names else None:
            raise OptionError("each rule needs a name of its own", value=twice)
        self._rules = [(rule, compiled(rule)) for rule in options.rules]

    def __call__(self, document: Document) -> str | None:
        if not self._rules:
            return None
        data, before = document.text.encode("utf-8", "replace"), document.changed.copy()
        for rule, pattern in self._rules:
            if rule.action == "drop":
                if pattern.search(data):
                    return f"rule: {rule.name}"
                continue
            replaced = _replaced(pattern, data, rule.mark.encode())
            if replaced is None:
                return "rules: too much to replace"
            data, count = replaced
            if count:
                document.changed[rule.name] += count
        if document.changed != before:
            document.text = data.decode()
        return None


def _replaced(pattern: Any, data: bytes, mark: bytes) -> tuple[bytes, int] | None:
    """The bytes with each match that is not empty replaced, and their number; None if the budget is used up."""
    pieces, at, budget, line = [], 0, BUDGET, 0
    for match in pattern.finditer(data):
        start, end = match.span()
        if line <= start:
            line = data.find(b"\n", start)
            line = len(data) if line < 0 else line
        # a search may look from the match's beginning to the end of its line
        budget -= MATCH + line - start
        if budget < 0:
            return None
        if end > start:
            pieces += [data[at:start], mark]
            at = end
    return (b"".join([*pieces, data[at:]]), len(pieces) // 2) if pieces else (data, 0)


def compiled(rule: Rule) -> Any:
    """The rule's pattern as RE2 runs it.

    Raises:
        OptionError: RE2 can't do it (look-around, references back, repeats beyond 1,000), it is too large, asks for a line's end, or matches the empty text.
    """
    re2 = _package()
    what = f"rule '{rule.name}'"
    if _LINE_END.search(rule.pattern):
        raise OptionError(f"{what}: a match lies within one line", value=rule.pattern, fix=r"leave \n out; (?m) makes ^ and $ hold at each line")
    try:
        pattern = re2.compile(rule.pattern, _options(re2))
        # character classes of Unicode are thousands of states of which few are alive; so they are counted as if of Latin-1
        plain = _options(re2)
        plain.encoding = re2.Options.Encoding.LATIN1
        states = re2.compile(_ABOVE.sub("a", rule.pattern).encode(), plain).programsize
    except re2.error as problem:
        said = problem.args[0]
        raise OptionError(f"{what}: RE2 can't do this pattern ({said.decode() if isinstance(said, bytes) else said})", value=rule.pattern,
                          expected="no look-around, no references back, no repeats beyond 1,000",
                          fix="they can't be run in linear time: write it without") from None  # fmt: skip
    if states > STATES:
        raise OptionError(f"{what}: the pattern is too large: {states} states", value=rule.pattern, expected=f"at most {STATES}",
                          fix="write shorter repeats, or several rules")  # fmt: skip
    if pattern.search(b""):
        raise OptionError(f"{what}: the pattern matches the empty text, so everywhere", value=rule.pattern, fix="write + in place of *")
    return pattern


def _options(re2: Any) -> Any:
    options = re2.Options()
    # groups would make RE2 run a slower machine; never_nl keeps a match within its line
    options.never_capture = options.never_nl = True
    options.log_errors = False
    return options


def _package() -> Any:
    try:
        return import_module("re2")
    except ImportError:
        raise OptionError("rules need the package google-re2", fix="install it: pip install 'nabi[corpus]'") from None
