"""Sampling: the warpers are the incumbent's, draws follow the warped distribution, and a row's draws are its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from decoding.plain import PlainCache
from nabi.decoding import Generated, Settings, generate
from nabi.decoding.sampling import Draws, drawn, warped
from nabi.errors import InputError, WorkError

LOGITS = torch.tensor([2.0, 1.5, 1.5, 0.3, -0.2, 0.9, -1.0, 0.0])
WARPS: list[dict[str, Any]] = [
    {"top_k": 0},
    {"top_k": 0, "temperature": 0.5},
    {"top_k": 0, "temperature": 2.0},
    {"top_k": 3},
    {"top_k": 2},  # the second and the third are equal: both stay
    {"top_k": 0, "top_p": 0.7},
    {"top_k": 4, "top_p": 0.8, "temperature": 1.5},
]


class Still:
    """A model whose scores are always the same."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.vocab_size = logits, len(logits)

    def begin(self, rows: Sequence[int], reserve: int) -> tuple[PlainCache, Tensor]:
        return PlainCache(rows, [[0] for _ in rows]), self.logits.repeat(len(rows), 1)

    def next(self, tokens: Sequence[int], cache: PlainCache) -> Tensor:
        assert len(tokens) == len(cache.rows)
        return self.logits.repeat(len(tokens), 1)


def theirs(logits: Tensor, warp: dict[str, Any]) -> Tensor:
    """The incumbent's distribution."""
    warpers = LogitsProcessorList()
    if warp.get("temperature", 1.0) != 1:
        warpers.append(TemperatureLogitsWarper(warp["temperature"]))
    if warp["top_k"]:
        warpers.append(TopKLogitsWarper(warp["top_k"]))
    if warp.get("top_p", 1.0) < 1:
        warpers.append(TopPLogitsWarper(warp["top_p"]))
    return warpers(torch.zeros(len(logits), 1, dtype=torch.int64), logits.clone()).softmax(1)


def ours(logits: Tensor, warp: dict[str, Any]) -> Tensor:
    scores, places = warped(logits.clone(), Settings(do_sample=True, **warp))
    return scores.softmax(1) if places is None else torch.zeros_like(logits).scatter(1, places, scores.softmax(1))


@pytest.mark.parametrize("warp", WARPS, ids=str)
@pytest.mark.parametrize("size", [8, 5000])
def test_the_warped_distribution_is_the_incumbents(warp: dict[str, Any], size: int) -> None:
    logits = LOGITS.repeat(2, 1) if size == 8 else torch.randn(16, size, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.allclose(ours(logits, warp), theirs(logits, warp), atol=1e-6)


def test_one_token_stays_however_small_top_p_is() -> None:
    assert ours(LOGITS[None], {"top_k": 0, "top_p": 1e-6}).tolist() == [[1.0] + 7 * [0.0]]


def test_tokens_that_are_ruled_out_are_no_ties_of_the_kth() -> None:
    logits = torch.full((2, 9), -torch.inf)
    logits[:, 4] = 1.0
    scores, places = warped(logits, Settings(top_k=3))
    assert places is not None and scores.shape == (2, 3) and scores.softmax(1).max(1).values.tolist() == [1, 1]


@pytest.mark.parametrize("warp", WARPS, ids=str)
def test_draws_follow_the_distribution(warp: dict[str, Any]) -> None:
    answers = generate(Still(LOGITS), [[0]] * 40, Settings(max_new_tokens=100, do_sample=True, seed=1, **warp), decoder_only=True, events=False)
    counts = Counter(token for answer in answers if isinstance(answer, Generated) for token in answer.tokens)
    p = theirs(LOGITS[None], warp)[0].tolist()
    assert set(counts) <= {token for token, chance in enumerate(p) if chance}
    assert chi(counts, p) < LIMIT[sum(chance > 0 for chance in p) - 1]


# 99.9 % points of the chi-square distribution with 1 to 7 degrees of freedom
LIMIT = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32}


