"""What ``denoise`` makes of the tokens of a text and of what a model wrote: blanks, rows with spans taken out, targets, the texts that fill the blanks.

Unusual: a row keeps its whole tokens in its notes and is noised from them each time. A sentinel that stands in a text itself is not used for that row.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from nabi.batch import Row
from nabi.data.corrupt import dropped_spans, infilled_spans, span_counts
from nabi.errors import OptionError, TokenizerError
from nabi.tasks._masking import mask_of
from nabi.tasks._seq2seq import sentences
from nabi.text import Tokenizer
from nabi.text.encoding import Encoding

Style = Literal["spans", "infilling"]
SHARE: Mapping[Style, float] = {"spans": 0.15, "infilling": 0.3}  # Raffel et al. 2019, section 3.1.4; Lewis et al. 2019, section 4.2
NONE = -1  # the span of a target's token that is in none


def sentinels(tokenizer: Tokenizer) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1> and so on, as many as the tokenizer has."""
    found: list[int] = []
    while (id := tokenizer.id(f"<extra_id_{len(found)}>")) is not None:
        found.append(id)
    return found


def style_of(tokenizer: Tokenizer, asked: Style | None) -> Style:
    """The style that is asked for, else the one that the tokenizer has tokens for; sentinels go before a mask.

    Raises:
        TokenizerError: it lacks the tokens.
    """
    can: dict[Style, bool] = {"spans": len(sentinels(tokenizer)) > 1, "infilling": tokenizer.mask_id is not None}
    for style in ("spans", "infilling") if asked is None else (asked,):
        if can[style]:
            return style
    lacks = {"spans": "sentinels, which style=spans needs", "infilling": "mask token, which style=infilling needs", None: "sentinels and no mask token"}[asked]
    expected = {"spans": "<extra_id_0>, <extra_id_1>, ... among its tokens", "infilling": "one, such as <mask>", None: "one of the two"}[asked]
    other = next((style for style in can if can[style]), None)
    fix = f"leave style out: it has what style={other} needs" if other else (
        "train one with them: nabi tokenizer train --set special_tokens=..., or give it the token as its mask_token")  # fmt: skip
    raise TokenizerError(f"the tokenizer has no {lacks}", expected=expected, fix=fix)


@dataclass(frozen=True)
class Frame:
    """How a row is put together: the special tokens that the tokenizer puts around a text, the blanks, and how long it may be.

    Attributes:
        front, back: ids around a text.
        end: the id that ends a target; None if nothing does.
        marks: the sentinels, or the mask alone.
        limit: tokens of a source or target, at most.
    """

    front: list[int]
    back: list[int]
    end: int | None
    marks: list[int]
    limit: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, style: Style, end: int | None, limit: int) -> Frame:
        """Of a tokenizer that has what the style needs."""
        found = tokenizer.encode("a")
        first = found.special.index(False) if False in found.special else len(found)
        back = [id for id, special in zip(found.ids[first:], found.special[first:], strict=True) if special]
        return cls(found.ids[:first], back, end, sentinels(tokenizer) if style == "spans" else [mask_of(tokenizer)], limit)

    def closed(self, ids: Sequence[int]) -> list[int]:
        """A whole target of its own tokens."""
        whole = [*self.front, *ids, *self.back]
        return whole if self.end is None or whole[-1:] == [self.end] else [*whole, self.end]

    def room(self, style: Style, share: float, mean: float, whole_word: bool) -> int:
        """How many tokens of a text a row takes, such that source and target stay within the limit and there are sentinels enough.

        Raises:
            OptionError: not one token.
        """
        around = max(len(self.front) + len(self.back), len(self.closed([])))

        def fits(length: int) -> bool:
            if style == "infilling":
                return length + around <= self.limit
            dropped, count = span_counts(length, share, mean)
            source, target = length - dropped + count, dropped + count + 1
            if whole_word:  # words differ in length: a span takes the place of a token at least, and a token at least is between two of them
                source, target = length, length + 2
            return max(source, target) + around <= self.limit and count < len(self.marks)

        if not fits(1):
            raise OptionError("the rows are too short to take anything out of them", value=self.limit, expected="a few tokens more than the special ones")
        good, bad = 1, 2
        while fits(bad):
            good, bad = bad, bad * 2
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(middle) else (good, middle)
        return good


