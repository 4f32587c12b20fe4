"""Entities from tags, and their figures, against counting by hand and a second reading of the rules."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nabi.metrics.tagged import Tagged, TaggedScore, counted, entities


def oracle(tags: list[str]) -> set[tuple[str, int, int]]:
    """The rules of conlleval written as questions about each boundary: does an entity end before tag i, does one begin at it."""

    def split(tag: str) -> tuple[str, str]:
        return ("O", "") if tag == "O" else (tag[0], tag[2:])

    def ends(a: str, b: str, x: str, y: str) -> bool:
        return a != "O" and (a in "ES" or b in "BSO" or x != y)

    def begins(a: str, b: str, x: str, y: str) -> bool:
        return b != "O" and (b in "BS" or a in "ESO" or x != y)

    found, start = set(), 0
    before, kind = "O", ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, type_ = split(tag)
        if ends(before, prefix, kind, type_):
            found.add((kind, start, i))
        if begins(before, prefix, kind, type_):
            start = i
        before, kind = prefix, type_
    return found


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("O O", []),
        ("B-A I-A O", [("A", 0, 2)]),
        ("B-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("O I-A I-A", [("A", 1, 3)]),  # repaired: an I that follows nothing begins
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("S-A E-A O B-A E-A I-A", [("A", 0, 1), ("A", 1, 2), ("A", 3, 5), ("A", 5, 6)]),
        ("B-A L-A U-A", [("A", 0, 2), ("A", 2, 3)]),
        ("B-A M-A E-A", [("A", 0, 3)]),
        ("B-creative-work I-creative-work", [("creative-work", 0, 2)]),
        ("PER PER LOC O PER", [("PER", 0, 2), ("LOC", 2, 3), ("PER", 4, 5)]),
        ("B I O", [("_", 0, 2)]),
    ],
)
def test_entities_of_tags(tags: str, wanted: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == wanted


def test_parts_of_speech_stay_apart() -> None:
    assert entities(["NOUN", "NOUN", "VERB"], each=True) == [("NOUN", 0, 1), ("NOUN", 1, 2), ("VERB", 2, 3)]


def test_entities_of_random_tags_are_the_oracles() -> None:
    dice, differing = random.Random(0), 0
    for _ in range(500):
        tags = dice.choices(["O", *(f"{p}-{t}" for p in "BIES" for t in "XY")], k=dice.randint(0, 12))
        assert set(entities(tags)) == oracle(tags)
        # the control: strict reading, in which an entity begins with B or S alone
        differing += {e for e in entities(tags) if tags[e[1]][0] in "BS"} != oracle(tags)
    assert differing > 100


def by_hand() -> TaggedScore:
    score = TaggedScore(("LOC", "PER"))
    score.add(([("PER", 0, 2), ("LOC", 3, 4)], (5, 6)), [("PER", 0, 2), ("LOC", 3, 5)])
    score.add(([("PER", 1, 2)], (3, 3)), [("PER", 1, 2)])
    score.add(([], (1, 2)), [("LOC", 0, 1)])
    return score


def test_figures_by_hand() -> None:
    found = by_hand().result()
    assert found["precision"] == pytest.approx(2 / 3) and found["recall"] == pytest.approx(2 / 4) and found["f1"] == pytest.approx(4 / 7)
    assert found["f1/PER"] == 1.0 and found["f1/LOC"] == 0.0 and found["macro_f1"] == 0.5
    assert found["accuracy"] == pytest.approx(9 / 11) and "char_f1" not in found


def test_an_entity_counts_once_a_row_and_nothing_is_no_error() -> None:
    score = TaggedScore(("A", "B"))
    assert score.result() == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "macro_f1": 0.0, "f1/A": 0.0, "f1/B": 0.0}
    score.add(([("A", 0, 1)], (2, 2)), [("A", 0, 1)])
    assert score.result()["f1"] == 1.0 and score.result()["macro_f1"] == 1.0  # B does not occur


def test_characters_are_scored_without_the_outside() -> None:
    # gold 박근혜 at 0-3; found 0-4, one syllable too many: B right, I: 2 of 3 found, 2 of 2 true
    score = TaggedScore(("PS",))
    score.add(([("PS", 0, 4)], None), [("PS", 0, 3)])
    found = score.result()
    assert found["f1"] == 0.0 and found["char_f1"] == pytest.approx((1.0 + 2 * 2 / (3 + 2)) / 2) and "accuracy" not in found


def test_the_detail_gives_the_scores_figures_on_any_weights() -> None:
    rows = [
        (([("PER", 0, 2), ("LOC", 3, 4)], (5, 6)), [("PER", 0, 2), ("LOC", 3, 5)]),
        (([("PER", 1, 2)], (3, 3)), [("PER", 1, 2)]),
        (([], (1, 2)), [("LOC", 0, 1)]),
    ]
    detail = Tagged(("LOC", "PER"))
    for answer, truth in rows:
        detail.add(answer, truth)
    weights = np.array([[1, 1, 1], [0, 2, 1], [1, 0, 0]])
    figures = detail.figures(weights)
    for b, counts in enumerate(weights):
        score = TaggedScore(("LOC", "PER"))
        for (answer, truth), n in zip(rows, counts, strict=True):
            for _ in range(n):
                score.add(answer, truth)
        assert {name: pytest.approx(float(value[b])) for name, value in figures.items()} == score.result()
    verdicts = detail.verdicts()
    assert verdicts.loss.tolist() == [2, 0, 1] and verdicts.truth == ["PER, LOC", "PER", "LOC"] and verdicts.predicted[2] == "none"
    assert detail.take([1]).verdicts().right is not None and detail.take([1]).figures(np.ones((1, 1)))["f1"][0] == 1.0


def test_counts_of_a_row() -> None:
    assert counted([("A", 0, 2)], [("A", 0, 2), ("B", 3, 4)], (3, 4)) == {"entity/A": (1, 1, 1), "entity/B": (0, 0, 1), "word": (3, 4, 4)}
