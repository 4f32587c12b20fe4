"""Measures of spans: by hand as the official scripts count them, and the threshold of no answer."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nabi.metrics.answered import Answered, AnswerScore, best_of, character_f1, exact, korquad_form, squad_form, word_f1
from nabi.metrics.calibration import TEMPERATURES, ece


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


# ---- how sure ---------------------------------------------------------------------------------------------------------------------------------------

Sure = tuple[tuple[float, float], list[tuple[float, float]]]


def claimed(logits: tuple[float, float, float], temperature: float = 1.0) -> Sure:
    """How sure a model with these logits, of the span, of no answer and of all else, says that it is; the first pair with a temperature of its own."""
    each = [np.exp(np.array(logits) / t) / np.exp(np.array(logits) / t).sum() for t in (temperature, *TEMPERATURES)]
    pairs = [(float(p[0]), float(p[1])) for p in each]
    return pairs[0], pairs[1:]


def overconfident(factor: float, threshold: float | None = 0.0, count: int = 4000, cls: type[AnswerScore] = AnswerScore) -> AnswerScore:
    """Answers that are right as often as a softmax says, of a model that says it with ``factor`` times the logits."""
    dice, score = np.random.default_rng(0), cls(threshold)
    for _ in range(count):
        logits = dice.normal(0, 1.5, 3) - (0 if threshold is not None else np.array([0, 99, 0]))
        p = np.exp(logits) / np.exp(logits).sum()
        truth = (["right"], [], ["other"])[dice.choice(3, p=p)]
        a, b, c = (float(x) for x in logits * factor)
        score.add("right", b - a, truth, claimed((a, b, c)))
    return score


@pytest.mark.parametrize("threshold", [0.0, None])
@pytest.mark.parametrize("factor", [4.0, 0.4])
def test_the_temperature_is_what_the_logits_were_multiplied_with(factor: float, threshold: float | None) -> None:
    score = overconfident(factor, threshold)
    before = score.result()
    best = score.best_temperature()
    assert best is not None and abs(np.log(best / factor)) <= 0.1  # TEMPERATURES lie a tenth apart
    score.temperature = best
    after = score.result()
    assert before["ece"] == before["ece_unscaled"] == after["ece_unscaled"] > 0.1 and after["ece"] < 0.03
    assert {n: v for n, v in after.items() if not n.startswith("ece")} == {n: v for n, v in before.items() if not n.startswith("ece")}


def test_a_calibrated_model_keeps_its_scores() -> None:
    """Control: where the scores are right, the temperature is 1 and nothing is won."""
    score = overconfident(1.0)
    assert score.best_temperature() == pytest.approx(1.0, abs=0.11) and score.result()["ece"] < 0.03
    score.temperature = TEMPERATURES[-10]  # another one makes them wrong
    assert score.result()["ece"] > 0.1


def test_too_few_rows_and_rows_that_are_all_right_say_no_temperature() -> None:
    assert overconfident(4.0, count=19).best_temperature() is None and overconfident(4.0, count=20).best_temperature() is not None
    score = AnswerScore()
    for _ in range(50):
        score.add("right", 0.0, ["right"], claimed((1.0, 0.0, 0.0)))
    assert score.best_temperature() is None
    assert filled(AnswerScore()).best_temperature() is None and "ece" not in filled(AnswerScore()).result()


def test_details_of_confidence_are_the_score_row_by_row() -> None:
    detail, score = overconfident(4.0, count=300, cls=Answered), overconfident(4.0, count=300)
    assert isinstance(detail, Answered) and detail.facts()["best_temperature"] == score.best_temperature()
    detail.temperature = score.temperature = TEMPERATURES[40]
    assert detail.facts()["temperature"] == TEMPERATURES[40]
    ones = np.ones((1, 300))
    assert {k: float(v[0]) for k, v in detail.figures(ones).items()} == score.result()
    rows = [0, 0, 5, 7, 9, 9, 9]
    weights = np.bincount(rows, minlength=300).astype(float)[None]
    taken = {k: float(v[0]) for k, v in detail.take(rows).figures(np.ones((1, 7))).items()}
    assert {k: float(v[0]) for k, v in detail.figures(weights).items()} == pytest.approx(taken)
    confidence = detail.verdicts().confidence
    assert confidence is not None and score.result()["ece"] == pytest.approx(ece(confidence, detail.verdicts().right))
    assert [section.title for section in detail.sections({})] == ["Answers", "Calibration"]
