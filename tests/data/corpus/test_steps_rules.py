"""The step ``rules``: what it does, and that no pattern and no text make it take long."""

from __future__ import annotations

import random
import time
from itertools import product

import pytest

from nabi.data.corpus.documents import Document
from nabi.data.corpus.rules import Rule, Rules, RulesStep
from nabi.errors import OptionError

SIZE = 100_000
_draw = random.Random(0)
HOSTILE = [
    "a" * SIZE + "!",
    "ab" * (SIZE // 2),
    "a b " * (SIZE // 4),
    "0" * SIZE + "x",
    " " * SIZE,
    "a\n" * (SIZE // 2),
    "<a " * (SIZE // 3),
    "a@a." * (SIZE // 4),
    "가나 " * (SIZE // 3),
    "".join(_draw.choices("ab", k=SIZE)),
    "".join(_draw.choices("ab01 .,@x\n", k=SIZE)),
    '"\\' * (SIZE // 2),
    "((((a" * (SIZE // 5),
]
NESTED = [
    f"({inner}){outer}{end}"
    for inner, outer, end in product(("a+", "a*", "[a-z]+", r"\w+", r"\s*a", "a|aa", "a|a?", "(?:a|b)*c?", ".*a", "x+x+"), ("+", "*", "{2,9}"), ("$", "b"))
]
OTHERS = [
    r"^(\w+\s?)*$",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(.*)*=",
    r".*.*.*=.*",
    r"(x+x+)+y",
    r"(.*?,){11}P",
    r"(\d+)*\D",
    r"^(a?){50}a{50}$",
    r"(a|b|ab)*c",
    r"([ab]*)*c",
    r"a.*b|a",
    r"\s+$",
    r"^\s+|\s+$",
    r"(\s*,\s*)+;",
    r"<(\w+\s*)+>",
    r"<!--(.|x)*-->",
    r"([^\"\\]|\\.)*\"x",
    r"([\w.]+)+@([\w.]+)+\.com",
    r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}(([a-z]{2,3})|([a-z]{2,3}[.]{1}[a-z]{2,3}))$",
    r"([가-힣]+\s?)*[.]",
    r"(가|가가)+나",
    r"(?s)a.*b|a",
    r"(?:a.?)*c",
    r"[ab]*a[ab]{50}c",
    r"[ab]*a[ab]{500}c",
    r"a[ab]{0,900}c|b[ab]{0,900}d",
    r"(.{0,300}x){3}y",
    r"(.{0,100}a){9}c",
    r"(?:\pL{1,100}\d){2}",
    r"((a{10}){10}){10}",
    r"(a{1,100}){1,100}",
    r"a{1001}",
    r"(a)\1",
    r"(a+)\1+b",
    r"(?=a)b",
    r"(?!a)b",
    r"(?<=a)b",
    r"(?<!a)b",
    r"(?>a+)b",
    r"(?P=x)",
    "(" * 2000 + ")" * 2000,
]
BAD = NESTED + OTHERS


def test_there_are_a_hundred_bad_patterns() -> None:
    assert len(set(BAD)) >= 100


@pytest.mark.parametrize("part", range(10))
def test_each_bad_pattern_ends_within_a_second_or_is_refused(part: int) -> None:
    for pattern in BAD[part::10]:
        for action in ("drop", "replace"):
            try:
                step = RulesStep(Rules((Rule("bad", pattern, action, "_"),)))
            except OptionError:
                break
            for text in HOSTILE:
                # of this process alone: others may keep the machine busy
                start = time.process_time()
                step(Document(text, "a.txt"))
                assert time.process_time() - start < 1, (pattern, action, text[:20])


def test_most_bad_patterns_run_rather_than_being_refused() -> None:
    assert sum(runs(pattern) for pattern in BAD) > 60


def runs(pattern: str) -> bool:
    try:
        RulesStep(Rules((Rule("bad", pattern),)))
    except OptionError:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(a)\1", "RE2 can't do this pattern"),
        ("(?=a)b", "RE2 can't do"),
        ("(?<!a)b", "RE2 can't do"),
        ("a{1001}", "RE2 can't do"),
        ("(", "RE2 can't do"),
        ("[ab]*a[ab]{500}c", "the pattern is too large"),
        ("a*", "matches the empty text"),
        ("a\\nb", "within one line"),
        ("a\nb", "within one line"),
    ],
)
def test_what_can_not_be_run_is_refused_with_its_reason(pattern: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RulesStep(Rules((Rule("bad", pattern),)))


def test_drop_and_replace() -> None:
    rules = Rules(
        (
            Rule("confidential", "(?i)company confidential|대외비"),
            Rule("ticket", r"\bJIRA-\d+\b", "replace", "<ticket>"),
            Rule("이름", "홍길동", "replace", "아무개"),
        )
    )
    step = RulesStep(rules)
    assert step(Document("# Company CONFIDENTIAL", "a.py")) == "rule: confidential"
    assert step(Document("이 문서는 대외비임", "a.txt")) == "rule: confidential"
    document = Document("see JIRA-1, JIRA-22 and XJIRA-3\n홍길동은 갔다", "a.txt")
    assert step(document) is None
    assert document.text == "see <ticket>, <ticket> and XJIRA-3\n아무개은 갔다" and document.changed == {"ticket": 2, "이름": 1}
    plain = Document("nothing here", "a.txt")
    assert step(plain) is None and plain.text == "nothing here" and not plain.changed


def test_a_match_stays_in_its_line() -> None:
    document = Document("a\nb ab", "a.txt")
    RulesStep(Rules((Rule("x", r"(?s)a[^x]?b", "replace", "_"), Rule("y", "(?m)^b", "replace", "B"))))(document)
    assert document.text == "a\nB _"


def test_what_replacing_would_take_too_long_is_dropped_and_ordinary_text_is_not() -> None:
    tabs = RulesStep(Rules((Rule("tabs", r"\t", "replace", "    "),)))
    assert tabs(Document("\t" * 1_000_000, "a.txt")) == "rules: too much to replace"
    code = Document("\tx = 1\n" * 40_000, "a.py")
    assert tabs(code) is None and code.changed == {"tabs": 40_000} and code.text.startswith("    x = 1\n    x")


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(OptionError, match="a name of its own"):
        RulesStep(Rules((Rule("a", "x"), Rule("a", "y"))))
