"""Measures of spans: by hand as the official scripts count them, and the threshold of no answer."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nabi.metrics.answered import Answered, AnswerScore, best_of, character_f1, exact, korquad_form, squad_form, word_f1


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The  Cat's, a MAT.", "cats mat"),
        ("an apple-tree", "appletree"),
        ("theatre", "theatre"),  # articles are whole words
        ("a.m.", "am"),  # punctuation goes before articles
        ("the", ""),
        ("나비가 앉았다.", "나비가 앉았다"),
        ("«ça»", "«ça»"),  # ASCII punctuation alone
    ],
)
def test_squad_takes_off_case_punctuation_and_articles(text: str, form: str) -> None:
    assert squad_form(text) == form


@pytest.mark.parametrize(("text", "form"), [("《나비》의 '꽃'", "나비 의 꽃"), ("(The) 2024년, ", "the 2024년"), ("〈a〉b", "a b")])
def test_korquad_turns_quotes_into_spaces_and_keeps_articles(text: str, form: str) -> None:
    assert korquad_form(text) == form


def test_measures_by_hand() -> None:
    assert (exact("The red mat!", "red mat"), exact("red", "red mat")) == (1.0, 0.0)
    # two of three words answered, two of two that are right: 2 * 2 / (3 + 2)
    assert word_f1("on red mat", "the red mat") == pytest.approx(0.8)
    assert word_f1("red red", "red") == pytest.approx(2 / 3)  # a word counts as often as it stands there
    assert word_f1("", "") == 1.0 and word_f1("the", "") == 1.0 and word_f1("red", "") == 0.0 and word_f1("", "red") == 0.0
    # 나비 of 나비가: 2 * 2 / (2 + 3)
    assert character_f1("나비", "나비가") == pytest.approx(0.8) and word_f1("나비", "나비가") == 0.0
    assert character_f1("49억 300만", "49억300만 원") == pytest.approx(2 * 7 / (7 + 8))
    assert best_of(word_f1, "red mat", ["blue", "mat"]) == pytest.approx(2 / 3)
    assert best_of(exact, "", []) == 1.0 and best_of(exact, "cat", []) == 0.0
    assert best_of(exact, "", ["!"]) == 1.0  # as the official script: an answer without a word is none


ROWS = [("cat", -2.0, ["cat"]), ("dog", -1.0, ["cat"]), ("mat", 0.5, []), ("red mat", 1.0, ["mat"]), ("a", 3.0, [])]


def filled(score: AnswerScore) -> AnswerScore:
    for row in ROWS:
        score.add(*row)
    return score


def test_figures_by_hand() -> None:
    always = filled(AnswerScore()).result()
    assert always == pytest.approx(
        {
            "em": 2 / 5, "f1": (1 + 2 / 3 + 1) / 5, "char_f1": (1 + 6 / 9) / 5 , "always_no_answer": 2 / 5,
            "has_answer_em": 1 / 3, "has_answer_f1": (1 + 2 / 3) / 3, "has_answer_char_f1": (1 + 6 / 9) / 3, "no_answer_em": 1 / 2,
        }
    )  # fmt: skip
    some = filled(AnswerScore(0.0)).result()
    assert (some["em"], some["f1"], some["no_answer_em"], some["has_answer_f1"]) == pytest.approx((3 / 5, 3 / 5, 1.0, 1 / 3))


def test_without_unanswerable_rows_there_are_no_figures_of_them() -> None:
    score = AnswerScore()
    score.add("cat", 0.0, ["cat"])
    assert score.result() == dict.fromkeys(("em", "f1", "char_f1", "has_answer_em", "has_answer_f1", "has_answer_char_f1"), 1.0)
    assert score.best_threshold() is None


def test_no_threshold_is_better_than_the_best() -> None:
    dice = random.Random(0)
    for _ in range(30):
        score = AnswerScore()
        for _ in range(dice.randint(2, 20)):
            has = dice.random() < 0.6
            score.add(dice.choice(("cat", "mat", "red mat")), dice.choice((-2.0, -1.0, 0.0, 0.5, 2.0)), ["mat"] if has else [])
        score.threshold = score.best_threshold()
        if score.threshold is None:
            continue
        best = score.result()["f1"]
        every = []
        for threshold in (-9, -1.5, -0.5, 0.2, 1.0, 9):
            score.threshold = threshold
            every.append(score.result()["f1"])
        assert best == pytest.approx(max(every))


def test_the_threshold_by_hand() -> None:
    # answering the first row alone is right for it and for both that have no answer: the threshold lies between -2 and -1, or -1 and 0.5, which is as good
    assert filled(AnswerScore()).best_threshold() == -1.5


def test_details_are_the_score_row_by_row() -> None:
    score, detail = filled(AnswerScore(0.0)), filled(Answered(0.0))
    assert isinstance(detail, Answered)
    assert {k: float(v[0]) for k, v in detail.figures(np.ones((1, 5))).items()} == score.result()
    weights = np.array([[2.0, 0, 1, 0, 1]])
    twice = detail.take([0, 0, 2, 4])
    assert {k: v[0] for k, v in detail.figures(weights).items()} == pytest.approx({k: v[0] for k, v in twice.figures(np.ones((1, 4))).items()})
    verdicts = detail.verdicts()
    assert verdicts.predicted == ["cat", "dog", "", "", ""] and verdicts.right is not None and verdicts.right.tolist() == [True, False, True, False, True]
    assert detail.facts() == {"threshold": 0.0, "best_threshold": -1.5}
    (section,) = detail.sections({})
    assert section.blocks[1].rows == [("has an answer", 2, 1), ("has none", 0, 2)]  # type: ignore[union-attr]
