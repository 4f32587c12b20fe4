"""Text generation: go on with a text, token by token; in training the causal language model (Radford et al. 2018, section 3.1).

Unusual: a document is read whole, cut into rows of the model's length; from the second row on, the first tokens of an evaluated row are context alone, so each
token counts once. A document begins with the tokenizer's first special token (or its end token) and ends with the end token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nabi.batch import Row
from nabi.errors import DataError, InputError
from nabi.inputs import Inputs
from nabi.metrics import LanguageScore
from nabi.metrics.written import Modelled
from nabi.tasks import Example, Score, Use
from nabi.tasks._generating import IGNORED, Generating, GenerationOptions, Piece, told


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


class TextGeneration(Generating):
    """Go on with a text."""

    name = "text_generation"
    aliases = ("causal_lm",)
    defaults = ("openai-community/gpt2", "gpt2")
    columns = ("text",)
    generates = "text"
    hf_task = "text-generation"
    Options = TextGenerationOptions
    main_metric, lower_is_better = "bits_per_byte", True

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: TextGenerationOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text = example.get("text")
        if not isinstance(text, str):
            raise InputError(f"{where or 'an input'} has no text", value=text, expected="a str, or {'text': ...}")
        if use == "predict":
            return [self._prompt(text, inputs, options, where)]
        tokenizer = inputs.tokenizer
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.cls_id if tokenizer.cls_id is not None else tokenizer.eos_id
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

    def _prompt(self, text: str, inputs: Inputs, options: TextGenerationOptions, where: str) -> Row:
        tokenizer = inputs.tokenizer
        encoding = tokenizer.encode(self.prefix + options.prefix + text)
        ends = next((i for i, special in enumerate(reversed(encoding.special)) if not special), 0)  # what a template puts behind a text ends it
        ids = list(encoding.ids[: len(encoding.ids) - ends])
        if not ids:
            start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
            if start is None:
                raise InputError(f"{where or 'the text'} is empty", value=text, expected="some text, as the model has no token that begins one")
            ids = [start]
        if options.handle_long_generation == "hole":
            room = inputs.max_length - (self.chosen(options).max_new_tokens or 1)
            if room < 1:
                raise InputError("the answer alone is longer than the model", value=options.max_new_tokens, expected=f"below {inputs.max_length}")
            ids = ids[-room:]
        elif len(ids) >= inputs.max_length:
            fix = "shorten it, or cut its beginning with handle_long_generation='hole'"
            raise InputError(f"{where or 'the text'} leaves no room", value=f"{len(ids)} tokens", expected=f"fewer than {inputs.max_length}", fix=fix)
        return Row({"text": {"tokens": ids}})

    def golden_examples(self) -> list[Example]:
        return [example for example in super().golden_examples() if example["text"]]

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: TextGenerationOptions) -> dict[str, Any]:
        """``{"text", "completion", "finish_reason", "sequences"}``; of an evaluated document ``{"nats", "tokens", "bytes", "perplexity"}``."""
        if isinstance(readings[0], dict):
            nats, tokens = sum(r["nats"] for r in readings), sum(r["tokens"] for r in readings)
            size = sum(row.notes["bytes"] for row in rows)
            return {"nats": nats, "tokens": tokens, "bytes": size, "perplexity": math.exp(min(nats / tokens, 700.0))}
        (pieces,) = readings
        best: Piece = pieces[0]
        return {
            "text": example["text"] + best.text,
            "completion": best.text,
            "finish_reason": best.finish_reason,
            "sequences": [told(piece) for piece in pieces],
        }

    def truth(self, example: Example, where: str) -> str:
        text = example.get("text")
        if not isinstance(text, str):
            raise DataError(f"{where} has no text", value=text, expected="a str")
        return text

    def score(self) -> Score:
        return _Score()

    def detail(self, options: TextGenerationOptions) -> Any:
        """What a report is made of."""
        return _Detail()

    def line(self, answer: Any) -> str:
        return str(answer["text"]) if "text" in answer else f"perplexity {answer['perplexity']:.3f}"

    def present(self, answer: Any, options: TextGenerationOptions, alone: bool) -> Any:
        """v4's shape: a list of dicts for each text."""
        kind = {None: None, 0: "tensors", 1: "new", 2: "full"}[options.return_type]
        if kind == "tensors" or (kind is None and (options.return_tensors or not options.return_text)):
            return [{"generated_token_ids": sequence["tokens"]} for sequence in answer["sequences"]]
        full = options.return_full_text if kind is None else kind == "full"
        prompt = answer["text"][: len(answer["text"]) - len(answer["completion"])] if full else ""
        return [{"generated_text": prompt + sequence["text"]} for sequence in answer["sequences"]]


class _Score(LanguageScore):
    def add(self, answer: Any, truth: object = None) -> None:
        super().add((answer["nats"], answer["tokens"], answer["bytes"]), truth)


class _Detail(Modelled):
    def add(self, answer: Any, truth: Any = None) -> None:
        super().add((answer["nats"], answer["tokens"], answer["bytes"]), truth)


TASK = TextGeneration
