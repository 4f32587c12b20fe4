"""Runs nabi's decoding and the incumbent's ``generate``, one prompt at a time, on the same model, and counts where their answers differ."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from decoding.plain import END, START, VOCAB, PlainSteps
from nabi.decoding import Generated, Settings, generate

NEAR = 1e-5  # below this two scores are equal: the sums of both sides are rounded differently
SAME = 1e-3  # of scores and log-probabilities of the same tokens: the model rounds otherwise where it reads a cache, and these models amplify it

logging.set_verbosity_error()
warnings.filterwarnings("ignore", message=".*(generation flags|Unfeasible length).*")


def text_of(tokens: Sequence[int]) -> str:
    """One letter a token, two for every fifth: stop strings lie across tokens."""
    return "".join(chr(97 + t % 26) + ("z" if t % 5 == 0 else "") for t in tokens)


class Said(StoppingCriteria):
    """The incumbent stops where the text of what was generated holds one of these."""

    def __init__(self, strings: Sequence[str], prompt: int) -> None:
        self.strings, self.prompt = strings, prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        texts = [text_of(row[self.prompt :]) for row in input_ids.tolist()]
        return torch.tensor([any(string in text for string in self.strings) for text in texts])


@dataclass
class Texts:
    """Prompts, and an encoder's sources for them."""

    prompts: list[list[int]]
    sources: list[list[int]] | None

    @property
    def decoder_only(self) -> bool:
        return self.sources is None


def texts(decoder_only: bool, count: int, seed: int, longest: int = 8) -> Texts:
    """Random ones, 1 to ``longest`` tokens long."""
    dice = random.Random(seed)
    rows = [[dice.randrange(3, VOCAB) for _ in range(dice.randint(1, longest))] for _ in range(count)]
    return Texts(rows, None) if decoder_only else Texts([[START]] * count, rows)


def ours(model: Any, given: Texts, settings: Settings, **options: Any) -> list[list[Generated]]:
    """The answers to each prompt."""
    steps = PlainSteps(model, given.prompts, given.sources)
    answers: list[list[Generated]] = [[] for _ in given.prompts]
    options = {"decoder_only": given.decoder_only, "sources": given.sources, "text_of": text_of, "room": 128, "events": False, **options}
    for answer in generate(steps, given.prompts, settings, **options):
        assert isinstance(answer, Generated)
        answers[answer.row].append(answer)
    return [sorted(of_row, key=lambda answer: answer.index) for of_row in answers]


def whole(answer: Generated) -> list[int]:
    """All its tokens, the end token too."""
    return [*answer.tokens, *([] if answer.end is None else [answer.end])]


@dataclass
class Theirs:
    """The incumbent's answers to one prompt: tokens, score of each beam, and the scores of each greedy step."""

    tokens: list[list[int]]
    ranked: list[float] | None
    steps: list[torch.Tensor]
    logprobs: list[list[float]]


def theirs(model: Any, given: Texts, row: int, settings: dict[str, Any]) -> Theirs:
    """``model.generate`` for one prompt."""
    options = dict(settings)
    options.setdefault("eos_token_id", (END,))
    strings = options.pop("stop_strings", None)
    ends = options["eos_token_id"]
    options = {key: _listed(value) for key, value in options.items()} | {"eos_token_id": list(ends) or None}
    if strings:
        options["stopping_criteria"] = StoppingCriteriaList([Said(strings, len(given.prompts[row]))])
    if given.sources is not None:
        options["decoder_start_token_id"] = START
    ids = torch.tensor([given.prompts[row] if given.sources is None else given.sources[row]])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, return_dict_in_generate=True, output_scores=True, **options)
    tokens = [_cut(sequence.tolist(), ends) for sequence in found.sequences[:, len(given.prompts[row]) :]]
    beams = options.get("num_beams", 1) > 1
    told = [] if beams else model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True).tolist()
    return Theirs(tokens, found.sequences_scores.tolist() if beams else None, [] if beams else [score[0] for score in found.scores], told)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _cut(tokens: list[int], ends: Sequence[int]) -> list[int]:
    at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: at + 1]


@dataclass
class Count:
    """Answers compared, and what of them differed: by near ties, and truly."""

    answers: int = 0
    ties: int = 0
    wrong: int = 0
    first: str = ""


def compared(model: Any, given: Texts, settings: dict[str, Any], change: Callable[[Settings], Settings] = lambda settings: settings) -> Count:
    """Our answers under ``change(settings)`` and the incumbent's under ``settings``."""
    full = Settings(**{"eos_token_id": (END,), **settings})
    mine = ours(model, given, change(full))
    count = Count()
    for row, answers in enumerate(mine):
        want = theirs(model, given, row, settings)
        assert len(answers) == len(want.tokens)
        for i, answer in enumerate(answers):
            count.answers += 1
            have, wanted = whole(answer), want.tokens[i]
            assert answer.score is not None and answer.logprobs is not None
            if have == wanted:
                told, right = (list(answer.logprobs), want.logprobs[0]) if want.ranked is None else ([answer.score], [want.ranked[i]])
                same = all(abs(a - b) <= SAME for a, b in zip(told, right, strict=False))
                count.wrong += not same
                count.first = count.first or ("" if same else f"{row}.{i}: {have} scores {told}, wanted {right}")
            elif _near(have, wanted, answer, want, i):
                count.ties += 1
            else:
                count.wrong += 1
                count.first = count.first or f"{row}.{i}: {have}, wanted {wanted}"
    return count


def _near(have: list[int], wanted: list[int], answer: Generated, want: Theirs, i: int) -> bool:
    if want.ranked is not None:
        assert answer.score is not None
        return abs(answer.score - want.ranked[i]) < NEAR
    at = next((i for i, (a, b) in enumerate(zip(have, wanted, strict=False)) if a != b), None)
    return at is not None and float((want.steps[at][have[at]] - want.steps[at][wanted[at]]).abs()) < NEAR
