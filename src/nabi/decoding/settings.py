"""How an answer is chosen: every setting of decoding, its checks, and its way from and to ``generation_config.json``.

Names, defaults and meanings are the incumbent's (its version 5.23; length rules as its version 4 documents them). Unusual: a setting of a file
that would change the answer and is not known here is an error, never passed over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nabi.config import from_dict, to_dict
from nabi.errors import InputError, OptionError

DEFAULT_LENGTH = 20  # new tokens, if nothing else is said
# Settings of the incumbent that change the answer and are not built: name -> the values that change nothing
ABSENT: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (), "constraints": (), "diversity_penalty": (0,), "dola_layers": (), "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,), "eta_cutoff": (0,), "exponential_decay_length_penalty": (), "force_words_ids": (), "guidance_scale": (1,),
    "max_time": (), "min_p": (0,), "num_beam_groups": (1,), "penalty_alpha": (0,), "prompt_lookup_num_tokens": (), "remove_invalid_values": (False,),
    "sequence_bias": (), "token_healing": (False,), "top_h": (), "typical_p": (1,), "watermarking_config": (),
}  # fmt: skip
SPECIAL = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class Settings:
    """How to decode.

    Attributes:
        max_new_tokens: the most tokens that are generated, the end token counted; wins over ``max_length``.
        max_length: the most tokens in all: prompt and answer of a decoder, or an encoder-decoder's output with its start token.
        min_length: no end token before so many tokens in all, counted as ``max_length`` counts.
        min_new_tokens: no end token before so many generated ones; wins over ``min_length``.
        do_sample: draw each token; otherwise take the best (or search with beams).
        temperature: logits are divided by it. Read when sampling, as are the next two.
        top_k: draw from the k most probable tokens (and those equal to the last of them); 0 for all.
        top_p: draw from the fewest tokens that have this probability together (Holtzman et al. 2020).
        repetition_penalty: divides positive and multiplies negative scores of tokens that occurred (Keskar et al. 2019, section 4.1).
        length_penalty: an ended beam's score is its log-probability over length to this power. Read by beam search, as is ``early_stopping``.
        no_repeat_ngram_size: no n-gram occurs twice in prompt and answer of a decoder, or in the output of an encoder-decoder; 0 for any.
        num_beams: hypotheses that are followed at once; 1 for none.
        num_return_sequences: answers to one prompt: the best beams, or as many draws.
        early_stopping: True ends a search when ``num_beams`` hypotheses have ended; False when the best open one, at its present length, is no better
            than the worst ended one; "never" when none can become better.
        renormalize_logits: scores of beams are log-probabilities again after all changes to them.
        eos_token_id: tokens that end an answer.
        pad_token_id, bos_token_id, decoder_start_token_id: for those who make prompts and batches; nothing here is padded.
        forced_bos_token_id: the token that follows a prompt of one token.
        forced_eos_token_id: the token, or tokens, that the last possible place must hold.
        bad_words_ids: sequences of tokens that may not occur.
        suppress_tokens: tokens that may not occur.
        begin_suppress_tokens: tokens that may not be the first.
        encoder_no_repeat_ngram_size: no n-gram of the source (a decoder's prompt) occurs in the answer; 0 for any.
        stop_strings: an answer is over when its text holds one of these.
        seed: of the draws.
        top_alternatives: how many of the most probable tokens each event of a stream shows.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | Literal["never"] = False
    renormalize_logits: bool = False
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    encoder_no_repeat_ngram_size: int = 0
    stop_strings: tuple[str, ...] = ()
    seed: int = 0
    top_alternatives: int = 0

    @classmethod
    def from_hf(cls, generation: Mapping[str, Any] | None, config: Mapping[str, Any], task: str | None = None) -> Settings:
        """The settings that a model folder asks for.

        Args:
            generation: its ``generation_config.json``, None if there is none.
            config: its ``config.json``: asked for generation settings if there is no ``generation``, else for special tokens that it leaves out.
            task: the key of ``task_specific_params`` whose settings come on top.

        Raises:
            OptionError: a value of the wrong type, or a setting that is not built; all of them in one error.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        found: dict[str, Any] = {key: config[key] for key in (known | ABSENT.keys() if generation is None else SPECIAL) if key in config}
        if generation is None and config.get("force_bos_token_to_be_generated"):  # the first BART files
            found["forced_bos_token_id"] = config.get("bos_token_id")
        found |= {key: value for key, value in (generation or {}).items() if key in known or key in ABSENT}
        of_task = (config.get("task_specific_params") or {}).get(task) or {}
        found |= {key: value for key, value in of_task.items() if key in known or key in ABSENT}
        absent = [f"{key}={found[key]}" for key in sorted(ABSENT.keys() & found) if found[key] is not None and found[key] not in ABSENT[key]]
        if absent:
            raise OptionError("the model's generation settings ask for what is not built", value=", ".join(absent), fix="remove them from its file")
        found = {key: value for key, value in found.items() if key in known and value is not None}  # null stands for the default
        for key in ("eos_token_id", "suppress_tokens", "begin_suppress_tokens", "stop_strings"):
            if isinstance(found.get(key), int | str):
                found[key] = (found[key],)
        return from_dict(cls, found, "the model's generation settings")

    def to_hf(self) -> dict[str, Any]:
        """What ``generation_config.json`` holds of these: everything but the defaults; ``from_hf`` reads it back without loss."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                found[field.name] = value[0] if field.name == "eos_token_id" and len(value) == 1 else to_dict(value)
        return found

    def check(self, vocab_size: int | None = None) -> None:
        """Look for contradictions and impossible values.

        Args:
            vocab_size: if given, token ids have to lie below it.

        Raises:
            OptionError: all of them in one error.
        """
        problems = [*self._sizes(), *self._together(), *self._ids(vocab_size)]
        if problems:
            raise OptionError("the settings of decoding can't be used: " + "; ".join(problems))

    def _sizes(self) -> Iterator[str]:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                yield f"{name}={value} is less than {least}"
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                yield f"{name}={value} is not above 0"
        if not math.isfinite(self.length_penalty):
            yield f"length_penalty={self.length_penalty} is not a finite number"
        if not 0 < self.top_p <= 1:
            yield f"top_p={self.top_p} does not lie in (0, 1]"
        if self.early_stopping not in (True, False, "never"):
            yield f"early_stopping={self.early_stopping!r} is none of True, False, 'never'"

    def _together(self) -> Iterator[str]:
        if self.num_beams > 1 and self.do_sample:
            yield "num_beams > 1 and do_sample exclude each other: search with beams or draw, but not both"
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            yield f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams}"
        if self.num_beams == 1 and not self.do_sample and self.num_return_sequences > 1:
            yield f"num_return_sequences={self.num_return_sequences} without beams or do_sample would be the same answer again and again"
        if self.max_new_tokens is not None and self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            yield f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}"
        if self.max_new_tokens is None and self.max_length is not None:
            if self.min_new_tokens is None and self.min_length > self.max_length:
                yield f"min_length={self.min_length} is more than max_length={self.max_length}"
            if self.min_new_tokens is not None and self.min_new_tokens >= self.max_length:  # a prompt has a token at least
                yield f"min_new_tokens={self.min_new_tokens} leaves max_length={self.max_length} no place for a prompt"

    def _ids(self, vocab_size: int | None) -> Iterator[str]:
        if any(not text for text in self.stop_strings):
            yield "stop_strings holds an empty string"
        if any(not word for word in self.bad_words_ids):
            yield "bad_words_ids holds an empty sequence"
        if self.forced_eos_token_id == ():
            yield "forced_eos_token_id is empty"
        for name in (*SPECIAL, "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"):
            wrong = [i for i in _flat(getattr(self, name)) if i < 0 or (vocab_size is not None and i >= vocab_size and name not in _UNREAD)]
            if wrong:
                yield f"{name} holds {', '.join(map(str, wrong))}: not among the {vocab_size or ''} tokens of the vocabulary".replace("  ", " ")

    def limits(self, prompt: int, decoder_only: bool, room: int | None = None) -> tuple[int, int]:
        """The fewest and the most tokens that are generated behind a prompt, the end token counted among the most.

        Args:
            prompt: tokens of the prompt, or of an encoder-decoder's output before the first generated token (its start token).
            decoder_only: for the words of an error.
            room: positions that the model has; the answer ends where they do.

        Raises:
            InputError: the prompt leaves no room, or less than the answer has to have.
        """
        what = "the prompt" if decoder_only else "the beginning of the output"
        if prompt < 1:
            raise InputError(f"{what} is empty", expected="one token at least", fix="begin with the model's bos or decoder start token")
        most = self.max_new_tokens if self.max_new_tokens is not None else DEFAULT_LENGTH if self.max_length is None else self.max_length - prompt
        if most < 1:
            fix = "set max_new_tokens, a greater max_length or a shorter text"
            raise InputError(f"{what} leaves no room for an answer", value=f"{prompt} tokens", expected=f"fewer than max_length={self.max_length}", fix=fix)
        if room is not None:
            most = min(most, room - prompt)
            if most < 1:
                expected = f"fewer than the {room} positions of the model"
                raise InputError(f"{what} leaves no room for an answer", value=f"{prompt} tokens", expected=expected, fix="shorten the text")
        least = max(0, self.min_length - prompt) if self.min_new_tokens is None else self.min_new_tokens
        if least > most:
            fix = "lower min_length or min_new_tokens, or raise max_length or max_new_tokens"
            raise InputError(f"{what} leaves less room than the answer has to have", value=f"{prompt} tokens",
                             expected=f"room for {least} more tokens where there is room for {most}", fix=fix)  # fmt: skip
        return least, most


_LEAST = {
    "max_new_tokens": 1, "max_length": 1, "min_length": 0, "min_new_tokens": 0, "top_k": 0, "no_repeat_ngram_size": 0, "num_beams": 1,
    "num_return_sequences": 1, "encoder_no_repeat_ngram_size": 0, "seed": 0, "top_alternatives": 0,
}  # fmt: skip
_UNREAD = {"pad_token_id", "bos_token_id", "decoder_start_token_id", "eos_token_id"}  # never looked up: an id that can't be generated never comes


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    elif value is not None:
        yield value
