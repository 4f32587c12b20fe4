"""Rows are independent: batches, waiting rows, several answers and interrupted ones give what each row gives alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from decoding.against import Texts, ours, text_of, texts, whole
from decoding.plain import END, PlainCache, PlainSteps, bart, gpt2
from nabi.decoding import Branches, Event, Generated, Settings, generate
from nabi.decoding.steps import BLOCK, best, top
from nabi.errors import InputError, OptionError

MODELS = {"gpt2": gpt2(), "bart": bart()}
BUSY: dict[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 3, "bad_words_ids": ((11,), (21, 24)),
                        "min_new_tokens": 2, "stop_strings": ("zt", "tt")}  # fmt: skip
WAYS: dict[str, Settings] = {
    "greedy": Settings(max_new_tokens=12, eos_token_id=(END,)),
    "greedy with processors": Settings(max_new_tokens=12, eos_token_id=(END,), **BUSY),
    "sampling": Settings(max_new_tokens=12, eos_token_id=(END,), do_sample=True, top_k=9, top_p=0.95, seed=4),
    "sampling with processors": Settings(max_new_tokens=12, eos_token_id=(END,), do_sample=True, num_return_sequences=2, **BUSY),
    "beams": Settings(max_new_tokens=12, eos_token_id=(END,), num_beams=3, num_return_sequences=2),
    "beams with processors": Settings(max_new_tokens=12, eos_token_id=(END,), num_beams=3, num_return_sequences=2, **BUSY),
}


def told(answers: list[Generated]) -> list[tuple[object, ...]]:
    return [(a.index, a.tokens, a.end, a.finish_reason, a.score, a.logprobs) for a in answers]


def rows(given: Texts, chosen: Sequence[int]) -> Texts:
    return Texts([given.prompts[i] for i in chosen], None if given.sources is None else [given.sources[i] for i in chosen])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_a_ragged_batch_gives_what_each_row_gives_alone(way: str, model: str) -> None:
    given = texts(model == "gpt2", 32, seed=7, longest=12)
    together = ours(MODELS[model], given, WAYS[way], slots=96)
    few = ours(MODELS[model], given, WAYS[way], slots=3)
    alone = [ours(MODELS[model], rows(given, [i]), WAYS[way], numbers=[i])[0] for i in range(32)]
    assert list(map(told, together)) == list(map(told, alone)) == list(map(told, few))
    assert len({whole(a[0])[0] for a in together}) > 1  # not all the same


@pytest.mark.parametrize("way", ["greedy", "sampling with processors", "beams"])
def test_at_most_so_many_rows_as_slots_are_read_and_each_prompt_once(way: str) -> None:
    given = texts(True, 12, seed=8)
    for slots in (1, 3, 7):
        steps = PlainSteps(MODELS["gpt2"], given.prompts)
        list(generate(steps, given.prompts, WAYS[way], decoder_only=True, slots=slots, text_of=text_of))
        limit = max(slots, 3) if way == "beams" else slots
        assert steps.widest <= limit and set(steps.begun) == set(range(12))
        assert steps.begun == sorted(steps.begun) and set(steps.reserves) == {12}
        if WAYS[way].num_return_sequences == 1 or way == "beams":
            assert len(steps.begun) == 12


def test_a_waiting_row_takes_the_place_of_a_finished_one_at_once() -> None:
    given = texts(True, 10, seed=9)
    steps = PlainSteps(MODELS["gpt2"], given.prompts)
    finished, seen = 0, []
    for event in generate(steps, given.prompts, WAYS["greedy"], decoder_only=True, slots=3):
        if isinstance(event, Generated):
            finished += 1
        else:
            assert event.row < finished + 3 and len(steps.begun) <= min(10, finished + 3)
            seen.append(event.row)
    assert finished == 10 and list(dict.fromkeys(seen)) == list(range(10))


def test_numbers_seed_the_draws_whatever_the_order() -> None:
    given = texts(True, 12, seed=10)
    order = random.Random(0).sample(range(12), 12)
    straight = ours(MODELS["gpt2"], given, WAYS["sampling"])
    shuffled = ours(MODELS["gpt2"], rows(given, order), WAYS["sampling"], numbers=order)
    assert [told(straight[i]) for i in order] == list(map(told, shuffled))
    other = ours(MODELS["gpt2"], given, replace(WAYS["sampling"], seed=5))
    assert sum(told(a) != told(b) for a, b in zip(straight, other, strict=True)) >= 6


def test_several_draws_of_a_prompt_differ() -> None:
    settings = Settings(max_new_tokens=12, eos_token_id=(END,), do_sample=True, num_return_sequences=4)
    answers = ours(MODELS["gpt2"], texts(True, 5, seed=11), settings)
    assert all(len({a.tokens for a in of_row}) > 1 and [a.index for a in of_row] == [0, 1, 2, 3] for of_row in answers)


@pytest.mark.parametrize("way", ["greedy", "greedy with processors", "sampling", "sampling with processors"])
@pytest.mark.parametrize("model", MODELS)
def test_an_interrupted_row_goes_on_exactly(way: str, model: str) -> None:
    given = texts(model == "gpt2", 16, seed=12)
    sources = given.prompts if given.sources is None else given.sources
    for row, answers in enumerate(ours(MODELS[model], given, WAYS[way])):
        for answer in answers:
            tokens = whole(answer)
            for cut in range(0, len(tokens), 3):
                before = Texts([given.prompts[row] + tokens[:cut]], given.sources and [sources[row]])
                settings = replace(WAYS[way], num_return_sequences=1)
                rest = ours(MODELS[model], before, settings, numbers=[row], indices=[answer.index], drawn=[cut])[0][0]
                assert whole(rest) == tokens[cut:] and (rest.end, rest.finish_reason, rest.index) == (answer.end, answer.finish_reason, answer.index)
                assert answer.logprobs is not None and rest.logprobs == answer.logprobs[cut:]


def test_control_a_continued_row_that_skips_no_draws_differs() -> None:
    given = texts(True, 16, seed=12)
    differ = 0
    for row, (answer,) in enumerate(ours(MODELS["gpt2"], given, WAYS["sampling"])):
        tokens = whole(answer)
        if len(tokens) > 4:
            rest = ours(MODELS["gpt2"], Texts([given.prompts[row] + tokens[:2]], None), WAYS["sampling"], numbers=[row])[0][0]
            differ += whole(rest)[: len(tokens) - 2] != tokens[2:]
    assert differ >= 3


def test_events_tell_what_the_answers_hold() -> None:
    given = texts(True, 8, seed=13)
    settings = replace(WAYS["greedy"], top_alternatives=3)
    told_: dict[int, list[Event]] = {}
    for event in generate(PlainSteps(MODELS["gpt2"], given.prompts), given.prompts, settings, decoder_only=True):
        if isinstance(event, Event):
            told_.setdefault(event.row, []).append(event)
            assert len(event.alternatives) == 3 and event.alternatives[0] == (event.token, event.logprob)
            assert [p for _, p in event.alternatives] == sorted((p for _, p in event.alternatives), reverse=True)
        else:
            assert isinstance(event, Generated) and event.logprobs is not None
            assert whole(event) == [e.token for e in told_[event.row]] and list(event.logprobs) == [e.logprob for e in told_[event.row]]
            assert event.score == sum(event.logprobs)
            assert event.finish_reason == ("stop" if event.end == END else "length")


def test_log_probabilities_are_not_told_unless_asked_for() -> None:
    given = texts(True, 4, seed=13)
    quiet = ours(MODELS["gpt2"], given, WAYS["greedy"], logprobs=False)
    loud = ours(MODELS["gpt2"], given, WAYS["greedy"])
    assert [a[0].tokens for a in quiet] == [a[0].tokens for a in loud]
    assert all(a[0].logprobs is None and a[0].score is None for a in quiet)


class Script:
    """A model that says given tokens, one row after another."""

    vocab_size = 30

    def __init__(self, *lines: Sequence[int]) -> None:
        self.lines = lines

    def begin(self, rows: Sequence[int], reserve: int) -> tuple[PlainCache, Tensor]:
        cache = PlainCache(rows, [[] for _ in rows])
        return cache, self._read(cache)

    def next(self, tokens: Sequence[int], cache: PlainCache) -> Tensor:
        for row, token in zip(cache.rows, tokens, strict=True):
            row.append(token)
        return self._read(cache)

    def _read(self, cache: PlainCache) -> Tensor:
        tokens = torch.tensor([self.lines[i][len(row)] for i, row in zip(cache.requests, cache.rows, strict=True)])
        return torch.nn.functional.one_hot(tokens, self.vocab_size).float()


LETTERS = "abcdefghijklmnopqrstuvwxyz.\n끝!"


@pytest.mark.parametrize(
    ("text", "strings", "expected"),
    [
        ("the stop is here", ("stop",), "the stop"),
        ("thestopishere", ("estop",), "thestop"),
        ("one.two", (".",), "one."),
        ("one.two", ("o.t", "e.tw"), "one.tw"),
        ("aaab끝ccc", ("b끝",), "aaab끝"),
        ("abcdefgh", ("x", "gh", "cd"), "abcd"),
    ],
)
@pytest.mark.parametrize("beams", [1, 2])
def test_a_stop_string_ends_the_answer_across_tokens(text: str, strings: tuple[str, ...], expected: str, beams: int) -> None:
    line = [LETTERS.index(letter) for letter in text.replace(" ", "")] + [0] * 5
    settings = Settings(max_new_tokens=len(line) - 1, stop_strings=strings, num_beams=beams, length_penalty=-3.0 if beams > 1 else 1.0)
    prompt = [LETTERS.index(letter) for letter in "sto"]  # what the prompt holds does not count
    found = [
        g for g in generate(Script(line), [prompt], settings, decoder_only=True, text_of=lambda tokens: "".join(LETTERS[t] for t in tokens))
        if isinstance(g, Generated)
    ]  # fmt: skip
    assert "".join(LETTERS[t] for t in found[0].tokens) == expected.replace(" ", "")
    assert found[0].finish_reason == "stop" and found[0].end is None


def test_the_text_of_all_tokens_is_searched() -> None:
    """A token's text may depend on those before it: here a letter counts double after an 'x'."""
    line = [LETTERS.index(letter) for letter in "axbxc"] + [0] * 5

    def text(tokens: Sequence[int]) -> str:
        return "".join(LETTERS[t] * (2 if i and LETTERS[tokens[i - 1]] == "x" else 1) for i, t in enumerate(tokens))

    settings = Settings(max_new_tokens=9, stop_strings=("cc",))
    (found,) = [g for g in generate(Script(line), [[3]], settings, decoder_only=True, text_of=text) if isinstance(g, Generated)]
    assert "".join(LETTERS[t] for t in found.tokens) == "axbxc"


