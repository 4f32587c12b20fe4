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


def test_the_list_has_the_particles_of_the_grammar() -> None:
    cases = "이 가 은 는 을 를 의 에 에서 에게 한테 께 께서 에게서 한테서 으로 로 으로서 로서 으로써 로써 와 과 랑 이랑 하고"
    others = "도 만 까지 부터 보다 처럼 만큼 마다 조차 마저 밖에 라도 이라도 이나 이란 란 이든지 든지 대로 뿐 커녕"
    assert set(cases.split()) | set(others.split()) <= set(PARTICLES)
    assert not {"나", "야", "아", "여", "든", "엔"} & set(PARTICLES)  # they end names more often: 유나, 소니야, 치엔


def test_a_particle_stands_behind_the_syllables_that_it_fits() -> None:
    for open_, closed in (("는", "은"), ("가", "이"), ("를", "을"), ("와", "과"), ("랑", "이랑"), ("라도", "이라도"), ("로", "으로")):
        assert stem_end(f"나비{open_}", 0, 2 + len(open_)) == 2 and stem_end(f"나비{closed}", 0, 2 + len(closed)) != 2
        assert stem_end(f"부산{closed}", 0, 2 + len(closed)) == 2 and stem_end(f"부산{open_}", 0, 2 + len(open_)) != 2
    assert stem_end("서울로", 0, 3) == 2 and stem_end("서울으로", 0, 4) != 2  # behind ㄹ as behind a vowel


@pytest.mark.parametrize("form", sorted(PARTICLES))
def test_each_particle_goes_whole_and_a_lone_one_stays(form: str) -> None:
    noun = {"any": "하늘", "consonant": "부산", "vowel": "나비", "soft": "나비", "hard": "부산"}[PARTICLES[form]]
    assert stem_end(noun + form, 0, len(noun + form)) == len(noun), "longest match"
    assert 0 < stem_end(form, 0, len(form)) <= len(form), "never empty"


def test_the_list_is_closed_and_each_form_is_hangul() -> None:
    assert len(PARTICLES) > 80 and all("\uac00" <= c <= "\ud7a3" for form in PARTICLES for c in form)
