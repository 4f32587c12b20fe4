"""Beam search: the incumbent's hypotheses in its order, with its scores; each setting alone and several together."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from decoding.against import Count, compared, texts
from decoding.cases import ANY, BASE, BEAM, MODELS, PLAIN, agreed, changed, given


@pytest.mark.parametrize("name", ANY)  # that each of them matters is shown with greedy decoding
def test_beams_heed_the_settings_of_every_decoding(name: str) -> None:
    for turn, model in enumerate(MODELS):
        agreed(compared(MODELS[model], given(name, model, 1), BASE | ANY[name] | {"num_beams": 3 + (turn + len(name)) % 2}))


@pytest.mark.parametrize("name", BEAM)
def test_beams_heed_their_own_settings(name: str) -> None:
    for turn, (model, count) in enumerate((("gpt2", 5), ("t5", 1), ("bart", 1))):
        agreed(compared(MODELS[model], given(name, model, count), BASE | BEAM[name] | {"num_beams": 3 + (turn + len(name)) % 2}))
    beams = {"num_beams": 4}
    assert changed("gpt2", given(name, "gpt2", 40), BASE | BEAM[name] | beams, PLAIN | beams) >= 1


@pytest.mark.parametrize("beams", [2, 4])
def test_plain_beams_are_the_incumbents(beams: int) -> None:
    agreed(compared(MODELS["gpt2"], texts(True, 12, seed=1), BASE | {"num_beams": beams, "num_return_sequences": beams}))
    agreed(compared(MODELS["bart"], texts(False, 4, seed=1), BASE | {"num_beams": beams, "num_return_sequences": beams}))


def test_control_a_wrong_length_penalty_is_seen() -> None:
    settings = BASE | {"num_beams": 4, "length_penalty": 2.0}
    count = compared(MODELS["gpt2"], texts(True, 8, seed=3), settings, lambda s: replace(s, length_penalty=1.0))
    assert count.wrong >= 4


def test_control_a_missing_processor_is_seen() -> None:
    settings = BASE | {"num_beams": 4, "no_repeat_ngram_size": 2}
    count = compared(MODELS["gpt2"], texts(True, 8, seed=3), settings, lambda s: replace(s, no_repeat_ngram_size=0))
    assert count.wrong >= 2


def test_control_another_end_of_the_search_is_seen() -> None:
    settings = BASE | {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0, "num_return_sequences": 4}
    count = compared(MODELS["gpt2"], texts(True, 8, seed=3), settings, lambda s: replace(s, early_stopping=True))
    assert count.wrong >= 2


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3, 4])
def test_a_thousand_prompts_with_settings_drawn_at_random(beams: int) -> None:
    dice = random.Random(beams)
    total = Count()
    for turn in range(100):
        names = dice.sample(sorted(ANY.keys() - {"no eos_token_id", "max_length"}), dice.randint(0, 3))
        settings = BASE | {key: value for name in names for key, value in ANY[name].items()}
        if beams > 1:
            settings |= BEAM[dice.choice(sorted(BEAM))] | {"num_beams": beams}
        if settings.get("min_new_tokens"):
            settings["min_new_tokens"] = min(settings["min_new_tokens"], settings["max_new_tokens"])
        else:  # a least length may be more than the answer has room for
            settings.pop("min_length", None)
        model = dice.choice(sorted(MODELS))
        count = compared(MODELS[model], texts(model == "gpt2", 10, seed=turn), settings)
        assert not count.wrong, f"{model} {settings}: {count.first}"
        total.answers, total.ties = total.answers + count.answers, total.ties + count.ties
    assert total.answers >= 1000
    agreed(total)
