"""Fill-mask: what stands behind each mask of a text; in training the masked language model (Devlin et al. 2018, section 3.1, task 1).

Unusual: tokens are hidden anew in every epoch (Liu et al. 2019, section 4.1), never in a stored row. A mask of a long text is read in the window that shows
most on both of its sides; of the probabilities no more than the asked ones leave the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nabi.batch import FILLER, Batch, Row, Target
from nabi.data.corrupt import IGNORED
from nabi.data.shards import Window
from nabi.errors import DataError, InputError, OptionError, unknown
from nabi.inputs import Inputs, Long, Reading
from nabi.metrics.detail import Detail
from nabi.nn.body import Body, Run
from nabi.nn.heads import Head
from nabi.tasks import Example, Score, Task, Use, _masking, own_text
from nabi.text import Tokenizer
from nabi.text.encoding import Encoding

ASKED = -1  # in the target ``masked``: a place that a call wants filled


@dataclass(frozen=True)
class FillMaskOptions:
    """What a call may set.

    Attributes:
        top_k: how many tokens a mask gets; no more than there are ``targets``.
        targets: the tokens that are compared, with their probabilities among the whole vocabulary; all tokens if None. One that the vocabulary lacks
            stands for its first piece, with a warning.
        long: what to do with a text over ``max_length``: read it in windows, cut it, or refuse it.
        max_length: tokens in a row, special ones included; the model's own limit if None.
        stride: tokens that neighbouring windows share where masks are filled; half a window if None. In training and evaluation they share none.
        tokenizer_kwargs: v4's way to cut a text: ``{"truncation": True, "max_length": 128}``.
    """

    top_k: int = 5
    targets: str | tuple[str, ...] | None = None
    long: Long = "window"
    max_length: int | None = None
    stride: int | None = None
    tokenizer_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class FillMaskSettings:
    """What belongs to the model.

    Attributes:
        mask_probability: share of the tokens that training hides.
        whole_word: whether all pieces of a word are hidden together.
    """

    mask_probability: float = 0.15
    whole_word: bool = False


class FillMask(Task):
    """Say what stands behind a mask."""

    name = "fill_mask"
    aliases = ("masked_lm",)
    defaults = ("distilbert/distilroberta-base", "distilroberta-base")
    columns = ("text",)
    heads = ("vocabulary",)
    reads_shards = True
    Options, Settings = FillMaskOptions, FillMaskSettings
    targets = {"masked": Target("token"), "choices": Target("ragged")}
    main_metric, lower_is_better = "perplexity", True
    golden_use = "evaluate"

    def __init__(self, settings: FillMaskSettings) -> None:
        super().__init__(settings)
        _masking.check_share(settings.mask_probability)

    @classmethod
    def completed(cls, settings: Any, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
        _masking.mask_of(tokenizer)
        return settings

    def build(self, body: Body) -> None:
        if body.generates is not None:
            what = f"{self.name} can't be built on this family: {type(body).__name__} writes text, so no token sees what follows it"
            raise OptionError(what, expected="a family that reads both sides, such as bert")
        self._outputs = body.tables["tokens"]
        super().build(body)

    def outputs(self) -> dict[str, int]:
        return {"vocabulary": self._outputs}

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: FillMaskOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text, tokenizer = example.get("text"), inputs.tokenizer
        if not isinstance(text, str):
            raise InputError(f"{where or 'an input'} has no text", value=text, expected="a str, or {'text': ...}")
        if use == "predict":
            return self._asked(text, inputs, options, where)
        windows, _ = _windows(text, inputs, options, where, stride=0)
        rows = [row for window in windows if (row := _masking.row_of(window, tokenizer, self.settings.whole_word))]
        if not rows:
            raise DataError(f"{where or 'a text'} has no token that could be hidden", value=text, expected="one at least", fix="remove the row")
        return [_masking.hidden_as_ever(row, self.settings.mask_probability) for row in rows]

    def window_length(self, inputs: Inputs) -> int:
        front, back = _around(inputs.tokenizer)
        return inputs.max_length - len(front) - len(back)

    def encode_window(self, window: Window, inputs: Inputs) -> list[Row]:
        """A row a fragment of a document, between the tokens that stand around a text; in even parts if it would be too long with them.

        Raises:
            OptionError: whole words shall be hidden, and ids do not say where one begins.
        """
        if self.settings.whole_word:
            raise OptionError("token shards do not say where words begin", value="whole_word = true", fix="give the texts, as a table, or hide single tokens")
        tokenizer = inputs.tokenizer
        front, back = _around(tokenizer)
        ids, limit, rows = window.ids.tolist(), self.window_length(inputs), []
        for begin, end in window.fragments():
            parts = -(-(end - begin) // limit)
            for part in range(parts):
                start, stop = (begin + (end - begin) * i // parts for i in (part, part + 1))
                behind = back[1:] if back and ids[stop - 1] == back[0] else back  # the end token may be [SEP]
                rows.append(_masking.row_of_ids([*front, *ids[start:stop], *behind], {*front, *back, window.end}, tokenizer))
        return [_masking.hidden_as_ever(row, self.settings.mask_probability) for row in rows]

    def _asked(self, text: str, inputs: Inputs, options: FillMaskOptions, where: str) -> list[Row]:
        tokenizer = inputs.tokenizer
        mask = _masking.mask_of(tokenizer)
        if options.top_k < 1:
            raise OptionError("top_k is out of range", value=options.top_k, expected="1 or more")
        choices = {} if options.targets is None else {"choices": _choices(options.targets, tokenizer)}
        windows, cut = _windows(text, inputs, options, where)
        found: dict[tuple[int, int], tuple[int, int, int]] = {}  # a mask's offsets -> how much stands on its shorter side, the window, the place in it
        for number, window in enumerate(windows):
            for place, (id, offsets) in enumerate(zip(window.ids, window.offsets, strict=True)):
                if id == mask and (seen := min(place, len(window) - 1 - place)) > found.get(offsets, (-1,))[0]:
                    found[offsets] = seen, number, place
        if not found:
            name = tokenizer.token(mask)
            what = f"{where or 'the text'} has no mask" + (" within max_length" if cut else "")
            raise InputError(what, value=text, expected=f"{name} where a token is wanted", fix=f"write {name}, as this model spells it")
        whole = windows[0].ids if len(windows) == 1 else tokenizer.encode(text).ids
        notes = {"tokenizer": tokenizer, "ids": whole, "offsets": sorted(found), "truncated": cut, "windows": len(windows)}
        rows = []
        for number, window in enumerate(windows):
            places = sorted(place for _, chosen, place in found.values() if chosen == number)
            if places:
                masked = [ASKED if place in places else IGNORED for place in range(len(window))]
                of = {**notes, "masks": [window.offsets[place] for place in places]}
                rows.append(Row({"text": {"tokens": window.ids, "segments": window.segments}}, targets={"masked": masked, **choices}, notes=of))
        return rows

    def corrupt(self, row: Row, generator: torch.Generator) -> Row:
        return _masking.hidden(row, self.settings.mask_probability, generator)

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return {"masked": _masking.count(targets)}

    def loss(self, run: Run, batch: Batch) -> dict[str, torch.Tensor]:
        return {"masked": _masking.loss(self._head, run, batch)}

    def read(self, run: Run, batches: Iterable[Batch], options: FillMaskOptions) -> Iterator[tuple[int, Any]]:
        """``{"nats", "tokens", "right"}`` of a row of which tokens were hidden; else for each mask (probability, token), best first."""
        for batch in batches:
            asked = batch.targets["masked"] == ASKED
            if asked.any():
                yield from self._filled(run, batch, asked.nonzero()[:, 0], options)
            else:
                yield from _masking.measured(self._head, run, batch)

    def _filled(self, run: Run, batch: Batch, kept: torch.Tensor, options: FillMaskOptions) -> Iterator[tuple[int, Any]]:
        part, choices = batch.parts["text"], batch.targets.get("choices")
        if choices is not None:  # each row of a call has the same
            choices = choices[: int(batch.targets["choices.lengths"][0])]
        found: list[list[tuple[float, int]]] = []
        for chunk in _masking.logits(self._head, run, run(batch, keep={"text": kept})["text"].values):
            scores = chunk.softmax(-1)
            scores = scores if choices is None else scores[:, choices]
            best = scores.topk(min(options.top_k, scores.shape[1]))
            tokens = best.indices if choices is None else choices[best.indices]
            found += [list(zip(*pair, strict=True)) for pair in zip(best.values.tolist(), tokens.tolist(), strict=True)]
        assert part.layout.rows is not None
        by_row: dict[int, list[Any]] = {}
        for row, filled in zip(part.layout.rows[kept].tolist(), found, strict=True):
            by_row.setdefault(row, []).append(filled)
        examples = part.example.tolist()
        yield from ((part.ids[row], filled) for row, filled in by_row.items() if examples[row] != FILLER)

    @property
    def _head(self) -> Head:
        head = self.get_submodule("vocabulary")
        assert isinstance(head, Head)
        return head

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: FillMaskOptions) -> dict[str, Any]:
        """``{"masks", "windows", "truncated"}``: each mask with ``start`` and ``end`` in the text and its ``fills``, best first, of v4's keys; of an
        evaluated text ``{"nats", "tokens", "right", "perplexity", "accuracy"}``."""
        if isinstance(readings[0], dict):
            return _masking.told(readings)
        notes = rows[0].notes
        filled = {mask: fills for row, reading in zip(rows, readings, strict=True) for mask, fills in zip(row.notes["masks"], reading, strict=True)}
        tokenizer: Tokenizer = notes["tokenizer"]
        places = [i for i, id in enumerate(notes["ids"]) if id == tokenizer.mask_id]
        masks = []
        for mask, place in zip(notes["offsets"], places, strict=True):
            fills = []
            for score, token in filled[mask]:
                ids = [token if i == place else id for i, id in enumerate(notes["ids"])]
                # the other masks are special tokens, and stay to be seen, as in the incumbent
                sequence = tokenizer.decode([id for id in ids if id != tokenizer.pad_id], skip_special=len(places) == 1)
                fills.append({"score": score, "token": token, "token_str": tokenizer.decode([token], skip_special=False), "sequence": sequence})
            masks.append({"start": mask[0], "end": mask[1], "fills": fills})
        return {"masks": masks, "windows": notes["windows"], "truncated": notes["truncated"]}

    def truth(self, example: Example, where: str) -> str:
        return own_text(example, where)

    def score(self) -> Score:
        return _masking.MaskedScore()

    def detail(self, options: FillMaskOptions) -> Detail:
        """What a report is made of."""
        return _masking.MaskedAnswers(self.columns)

    def golden_examples(self) -> list[Example]:
        return [example for example in super().golden_examples() if example["text"]]

    def line(self, answer: Any) -> str:
        """The best token of each mask with its probability."""
        if "masks" not in answer:
            return f"perplexity {answer['perplexity']:.3f}"
        return "\t".join(f"{mask['fills'][0]['token_str']} {mask['fills'][0]['score']:.4f}" for mask in answer["masks"])

    def present(self, answer: Any, options: FillMaskOptions, alone: bool) -> Any:
        """v4's shape: a list of dicts for a text with one mask, a list of such lists for one with several."""
        found = [mask["fills"] for mask in answer["masks"]]
        return found[0] if len(found) == 1 else found