def chi(counts: Counter[int], p: list[float]) -> float:
    n = sum(counts.values())
    return sum((counts[token] - n * chance) ** 2 / (n * chance) for token, chance in enumerate(p) if chance)


def test_control_draws_at_another_temperature_are_seen() -> None:
    settings = Settings(max_new_tokens=100, do_sample=True, seed=1, top_k=0, temperature=1.2)
    answers = generate(Still(LOGITS), [[0]] * 40, settings, decoder_only=True, events=False)
    counts = Counter(token for answer in answers if isinstance(answer, Generated) for token in answer.tokens)
    assert chi(counts, theirs(LOGITS[None], {"top_k": 0})[0].tolist()) > LIMIT[7]


def test_a_place_is_looked_up_in_the_cumulative_distribution() -> None:
    scores = torch.tensor([[0.25, 0.5, 0.0, 0.25]]).log().repeat(5, 1)
    places = drawn(scores, torch.tensor([0.0, 0.2499, 0.25, 0.7501, 1 - 2**-53], dtype=torch.float64))
    assert places.flatten().tolist() == [0, 0, 1, 3, 3]


def test_draws_depend_on_seed_number_and_index_and_can_be_skipped() -> None:
    row = Draws(1, 2, 3)
    numbers = [row.next() for _ in range(200)]
    assert len(set(numbers)) == 200 and all(0 <= x < 1 for x in numbers)
    for skip in (0, 1, 63, 64, 65, 150):
        assert Draws(1, 2, 3, skip).next() == numbers[skip]
    assert len({Draws(*key).next() for key in ((1, 2, 3), (1, 3, 2), (2, 1, 3), (12, 3, 0), (1, 23, 0))}) == 5


def test_draws_stay_what_they_are() -> None:
    """Answers that were published with a seed come again."""
    assert Draws(0, 0, 0).next() == pytest.approx(0.4805643202023461, abs=1e-15)


def test_told_log_probabilities_are_those_of_the_warped_distribution() -> None:
    p = theirs(LOGITS[None], {"top_k": 3, "temperature": 0.7})[0].log()
    settings = Settings(max_new_tokens=50, do_sample=True, top_k=3, temperature=0.7, top_alternatives=8)
    for event in generate(Still(LOGITS), [[0]], settings, decoder_only=True):
        if isinstance(event, Generated):
            assert event.score == pytest.approx(sum(float(p[token]) for token in event.tokens), rel=1e-5)
        else:
            assert event.logprob == pytest.approx(float(p[event.token]), rel=1e-5)
            assert {token for token, _ in event.alternatives} == {0, 1, 2}  # of eight asked for, those that can be drawn
            assert [logprob for _, logprob in event.alternatives] == pytest.approx(sorted(p[:3].tolist(), reverse=True), rel=1e-5)


def test_a_row_without_a_possible_token_is_an_error() -> None:
    settings = Settings(max_new_tokens=5, suppress_tokens=tuple(range(8)))
    for do_sample in (False, True):
        with pytest.raises(InputError, match="no token is left that could come next in the answer to prompt 0"):
            list(generate(Still(LOGITS), [[0]], Settings(**{**vars(settings), "do_sample": do_sample}), decoder_only=True))
    with pytest.raises(InputError, match="no token is left"):
        list(generate(Still(LOGITS), [[0]], Settings(**{**vars(settings), "num_beams": 2}), decoder_only=True))


def test_scores_that_are_no_numbers_are_an_error() -> None:
    logits = LOGITS.clone()
    logits[3] = torch.nan
    for settings in (Settings(), Settings(do_sample=True), Settings(do_sample=True, top_k=2), Settings(do_sample=True, top_p=0.5), Settings(num_beams=2)):
        with pytest.raises(WorkError, match="not numbers"):
            list(generate(Still(logits), [[0]], settings, decoder_only=True))
