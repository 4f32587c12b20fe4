"""Texts written through nabi's own families and caches: token for token the incumbent's, greedy and by beams, under every penalty and stop.

Of 2017 the other side is torch's own model without a cache. In the usual run 24 texts a family and way; the slow form reads a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from nabi.nn.cache import KeyValues
from parity.trained import trained
from parity.uncached import START, processors
from parity.written import BASE, EVERY, OF_BEAMS, SAME, Count, Pair, compare, given

FEW = (1, 2, 5, 12)  # lengths of the texts of a usual run
BEAMS: Mapping[str, Any] = {**BASE, "num_beams": 4}
WARPED: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"temperature": 0.6, "top_k": 0},
    "top_k": {"top_k": 7},
    "top_p": {"top_k": 0, "top_p": 0.8},
    "all, and penalties": {"temperature": 1.4, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
}


class Pairs(dict[str, Pair]):
    """Of each kind, made when it is asked for."""

    def __init__(self, factory: pytest.TempPathFactory, tokenizer: Any) -> None:
        self.factory, self.tokenizer = factory, tokenizer

    def __missing__(self, kind: str) -> Pair:
        folder = self.factory.mktemp("writing") / "model"
        self[kind] = trained(folder) if kind == "trained gpt2" else Pair.made(kind, folder, self.tokenizer)
        return self[kind]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Pairs:
    return Pairs(tmp_path_factory, tokenizer)


def few(pair: Pair, name: str, count: int) -> list[list[int]]:
    """Texts of a usual run, of few lengths, so that the incumbent reads them in few batches."""
    return [(text * 12)[: FEW[i % 4]] for i, text in enumerate(given(pair, name, count, seed=len(name)))] if "bos" not in name else given(pair, name, count, 1)


def greedy(pair: Pair, count: int) -> Count:
    """All cases, ``count`` texts each."""
    total = Count()
    for name, case in pair.cases.items():
        total.add(compare(pair, few(pair, name, count) if count < 100 else given(pair, name, count, seed=len(name)), {**BASE, **case}))
    return total


def beams(pair: Pair, count: int) -> Count:
    """All cases, ``count`` texts each."""
    total = Count()
    for name, case in (pair.cases | OF_BEAMS).items():
        total.add(compare(pair, given(pair, name, count, seed=len(name)), {**BEAMS, **case}))
    return total


@pytest.mark.parametrize("kind", EVERY)
def test_greedy_texts_are_the_incumbents_under_every_setting(kind: str, pairs: Pairs) -> None:
    total = greedy(pairs[kind], 8)
    print(kind, total)
    total.agreed()


@pytest.mark.parametrize("kind", EVERY)
def test_beams_are_the_incumbents_under_every_setting(kind: str, pairs: Pairs) -> None:
    total = beams(pairs[kind], 1)
    total.add(compare(pairs[kind], pairs[kind].texts(12, 3), {**BEAMS, "num_return_sequences": 4}))
    print(kind, total)
    total.agreed()


@pytest.mark.parametrize("kind", EVERY)
def test_texts_vary_and_every_setting_changes_some(kind: str, pairs: Pairs) -> None:
    """None of these comparisons would show anything if a model repeated itself or a setting were never met."""
    pair = pairs[kind]
    found = [piece for (piece,) in pair.write(pair.texts(60, 1), BASE)]
    assert len({piece.tokens for piece in found}) >= 20 and len({token for piece in found for token in piece.tokens}) >= 12
    assert 3 <= sum(piece.finish_reason == "stop" for piece in found) <= 57

    def same(cases: Mapping[str, Any], base: Mapping[str, Any], count: int, kept: str = "") -> list[str]:
        """Names of the cases that change no text and no score."""
        found, plain = [], {}
        for name, case in cases.items():
            texts, as_well = given(pair, name, count, 1), {key: x for key, x in case.items() if key == kept}
            key = f"{texts} {as_well}"
            if key not in plain:
                plain[key] = pair.write(texts, {**base, **as_well})
            found += [name] if pair.write(texts, {**base, **case}) == plain[key] else []
        return found

    assert same(pair.cases, BASE, 32) == ["nothing"]
    assert same(OF_BEAMS, BEAMS, 64, "num_return_sequences") == ["num_return_sequences"]


@pytest.mark.parametrize("kind", EVERY)
def test_control_a_missing_penalty_is_seen(kind: str, pairs: Pairs) -> None:
    pair, settings = pairs[kind], {**BASE, "repetition_penalty": 1.7}
    assert compare(pair, few(pair, "control", 24), settings, mine=BASE).wrong >= 12
    many = {**BEAMS, "num_return_sequences": 4}
    assert compare(pair, pair.texts(6, 4), {**many, "repetition_penalty": 1.7}, mine=many).wrong >= 12


@pytest.mark.parametrize("kind", EVERY)
def test_control_a_past_that_is_one_position_off_is_seen(kind: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs[kind]
    right = KeyValues.lengths
    monkeypatch.setattr(KeyValues, "lengths", property(lambda self: [n + (n > 0) for n in right.__get__(self)]))
    assert compare(pair, few(pair, "control", 24), {**BASE, "eos_token_id": ()}).wrong >= 20
    assert compare(pair, pair.texts(6, 4), {**BEAMS, "eos_token_id": ()}).wrong >= 5


@pytest.mark.parametrize("kind", EVERY)
def test_control_beams_that_keep_their_old_past_are_seen(kind: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    right = KeyValues.reorder

    def only_of_another_number(self: KeyValues, rows: Sequence[int]) -> None:
        if len(rows) != len(self.lengths):
            right(self, rows)

    monkeypatch.setattr(KeyValues, "reorder", only_of_another_number)
    assert compare(pairs[kind], pairs[kind].texts(12, 4), {**BEAMS, "eos_token_id": ()}).wrong >= 4


def drawn(pair: Pair, texts: Sequence[Sequence[int]], case: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[int, float]:
    """Tokens drawn under ``case``, and the largest gap to their log-probabilities under ``theirs`` by the incumbent's warpers, read without a cache."""
    settings, ends = {**BASE, **theirs}, (pair.end,)
    tokens, gap = 0, 0.0
    for text, (piece,) in zip(texts, pair.write(texts, {**BASE, **case, "do_sample": True, "seed": 3}), strict=True):
        assert piece.logprobs is not None
        written = [*piece.tokens, *(ends if len(piece.logprobs) > len(piece.tokens) else ())]
        prompt = list(text) if pair.decoder_only else [START]
        change = processors(settings, prompt, text, ends)
        for i, row in enumerate(pair.other.logits(text, written)):
            told = change(torch.tensor([[*prompt, *written[:i]]]), row[None].clone()).log_softmax(1)[0, written[i]]
            gap, tokens = max(gap, abs(float(told) - piece.logprobs[i])), tokens + 1
    return tokens, gap


