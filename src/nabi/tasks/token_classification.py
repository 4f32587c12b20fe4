"""Token classification: a label for each word, and the entities that the labels make.

Data is labelled by word (``tokens, tags``) or by character (``text, spans`` or ``text, char_tags``). Of a word its first token learns the label (Devlin et
al. 2019, section 5.3); of spans every token does. Unusual: a long text is read in windows, each token answered by the one in which it has most
context, so that entities are made once, over the whole text; and the usual way from tokens to entities is ``auto``, not the incumbent's ``none``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.batch import FILLER, Batch, Row, Target
from nabi.data import Finding, Table
from nabi.errors import DataError, OptionError, unknown
from nabi.inputs import Inputs, Long, Reading
from nabi.metrics.detail import Array, Detail
from nabi.metrics.tagged import OUTSIDE, Entity, Tagged, TaggedScore, entities, parts_of
from nabi.nn.body import Run
from nabi.tasks import Example, Score, Task, Use, _labels
from nabi.tasks._entities import (
    Pieces,
    Span,
    Strategy,
    as_v4,
    auto_entities,
    owners,
    softmax,
    span_tags,
    unit_tags,
    units_of,
    without_overlaps,
    word_units,
)  # fmt: skip
from nabi.tasks._tagged_examples import Labels, content, doubts, labels_of, mover, same, spans_of
from nabi.text.encoding import Encoding

IGNORED = -100  # a token without a label
SHARED = 32  # tokens that windows share, or a quarter of a shorter window


@dataclass(frozen=True)
class TokenOptions:
    """What a call may set.

    Attributes:
        aggregation_strategy: how scores of tokens become entities: ``auto``, or the incumbent's ``none``, ``simple``, ``first``, ``average``, ``max``.
        ignore_labels: labels, or types of entities, that are left out of the answer.
        stride: tokens that neighbouring windows share; 32, or a quarter of ``max_length``, if None. Given with one of the incumbent's strategies,
            entities are made in each window and joined as it joins them.
        long: what to do with a text over ``max_length``: read it in windows, cut it, or refuse it.
        max_length: tokens in a row, special ones included; the model's own limit if None.
        particles: whether ``auto`` takes a Korean particle off an entity; its ``surface`` keeps it either way.
        is_split_into_words: inputs are lists of words, as they may be anyway; a str is refused.
        delimiter: what stands between the words of a list in the text that offsets are in.
        grouped_entities, ignore_subwords: the incumbent's old names for ``simple`` (the first alone) and ``first`` (both).
    """

    aggregation_strategy: Strategy = "auto"
    ignore_labels: tuple[str, ...] = (OUTSIDE,)
    stride: int | None = None
    long: Long = "window"
    max_length: int | None = None
    particles: Literal["trim", "keep"] = "trim"
    is_split_into_words: bool = False
    delimiter: str = " "
    grouped_entities: bool | None = None
    ignore_subwords: bool | None = None

    @property
    def strategy(self) -> Strategy:
        """The strategy, old names taken into account."""
        if self.grouped_entities is None and self.ignore_subwords is None:
            return self.aggregation_strategy
        return ("first" if self.ignore_subwords else "simple") if self.grouped_entities else "none"


@dataclass(frozen=True)
class TokenSettings:
    """What belongs to the model.

    Attributes:
        labels: tags in the order of the output layer.
        unit: what was labelled in training: a ``word``, of which the first token counts, or each ``piece`` (token); None if that is not known, as of a
            checkpoint of the incumbent. ``auto`` goes by it.
    """

    labels: tuple[str, ...]
    unit: Literal["word", "piece"] | None = None


class TokenClassification(Task):
    """Give each word its label."""

    name = "token_classification"
    aliases = ("ner",)
    defaults = ("dbmdz/bert-large-cased-finetuned-conll03-english",)
    columns = ("tokens", "tags")
    optional_columns = ("text", "spans", "char_tags")
    heads = ("token",)
    Options, Settings = TokenOptions, TokenSettings
    targets = {"tags": Target("token")}
    main_metric = "f1"
    told_by = (("tags",), ("spans",), ("char_tags",))

    def __init__(self, settings: TokenSettings) -> None:
        super().__init__(settings)
        self.labels = settings.labels
        if len(set(self.labels)) != len(self.labels):
            raise OptionError("two labels have one name", value=list(self.labels))
        self.index = {label: i for i, label in enumerate(self.labels)}
        self.types = tuple(dict.fromkeys(parts_of(label)[1] for label in self.labels if label != OUTSIDE))
        # a part of speech is no entity: neighbours stay apart
        self._each = OUTSIDE not in self.labels and self.types == self.labels

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def required(cls, columns: Sequence[str]) -> tuple[str, ...]:
        if "text" not in columns or {"tokens", "tags"} <= set(columns):
            return cls.columns
        return "text", "char_tags" if "char_tags" in columns and "spans" not in columns else "spans"

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> TokenSettings:
        named, by_word = tuple(given.get("labels") or ()), False
        tags: set[str] = set()
        types: set[str] = set()
        for i, example in enumerate(examples):
            found = labels_of(example, named, f"{where}, row {i + 1}")
            if i and by_word != (found.tags is not None):
                what = f"{where}, row {i + 1}: labelled in another way than the rows before"
                raise DataError(what, value=sorted(example), expected="'tags' in all rows, or 'spans' or 'char_tags' in all", fix="make two files of them")
            by_word = found.tags is not None
            tags.update(found.tags or ())
            types.update(type_ for _, _, type_ in found.spans)
        labels = named
        if not named:
            labels = tuple(sorted(tags, key=_order)) if by_word else (OUTSIDE, *(f"{p}-{t}" for t in sorted(types) for p in "BI"))
        elif not by_word and all(parts_of(label) == ("I", label) or label == OUTSIDE for label in named) and given.get("unit") != "word":
            labels = (OUTSIDE, *(f"{p}-{t}" for t in named if t != OUTSIDE for p in "BI"))
        if len(labels) < 2:
            raise DataError("there is only one label", value=f"{where}: {list(labels)}", expected="at least two", fix="add rows that have entities")
        return TokenSettings(**{**given, "labels": labels, "unit": given.get("unit") or ("word" if by_word else "piece")})

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> TokenSettings:
        return TokenSettings(labels=_labels.stated(config, outputs["token"]))

    def to_hf(self) -> dict[str, Any]:
        return _labels.as_hf(self.labels)

    def outputs(self) -> dict[str, int]:
        return {"token": len(self.labels)}

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: TokenOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text, words = content(example, options.is_split_into_words, where)
        if use == "evaluate" and words is None and options.strategy == "none":
            raise OptionError("spans can't be scored token by token", value="aggregation_strategy='none'", fix="evaluate with 'auto' or a strategy that groups")
        windows, stride, cut = self._windows(text, inputs, options, where)
        shown, shown_words = text, words
        move: Callable[[int], int] = same
        if words is not None and options.delimiter != " ":
            tokens = [text[a:b] for a, b in words]
            shown, shown_words = options.delimiter.join(tokens), list(spans_of(tokens, len(options.delimiter)))
            move = mover(words, shown_words)
        rows = []
        for window in windows:
            kept = [i for i, special in enumerate(window.special) if not special]
            offsets = [(move(window.offsets[i][0]), move(window.offsets[i][1])) for i in kept]
            notes: dict[str, Any] = {"content": kept, "offsets": offsets, "stride": stride, "truncated": cut}
            if options.strategy != "auto":
                ids = [window.ids[i] for i in kept]
                notes |= {"names": inputs.tokenizer.tokens(ids), "unknown": [i == inputs.tokenizer.unk_id for i in ids]}
            rows.append(Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes=notes))
        rows[0].notes |= {"text": shown, "words": shown_words, "joined": inputs.tokenizer.joined, "prefixed": inputs.tokenizer.marks_continuations}
        if use == "train":
            del rows[0].notes["joined"]  # a training row is data alone
            self._label(rows, self._found(example, where), shown_words, where)
        return rows

    def _windows(self, text: str, inputs: Inputs, options: TokenOptions, where: str) -> tuple[list[Encoding], int, bool]:
        """(windows, the tokens that neighbours share, whether something was cut)."""
        limit = min(options.max_length or inputs.max_length, inputs.max_length)
        stride = min(SHARED, limit // 4) if options.stride is None else options.stride
        windows, cut = inputs.read(text, None, Reading(options.long, options.max_length, stride), where=where)
        return windows, stride, cut

    def _label(self, rows: Sequence[Row], found: Labels, words: Sequence[Span] | None, where: str) -> None:
        owned = owners([len(row.notes["content"]) for row in rows], rows[0].notes["stride"])
        offsets = _merged([row.notes["offsets"] for row in rows], owned, rows[0].notes["stride"])
        aims = [IGNORED] * len(offsets)
        if found.tags is not None and words is not None and self.settings.unit != "piece":
            for unit, tag in zip(word_units(offsets, words), found.tags, strict=True):
                if unit.piece is not None:
                    aims[unit.piece] = self.index[tag]
        else:
            spans = found.spans
            if found.tags is not None and words is not None:
                spans = [(words[a][0], words[b - 1][1], type_) for type_, a, b in entities(found.tags, self._each)]
            tags, lost = span_tags(offsets, spans, self.labels, OUTSIDE)
            self._known(tags, where)
            aims = [self.index[tag] for tag in tags]
            if lost:
                warnings.warn(f"{where}: {len(lost)} spans hold no token and can't be learnt, such as {spans[lost[0]]}", stacklevel=2)
        for number, (row, mine) in enumerate(zip(rows, owned, strict=True)):
            begin = number * (len(rows[0].notes["content"]) - row.notes["stride"])
            row.targets = {"tags": [IGNORED] * row.length("text")}
            for i in mine:  # a token learns in one window, however many it stands in
                row.targets["tags"][row.notes["content"][i - begin]] = aims[i]

    def _known(self, tags: Iterable[str], where: str) -> None:
        for tag in tags:
            if tag not in self.index:
                raise unknown(f"label ({where})", tag, self.labels, error=DataError)

    def _found(self, example: Example, where: str) -> Labels:
        found = labels_of(example, self.labels, where)
        self._known(found.tags or (), where)
        for _, _, type_ in found.spans:
            if type_ not in self.types:
                raise unknown(f"label ({where})", type_, self.types, error=DataError)
        return found

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A str, a mapping, or a list of words."""
        return {"tokens": item} if isinstance(item, list | tuple) else super().example_of(item, where)

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"tags": float((targets["tags"] != IGNORED).sum())}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        logits = self.token.read(run, batch)  # type: ignore[operator,union-attr]
        return {"tags": F.cross_entropy(logits, batch.targets["tags"], ignore_index=IGNORED, reduction="sum")}

    def read(self, run: Run, batches: Iterable[Batch], options: TokenOptions) -> Iterator[tuple[int, Array]]:
        """(row id, (T, C) the logits of each token)."""
        for batch in batches:
            part = run.part(batch, "text")
            logits = torch.split(self.token.read(run, batch).cpu(), list(part.layout.lengths))  # type: ignore[operator,union-attr]
            for row, example, own in zip(part.ids, part.example.tolist(), logits, strict=True):
                if example != FILLER:
                    yield row, own.numpy().copy()  # not a view, which would keep the whole batch

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Array], rows: Sequence[Row], example: Example, options: TokenOptions) -> dict[str, Any]:
        """``{"entities", "windows", "truncated"}``; of a list of words also ``tags``, one a word, and the ``text`` that offsets are in.

        An entity is ``{"label", "score", "text", "start", "end", "surface"}``; ``surface`` has the particle that ``text`` lacks. With one of the
        incumbent's strategies it has in place of that the ``word`` that the decoder makes of its tokens, and with ``none`` the token's ``index``.
        """
        told = rows[0].notes
        text, words, stride = told["text"], told["words"], told["stride"]
        windows = [softmax(reading[row.notes["content"]]) for reading, row in zip(readings, rows, strict=True)]
        owned = owners([len(scores) for scores in windows], stride)
        offsets = _merged([row.notes["offsets"] for row in rows], owned, stride)
        scores = torch.cat([torch.from_numpy(s) for s in _cut(windows, owned, stride)]).numpy()
        units = units_of(text, offsets, self.settings.unit) if words is None else word_units(offsets, words)
        tags, sure = unit_tags(units, scores, self.labels, self.index.get(OUTSIDE, 0))
        if options.strategy == "auto":
            found = auto_entities(text, units, tags, sure, each=self._each, trim=options.particles == "trim")
            found = self._wanted(found, options)
        else:
            front = next((row.notes["content"][0] for row in rows if row.notes["content"]), 0)
            alone = options.stride is not None and options.strategy != "none" and len(rows) > 1  # the incumbent knows no other way to read windows
            if alone:
                parts = [Pieces(row.notes["offsets"], s, front, row.notes["names"], row.notes["unknown"]) for row, s in zip(rows, windows, strict=True)]
            else:
                names, odd = (_merged([row.notes[key] for row in rows], owned, stride) for key in ("names", "unknown"))
                parts = [Pieces(offsets, scores, front, names, odd)]
            made = [as_v4(text, part, options.strategy, self.labels, told["joined"], told["prefixed"]) for part in parts]
            found = self._wanted([entity for each in made for entity in each], options)
            found = without_overlaps(found) if alone else found
            found = [{**entity, "text": text[entity["start"] : entity["end"]]} for entity in found]
        answer = {"entities": found, "windows": len(rows), "truncated": any(row.notes["truncated"] for row in rows)}
        return answer if words is None else {**answer, "tags": tags, "text": text}

    def _wanted(self, found: Sequence[dict[str, Any]], options: TokenOptions) -> list[dict[str, Any]]:
        return [entity for entity in found if entity["label"] not in options.ignore_labels]

    def truth(self, example: Example, where: str) -> dict[str, Any]:
        """``{"tags"}`` of words, or ``{"spans"}`` as [start, end, type]."""
        content(example, False, where, DataError)
        found = self._found(example, where)
        return {"tags": found.tags} if found.tags is not None else {"spans": found.spans}

    @classmethod
    def shown(cls, example: Example) -> tuple[Any, Any]:
        text, tokens = example.get("text"), example.get("tokens")
        return (text if isinstance(text, str) else " ".join(map(str, tokens)) if isinstance(tokens, list | tuple) else tokens), None

    @classmethod
    def said(cls, example: Example, where: str) -> tuple[Any, ...]:
        content(example, False, where)
        found = labels_of(example, (), where)
        return tuple(found.spans if found.tags is None else found.tags)

    @classmethod
    def doubts(cls, table: Table, said: Sequence[Any]) -> Iterator[Finding]:
        return doubts(table, said)

    def score(self) -> Score:
        return _Score(self.types, self._each)

    def detail(self, options: TokenOptions) -> Detail:
        """What a report is made of."""
        return _Detail(self.types, self._each)

    def golden_examples(self) -> list[Example]:
        return [example for example in super().golden_examples() if example["text"]]

    def line(self, answer: Any) -> str:
        return "\t".join(f"{entity['text']} [{entity['label']}]" for entity in answer["entities"]) or "-"

    def present(self, answer: Any, options: TokenOptions, alone: bool) -> Any:
        """v4's shape: a list of dicts; with ``auto`` each has its ``surface`` too."""
        found = []
        for entity in answer["entities"]:
            place = {"start": entity["start"], "end": entity["end"]}
            if "index" in entity:
                found.append({"entity": entity["label"], "score": entity["score"], "index": entity["index"], "word": entity["word"], **place})
            else:
                more = {"surface": entity["surface"]} if "surface" in entity else {}
                found.append({"entity_group": entity["label"], "score": entity["score"], "word": entity.get("word", entity["text"]), **place, **more})
        return found


