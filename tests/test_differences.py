"""The one list of places where nabi differs from the incumbent's version 4 on purpose: ``docs/differences.md``, entry by entry against version 4's own answers.

The other golden tests take from ``golden.v4_differences.AS_V4`` what they set to have version 4's answer, and compare all else as it is.
"""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import nabi
from golden import v4_differences
from golden.v4_differences import AS_V4, CASES, FILE, KOREAN
from nabi.errors import MissingHeadError, OptionError, UserError
from nabi.model import largest_gap
from tasks import tagged
from tasks.answering import CONTEXT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
FOUND: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
MOST = 15
Pipes = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Pipes:
    base = tmp_path_factory.mktemp("differences")
    folders = cache(lambda model: v4_differences.folder(model, base))
    return cache(lambda task, model: nabi.pipeline(task, folders(model)))


def of(difference: str) -> list[dict[str, Any]]:
    return [case for case in FOUND if case["difference"] == difference]


def ours(case: dict[str, Any], pipes: Pipes, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipes(case["task"], case["model"])(*case["args"], **{**case["options"], **more})


def numbers(answer: Any) -> Any:
    """Version 4's answer with its NumPy numbers as numbers."""
    if isinstance(answer, list):
        return [numbers(x) for x in answer]
    if isinstance(answer, dict):
        return {key: numbers(x) for key, x in answer.items()}
    return float(answer.split()[1]) if isinstance(answer, str) and answer.startswith("float32 ") else answer


def test_the_page_the_cases_and_what_version_4_answers_are_one_list() -> None:
    named = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert named == list(CASES) == list(dict.fromkeys(case["difference"] for case in FOUND)) and len(named) <= MOST
    assert set(AS_V4) <= set(named)
    assert [(c["task"], c["model"], c["args"], c["options"]) for c in FOUND] == [case for cases in CASES.values() for case in cases]
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert all(len(cells := row.strip("| ").split(" | ")) == 4 and all(cells) for row in rows), "a name, version 4, nabi, and the reason"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/differences.md" in readme


@pytest.mark.parametrize("difference", CASES)
def test_each_entry_is_a_difference(difference: str, pipes: Pipes) -> None:
    """In no case is our answer version 4's: an entry that no longer differs has to go."""
    for case in of(difference):
        try:
            found = ours(case, pipes)
        except UserError:
            assert "answer" in case, "version 4 fails too"
            continue
        if difference != "numbers":
            assert "error" in case or largest_gap(found, numbers(case["answer"])) > 1e-3, case


def test_long_texts_are_read_to_their_end(pipes: Pipes) -> None:
    entities, zero_shot, text, features = of("long_texts")
    assert max(e["end"] for e in entities["answer"]) < len(tagged.LONG) / 2 < 0.9 * len(tagged.LONG) < max(e["end"] for e in ours(entities, pipes))
    assert text["error"] == features["error"] == "RuntimeError" and len(ours(features, pipes)[0]) > 180 and ours(text, pipes)
    for case in (entities, zero_shot):  # cut as version 4 cuts, the answers are version 4's
        assert largest_gap(ours(case, pipes, **AS_V4["long_texts"]), numbers(case["answer"])) <= 1e-5


def test_entities_are_words_where_version_4_gives_tokens(pipes: Pipes) -> None:
    for case in of("entities"):
        assert all("entity" in e and "index" in e for e in case["answer"]) and all("entity_group" in e and "surface" in e for e in ours(case, pipes))
        assert largest_gap(ours(case, pipes, **AS_V4["entities"], **AS_V4["long_texts"]), numbers(case["answer"])) <= 1e-5


def test_particles_that_no_token_sets_apart_are_cut_off(pipes: Pipes) -> None:
    (case,) = of("particles")
    text = KOREAN["context"]
    cut = [x for x in ours(case, pipes) if "surface" in x]
    assert cut and all(text[x["start"] : x["end"]] == x["answer"] and x["surface"].startswith(x["answer"]) and x["surface"] != x["answer"] for x in cut)
    assert {x["surface"] for x in cut} & {x["answer"] for x in case["answer"]}
    assert largest_gap(ours(case, pipes, **AS_V4["particles"]), case["answer"]) <= 1e-5


def test_words_of_hangul_are_no_units_of_an_answer(pipes: Pipes) -> None:
    (case,) = of("words_of_answers")
    text = KOREAN["context"]

    def whole(x: dict[str, Any]) -> bool:
        return not any(text[at - 1 : at + 1].isalnum() for at in (x["start"], x["end"]) if at)

    assert all(map(whole, case["answer"])) and not all(map(whole, ours(case, pipes)))
    assert largest_gap(ours(case, pipes, **AS_V4["words_of_answers"], **AS_V4["particles"]), case["answer"]) <= 1e-5


def test_hangul_taken_apart_has_the_tokens_of_its_syllables(pipes: Pipes) -> None:
    (case,) = of("tokens")
    (apart,) = case["args"]
    found, composed = ours(case, pipes), ours({**case, "args": [unicodedata.normalize("NFC", apart)]}, pipes)
    told = [[(e["entity_group"], unicodedata.normalize("NFC", text[e["start"] : e["end"]])) for e in answer]
            for answer, text in ((found, apart), (composed, unicodedata.normalize("NFC", apart)))]  # fmt: skip
    assert told[0] == told[1] and [e["score"] for e in found] == pytest.approx([e["score"] for e in composed])


def test_the_space_that_a_token_begins_with_is_no_part_of_an_answer(pipes: Pipes) -> None:
    (case,) = of("spaces")
    found, theirs = ours(case, pipes), case["answer"]
    assert {" the red mat", " and the dog wa"} <= {x["answer"] for x in theirs} and {"the red mat", "and the dog wa"} <= {x["answer"] for x in found}
    assert all(CONTEXT[x["start"] : x["end"]] == x["answer"] for x in found)


def test_spans_of_probability_0_are_no_answers(pipes: Pipes) -> None:
    (case,) = of("empty_answers")
    found = ours(case, pipes)
    assert any(x["score"] == 0 for x in case["answer"]) and all(x["score"] > 0 for x in found) and len(found) < len(case["answer"])


def test_a_question_is_cut_where_it_is_asked_for(pipes: Pipes) -> None:
    (case,) = of("question_length")
    usual = {name: value for name, value in case["options"].items() if name != "max_question_len"}
    assert largest_gap(ours({**case, "options": usual}, pipes), case["answer"]) <= 1e-5, "version 4 ignores it"
    assert pipes(case["task"], case["model"]).model.predict(*case["args"], **case["options"])["truncated"]


def test_a_model_without_a_classification_token_has_a_place_of_no_answer(pipes: Pipes) -> None:
    (case,) = of("place_of_no_answer")
    found, theirs = ([x["score"] for x in answers if not x["answer"]] for answers in (ours(case, pipes), case["answer"]))
    assert theirs == [0.0] and 0 < found[0] < 1


def test_windows_overlap_less_where_there_is_little_room(pipes: Pipes) -> None:
    (case,) = of("overlap")
    found = ours(case, pipes)
    assert case["error"] and case["args"][0]["context"][found["start"] : found["end"]] == found["answer"] != ""


def test_the_length_that_is_asked_for_holds_and_nothing_is_drawn(pipes: Pipes) -> None:
    long, drawn = of("limits")
    assert long["error"] == "IndexError"  # it went on to 256 tokens, over the model's positions
    (found,) = ours(long, pipes)
    assert len(pipes("text-generation", "gpt2").tokenizer.encode(found["generated_text"])) <= 12
    assert ours(drawn, pipes) == ours(drawn, pipes) == ours(drawn, pipes, do_sample=False)


def test_an_unknown_argument_is_refused(pipes: Pipes) -> None:
    for case, name in zip(of("arguments"), ("hypothesis_template", "pooling"), strict=True):
        with pytest.raises(OptionError, match=f"Did you mean '{name}'"):
            ours(case, pipes)


def test_numbers_are_pythons(pipes: Pipes) -> None:
    (case,) = of("numbers")
    assert all(e["score"].startswith("float32 ") for e in case["answer"])
    assert all(type(e["score"]) is float for e in ours(case, pipes)) and largest_gap(ours(case, pipes), numbers(case["answer"])) <= 1e-5


def test_a_head_is_never_made_up(pipes: Pipes) -> None:
    for case in of("heads"):
        assert case["answer"]  # of random weights
        with pytest.raises(MissingHeadError):
            ours(case, pipes)


def test_a_list_in_is_a_list_out(pipes: Pipes) -> None:
    (case,) = of("lists")
    assert largest_gap(ours(case, pipes), [case["answer"]]) <= 1e-5
