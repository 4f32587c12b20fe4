"""What decoding asks of a model, what it hands out, and the pieces that all ways of decoding share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from nabi.batch import Cache
from nabi.decoding.settings import Settings
from nabi.errors import InputError

BLOCK = 128  # scores in a block of the two-stage top-k


class Steps(Protocol):
    """A model, one step at a time. The logits that it returns are decoding's: they are written over."""

    vocab_size: int

    def begin(self, rows: Sequence[int], reserve: int) -> tuple[Cache, Tensor]:
        """Read the prompts of the requests with these numbers: their cache, with slots for about ``reserve`` tokens more, and (N, V) float32 logits."""
        ...

    def next(self, tokens: Sequence[int], cache: Cache) -> Tensor:
        """Each row of the cache reads one token more: (N, V) float32 logits."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """A token that has just been chosen.

    Attributes:
        row: place of its prompt among the prompts.
        index: which of the prompt's answers it belongs to.
        token: its id; an end token is told too.
        logprob: its log-probability, natural logarithm, after processors and warpers; None if they were not asked for.
        alternatives: (token, log-probability) of the most probable tokens, best first, the chosen one among them if it is one of them.
    """

    row: int
    index: int
    token: int
    logprob: float | None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished answer.

    Attributes:
        row: place of its prompt among the prompts.
        index: which of the prompt's answers it is; beams come best first.
        tokens: what was generated, without the prompt and the end token.
        end: the end token that it ended with; None if a stop string or the length ended it.
        finish_reason: ``stop`` (an end token or a stop string) or ``length``.
        logprobs: log-probability of each token, the end token's last, as in ``Event``; None if they were not asked for.
        score: their sum; of a beam, as the search ranks it: divided by length ** length_penalty. None if they were not asked for.
    """

    row: int
    index: int
    tokens: tuple[int, ...]
    end: int | None
    finish_reason: Literal["stop", "length"]
    logprobs: tuple[float, ...] | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Branches:
    """One step of a beam search, to be drawn as a tree.

    Attributes:
        row: place of the prompt among the prompts.
        step: number of the token, from 0.
        parents: of each beam that goes on, best first, the beam of the step before that it continues.
        tokens: the token that it chose.
        scores: sum of its log-probabilities.
        ended: (parent, token, ranked score) of the hypotheses that ended in this step and are among the best ended ones.
    """

    row: int
    step: int
    parents: tuple[int, ...]
    tokens: tuple[int, ...]
    scores: tuple[float, ...]
    ended: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Request:
    """One answer to be made, or one search.

    Attributes:
        row: place of its prompt among the prompts.
        index: which of the prompt's answers.
        history: the prompt, and behind it what an interrupted run has generated.
        drawn: how many tokens of the history that is.
        number: what seeds the draws, with ``index``.
        source: an encoder's tokens, or the prompt.
        least, most: limits of the answer's length, from ``Settings.limits``.
    """

    row: int
    index: int
    history: Sequence[int]
    drawn: int
    number: int
    source: Sequence[int]
    least: int
    most: int


class Ending:
    """When an answer is over, the length apart.

    Args:
        settings: end tokens and stop strings.
        text_of: the text of generated tokens; needed for stop strings.
    """

    def __init__(self, settings: Settings, text_of: Callable[[Sequence[int]], str] | None) -> None:
        self.ends = frozenset(settings.eos_token_id)
        self.strings = settings.stop_strings
        self.text_of = text_of

    def said(self, tokens: Sequence[int]) -> bool:
        """Whether the text of all the generated tokens holds a stop string: the whole text, because tokens' texts depend on their neighbours."""
        if not self.strings:
            return False
        assert self.text_of is not None
        text = self.text_of(tokens)
        return any(string in text for string in self.strings)


def begun(steps: Steps, requests: Sequence[Request], copies: int = 1) -> tuple[Cache, Tensor]:
    """Cache and logits of these requests, each prompt read once and each request given ``copies`` rows."""
    rows = list(dict.fromkeys(request.row for request in requests))
    cache, scores = steps.begin(rows, max(request.most - request.drawn for request in requests))
    of = [rows.index(request.row) for request in requests for _ in range(copies)]
    if of != list(range(len(rows))):
        cache.reorder(of)
        scores = scores.index_select(0, torch.tensor(of, device=scores.device))
    return cache, scores


def nothing_left(row: int) -> InputError:
    """The error of a row whose every next token is forbidden."""
    fix = "allow more: penalties, bans and forced tokens of the settings forbid the whole vocabulary"
    return InputError(f"no token is left that could come next in the answer to prompt {row}", fix=fix)


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of each row and their places, best first: as ``torch.topk``, in two stages where rows are long.

    The k greatest lie in the k blocks with the greatest maxima, and a maximum over blocks is much cheaper than a partial sort.
    """
    n, size = scores.shape
    if size < 8 * k * BLOCK:
        values, at = scores.topk(k)
        return values, at
    whole = size // BLOCK * BLOCK
    blocks = scores[:, :whole].view(n, -1, BLOCK)
    best = blocks.amax(2).topk(k).indices[:, :, None]  # (n, k, 1)
    places = (best * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    places = torch.cat([places, torch.arange(whole, size, device=scores.device).expand(n, -1)], 1)
    values, at = scores.gather(1, places).topk(k)
    return values, places.gather(1, at)


def best(scores: Tensor) -> Tensor:
    """(N, 1) place of the greatest of each row, the first of equal ones: ``argmax``, by blocks on a CPU, where that is four times as fast."""
    n, size = scores.shape
    if scores.device.type != "cpu" or size < 8 * BLOCK:
        return scores.argmax(1, keepdim=True)
    whole = size // BLOCK * BLOCK
    maxima = [scores[:, :whole].view(n, -1, BLOCK).amax(2), scores[:, whole - 1 :].amax(1, keepdim=True)]
    # the last window begins earlier than its block: what it has from the block before is less than its maximum
    begin = (torch.cat(maxima, 1).argmax(1, keepdim=True) * BLOCK).clamp_(max=size - BLOCK)
    return begin + scores.gather(1, begin + torch.arange(BLOCK)).argmax(1, keepdim=True)
