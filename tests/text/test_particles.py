"""Korean particles: the longest one that fits behind the syllable goes, nothing else, and a span is never emptied."""

from __future__ import annotations

import unicodedata

import pytest

from nabi.text.particles import PARTICLES, stem_end

CASES = {
    "박근혜가": "박근혜", "서울에서": "서울", "서울에서는": "서울", "국방부는": "국방부", "한국은행이": "한국은행", "부산으로": "부산",
    "서울로": "서울", "학교로": "학교",
    "대통령의": "대통령", "철수와": "철수", "영국과": "영국", "사장님께서는": "사장님", "도서관에서부터": "도서관", "삼성으로부터": "삼성",
    "3일까지": "3일", "KBS는": "KBS",
    # the form does not fit behind the syllable
    "오이": "오이", "바나나은": "바나나은", "서울는": "서울는", "나로과": "나로과", "내과의": "내과",
    # nothing would be left, or there is no particle
    "가": "가", "은": "은", "에서": "에서", "Berlin": "Berlin", "": "",
}  # fmt: skip


@pytest.mark.parametrize(("span", "stem"), CASES.items())
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_spans_without_their_particle(span: str, stem: str, form: str) -> None:
    text = unicodedata.normalize(form, f"어제 {span}, 그리고")
    start = len(unicodedata.normalize(form, "어제 "))
    end = start + len(unicodedata.normalize(form, span))
    assert unicodedata.normalize("NFC", text[start : stem_end(text, start, end)]) == stem


def test_a_span_inside_a_word_keeps_its_end() -> None:
    assert stem_end("서울에서는", 0, 4) == 4  # 서울에서|는


def test_no_more_goes_than_is_allowed() -> None:
    assert stem_end("서울에서", 0, 4) == 2 and stem_end("서울에서", 0, 4, least=2) == 4 and stem_end("서울에서", 0, 4, least=1) == 2


def test_the_list_is_closed_and_each_form_is_hangul() -> None:
    assert len(PARTICLES) > 80 and all("\uac00" <= c <= "\ud7a3" for form in PARTICLES for c in form)