class _Score(TaggedScore):
    def __init__(self, types: Sequence[str], each: bool) -> None:
        super().__init__(types)
        self._each = each

    def add(self, answer: Any, truth: Any) -> None:
        super().add(*_compared(answer, truth, self._each))


class _Detail(Tagged):
    def __init__(self, types: Sequence[str], each: bool) -> None:
        super().__init__(types, ("text", "tokens"))
        self._each = each

    def add(self, answer: Any, truth: Any) -> None:
        super().add(*_compared(answer, truth, self._each))


def _compared(answer: Any, truth: Any, each: bool) -> tuple[tuple[list[Entity], tuple[int, int] | None], list[Entity]]:
    """What ``TaggedScore`` takes of an answer and what holds."""
    if "spans" in truth:
        return ([(e["label"], e["start"], e["end"]) for e in answer["entities"]], None), [(type_, start, end) for start, end, type_ in truth["spans"]]
    right = sum(a == b for a, b in zip(answer["tags"], truth["tags"], strict=True))
    return (entities(answer["tags"], each), (right, len(truth["tags"]))), entities(truth["tags"], each)


def _cut(values: Sequence[Any], owned: Sequence[range], stride: int) -> list[Any]:
    """Of each window's values those of the tokens that it is asked about."""
    step = len(values[0]) - stride
    return [each[mine.start - i * step : mine.stop - i * step] for i, (each, mine) in enumerate(zip(values, owned, strict=True))]


def _merged(values: Sequence[Sequence[Any]], owned: Sequence[range], stride: int) -> list[Any]:
    return [value for part in _cut(values, owned, stride) for value in part]


def _order(label: str) -> tuple[bool, str, str]:
    """Outside, then numbers by value and names by type."""
    prefix, type_ = parts_of(label)
    return label != OUTSIDE, type_.zfill(6) if type_.isdecimal() else type_, str("BIES".find(prefix))


TASK = TokenClassification