def _windows(text: str, inputs: Inputs, options: FillMaskOptions, where: str, stride: int | None = None) -> tuple[list[Encoding], bool]:
    """The text as the options want it read, and whether it was cut."""
    given = dict(options.tokenizer_kwargs or {})
    cutting, length = given.pop("truncation", None), given.pop("max_length", None)
    given.pop("padding", None)  # there is none in nabi, whatever it is
    if given:
        raise unknown("key of tokenizer_kwargs", next(iter(given)), ("truncation", "max_length", "padding"))
    if length is not None and (not isinstance(length, int) or not 0 < length <= inputs.max_length):
        raise OptionError("max_length is out of range", value=length, expected=f"1 to {inputs.max_length}, this model's own limit")
    limit = min(length or options.max_length or inputs.max_length, inputs.max_length)
    if stride is None:
        stride = (limit - sum(inputs.tokenizer.encode("").special)) // 2 if options.stride is None else options.stride
    return inputs.read(text, None, Reading("truncate" if cutting else options.long, limit, stride), where=where)


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens in front of a text and behind it."""
    encoding = tokenizer.encode("a")
    inner = [i for i, special in enumerate(encoding.special) if not special]
    return list(encoding.ids[: inner[0]]), list(encoding.ids[inner[-1] + 1 :])


def _choices(targets: str | Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """The ids of the targets, each once.

    Raises:
        OptionError: no targets, or one that the vocabulary can't spell.
    """
    ids: list[int] = []
    for target in [targets] if isinstance(targets, str) else targets:
        id = tokenizer.id(target)
        if id is None:
            pieces = tokenizer.encode(target, special=False).ids
            if not pieces or pieces[0] == tokenizer.unk_id:
                raise OptionError("the target is no token, and no token begins it", value=target, expected="a token of the model's vocabulary")
            id = pieces[0]
            warnings.warn(f"the target {target!r} is no token: its first piece {tokenizer.token(id)!r} takes its place", stacklevel=2)
        ids.append(id)
    if not ids:
        raise OptionError("no targets are given", value=targets, expected="one at least, or None for all tokens")
    return list(dict.fromkeys(ids))


TASK = FillMask
