"""What the tasks that write text have in common: the settings of decoding, text out of tokens, streams.

Unusual: names and rules of the options are v4's; nabi's own answer says why it ended.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from nabi import decoding
from nabi.batch import FILLER, Batch, Row, batch_of
from nabi.decoding import Branches, Event, Generated
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.inputs import Inputs
from nabi.nn.body import Run
from nabi.tasks import Example
from nabi.tasks._streaming import Beams, Joining, Unfolding, record, tidied
from nabi.tasks._writing import Asked, Writing
from nabi.text import Tokenizer


@dataclass(frozen=True)
class GenerationOptions:
    """What a call may set; a value of None is the model's own.

    Attributes:
        max_new_tokens, max_length, min_length, min_new_tokens, do_sample, temperature, top_k, top_p, repetition_penalty, length_penalty,
            no_repeat_ngram_size, num_beams, num_return_sequences, early_stopping, bad_words_ids, forced_bos_token_id, forced_eos_token_id,
            suppress_tokens, begin_suppress_tokens, encoder_no_repeat_ngram_size, eos_token_id, pad_token_id, stop_strings, seed, top_alternatives: as in
            ``nabi.decoding.Settings``.
        renormalize_logits: as there.
        stop_sequence: v4's word for one stop string.
        clean_up_tokenization_spaces: take away the space before marks and English endings; None leaves the text as it is, but for v4's pipeline of
            ``text_generation``, which takes it away.
        return_text: False gives token ids alone, as ``return_tensors`` does.
        return_tensors: give token ids in place of text, as they are: the prompt or the start token before them, the end token behind. Each answer also
            has them as ``ids``.
        long: what to do with a source that is too long.
        use_cache: accepted; the past is always kept.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    early_stopping: bool | Literal["never"] | None = None
    renormalize_logits: bool | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    encoder_no_repeat_ngram_size: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    stop_strings: str | tuple[str, ...] | None = None
    stop_sequence: str | None = None
    seed: int | None = None
    top_alternatives: int | None = None
    clean_up_tokenization_spaces: bool | None = None
    return_text: bool = True
    return_tensors: bool = False
    long: Literal["window", "truncate", "error"] = "window"
    use_cache: bool = True


