"""Each code of check_labelled is found where it is, and nothing where nothing is."""

from __future__ import annotations

import re
import time
import tracemalloc
import unicodedata
from typing import Any

import pytest

from nabi.data import Finding, Table, check_labelled, read_table
from nabi.data.checks import CODES, LONG, bare
from nabi.errors import DataError

DECODED = ["café", "cafÃ©", "a \ufffd", "안녕".encode().decode("latin-1"), "NÃO À «L’ÉTÉ»"]
CLEAN = [{"text": f"text {i}", "label": "yes" if i % 2 else "no"} for i in range(20)]


def found(extra: list[dict[str, Any]], dev: list[dict[str, Any]] | None = None) -> dict[str, Finding]:
    findings = check_labelled(read_table(CLEAN + extra), read_table(dev) if dev else None)
    assert [f.severity for f in findings] == sorted(f.severity for f in findings)
    return {f.code: f for f in findings}


CASES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None, tuple[int, ...]]] = {
    "not_text": ([{"text": None, "label": "no"}, {"text": 5, "label": "no"}], None, (20, 21)),
    "missing_label": ([{"text": str(i), "label": v} for i, v in enumerate([None, " ", float("nan")])], None, (20, 21, 22)),
    "leakage": ([], [{"text": "new", "label": "no"}, {"text": "TEXT  3", "label": "yes"}, {"text": "", "label": "no"}], (1,)),
    "unseen_labels": ([], [{"text": "new", "label": "no"}, {"text": "newer", "label": "maybe"}], (1,)),
    "empty_texts": ([{"text": "", "label": "no"}, {"text": " \n", "label": "yes"}], None, (20, 21)),
    "near_leakage": ([], [{"text": "te-xt 3!", "label": "no"}, {"text": "new", "label": "no"}], (0,)),
    "control_characters": ([{"text": "a\x07b", "label": "no"}, {"text": "it\x92s", "label": "no"}, {"text": "a\tb\r\n", "label": "no"}], None, (20, 21)),
    "byte_order_mark": ([{"text": "\ufeffa", "label": "no"}], None, (20,)),
    "decomposed": ([{"text": unicodedata.normalize("NFD", t), "label": "no"} for t in ("나비", "café", "plain")], None, (20, 21)),
    "near_duplicates": ([{"text": "Text 1.", "label": "yes"}, {"text": "t e x t (1)", "label": "no"}, {"text": "text 1", "label": "yes"}], None, (20, 21)),
    "numbers_among_names": ([{"text": "a", "label": "3"}, {"text": "b", "label": "-1,5"}], None, (20, 21)),
    "long_texts": ([{"text": "a" * LONG, "label": "no"}, {"text": "a" * (LONG + 1), "label": "no"}], None, (21,)),
    "encoding": ([{"text": t, "label": "no"} for t in DECODED], None, (21, 22, 23)),
    "duplicates": ([{"text": "Text 1 ", "label": "yes"}, {"text": "text 1", "label": "yes"}], None, (20, 21)),
    "conflicting_labels": ([{"text": "text 1", "label": "no"}], None, (1, 20)),
    "imbalance": ([{"text": f"more {i}", "label": "no"} for i in range(40)], None, tuple(range(0, 20, 2)) + tuple(range(20, 60))),
    "similar_labels": ([{"text": "a", "label": "Yes "}, {"text": "b", "label": "Yes "}], None, (*range(1, 20, 2), 20, 21)),
    "mixed_label_types": ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], None, (20, 21)),
    "rare_labels": ([{"text": "a", "label": "maybe"}], None, (20,)),
}


@pytest.mark.parametrize("code", CASES)
def test_found(code: str) -> None:
    extra, dev, rows = CASES[code]
    finding = found(extra, dev)[code]
    assert finding.rows == rows and finding.fix and f"list, row {rows[0] + 1}" in finding.message


def test_every_code_has_a_case() -> None:
    assert {*CASES, "single_label", "surrogates"} == set(CODES)
    (finding,) = check_labelled(read_table([{"text": c, "label": "ham"} for c in "abc"]))
    assert finding.code == "single_label" and finding.severity == "error" and finding.rows == (0, 1, 2)


