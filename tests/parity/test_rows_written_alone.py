"""A batch of 32 ragged rows gives what each row gives alone, through every family's cache; what was interrupted goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from nabi import decoding
from nabi.batch import batch_of
from nabi.decoding import Event, Generated
from nabi.tasks._generating import Piece
from nabi.tasks._writing import Asked, TaskSteps
from parity.uncached import START
from parity.written import BASE, EVERY, NEAR, SAME, Count, Pair, alone, rows_of

COUNT = 32
BUSY: Mapping[str, Any] = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 2}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "greedy": BUSY,
    "sampling": {"do_sample": True, "top_k": 40, "top_p": 0.95, "temperature": 0.8, "num_return_sequences": 2, "seed": 4, **BUSY},
    "beams": {"num_beams": 4, "num_return_sequences": 2, **BUSY},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Pair]:
    return {kind: Pair.made(kind, tmp_path_factory.mktemp("rows") / "model", tokenizer) for kind in EVERY}


def matched(together: Sequence[Sequence[Piece]], apart: Sequence[Sequence[Piece]], draws: bool) -> Count:
    """The same answers, log-probabilities within rounding; a near tie is a choice between equal log-probabilities."""
    count = Count()
    for row, (many, single) in enumerate(zip(together, apart, strict=True)):
        for a, b in zip(many, single, strict=True):
            assert a.logprobs is not None and b.logprobs is not None and a.score is not None and b.score is not None
            count.answers += 1
            if (a.tokens, a.finish_reason, len(a.logprobs)) == (b.tokens, b.finish_reason, len(b.logprobs)):
                gap = max(abs(x - y) / max(1.0, abs(y)) for x, y in zip(a.logprobs, b.logprobs, strict=True))  # what is drawn may be improbable
                count.gap, count.wrong = max(count.gap, gap), count.wrong + (not gap <= SAME)
                continue
            at = next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens, strict=False)) if x != y), min(len(a.tokens), len(b.tokens)))
            near = abs(a.logprobs[at] - b.logprobs[at]) < NEAR or abs(a.score - b.score) < NEAR
            count.ties, count.wrong = count.ties + (near and not draws), count.wrong + (draws or not near)
            count.first = count.first or f"{row}: {a} together, {b} alone"
    return count


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", EVERY)
def test_a_ragged_batch_gives_what_each_row_gives_alone(kind: str, way: str, pairs: dict[str, Pair]) -> None:
    pair, settings = pairs[kind], {**BASE, **WAYS[way]}
    texts = pair.texts(COUNT, 7, range(1, 25))
    assert len({len(text) for text in texts}) >= 12
    options = pair.options(settings)
    together = pair.write(texts, settings)
    apart = [alone(pair.mine, text, i, options) for i, text in enumerate(texts)]
    draws = "do_sample" in settings
    count = matched(together, apart, draws)
    count.agreed()
    others = matched(together, [*apart[1:], apart[0]], draws)  # control: other rows' answers, of which some are the same
    assert count.answers == COUNT * settings.get("num_return_sequences", 1) and others.wrong >= count.answers // 4
    if draws:  # control: each row's draws are its own
        shifted = [alone(pair.mine, text, i + 1, options) for i, text in enumerate(texts[:6])]
        assert matched(together[:6], shifted, draws).wrong >= 6


def continued(pair: Pair, text: Sequence[int], number: int, index: int, before: Sequence[int], settings: Mapping[str, Any]) -> Generated:
    """What follows ``before`` in answer ``index`` to a text, a new cache in place of the interrupted run's."""
    run, task = pair.mine.run(), pair.mine.task
    prompt = [*(text if pair.decoder_only else [START]), *before]
    asked = Asked(prompt, None if pair.decoder_only else list(text), torch.device("cpu"))
    part = str(task.generates)
    (answer,) = decoding.generate(
        TaskSteps(run, task._head, part, [asked], pair.mine.body.tables["tokens"]),
        [prompt],
        replace(task.chosen(pair.options(settings)), num_return_sequences=1),
        decoder_only=pair.decoder_only,
        room=run.limit(part),
        sources=None if pair.decoder_only else [list(text)],
        text_of=run.text_of,
        numbers=[number],
        drawn=[len(before)],
        indices=[index],
        events=False,
    )
    assert isinstance(answer, Generated)
    return answer