def test_the_steps_of_a_search_make_a_tree_that_holds_the_answers() -> None:
    given = texts(True, 6, seed=14)
    settings = WAYS["beams"]
    paths: dict[int, list[list[int]]] = {row: [[]] * 3 for row in range(6)}
    ended: dict[int, dict[tuple[int, ...], float]] = {row: {} for row in range(6)}
    finished = 0
    for told_ in generate(PlainSteps(MODELS["gpt2"], given.prompts), given.prompts, settings, decoder_only=True, watch=True):
        if isinstance(told_, Branches):
            before = paths[told_.row]
            assert all(len(path) == told_.step for path in before)
            for parent, token, score in told_.ended:
                ended[told_.row][(*before[parent], token)] = score
            paths[told_.row] = [[*before[parent], token] for parent, token in zip(told_.parents, told_.tokens, strict=True)]
            assert list(told_.scores) == sorted(told_.scores, reverse=True)
        else:
            assert isinstance(told_, Generated)
            finished += 1
            assert ended[told_.row][tuple(whole(told_))] == told_.score
            assert told_.logprobs is not None and told_.score == pytest.approx(sum(told_.logprobs) / len(told_.logprobs), rel=1e-5)
    assert finished == 12


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (Settings(top_k=-1), {}, "top_k=-1"),
        (Settings(suppress_tokens=(40,)), {}, "suppress_tokens holds 40"),
        (Settings(), {"slots": 0}, "slots=0"),
        (Settings(stop_strings=("a",)), {}, "stop_strings need text_of"),
        (Settings(encoder_no_repeat_ngram_size=2), {"decoder_only": False}, "needs sources"),
        (Settings(top_alternatives=2), {"logprobs": False}, "top_alternatives need logprobs"),
        (Settings(num_beams=2), {"drawn": [1]}, "begin it again"),
        (Settings(do_sample=True, num_return_sequences=2), {"drawn": [1]}, "num_return_sequences has to be 1"),
        (Settings(), {"numbers": [1, 2]}, "2 numbers for 1 prompts"),
        (Settings(), {"drawn": [9]}, "drawn is not a number of tokens"),
    ],
)
def test_impossible_arguments_are_refused_before_the_model_runs(settings: Settings, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        generate(Script(), [[1, 2]], settings, **{"decoder_only": True, **options})


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([1, 30], {}, "unknown tokens.*ids from 0 to 29"),
        ([-1], {}, "unknown tokens"),
        ([1] * 20, {"room": 20}, "leaves no room"),
        ([1] * 5, {"room": 5}, "the 5 positions"),
        ([1] * 21, {"drawn": [20]}, "is complete"),
    ],
)
def test_impossible_prompts_are_refused_before_the_model_runs(prompt: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(Script(), [prompt], Settings(), decoder_only=True, **options)


def test_no_prompts_give_no_answers() -> None:
    assert list(generate(Script(), [], Settings(), decoder_only=True)) == []


def test_a_vocabulary_too_small_for_beams_is_refused() -> None:
    with pytest.raises(InputError, match="too small for a beam search"):
        list(generate(Script([0] * 9), [[0]], Settings(num_beams=2, eos_token_id=tuple(range(40))), decoder_only=True))


@pytest.mark.parametrize("size", [7, 1000, 50257, 8 * 5 * BLOCK, 8 * 5 * BLOCK + 1])
def test_the_two_stage_top_k_is_exact(size: int) -> None:
    scores = torch.randn(6, size, generator=torch.Generator().manual_seed(size))
    scores[0, -1] = 9.0  # in the rest behind the last whole block
    scores[1, -6:] = torch.arange(6.0) + 9
    values, places = top(scores, 5)
    assert torch.equal(values, scores.topk(5).values) and torch.equal(scores.gather(1, places), values)


@pytest.mark.parametrize("size", [7, 1024, 1025, 5000, 50257])
def test_the_greatest_is_found_by_blocks_the_first_of_equal_ones(size: int) -> None:
    scores = torch.randint(0, 4, (300, size), generator=torch.Generator().manual_seed(size)).float()
    scores[100:200] = torch.randn(100, size, generator=torch.Generator().manual_seed(size))
    scores[torch.arange(20), torch.arange(size - 7, size).repeat(3)[:20]] = 9.0  # at the end, where there is no whole block
    assert torch.equal(best(scores), scores.argmax(1, keepdim=True))