@pytest.mark.parametrize("kind", EVERY)
def test_draws_have_the_log_probabilities_of_the_incumbents_warpers(kind: str, pairs: Pairs) -> None:
    """That they follow this distribution is shown in tests/decoding/test_sampling.py."""
    pair, texts = pairs[kind], pairs[kind].texts(24, 6)
    for name, case in WARPED.items():
        tokens, gap = drawn(pair, texts, case, case)
        assert tokens >= 60 and gap <= SAME, (name, gap)
        assert drawn(pair, texts, case, {})[1] >= 100 * SAME  # control: without them


def test_a_trained_models_texts_are_the_incumbents(pairs: Pairs) -> None:
    pair = pairs["trained gpt2"]
    total = greedy(pair, 4)
    total.add(beams(pair, 1))
    total.add(compare(pair, pair.texts(48, 7), {**BASE, "max_new_tokens": 20}))
    print(total)
    total.agreed()
    written = [piece.tokens for (piece,) in pair.write(pair.texts(60, 1), BASE)]
    assert len(set(written)) >= 20 and len({token for tokens in written for token in tokens}) >= 12
    for case in WARPED.values():
        assert drawn(pair, pair.texts(8, 6), case, case)[1] <= SAME
    assert compare(pair, pair.texts(24, 4), {**BASE, "repetition_penalty": 1.7}, mine=BASE).wrong >= 12  # control


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*EVERY, "trained gpt2"])
def test_a_thousand_texts(kind: str, pairs: Pairs) -> None:
    """Greedily and by beams: a thousand without settings, and greedily 250 under each setting, by beams a thousand spread over them."""
    pair = pairs[kind]
    texts = pair.texts(1000, 9)
    counts = {"greedy": compare(pair, texts, BASE), "greedy, settings": greedy(pair, 250)}
    counts |= {"beams": compare(pair, texts, BEAMS), "beams, settings": beams(pair, 36)}
    print(kind, *(f"{name}: {count}" for name, count in counts.items()), sep="\n  ")
    for count in counts.values():
        assert count.answers >= 1000
        count.agreed()
