"""Denoising: write what is missing from a text (Raffel et al. 2019, section 3.1.4: spans behind sentinels; Lewis et al. 2019, section 2.2: the whole text, of
which spans were replaced by one mask each, and whose sentences may stand in another order). In use it fills the blanks of a text.

Unusual: noise is drawn anew in every epoch, never stored. The target of spans ends with a sentinel, as in the paper; the incumbent's collator leaves that
one out. A document is read whole: it is cut into as few equal pieces as fit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nabi import decoding
from nabi.batch import FILLER, Batch, Row, Target
from nabi.data.shards import Window
from nabi.errors import DataError, InputError, OptionError, TokenizerError
from nabi.inputs import Inputs, Reading
from nabi.metrics import LanguageScore
from nabi.metrics.written import Restored
from nabi.nn.body import Body, Run
from nabi.nn.losses import CHUNK
from nabi.tasks import Example, Form, Score, Use, own_text
from nabi.tasks._denoising import (
    NONE,
    SHARE,
    Frame,
    Style,
    between,
    noised,
    noised_as_ever,
    pieces,
    sentinels,
    sizes_of,
    style_of,
    text_in_blank,
    units_of,
    whole_row,
    written_spans,
)
from nabi.tasks._generating import Generating, GenerationOptions, GenerationSettings, Piece, refuse_chat, told
from nabi.tasks._masking import mask_of
from nabi.text import Tokenizer

LONGEST_ANSWER = 512  # tokens, of a body that sets no limit


@dataclass(frozen=True)
class DenoiseSettings(GenerationSettings):
    """What belongs to the model, beside ``decoding`` and ``label_smoothing``.

    Attributes:
        style: ``spans`` (T5's) or ``infilling`` (BART's); if None, ``spans`` where the tokenizer has sentinels, else ``infilling`` where it has a mask.
        mask_probability: share of the tokens that is hidden; 0.15 of ``spans`` and 0.3 of ``infilling`` if None.
        mean_span: tokens of a span, in the mean.
        whole_word: whether words are hidden whole; share and spans then count words.
        permute_sentences: whether ``infilling`` puts the sentences of a row in any order.
        length: tokens of a source or target of training, at most; the model's own limit where that is less.
    """

    style: Style | None = None
    mask_probability: float | None = None
    mean_span: float = 3.0
    whole_word: bool = False
    permute_sentences: bool = False
    length: int = 512


class Denoise(Generating):
    """Write what is missing from a text."""

    name = "denoise"
    aliases = ("denoising",)
    columns = ("text",)
    generates = "target"
    hf_task = "denoise"
    reads_shards = True
    Options, Settings = GenerationOptions, DenoiseSettings
    main_metric, lower_is_better = "perplexity", True

    def __init__(self, settings: DenoiseSettings) -> None:
        super().__init__(settings)
        share = settings.mask_probability
        if share is not None and not 0 < share < 1:
            raise OptionError("mask_probability is out of range", value=share, expected="above 0 and below 1")
        if not settings.mean_span >= 1:
            raise OptionError("mean_span is out of range", value=settings.mean_span, expected="1 or more")
        if settings.length < 1:
            raise OptionError("length is out of range", value=settings.length, expected="1 or more")
        if settings.permute_sentences and settings.style == "spans":
            raise OptionError("permute_sentences goes with the style whose target is the whole text", value="style=spans", fix="set style=infilling")
        if settings.prefix:
            raise OptionError("denoise puts nothing before a text", value=settings.prefix, fix="leave prefix out")
        self.targets = {**self.targets, "spans": Target("token", part="target")}
        self._room = LONGEST_ANSWER

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        return dataclasses.replace(super().from_hf(config, outputs, generation), prefix="")

    @classmethod
    def completed(cls, settings: Any, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
        if tokenizer.target is not tokenizer:
            what = "denoise writes the text that it reads, and this model writes in another vocabulary than it reads"
            raise TokenizerError(what, expected="one tokenizer for both sides")
        return dataclasses.replace(super().completed(settings, config, generation, tokenizer), style=style_of(tokenizer, settings.style))

    def build(self, body: Body) -> None:
        super().build(body)
        self._room = body.limits.get("target", LONGEST_ANSWER)

    def usual(self, options: GenerationOptions) -> decoding.Settings:
        found = self.decoding
        return found if found.max_new_tokens or found.max_length else dataclasses.replace(found, max_new_tokens=self._room)

    @property
    def style(self) -> Style:
        """How texts are noised."""
        assert self.settings.style is not None, "the settings are completed when a model is made or loaded"
        return self.settings.style  # type: ignore[no-any-return]

    @property
    def _share(self) -> float:
        given: float | None = self.settings.mask_probability
        return SHARE[self.style] if given is None else given

    @property
    def _how(self) -> dict[str, Any]:
        start = self.decoding.decoder_start_token_id
        if start is None:
            raise OptionError("the model does not say which token its output begins with", expected="decoder_start_token_id in its config.json")
        return {"share": self._share, "mean": self.settings.mean_span, "start": start}

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: GenerationOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text = example.get("text")
        if not isinstance(text, str):
            raise InputError(f"{where or 'an input'} has no text", value=text, expected="a str, or {'text': ...}")
        if use == "predict":
            return self._asked_for(text, inputs, options, where)
        found = inputs.tokenizer.encode(text, special=False)
        if not found.ids:
            raise DataError(f"{where or 'a text'} is empty", value=text, expected="at least one token to predict", fix="remove the row")
        frame, sizes = self._frame(inputs), sizes_of(found, text) if use == "evaluate" else []
        self._check_marks(frame, found.ids, where or "a text")
        rows, kept = [], {"words": self.settings.whole_word, "permuted": self.settings.permute_sentences}
        for a, b in pieces(len(found), self._row_room(frame)):
            notes = units_of(found, a, b, text, **kept) | ({"sizes": sizes[a:b]} if sizes else {})
            rows.append(noised_as_ever(whole_row(found.ids[a:b], frame, **notes), self.style, **self._how))
        return rows

    def encode_window(self, window: Window, inputs: Inputs) -> list[Row]:
        """Rows of each fragment of a document, which is cut as a document of a table is."""
        if self.settings.whole_word or self.settings.permute_sentences:
            raise OptionError("token shards hold no words and no sentences", fix="leave whole_word and permute_sentences out, or train on the texts")
        frame, rows = self._frame(inputs), []
        ids, room = window.ids.tolist(), self._row_room(frame)
        self._check_marks(frame, ids, "a window of the token shards")
        for begin, end in window.fragments():
            if end - begin > 1 and ids[end - 1] == window.end:
                end -= 1  # which each row gets
            rows += [noised_as_ever(whole_row(ids[begin + a : begin + b], frame), self.style, **self._how) for a, b in pieces(end - begin, room)]
        return rows

    def corrupt(self, row: Row, generator: torch.Generator) -> Row:
        return noised(row, self.style, **self._how, generator=generator)

    def _frame(self, inputs: Inputs) -> Frame:
        end = next(iter(self.decoding.eos_token_id), None)
        return Frame.of(inputs.tokenizer, self.style, end, min(inputs.max_length, self.settings.length))

    def _check_marks(self, frame: Frame, ids: Sequence[int], where: str) -> None:
        if self.style == "spans" and len(set(frame.marks) - set(ids)) < 2:
            raise DataError(f"{where} holds all of the tokenizer's sentinels", expected="two that it does not", fix="take them out of the text")

    def _row_room(self, frame: Frame) -> int:
        return frame.room(self.style, self._share, self.settings.mean_span, self.settings.whole_word)

    def _asked_for(self, text: str, inputs: Inputs, options: GenerationOptions, where: str) -> list[Row]:
        tokenizer = inputs.tokenizer
        marks = sentinels(tokenizer) if self.style == "spans" else [mask_of(tokenizer)]
        windows, cut = inputs.read(text, None, Reading(options.long, None, 0), where=where)
        rows = []
        for window in windows:
            places = [i for i, id in enumerate(window.ids) if id in marks]
            if not places:
                continue  # nothing is missing from it
            ids = list(window.ids)
            if self.style == "spans":
                if len(places) >= len(marks):
                    raise InputError(f"{where or 'the text'} has too many blanks", value=len(places), expected=f"at most {len(marks) - 1} in a row")
                for number, place in enumerate(places):  # as in training: the first is the first
                    ids[place] = marks[number]
            held = [offsets for offsets, special in zip(window.offsets, window.special, strict=True) if not special]
            notes = {"tokenizer": tokenizer, "places": places, "blanks": [window.offsets[i] for i in places], "marks": marks[: len(places) + 1],
                     "place": (held[0][0], held[-1][1]), "truncated": cut}  # fmt: skip
            rows.append(Row({"text": {"tokens": ids}}, notes=notes))
        if not rows:
            name = tokenizer.token(marks[0])
            what = f"{where or 'the text'} has no blank" + (" within what is read" if cut else "")
            raise InputError(what, value=text, expected=f"{name} where something is missing", fix=f"write {name}, as this model spells it")
        return rows

    def example_of(self, item: Any, where: str = "an input") -> Example:
        refuse_chat(item, where)
        return super().example_of(item, where)

    def golden_examples(self) -> list[Example]:
        return [example for example in super().golden_examples() if example["text"]]

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def _measured(self, run: Run, batch: Batch) -> Iterator[tuple[int, dict[str, float]]]:
        """``{"nats", "tokens", "spans", "restored"}``: a span is restored if each of its tokens is the most probable one behind the right ones."""
        part, aims = batch.parts["target"], batch.targets["next"]
        nats, right = [], []
        size = max(1, CHUNK // self._outputs)
        for x, wanted in zip(torch.split(run(batch, keep={"target": None})["target"].values, size), torch.split(aims, size), strict=True):
            logits = self._head.logits(run, x)
            nats.append(logits.logsumexp(-1) - logits.gather(1, wanted[:, None])[:, 0])
            right.append(logits.argmax(-1) == wanted)
        lengths = list(part.layout.lengths)
        by_row = (torch.split(values.cpu(), lengths) for values in (torch.cat(nats).double(), torch.cat(right), batch.targets["spans"]))
        for row, example, row_nats, row_right, of in zip(part.ids, part.example.tolist(), *by_row, strict=True):
            if example != FILLER:
                spans = set(of.tolist()) - {NONE}
                missed = set(of[~row_right].tolist()) - {NONE}
                yield row, {"nats": float(row_nats.sum()), "tokens": len(of), "spans": len(spans), "restored": len(spans - missed)}

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: GenerationOptions) -> dict[str, Any]:
        """``{"text", "fills", "finish_reason", "truncated", "sequences"}``: the text with its blanks filled, and each blank with its ``start``, ``end``
        and the ``text`` for it, None where the model did not write one; of an evaluated document ``{"nats", "tokens", "bytes", "spans", "restored",
        "perplexity"}``."""
        if isinstance(readings[0], dict):
            sums = {name: sum(reading[name] for reading in readings) for name in ("nats", "tokens", "spans", "restored")}
            return {**sums, "bytes": sum(row.notes["bytes"] for row in rows), "perplexity": math.exp(min(sums["nats"] / sums["tokens"], 700.0))}
        source: str = example["text"]
        sequences = [self._sequence(written, rows, source, options) for written in zip(*readings, strict=False)]
        best = {name: sequences[0][name] for name in ("text", "fills", "finish_reason")}
        return {**best, "truncated": rows[0].notes["truncated"], "sequences": sequences}

    def _sequence(self, written: Sequence[Piece], rows: Sequence[Row], source: str, options: GenerationOptions) -> dict[str, Any]:
        """One answer of what was written for each row."""
        front = [self._how["start"]] if self.as_ids(options) else None
        said = [told(piece, front) for piece in written]
        fills: list[dict[str, Any]] = []
        edits: list[tuple[int, int, str]] = []
        for row, piece in zip(rows, written, strict=True):
            (a, b), blanks = row.notes["place"], row.notes["blanks"]
            texts = self._spans_of(row, piece, source) if self.style == "spans" else _known(row, piece, source)
            found = [{"start": start, "end": end, "text": text} for (start, end), text in zip(blanks, texts, strict=True)]
            fills += found
            edits += [(a, b, piece.text.strip())] if self.style == "infilling" else [(x["start"], x["end"], x["text"]) for x in found if x["text"] is not None]
        text, end = "", 0
        for a, b, new in edits:
            text, end = text + source[end:a] + new, b
        joined: dict[str, Any] = {name: [x for one in said for x in one[name]] for name in ("tokens", "ids") if name in said[0]}
        ended = "length" if any(one["finish_reason"] == "length" for one in said) else "stop"
        return {"text": text + source[end:], "fills": fills, "finish_reason": ended, "score": said[0]["score"] if len(said) == 1 else None, **joined}

    def _spans_of(self, row: Row, piece: Piece, source: str) -> list[str | None]:
        notes, ids = row.notes, row.parts["text"]["tokens"]
        found = written_spans(piece.tokens, notes["marks"])
        texts: list[str | None] = []
        for new, place, (start, end) in zip(found, notes["places"], notes["blanks"], strict=False):
            spaced = {"left": not source[:start].rstrip() or source[start - 1].isspace(), "right": not source[end:].rstrip() or source[end].isspace()}
            texts.append(None if new is None else text_in_blank(notes["tokenizer"], ids[:place], new, **spaced))
        return texts

    def stream(self, *args: Any, **more: Any) -> Iterator[dict[str, Any]]:
        raise OptionError("the blanks of a text are filled when all of them are written, so there is nothing to stream", fix="ask for it with predict")

    def truth(self, example: Example, where: str) -> str:
        return own_text(example, where)

    def score(self) -> Score:
        return _Score()

    def detail(self, options: GenerationOptions) -> Any:
        """What a report is made of."""
        return _Detail()

    def line(self, answer: Any) -> str:
        return str(answer["text"]) if "text" in answer else f"perplexity {answer['perplexity']:.3f}"

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False

    def present(self, answer: Any, options: GenerationOptions, alone: bool) -> Any:
        """``{"text", "fills"}``, or ``{"token_ids"}``; a list of them where several answers were asked for."""
        found = [{"token_ids": one["ids"]} if self.as_ids(options) else {"text": one["text"], "fills": one["fills"]} for one in answer["sequences"]]
        return found if len(found) > 1 else found[0]


def _known(row: Row, piece: Piece, source: str) -> list[str | None]:
    """What stands at each mask in a text that was written whole."""
    (a, b), blanks = row.notes["place"], row.notes["blanks"]
    cuts = [a, *(x for blank in blanks for x in blank), b]
    return between(piece.text.strip(), [source[x:y].strip() for x, y in zip(cuts[::2], cuts[1::2], strict=True)])


class _Score:
    def __init__(self) -> None:
        self._language, self._spans, self._restored = LanguageScore(), 0, 0

    def add(self, answer: Any, truth: object = None) -> None:
        self._language.add((answer["nats"], answer["tokens"], answer["bytes"]))
        self._spans, self._restored = self._spans + answer["spans"], self._restored + answer["restored"]

    def result(self) -> dict[str, float]:
        """perplexity, bits_per_byte, spans_restored."""
        return {**self._language.result(), "spans_restored": self._restored / max(self._spans, 1)}


class _Detail(Restored):
    def add(self, answer: Any, truth: Any = None) -> None:
        super().add(tuple(answer[name] for name in ("nats", "tokens", "bytes", "spans", "restored")))


TASK = Denoise
