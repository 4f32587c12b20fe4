"""Each code of check_labelled is found where it is, and nothing where nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from nabi.data import Finding, check_labelled, read_table
from nabi.data.checks import CODES, LONG
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
    assert {*CASES, "single_label"} == set(CODES)
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
