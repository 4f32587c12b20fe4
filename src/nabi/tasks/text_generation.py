"""Text generation: go on with a text, token by token; in training the causal language model (Radford et al. 2018, section 3.1).

Unusual: a document is read whole, cut into rows of the model's length; from the second row on, the first tokens of an evaluated row are context alone, so each
token counts once. A document begins with the tokenizer's first special token (or its end token) and ends with the end token. Of token shards a row is a
fragment of a document, so a window of constant length holds documents that do not see each other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nabi.batch import Row
from nabi.data.shards import Window
from nabi.errors import DataError, InputError
from nabi.inputs import Inputs
from nabi.metrics import LanguageScore
from nabi.metrics.written import Modelled
from nabi.tasks import Example, Score, Use, own_text
from nabi.tasks._generating import Generating, GenerationOptions, GenerationSettings, Piece, refuse_chat, told
from nabi.tasks._streaming import tidied
from nabi.tasks._writing import IGNORED
from nabi.text import Tokenizer


@dataclass(frozen=True)
class TextGenerationOptions(GenerationOptions):
    """What a call may set, beside ``GenerationOptions``.

    Attributes:
        return_full_text: whether the text in front is part of the answer.
        prefix: put before each text, and not part of what is returned as the prompt.
        handle_long_generation: ``hole`` cuts the beginning of a prompt that leaves no room; otherwise that is an error.
        stride: tokens of context that a later row of a long evaluated document begins with.
        return_type: v4's number for what is returned: 0 token ids, 1 the new text, 2 the full text.
    """

    return_full_text: bool = True
    prefix: str = ""
    handle_long_generation: Literal["hole"] | None = None
    stride: int = 64
    return_type: Literal[0, 1, 2] | None = None


@dataclass(frozen=True)
class TextGenerationSettings(GenerationSettings):
    """What belongs to the model, beside ``GenerationSettings``.

    Attributes:
        begin: whether a prompt begins with the token that a document of training begins with. False for a model that the incumbent made, whose
            prompts begin as its tokenizer has it.
    """

    begin: bool = True


class TextGeneration(Generating):
    """Go on with a text."""

    name = "text_generation"
    aliases = ("causal_lm",)
    defaults = ("openai-community/gpt2", "gpt2")
    columns = ("text",)
    generates = "text"
    hf_task = "text-generation"
    reads_shards = True
    Options, Settings = TextGenerationOptions, TextGenerationSettings
    main_metric, lower_is_better = "bits_per_byte", True

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        return dataclasses.replace(super().from_hf(config, outputs, generation), begin=False)

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: TextGenerationOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text = example.get("text")
        if not isinstance(text, str):
            raise InputError(f"{where or 'an input'} has no text", value=text, expected="a str, or {'text': ...}")
        if use == "predict":
            return [self._prompt(text, inputs, options, where)]
        tokenizer = inputs.tokenizer
        start = _first(tokenizer)
        end = next(iter(self.decoding.eos_token_id), None)
        ids = tokenizer.encode(text, special=False).ids
        ids = [*([] if start is None else [start]), *ids, *([] if end is None else [end])]
        if len(ids) < 2:
            raise DataError(f"{where or 'a text'} is empty", value=text, expected="at least one token to predict", fix="remove the row")
        limit, rows = min(inputs.max_length, len(ids)), []
        shared = min(options.stride, limit // 2) if use == "evaluate" else 0
        begin = 0
        while begin < len(ids) - 1:
            window = ids[begin : begin + limit + 1]
            context = shared if begin else 0
            targets = [IGNORED] * context + window[1 + context :]
            rows.append(Row({"text": {"tokens": window[:-1]}}, targets={"next": targets}, notes={"bytes": len(text.encode()) if not begin else 0}))
            if begin + len(window) >= len(ids):
                break
            begin += limit - shared
        return rows

    def encode_window(self, window: Window, inputs: Inputs) -> list[Row]:
        """A row a fragment of a document; each token of the window is predicted once, from those of its own document in front of it in the window.

        A document begins as one that is read from a table; a fragment that goes on with one begins with the last token of the window before.
        """
        start = _first(inputs.tokenizer)
        if start is None:
            start = window.end  # which stands in front of each document but the first
        ids, rows = window.ids.tolist(), []
        for begin, end in window.fragments():
            front = start if begin or window.before is None else window.before
            rows.append(Row({"text": {"tokens": [front, *ids[begin : end - 1]]}}, targets={"next": ids[begin:end]}))
        return rows

    def _prompt(self, text: str, inputs: Inputs, options: TextGenerationOptions, where: str) -> Row:
        tokenizer = inputs.tokenizer
        encoding = tokenizer.encode(self.prefix + options.prefix + text)
        ends = next((i for i, special in enumerate(reversed(encoding.special)) if not special), 0)  # what a template puts behind a text ends it
        ids = list(encoding.ids[: len(encoding.ids) - ends])
        start = _first(tokenizer)
        if not ids and start is None:
            raise InputError(f"{where or 'the text'} is empty", value=text, expected="some text, as the model has no token that begins one")
        if start is not None and (not ids or (self.settings.begin and ids[0] != start)):
            ids = [start, *ids]
        cut = False
        if options.handle_long_generation == "hole":
            room = inputs.max_length - (self.chosen(options).max_new_tokens or 1)
            if room < 1:
                raise InputError("the answer alone is longer than the model", value=options.max_new_tokens, expected=f"below {inputs.max_length}")
            cut, ids = len(ids) > room, ids[-room:]
        elif len(ids) >= inputs.max_length:
            fix = "shorten it, or cut its beginning with handle_long_generation='hole'"
            raise InputError(f"{where or 'the text'} leaves no room", value=f"{len(ids)} tokens", expected=f"fewer than {inputs.max_length}", fix=fix)
        return Row({"text": {"tokens": ids}}, notes={"truncated": cut})

    def example_of(self, item: Any, where: str = "an input") -> Example:
        refuse_chat(item, where)
        return super().example_of(item, where)

    def golden_examples(self) -> list[Example]:
        return [example for example in super().golden_examples() if example["text"]]

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: TextGenerationOptions) -> dict[str, Any]:
        """``{"text", "completion", "finish_reason", "truncated", "sequences"}``; of an evaluated document ``{"nats", "tokens", "bytes", "perplexity"}``."""
        if isinstance(readings[0], dict):
            nats, tokens = sum(r["nats"] for r in readings), sum(r["tokens"] for r in readings)
            size = sum(row.notes["bytes"] for row in rows)
            return {"nats": nats, "tokens": tokens, "bytes": size, "perplexity": math.exp(min(nats / tokens, 700.0))}
        (pieces,) = readings
        best: Piece = pieces[0]
        front = rows[0].parts["text"]["tokens"] if self.as_ids(options) else None
        return {
            "text": example["text"] + best.text,
            "completion": best.text,
            "finish_reason": best.finish_reason,
            "truncated": rows[0].notes["truncated"],
            "sequences": [told(piece, front) for piece in pieces],
        }

    def truth(self, example: Example, where: str) -> str:
        return own_text(example, where)

    def score(self) -> Score:
        return _Score()

    def detail(self, options: TextGenerationOptions) -> Any:
        """What a report is made of."""
        return _Detail()

    def line(self, answer: Any) -> str:
        return str(answer["text"]) if "text" in answer else f"perplexity {answer['perplexity']:.3f}"

    def as_ids(self, options: TextGenerationOptions) -> bool:
        return super().as_ids(options) if options.return_type is None else options.return_type == 0

    def present(self, answer: Any, options: TextGenerationOptions, alone: bool) -> Any:
        """v4's shape: a list of dicts for each text."""
        if self.as_ids(options):
            return [{"generated_token_ids": sequence["ids"]} for sequence in answer["sequences"]]
        full = options.return_full_text if options.return_type is None else options.return_type == 2
        prompt = answer["text"][: len(answer["text"]) - len(answer["completion"])] if full else ""
        tidy = tidied if options.clean_up_tokenization_spaces is None else str
        return [{"generated_text": prompt + tidy(sequence["text"])} for sequence in answer["sequences"]]


def _first(tokenizer: Tokenizer) -> int | None:
    """The token that a document begins with."""
    return next((i for i in (tokenizer.bos_id, tokenizer.cls_id, tokenizer.eos_id) if i is not None), None)


class _Score(LanguageScore):
    def add(self, answer: Any, truth: object = None) -> None:
        super().add((answer["nats"], answer["tokens"], answer["bytes"]), truth)


class _Detail(Modelled):
    def add(self, answer: Any, truth: Any = None) -> None:
        super().add((answer["nats"], answer["tokens"], answer["bytes"]), truth)


TASK = TextGeneration