@pytest.mark.parametrize("way", ["greedy", "sampling"])
@pytest.mark.parametrize("kind", EVERY)
def test_an_interrupted_text_goes_on_as_the_uninterrupted_one(kind: str, way: str, pairs: dict[str, Pair]) -> None:
    pair, settings = pairs[kind], {**BASE, **WAYS[way]}
    texts, cuts, control = pair.texts(10, 8), 0, 0
    for i, (text, pieces) in enumerate(zip(texts, pair.write(texts, settings), strict=True)):
        for index, piece in enumerate(pieces):
            assert piece.logprobs is not None
            whole = [*piece.tokens, *[pair.end] * (len(piece.logprobs) - len(piece.tokens))]
            for cut in range(1 + i % 3, len(whole), 3):
                rest = continued(pair, text, i, index, whole[:cut], settings)
                assert rest.logprobs is not None
                assert [*rest.tokens, *([] if rest.end is None else [rest.end])] == whole[cut:] and rest.finish_reason == piece.finish_reason
                assert max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(rest.logprobs, piece.logprobs[cut:], strict=True)) <= SAME
                other = continued(pair, text, i, index, [*whole[: cut - 1], (whole[cut - 1] + 1) % 60], settings)
                cuts, control = cuts + 1, control + (other.tokens != rest.tokens)
    assert cuts >= 8 and control >= cuts // 3  # another token before the cut, another rest


@pytest.mark.parametrize("kind", ["gpt2", "gpt"])
def test_a_greedy_text_that_is_given_back_as_a_prompt_goes_on(kind: str, pairs: dict[str, Pair]) -> None:
    pair = pairs[kind]
    texts = pair.texts(12, 8)
    whole = [piece for (piece,) in pair.write(texts, {**BASE, "eos_token_id": ()})]
    begun = [piece for (piece,) in pair.write(texts, {**BASE, "eos_token_id": (), "max_new_tokens": 4})]
    rest = [piece for (piece,) in pair.write([[*t, *p.tokens] for t, p in zip(texts, begun, strict=True)], {"eos_token_id": (), "max_new_tokens": 6})]
    assert [a.tokens + b.tokens for a, b in zip(begun, rest, strict=True)] == [piece.tokens for piece in whole]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["gpt2", "t5 1.0", "bart"])
def test_streams_that_are_read_in_turns_do_not_meet(kind: str, way: str, pairs: dict[str, Pair]) -> None:
    """A stream that waits while others are read, and others that are left for good, give what each gives by itself."""
    pair, settings = pairs[kind], {**BASE, **WAYS[way]}
    rows = rows_of(pair.texts(6, 9))

    def stream(i: int) -> Iterator[Any]:
        task = pair.mine.task
        return task._generated(pair.mine.run(), task._asked(batch_of(rows, [i], {})), pair.options(settings), events=True)

    pair.mine.eval()
    apart = [list(stream(i)) for i in range(6)]
    open_ = [(i, stream(i), []) for i in range(6)]
    done: dict[int, list[Any]] = {}
    while open_:
        for i, events, told in list(open_):
            found = next(events, None)
            if found is None:
                done[i] = told
            else:
                told.append(found)
        next(stream(0))  # begun, and left
        open_ = [x for x in open_ if x[0] not in done]
    assert [done[i] for i in range(6)] == apart
    if way != "beams":
        assert isinstance(apart[0][0], Event) and isinstance(apart[0][-1], Generated)
