"""The view of how a text came about: columns stand below each other in any script and width, and the tree shows each beam that was ever open once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nabi.inspection.writing import cells, fitted, in_order, quoted, table, tree, view

NAMES = ["나비", " butterfly", "蝶々", "ﾁｮｳ", "é", "e\u0301", "ᄂ\u1161", "<0xEB><0x82>", "\n", "\x1b[31m", "", "🦋", "</s>", "a" * 60, "나" * 60]


def token(name: str, alternatives: list[tuple[str, int, float]], id: int = 0) -> dict[str, Any]:
    return {"piece": 0, "index": 0, "token": id, "name": name, "text": name, "logprob": -1.5, "alternatives": alternatives}


def beam(parent: int, name: str, score: float, text: str | None = None) -> dict[str, Any]:
    return {"parent": parent, "token": 0, "name": name, "text": name if text is None else text, "score": score}


def step(number: int, beams: list[dict[str, Any]], ended: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"piece": 0, "step": number, "beams": beams, "ended": ended or []}


# ---- cells -----------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "width"), [("ab", 2), ("나비", 4), ("ᄂ\u1161비", 4), ("e\u0301", 1), ("ﾁ", 1), ("蝶", 2), ("🦋", 2), ("", 0)])
def test_cells_of_a_text(text: str, width: int) -> None:
    assert cells(text) == width


def test_a_text_is_cut_or_filled_to_its_width() -> None:
    for name in NAMES:
        for width in range(12):
            assert cells(fitted(quoted(name), width)) == width, (name, width)
    assert fitted("나비가", 5) == "나비…" and fitted("나비가", 4) == "나… " and fitted("나비", 4) == "나비"


def test_what_a_terminal_would_act_on_is_an_escape() -> None:
    assert quoted("\x1b[31m\n \u202e나\u00a0") == '"\\x1b[31m\\n \\u202e나\\xa0"'


# ---- tables ------------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_columns_stand_below_each_other(width: int) -> None:
    others = [(name, number, -0.1 - number / 4) for number, name in enumerate(NAMES)]
    rows = list(table(token(NAMES[3], others, 3), 7, width))
    assert len(rows) == len(NAMES) and max(map(cells, rows)) <= width
    assert len({cells(row[: row.index("%")]) for row in rows}) == 1, "the columns of figures end in one place"
    assert [row[5:6] for row in rows].index(">") == 3 and sum(row[5:6] == ">" for row in rows) == 1
    assert any(row.endswith("#") for row in rows) == (width >= 40)
    assert rows[0].startswith("   7 ") and all(row.startswith("     ") for row in rows[1:])


def test_a_drawn_token_that_is_none_of_the_five_stands_last() -> None:
    rows = list(table(token("여덟", [("하나", 1, -0.5), ("둘", 2, -1.0)], id=8), 1, 60))
    assert len(rows) == 3 and "여덟" in rows[2] and rows[2][5] == ">" and "22.3%" in rows[2]


# ---- trees ---------------------------------------------------------------------------------------------------------------------------------------------------


SEARCH = [
    step(0, [beam(0, "나", -0.1), beam(0, "너", -2.0)]),
    step(1, [beam(0, "비", -0.2), beam(0, "라", -2.2)]),
    step(2, [beam(0, "가", -0.4), beam(0, "는", -1.4)], [beam(0, "</s>", -0.5, "")]),
    step(3, [beam(0, ".", -2.4), beam(1, ".", -2.9)], [beam(0, "</s>", -0.2, "")]),
]


def test_a_tree_has_a_trunk_that_leads_to_the_answer() -> None:
    assert list(tree(SEARCH, 60)) == [
        "4 steps, 2 beams: * the answer, . ended, x pruned, o open",
        '├─x "너"     -2.000  pruned at 2',
        '* "나"       -0.100',
        '├─x "라"     -2.200  pruned at 3',
        '* "비"       -0.200',
        '├─. "</s>"   -0.500  ended at 3',
        '├─o "는."    -2.900  left open',
        '* "가"       -0.400',
        '├─o "."      -2.400  left open',
        '* "</s>"     -0.200  the answer',
    ]


def test_bytes_of_a_character_are_shown_until_it_is_complete() -> None:
    whole = [step(0, [beam(0, "<0xEB>", -1, "")]), step(1, [beam(0, "<0x82><0x98>", -2, "나")]), step(2, [], [beam(0, "</s>", -1, "")])]
    assert list(tree(whole))[1:] == ['* "나</s>"   -1.000  the answer']
    half = [step(0, [beam(0, "<0xEB>", -1, "")]), step(1, [], [beam(0, "</s>", -1, "")])]
    assert list(tree(half))[1:] == ['* "<0xEB></s>"   -1.000  the answer']


@pytest.mark.parametrize("width", [24, 40, 80])
def test_a_random_search_is_drawn_whole(width: int) -> None:
    dice = random.Random(width)
    for _ in range(20):
        beams, search = dice.randint(2, 6), []
        before = 1
        leaves = 0
        for number in range(dice.randint(1, 12)):
            made = [beam(dice.randrange(before), dice.choice(NAMES), -dice.random()) for _ in range(beams)]
            ended = [beam(dice.randrange(before), "</s>", -dice.random(), "") for _ in range(dice.randrange(3))]
            search.append(step(number, made, ended))
            if number:
                leaves += before - len({b["parent"] for b in (*made, *ended)})
            leaves += len(ended)
            before = beams
        if not any(record["ended"] for record in search):
            search[-1]["ended"].append(beam(0, "</s>", 0.0, ""))
            leaves += 1
            if len(search) > 1 and all(b["parent"] for b in search[-1]["beams"]):
                leaves -= 1  # this hypothesis's parent is no leaf any more
        rows = list(tree(search, width))[1:]
        states = [row for row in rows if row.endswith("the answer") or "ended at" in row or "pruned at" in row]
        assert len(states) == leaves and sum(row.endswith("the answer") for row in rows) == 1
        assert sum(row.endswith("left open") for row in rows) == beams
        assert width < 30 or max(map(cells, rows)) <= width


def test_a_search_of_a_thousand_steps_does_not_grow_to_the_right() -> None:
    search = [step(0, [beam(0, "a", -1.0), beam(0, "b", -2.0)])]
    search += [step(i, [beam(0, "a", -1.0), beam(0, "b", -2.0)]) for i in range(1, 1000)]
    search.append(step(1000, [], [beam(0, "</s>", -1.0, "")]))
    rows = list(tree(search, 80))
    assert len(rows) == 1 + 1000 + 1000 and max(map(cells, rows)) <= 80 and all(row.startswith(("*", "├─x")) for row in rows[1:])


# ---- streams -----------------------------------------------------------------------------------------------------------------------------------------------


def test_answers_follow_each_other() -> None:
    mixed = [{**token(f"{index}{number}", []), "index": index} for number in range(3) for index in (0, 1, 2)]
    last = {"text": "", "finish_reason": "stop", "answer": {"sequences": [{"text": t} for t in "abc"]}}
    assert [r.get("name") for r in in_order([*mixed, last])] == ["00", "01", "02", "10", "11", "12", "20", "21", "22", None]
    rows = list(view([*mixed, last], lambda answer: "the text", 60))
    assert [row for row in rows if "answer" in row] == ["answer 2", "answer 3", "answer 2: b", "answer 3: c"] and "the text  (stop)" in rows
    assert [row[:4].strip() for row in rows if ">" in row] == ["1", "2", "3"] * 3
