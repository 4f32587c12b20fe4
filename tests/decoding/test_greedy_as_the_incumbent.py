"""Greedy decoding: token for token and score for score the incumbent's, with each setting alone and with several together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decoding.against import compared, texts
from decoding.cases import BASE, GREEDY, MODELS, PLAIN, agreed, changed, given


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_answers_are_the_incumbents(name: str) -> None:
    differ = 0
    for model, count in (("gpt2", 8), ("t5", 5), ("bart", 5)):
        texts = given(name, model, count)
        agreed(compared(MODELS[model], texts, BASE | GREEDY[name]))
        differ += changed(model, texts, BASE | GREEDY[name], PLAIN)
    assert differ >= 2


@pytest.mark.parametrize("model", MODELS)
def test_plain_greedy_answers_are_the_incumbents(model: str) -> None:
    agreed(compared(MODELS[model], texts(model == "gpt2", 60, seed=1), BASE))


def test_control_a_missing_processor_is_seen() -> None:
    settings = BASE | {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    count = compared(MODELS["gpt2"], texts(True, 30, seed=3), settings, lambda s: replace(s, no_repeat_ngram_size=0))
    assert count.wrong >= 3