def pieces(length: int, room: int) -> list[tuple[int, int]]:
    """(start, stop) of as few equal pieces of at most ``room`` as make up ``length``."""
    count = -(-length // room)
    return list(itertools.pairwise(length * i // count for i in range(count + 1)))


def whole_row(ids: Sequence[int], frame: Frame, **notes: Any) -> Row:
    """A row that nothing is taken out of yet.

    Args:
        ids: the tokens of a text, without special ones.
        frame: how it is put together.
        notes: ``units`` and ``sentences``: where those begin that stay together, if any do; ``sizes``: the bytes of each token, if they are counted.
    """
    return Row({}, notes={"ids": list(ids), "front": frame.front, "back": frame.back, "marks": frame.marks, "limit": frame.limit, "end": frame.end, **notes})


def units_of(found: Encoding, begin: int, stop: int, text: str, *, words: bool, permuted: bool) -> dict[str, list[int]]:
    """The notes ``units`` and ``sentences`` of a piece of a text: where in it words and sentences begin; both, so that neither runs over the other's end."""
    starts: list[int] = []
    if permuted:
        firsts = iter([*(a for a, _ in sentences(text)), len(text) + 1])
        after = next(firsts)
        for i in range(begin, stop):
            if i == begin or found.offsets[i][0] >= after:
                starts.append(i - begin)
            while found.offsets[i][0] >= after:
                after = next(firsts)
    units: list[int] = []
    if words:
        numbers = [(i, None) if word is None else (NONE, word) for i, word in enumerate(found.words[begin:stop])]
        units = [i for i in range(stop - begin) if not i or numbers[i] != numbers[i - 1] or i in starts]
    return {**({"units": units} if words else {}), **({"sentences": starts} if permuted else {})}


def sizes_of(found: Encoding, text: str) -> list[int]:
    """The UTF-8 bytes that each token adds to the text in front of it: together those of the text."""
    ends = [0, *itertools.accumulate((end for _, end in found.offsets), max)]
    ends[-1] = len(text)
    return [len(text[a:b].encode()) for a, b in itertools.pairwise(ends)]


def noised(row: Row, style: Style, *, share: float, mean: float, start: int, generator: torch.Generator) -> Row:
    """The row with spans of it replaced, and its target.

    Args:
        row: of :func:`whole_row`, noised before or not.
        style: ``spans`` writes the spans behind their sentinels, and one more sentinel; ``infilling`` the whole text.
        share, mean: of the tokens, or words, that are hidden, and their spans' mean length.
        start: the id that a target begins behind.
        generator: what is drawn from.
    """
    notes = row.notes
    ids, marks, limit = notes["ids"], notes["marks"], notes["limit"]
    units = _units(notes, generator)
    if style == "spans":
        standing = set(ids)
        marks = [mark for mark in marks if mark not in standing]
        spans = dropped_spans(len(units), share=share, mean=mean, most=len(marks) - 1, generator=generator)
    else:
        grow = limit - len(ids) - len(notes["front"]) - len(notes["back"])
        spans = infilled_spans(len(units), share=share, mean=mean, grow=grow, generator=generator)
        marks = marks * len(spans)
    source, gone, end = list(notes["front"]), [], 0
    for mark, (a, b) in zip(marks, spans, strict=False):
        source += [ids[i] for unit in units[end:a] for i in unit] + [mark]
        gone.append([i for unit in units[a:b] for i in unit])
        end = b
    source += [*(ids[i] for unit in units[end:] for i in unit), *notes["back"]]
    aims, of = _target(ids, gone, marks) if style == "spans" else (ids, _places(gone, len(ids)))
    frame = Frame(notes["front"], notes["back"], notes["end"], marks, limit)
    aims = frame.closed(aims)
    before = len(frame.front)
    of = [*[NONE] * before, *of, *[NONE] * (len(aims) - before - len(of))]
    sizes = notes.get("sizes", ())
    size = sum(sizes) if style == "infilling" else sum(sizes[i] for places in gone for i in places) if sizes else 0
    parts: dict[str, dict[str, Sequence[Any]]] = {"text": {"tokens": source}, "target": {"tokens": [start, *aims[:-1]]}}
    return replace(row, parts=parts, targets={"next": aims, "spans": of}, notes={**notes, "bytes": size})


def noised_as_ever(row: Row, style: Style, **how: Any) -> Row:
    """The row with the noise that it always has when it is evaluated."""
    return noised(row, style, **how, generator=torch.Generator().manual_seed(zlib.crc32(repr(row.notes["ids"]).encode())))


def _units(notes: Mapping[str, Any], generator: torch.Generator) -> list[range]:
    """Places of tokens that are taken out together, sentences in an order that is drawn if they are told."""
    length = len(notes["ids"])
    units = list(itertools.starmap(range, itertools.pairwise([*notes.get("units", range(length)), length])))
    if "sentences" not in notes:
        return units
    bounds = list(itertools.pairwise([*notes["sentences"], length]))
    order = torch.randperm(len(bounds), generator=generator).tolist()
    return [unit for i in order for unit in units if bounds[i][0] <= unit.start < bounds[i][1]]


def _target(ids: Sequence[int], gone: Sequence[Sequence[int]], marks: Sequence[int]) -> tuple[list[int], list[int]]:
    """What stood at each sentinel, one sentinel more, and which span each of these tokens is of."""
    aims, of = [], []
    for number, places in enumerate(gone):
        aims += [marks[number], *(ids[i] for i in places)]
        of += [NONE, *[number] * len(places)]
    return [*aims, marks[len(gone)]], [*of, NONE]


def _places(gone: Sequence[Sequence[int]], length: int) -> list[int]:
    """Which span each token of the whole text is of."""
    of = [NONE] * length
    for number, places in enumerate(gone):
        for i in places:
            of[i] = number
    return of


# ---- what a model wrote --------------------------------------------------------------------------------------------------------------------------------


def written_spans(tokens: Sequence[int], marks: Sequence[int]) -> list[list[int] | None]:
    """What was written behind each sentinel, up to the next one; None where that was not written."""
    numbers = {mark: i for i, mark in enumerate(marks)}
    found: list[list[int] | None] = [None] * len(marks)
    current: list[int] | None = None
    for token in tokens:
        if token in numbers:
            fresh = found[numbers[token]] is None  # a sentinel that comes again says nothing new
            current = [] if fresh else None
            found[numbers[token]] = current if fresh else found[numbers[token]]
        elif current is not None:
            current.append(token)
    return found


def text_in_blank(tokenizer: Tokenizer, before: Sequence[int], written: Sequence[int], *, left: bool, right: bool) -> str:
    """The text of tokens that fill a blank.

    Args:
        tokenizer: of the tokens.
        before: the tokens in front of the blank, which say whether there is a space between.
        written: those that fill it.
        left, right: whether a space, or nothing, is on this side of the blank already.
    """
    front, whole = tokenizer.decode(before), tokenizer.decode([*before, *written])
    text = whole[len(front) :] if whole.startswith(front) else tokenizer.decode(written)
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


def between(written: str, known: Sequence[str]) -> list[str | None]:
    """What stands in a text between texts that are known, in their order, the first at its begin, the last at its end; None for all where one is missing."""
    places: list[tuple[int, int]] = []
    end = 0
    for number, part in enumerate(known):
        at = len(written) - len(part) if number == len(known) - 1 else written.find(part, end) if number else 0
        if at < end or not written.startswith(part, at):
            return [None] * (len(known) - 1)
        end = at + len(part)
        places.append((at, end))
    return [written[a:b].strip() for (_, a), (b, _) in itertools.pairwise(places)]
