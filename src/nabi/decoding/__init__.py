"""Decoding: from a model's next-token scores to answers, greedy, by sampling or by beam search.

It knows a step function (``Steps``) and a cache of the past, nothing of layers, bodies or tokenizers. Meanings are the incumbent's (its version
5.23). Unusual: rows never wait for each other and are never padded; each row's answer is the one it would get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from nabi.decoding import beam, sampling
from nabi.decoding.settings import DEFAULT_LENGTH, Settings
from nabi.decoding.steps import Branches, Ending, Event, Generated, Request, Steps
from nabi.errors import InputError, OptionError

__all__ = ["DEFAULT_LENGTH", "Branches", "Event", "Generated", "Settings", "Steps", "generate"]


def generate(
    steps: Steps,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    *,
    decoder_only: bool,
    room: int | None = None,
    sources: Sequence[Sequence[int]] | None = None,
    text_of: Callable[[Sequence[int]], str] | None = None,
    slots: int = 32,
    numbers: Sequence[int] | None = None,
    drawn: Sequence[int] | None = None,
    indices: Sequence[int] | None = None,
    logprobs: bool = True,
    events: bool = True,
    watch: bool = False,
) -> Iterator[Event | Generated | Branches]:
    """Answer prompts, in whatever order they finish: an ``Event`` a token and a ``Generated`` an answer.

    Beam search tells no events: its tokens are known when it is over. It yields the answers of a prompt together, best first, fewer than asked for
    if the settings leave fewer possible.

    Args:
        steps: the model. It runs without gradients.
        prompts: token ids; of an encoder-decoder what its output begins with, its start token.
        settings: how to decode.
        decoder_only: whether the prompts are the model's input; otherwise they begin its output.
        room: positions that the model has for prompt and answer; None for no end.
        sources: an encoder's token ids for each prompt, read by ``encoder_no_repeat_ngram_size``; a decoder's source is its prompt.
        text_of: the text of generated tokens, read by ``stop_strings``. The answer holds the stop string: to cut it off is the caller's part.
        slots: the most rows in a batch, beams counted; a search has its beams even if they are more.
        numbers: an id for each prompt that lasts: the draws of a row are a function of (settings.seed, number, index). Its place, if None.
        drawn: how many tokens at the end of each prompt an interrupted run has generated: they count as generated, not as prompt; when sampling,
            as many draws are skipped. So the answer goes on exactly as the uninterrupted one; ``Generated`` holds only what is new.
        indices: the index that the one answer to each prompt has; to continue one of several.
        logprobs: tell log-probabilities; without them greedy decoding is an argmax. Beam search has them anyway.
        events: tell tokens as they come.
        watch: of a beam search, tell each step as ``Branches``.

    Raises:
        OptionError: the settings contradict each other or these arguments.
        InputError: a prompt is empty, holds unknown tokens or leaves no room.
        WorkError: the model's scores are not numbers.
    """
    settings.check(steps.vocab_size)
    problems = []
    if slots < 1:
        problems.append(f"slots={slots} is less than 1")
    if settings.stop_strings and text_of is None:
        problems.append("stop_strings need text_of, the text of tokens")
    if settings.encoder_no_repeat_ngram_size and not decoder_only and sources is None:
        problems.append("encoder_no_repeat_ngram_size needs sources, the encoder's tokens")
    if settings.top_alternatives and not logprobs:
        problems.append("top_alternatives need logprobs")
    if settings.num_beams > 1 and drawn is not None:
        problems.append("a beam search can't be continued from its tokens: begin it again, it comes to the same")
    if settings.num_return_sequences > 1 and (drawn is not None or indices is not None):
        problems.append("continue one answer a prompt: num_return_sequences has to be 1")
    given = {"sources": sources, "numbers": numbers, "drawn": drawn, "indices": indices}
    problems += [f"{len(found)} {name} for {len(prompts)} prompts" for name, found in given.items() if found is not None and len(found) != len(prompts)]
    if problems:
        raise OptionError("the answers can't be generated: " + "; ".join(problems))
    requests: list[Request] = []
    for row, prompt in enumerate(prompts):
        past = drawn[row] if drawn is not None else 0
        if not 0 <= past <= len(prompt):
            raise OptionError("drawn is not a number of tokens of its prompt", value=past, expected=f"0 to {len(prompt)}")
        least, most = settings.limits(len(prompt) - past, decoder_only, room)
        if past >= most:
            raise InputError("the answer that is to be continued is complete", value=f"{past} tokens", expected=f"fewer than {most}")
        if min(prompt) < 0 or max(prompt) >= steps.vocab_size:
            raise InputError("a prompt holds unknown tokens", value=(min(prompt), max(prompt)), expected=f"ids from 0 to {steps.vocab_size - 1}")
        source = sources[row] if sources is not None else prompt[: len(prompt) - past]
        number = row if numbers is None else numbers[row]
        first = indices[row] if indices is not None else 0
        answers = range(first, first + (settings.num_return_sequences if settings.num_beams == 1 else 1))
        requests.extend(Request(row, index, prompt, past, number, source, least, most) for index in answers)
    ending = Ending(settings, text_of)
    if settings.num_beams > 1:
        return _without_gradients(beam.run(steps, requests, settings, ending, slots=slots, watch=watch))
    return _without_gradients(sampling.run(steps, requests, settings, ending, slots=slots, logprobs=logprobs, events=events))


@torch.inference_mode()
def _without_gradients(results: Iterator[Event | Generated | Branches]) -> Iterator[Event | Generated | Branches]:
    yield from results