def test_clean_data_has_no_findings() -> None:
    assert found([], [{"text": "new", "label": "no"}]) == {}
    assert set(found([{"text": "", "label": "no"}], [{"text": " ", "label": None}])) == {"empty_texts"}


def test_pairs_lists_and_measures() -> None:
    pairs = [{"text": "same", "text_pair": str(i), "label": "yes" if i % 2 else "no"} for i in range(6)]
    assert check_labelled(read_table(pairs)) == []
    several = read_table([{"text": c, "label": ["x", "y"] if c in "ac" else ["x"]} for c in "abcd"])
    assert check_labelled(several) == []
    assert [f.code for f in check_labelled(several, read_table([{"text": "e", "label": ["x", "z"]}]))] == ["unseen_labels"]
    for label in (str, float):
        assert check_labelled(read_table([{"text": str(i), "label": label(i / 4)} for i in range(9)])) == []
    assert "rare_labels" in {f.code for f in check_labelled(read_table([{"text": "a", "label": "1.5"}, {"text": "b", "label": "x"}]))}


def test_a_missing_column() -> None:
    with pytest.raises(DataError, match="no column 'label'"):
        check_labelled(read_table([{"text": "a"}]))


def test_surrogates_in_a_table_made_by_hand() -> None:
    table = Table([*CLEAN, {"text": "cut \ud83d", "label": "no"}], "list")
    (finding,) = check_labelled(table, length=lambda text, pair: len(text.encode()))
    assert (finding.code, finding.severity, finding.rows) == ("surrogates", "error", (20,))


def test_fixes_are_concrete() -> None:
    findings = found([{"text": "cafÃ© olÃ©", "label": "Yes"}, {"text": "b", "label": "3"}, {"text": "c", "label": "3"}])
    assert "'cafÃ© olÃ©' is 'café olé'" in findings["encoding"].fix and findings["similar_labels"].fix == "write 'Yes' as 'yes'"
    # the pattern and the commands that the fixes name do what they say
    pattern = re.search(r"re\.sub\(r'(.*?)'", CODES["control_characters"][2])
    assert pattern and re.sub(pattern[1], "", "a\x07b\tc\r\n\x92") == "ab\tc\r\n"
    assert "\ufeff".encode() == b"\xef\xbb\xbf" and "\\xef\\xbb\\xbf" in CODES["byte_order_mark"][2]


def test_near_duplicates_with_other_labels_are_counted() -> None:
    (finding,) = [f for f in check_labelled(read_table([*CLEAN, {"text": "text 1!", "label": "no"}])) if f.code == "near_duplicates"]
    assert finding.rows == (20,) and "1 of them with another label" in finding.message


def test_bare_keeps_what_tells_texts_apart() -> None:
    assert bare("It's  GOOD!") == bare("its good") == "itsgood" and bare("ＡＢＣ①") == "abc1" and bare("좋다 \u200b.") == "좋다"
    for a, b in ((":)", ":("), ("😀", "😢"), ("5 €", "5 $"), ("text 1", "text 2"), ("!", "?")):
        assert bare(a) != bare(b)


def test_length_in_tokens() -> None:
    rows = [*CLEAN, {"text": "one two three four", "label": "no"}, {"text": "one", "text_pair": "two three four", "label": "yes"}]
    (finding,) = check_labelled(read_table(rows), length=lambda text, pair: len(f"{text} {pair or ''}".split()), limit=3)
    assert (finding.code, finding.rows) == ("long_texts", (20, 21)) and "more than 3 tokens" in finding.message and "the longest has 4" in finding.message


def test_many_rows_take_little_memory_and_time() -> None:
    def table(count: int) -> Table:
        return Table([{"text": f"row {i}: " + "나비가 꽃에 앉았다. " * 10, "label": str(i % 2)} for i in range(count)], "list")

    large = table(20_000)
    began = time.process_time()
    assert check_labelled(large) == []
    assert time.process_time() - began < 6  # ten times what it takes
    tracemalloc.start()
    check_labelled(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800 * len(large)