@dataclass(frozen=True)
class GenerationSettings:
    """What belongs to the model.

    Attributes:
        decoding: how it answers if a call says nothing; None takes what its checkpoint says, and the tokenizer's special tokens.
        prefix: what is put before each text (T5's "summarize: ").
        label_smoothing: share of the target spread over the whole vocabulary (Szegedy et al. 2016, section 7).
    """

    decoding: decoding.Settings | None = None
    prefix: str | None = None
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Piece:
    """One written text.

    Attributes:
        text: without special tokens, as it follows its prompt.
        tokens: what was generated, without the end token.
        finish_reason: ``stop`` or ``length``.
        score: as the way of decoding ranks it.
        logprobs: of each token, the end token's last.
        end: the end token that it ended with, if it did.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    score: float | None = None
    logprobs: tuple[float, ...] | None = field(default=None, repr=False)
    end: int | None = None


class Generating(Writing):
    """Base of the tasks whose model writes text."""

    Options, Settings = GenerationOptions, GenerationSettings
    golden_use = "train"
    hf_task: str  # the key of task_specific_params

    def __init__(self, settings: GenerationSettings) -> None:
        super().__init__(settings)
        if not 0 <= settings.label_smoothing < 1:
            raise OptionError("label_smoothing must be in [0, 1)", value=settings.label_smoothing)
        self.decoding, self.smoothing = settings.decoding or decoding.Settings(), settings.label_smoothing

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        prefix = params_of(config).get(cls.hf_task, {}).get("prefix") or config.get("prefix") or ""
        if not isinstance(prefix, str):
            raise CheckpointError("the prefix of config.json is no text", value=prefix, fix="the file was edited; fetch it again")
        return cls.Settings(decoding=decoding.Settings.from_hf(generation or None, config, cls.hf_task), prefix=prefix)

    @classmethod
    def completed(cls, settings: Any, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
        own = cls.from_hf(config, {}, generation)
        found = settings.decoding or own.decoding
        end = tokenizer.sep_id if tokenizer.eos_id is None else tokenizer.eos_id  # BERT's tokenizers end a text with their separator
        special = {"eos_token_id": () if end is None else (end,), "pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}
        starts = (tokenizer.bos_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.eos_id)  # v4 takes the first where a model says nothing
        special["decoder_start_token_id"] = next((i for i in starts if i is not None), None) if cls.generates == "target" else None
        missing: dict[str, Any] = {name: value for name, value in special.items() if getattr(found, name) in (None, ())}
        prefix = own.prefix if settings.prefix is None else settings.prefix
        return dataclasses.replace(settings, decoding=dataclasses.replace(found, **missing), prefix=prefix)

    def to_hf(self) -> dict[str, Any]:
        found = self.decoding.to_hf()
        return {key: found[key] for key in ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id") if key in found}

    def to_generation(self) -> dict[str, Any]:
        return self.decoding.to_hf()

    @property
    def prefix(self) -> str:
        """What is put before each text."""
        return self.settings.prefix or ""

    def chosen(self, options: GenerationOptions) -> decoding.Settings:
        """The settings of one call: the model's own, and what the options say."""
        given: dict[str, Any] = {f.name: getattr(options, f.name, None) for f in dataclasses.fields(decoding.Settings)}
        given = {name: value for name, value in given.items() if value is not None}
        stop = [options.stop_strings] if isinstance(options.stop_strings, str) else list(options.stop_strings or ())
        if options.stop_sequence is not None:
            stop.append(options.stop_sequence)
        if stop:
            given["stop_strings"] = tuple(stop)
        if isinstance(options.eos_token_id, int):
            given["eos_token_id"] = (options.eos_token_id,)
        if options.max_length is not None and options.max_new_tokens is None:
            given["max_new_tokens"] = None  # what a call says goes before what the model's file says
        if options.min_length is not None and options.min_new_tokens is None:
            given["min_new_tokens"] = None
        found = dataclasses.replace(self.usual(options), **given)
        return found if options.min_length is not None or options.min_new_tokens is not None else self._lowered(found, options)

    def _lowered(self, found: decoding.Settings, options: GenerationOptions) -> decoding.Settings:
        """The model's own least length, lowered to the most that a call allows: then nothing ends before that, as in the incumbent."""
        start = self.generates == "target"  # the one token in front of the answer, which a length in all counts
        if options.max_new_tokens is not None:
            most = {"min_new_tokens": options.max_new_tokens} | ({"min_length": options.max_new_tokens + 1} if start else {})
        elif options.max_length is not None:
            most = {"min_length": options.max_length} | ({"min_new_tokens": options.max_length - 1} if start else {})
        else:
            return found
        above: dict[str, Any] = {name: value for name, value in most.items() if (getattr(found, name) or 0) > max(value, 0)}
        for name, value in above.items():
            warnings.warn(f"{name}={getattr(found, name)} of the model is more than this call allows: {value} is taken", stacklevel=2)
        return dataclasses.replace(found, **above)

    def usual(self, options: GenerationOptions) -> decoding.Settings:
        """The settings of a call that says nothing."""
        return self.decoding

    def as_ids(self, options: Any) -> bool:
        """Whether a call wants token ids in place of text."""
        return bool(options.return_tensors or not options.return_text)

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def _asked(self, batch: Batch) -> dict[int, Asked]:
        """Row number -> prompt and source."""
        parts = {name: [x.tolist() for x in torch.split(part.streams["tokens"], list(part.layout.lengths))] for name, part in batch.parts.items()}
        name = str(self.generates)
        part = batch.parts["text"]
        start = self.decoding.decoder_start_token_id
        real = [i for i, example in enumerate(part.example.tolist()) if example != FILLER]
        if name == "text":
            return {part.ids[i]: Asked(parts["text"][i], None, part.example.device) for i in real}
        if start is None:
            raise OptionError("the model does not say which token its output begins with", expected="decoder_start_token_id in its config.json")
        return {part.ids[i]: Asked([start], parts["text"][i], part.example.device) for i in real}

    def _piece(self, run: Run, asked: Asked, result: Generated, options: Any) -> Piece:
        text = _text_behind(run, asked)(result.tokens)
        text = tidied(text) if options.clean_up_tokenization_spaces else text
        return Piece(text, result.tokens, result.finish_reason, result.score, result.logprobs, result.end)

    def stream(self, run: Run, inputs: Inputs, rows: Sequence[Row], example: Example, options: Any, watch: bool = False) -> Iterator[dict[str, Any]]:
        beams = self.chosen(options).num_beams
        if beams > 1 and not watch:
            what = "a beam search has no tokens to stream: which ones it chose is known when it is over"
            fix = "wait for the answer, or watch the beams: watch=True, on the command line --steps"
            raise OptionError(what, value=f"num_beams={beams}", expected="num_beams=1", fix=fix)
        asked = [self._asked(batch_of(rows, [i], {}).to(run.device))[i] for i in range(len(rows))]
        # all rows are checked before the first is answered
        results = [self._generated(run, {i: row}, options, events=True, watch=watch) for i, row in enumerate(asked)]
        return self._streamed(run, inputs, asked, results, rows, example, options)

    def _streamed(
        self, run: Run, inputs: Inputs, asked: Sequence[Asked], results: Sequence[Iterator[Event | Generated | Branches]], rows: Sequence[Row],
        example: Example, options: Any,
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        ends, tokenizer = self.chosen(options).eos_token_id, inputs.tokenizer.target
        joins: defaultdict[int, Joining] = defaultdict(Joining)
        readings: list[list[Piece]] = []
        for number, (row, each) in enumerate(zip(asked, results, strict=True)):
            fresh = Unfolding(_text_behind(run, row), tokenizer, options.clean_up_tokenization_spaces)
            texts: defaultdict[int, Unfolding] = defaultdict(fresh.copy)
            beams = Beams(Unfolding(_text_behind(run, row), tokenizer))
            pieces: dict[int, Piece] = {}
            for join in joins.values():
                join.begin(self.between(rows, number, example))
            for result in each:
                if isinstance(result, Branches):
                    yield {"piece": number, **beams.record(result)}
                    continue
                if isinstance(result, Event):
                    told = record(result, texts[result.index], result.token in ends)
                else:
                    pieces[result.index] = piece = self._piece(run, row, result, options)
                    told = {"index": result.index, "text": texts[result.index].rest(piece.text), "finish_reason": piece.finish_reason}
                if len(rows) > 1:
                    told["text"] = joins[result.index].add(told["text"])
                yield {"piece": number, **told}
            readings.append([pieces[index] for index in sorted(pieces)])
        answer = self.answer(readings, rows, example, options)
        yield {"text": "", "finish_reason": answer["finish_reason"], "answer": answer}

    def between(self, rows: Sequence[Row], number: int, example: Example) -> str:
        """What lies in the source between a row and the one before it."""
        return ""

    def truth(self, example: Example, where: str) -> Any:
        raise NotImplementedError


def _text_behind(run: Run, asked: Asked) -> Callable[[Sequence[int]], str]:
    """What tokens add to the text of their prompt: decoded together, so that the space between is as it should be."""
    text_of = run.text_of
    assert text_of is not None
    prompt = asked.prompt if asked.source is None else []
    length = len(text_of(prompt)) if prompt else 0
    return lambda tokens: text_of([*prompt, *tokens])[length:]


def refuse_chat(item: Any, where: str) -> None:
    """Refuse messages with roles, which v4 lays out by the tokenizer's chat template.

    Raises:
        InputError: it is one, or a list of them.
    """
    first = item[0] if isinstance(item, list | tuple) and item else item
    if isinstance(first, Mapping) and {"role", "content"} <= first.keys():
        fix = "write the messages as one text, laid out as the model was taught"
        raise InputError(f"{where} is a message of a chat, and nabi lays out no chat templates", value=first["content"], expected="a str", fix=fix)


def params_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The ``task_specific_params`` of a config.json, by task.

    Raises:
        CheckpointError: they are no table of tables.
    """
    found = config.get("task_specific_params") or {}
    if not isinstance(found, Mapping) or not all(isinstance(params, Mapping | None) for params in found.values()):
        raise CheckpointError("task_specific_params of config.json is no table of tables", value=found, fix="the file was edited; fetch it again")
    return {name: params or {} for name, params in found.items()}


def told(piece: Piece, front: Sequence[int] | None = None) -> dict[str, Any]:
    """A written text as plain data; ``front``: what its ``ids`` begin with, which it has only then."""
    ids = {} if front is None else {"ids": [*front, *piece.tokens, *([] if piece.end is None else [piece.end])]}
    return {"text": piece.text, "tokens": list(piece.tokens), "finish_reason": piece.finish_reason, "score": piece.score, **ids}
