"""What a training row loses before a model reads it: masks (Devlin et al. 2018, section 3.1), spans (Raffel et al. 2019, section 3.1.4; Lewis et al. 2019,
section 2.2); and pairs of sentences out of documents (Devlin et al. 2018, appendix A.2).

Unusual: nothing is stored masked. A row is corrupted anew each time it is read, from a generator that depends on seed, epoch and example alone.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from nabi.errors import DataError

IGNORED = -100  # a place of a target that is not predicted
MASKED, RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stays as it is (appendix A.1)
# a sentence ends at a mark and its closing quotes before a space, at a full stop of Chinese or Japanese, or at an end of line
_SENTENCE = re.compile(r"[^\n]*?(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”]*|(?=\n)|$)")


def masked(
    ids: Sequence[int], units: Sequence[Sequence[int]], *, mask_id: int, vocab_size: int, share: float, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """The tokens with some of them hidden, and what stood there (``IGNORED`` elsewhere).

    Of the tokens in ``units``, ``share`` (rounded, at least one) are chosen: of ten, eight become the mask, one any token of the vocabulary, one stays.
    A unit that would exceed the share is passed over, as in the paper's own code for whole words; the first is taken if all would.

    Args:
        ids: tokens of a row.
        units: places in it that are chosen together: single tokens, or the pieces of a word.
        mask_id: the mask token.
        vocab_size: random tokens are below it.
        share: of the tokens that are chosen.
        generator: what is drawn from.
    """
    order = torch.randperm(len(units), generator=generator).tolist()
    room = max(1, round(share * sum(map(len, units))))
    chosen: list[int] = []
    for unit in order:
        if len(chosen) + len(units[unit]) <= room:
            chosen.extend(units[unit])
    if order and not chosen:
        chosen.extend(units[order[0]])
    hidden, labels = list(ids), [IGNORED] * len(ids)
    dice = torch.rand(len(chosen), generator=generator).tolist()
    others = torch.randint(vocab_size, (len(chosen),), generator=generator).tolist()
    for place, die, other in zip(chosen, dice, others, strict=True):
        labels[place] = ids[place]
        hidden[place] = mask_id if die < MASKED else other if die < MASKED + RANDOM else ids[place]
    return hidden, labels


def span_counts(length: int, share: float, mean: float) -> tuple[int, int]:
    """How many of ``length`` tokens are dropped, and in how many spans: the same for every row of this length, as in T5's own code and the incumbent's.

    Args:
        length: tokens of a row, or words.
        share: of them that are dropped, rounded; at least one, and never all of several.
        mean: length of a span; each has a token behind or in front of it that stays, so there are no more of them than of these.
    """
    dropped = min(max(round(length * share), 1), max(length - 1, 1))
    return dropped, min(max(round(dropped / mean), 1), dropped, max(length - dropped, 1))


def dropped_spans(length: int, *, share: float, mean: float, most: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """(start, stop) of the spans that T5's objective drops from a row, in order, a token at least between two of them; all such choices are equally likely.

    Args:
        length, share, mean: as for :func:`span_counts`.
        most: spans; what is dropped stays as much.
        generator: what is drawn from.
    """
    dropped, count = span_counts(length, share, mean)
    count = min(count, most)
    lengths = _parts(dropped, count, generator)
    kept = _parts(length - dropped + 2, count + 1, generator)  # one too many at both ends, where there need be none
    starts = [before - 1 + gone for before, gone in zip(itertools.accumulate(kept), itertools.accumulate(lengths, initial=0), strict=False)]
    return [(start, start + size) for start, size in zip(starts, lengths, strict=False)]


def _parts(total: int, count: int, generator: torch.Generator) -> list[int]:
    """``total`` as the sum of ``count`` numbers of at least 1; all ways are equally likely."""
    cuts = sorted((torch.randperm(total - 1, generator=generator)[: count - 1] + 1).tolist())
    return [b - a for a, b in itertools.pairwise([0, *cuts, total])]


def infilled_spans(length: int, *, share: float, mean: float, grow: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """(start, stop) of the spans that BART's text infilling puts a mask in place of, in order; an empty one is where a mask is put in and nothing taken out.

    Lengths are drawn from Poisson(``mean``) until ``share`` of the tokens are hidden, of which the last span may get fewer; places are drawn evenly.

    Args:
        length: tokens of a row, or words.
        share: of them that are hidden, rounded; at least one.
        mean: length of a span.
        grow: how many tokens longer the row may become; further empty spans are left out.
        generator: what is drawn from.
    """
    hidden = left = max(round(length * share), 1)
    drawn: list[int] = []
    while left:
        for size in torch.poisson(torch.full((left,), float(mean)), generator=generator).long().tolist():
            drawn.append(min(size, left))
            left -= drawn[-1]
            if not left:
                break
    lengths = [size for size in drawn if size]
    lengths += [0] * min(len(drawn) - len(lengths), grow + hidden - len(lengths))
    places = torch.randperm(length - hidden + len(lengths), generator=generator)[: len(lengths)].tolist()  # among the tokens that stay
    spans, gone = [], 0
    for number, (place, size) in enumerate(sorted(zip(places, lengths, strict=True))):
        spans.append((place - number + gone, place - number + gone + size))
        gone += size
    return spans


def sentences(text: str) -> list[str]:
    """The sentences of a text, by marks and ends of lines; one without any is a sentence."""
    return [found.strip() for found in _SENTENCE.findall(text) if found.strip()]


def next_sentence_pairs(documents: Iterable[str | Sequence[str]], *, seed: int = 0, characters: int = 600) -> Iterator[dict[str, Any]]:
    """Rows for ``next_sentence``: half of the time the second text goes on with the first, else it comes from another document.

    Each document is cut into stretches of at most ``characters`` (two sentences at least), each stretch in two at a sentence that is drawn; what a random
    second text takes the place of begins the next stretch (appendix A.2). No text is lost, however long a document or a sentence is: a sentence of more than
    half of ``characters`` counts as several, and so does a document's only one.

    Args:
        documents: texts, or lists of their sentences.
        seed: of the draws.
        characters: of a pair, about.

    Raises:
        DataError: fewer than two documents have sentences.
    """
    half = max(1, characters // 2)
    split = [[piece for s in (sentences(d) if isinstance(d, str) else d) for piece in _pieces(s, half)] for d in documents]
    split = [_pieces(d[0], -(-len(d[0]) // 2)) if len(d) == 1 else d for d in split if d]
    if len(split) < 2:
        raise DataError("random pairs need two documents", value=f"{len(split)} with sentences", expected="two at least", fix="give the documents one by one")
    dice = random.Random(seed)

    def elsewhere(number: int, length: int) -> list[str]:
        other = split[(number + dice.randint(1, len(split) - 1)) % len(split)]
        first = dice.randrange(len(other))
        second = other[first : first + 1]
        while len(second) < len(other) - first and sum(map(len, second)) + len(other[first + len(second)]) <= length:
            second = other[first : first + len(second) + 1]
        return second

    for number, document in enumerate(split):
        begin = 0
        while begin + 1 < len(document):
            end = begin + 2
            while end < len(document) and sum(map(len, document[begin : end + 1])) <= characters:
                end += 1
            cut = dice.randint(begin + 1, end - 1)
            is_next = dice.random() < 0.5
            second = document[cut:end] if is_next else elsewhere(number, sum(map(len, document[cut:end])))
            yield {"text": " ".join(document[begin:cut]), "next": " ".join(second), "is_next": is_next}
            begin = end if is_next else cut
        if begin < len(document):  # the last sentence is left over: it goes on with the one before, once more, or a random text goes on with it
            is_next = len(document) > 1 and dice.random() < 0.5
            text, second = (document[-2], document[-1:]) if is_next else (document[-1], elsewhere(number, len(document[-1])))
            yield {"text": text, "next": " ".join(second), "is_next": is_next}


def _pieces(sentence: str, most: int) -> list[str]:
    """A sentence in pieces of at most so many characters, parted at spaces where there are any."""
    found: list[str] = []
    rest = sentence.strip()
    while len(rest) > most:
        space = max(rest.rfind(" ", 1, most + 1), 0) or most
        found.append(rest[:space].rstrip())
        rest = rest[space:].lstrip()
    return [*found, rest] if rest else found
