"""What the tasks with a masked language model have in common: rows whose tokens can be hidden, the loss over hidden tokens, what a model says of them.

Unusual: evaluation and golden vectors hide by a generator that the row's own tokens seed, so that its masks are the same in every run and model.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nabi.batch import FILLER, Batch, Row
from nabi.data.corrupt import masked
from nabi.errors import OptionError, TokenizerError
from nabi.metrics.written import Hidden
from nabi.nn.body import Run
from nabi.nn.heads import Head
from nabi.nn.losses import CHUNK, linear_cross_entropy
from nabi.text import Tokenizer
from nabi.text.encoding import Encoding


def mask_of(tokenizer: Tokenizer) -> int:
    """The id of the mask token.

    Raises:
        TokenizerError: the tokenizer has none.
    """
    if tokenizer.mask_id is None:
        fix = "take a model that was trained with masks, or give the tokenizer the token as its mask_token"
        raise TokenizerError("the tokenizer has no mask token", expected="one, such as [MASK]", fix=fix)
    return tokenizer.mask_id


def check_share(share: float) -> None:
    """Whether this can be the share of hidden tokens; raises OptionError if not."""
    if not 0 < share < 1:
        raise OptionError("mask_probability is out of range", value=share, expected="above 0 and below 1")


def row_of(encoding: Encoding, tokenizer: Tokenizer, whole_word: bool) -> Row | None:
    """A row of which nothing is hidden yet; None if nothing could be: it holds special tokens alone."""
    mask = mask_of(tokenizer)
    fixed = [special or id == mask for special, id in zip(encoding.special, encoding.ids, strict=True)]
    if all(fixed):
        return None
    # neighbours of one number are hidden together; a token that belongs to no word, such as one that was added, is alone
    words = [(i if word is None or not whole_word else -1 - word, side) for i, (word, side) in enumerate(zip(encoding.words, encoding.sequence, strict=True))]
    groups = [None if still else word for still, word in zip(fixed, words, strict=True)]
    notes = {"ids": encoding.ids, "groups": groups, "mask": mask, "vocab_size": tokenizer.vocab_size}
    return Row({"text": {"tokens": encoding.ids, "segments": encoding.segments}}, notes=notes)


def row_of_ids(ids: Sequence[int], fixed: Set[int], tokenizer: Tokenizer) -> Row:
    """A row of ids of which nothing is hidden yet; those in ``fixed`` never are, unless there is nothing else."""
    mask = mask_of(tokenizer)
    kept = {*fixed, mask}
    groups = [None if id in kept else i for i, id in enumerate(ids)]
    if all(group is None for group in groups):
        groups[-1] = len(ids) - 1
    notes = {"ids": list(ids), "groups": groups, "mask": mask, "vocab_size": tokenizer.vocab_size}
    return Row({"text": {"tokens": list(ids), "segments": [0] * len(ids)}}, notes=notes)


def hidden(row: Row, share: float, generator: torch.Generator) -> Row:
    """The row with ``share`` of its tokens hidden anew, and them as its target ``masked``."""
    notes = row.notes
    places = groupby(range(len(notes["ids"])), key=notes["groups"].__getitem__)
    units = [list(unit) for group, unit in places if group is not None]
    tokens, labels = masked(notes["ids"], units, mask_id=notes["mask"], vocab_size=notes["vocab_size"], share=share, generator=generator)
    return replace(row, parts={**row.parts, "text": {**row.parts["text"], "tokens": tokens}}, targets={**row.targets, "masked": labels})


def hidden_as_ever(row: Row, share: float) -> Row:
    """The row with the masks that it always has when it is evaluated."""
    return hidden(row, share, torch.Generator().manual_seed(zlib.crc32(repr(row.notes["ids"]).encode())))


def count(targets: Mapping[str, Tensor]) -> float:
    """How many tokens are predicted."""
    return float((targets["masked"] >= 0).sum())


def loss(head: Head, run: Run, batch: Batch) -> Tensor:
    """The cross-entropy of the hidden tokens, as a sum."""
    aims = batch.targets["masked"]
    kept = (aims >= 0).nonzero()[:, 0]
    return loss_of(head, run, run(batch, keep={"text": kept})["text"].values, aims[kept])


def loss_of(head: Head, run: Run, x: Tensor, aims: Tensor) -> Tensor:
    """The same from the hidden values (K, W) of the places that are predicted and their targets (K,)."""
    weight, bias = head.output(run)
    return linear_cross_entropy(head.before(x), weight, bias, aims)


def logits(head: Head, run: Run, x: Tensor) -> Iterator[Tensor]:
    """(K, W) -> (k, C) a chunk, so that the logits of many places never exist at once."""
    size = max(1, CHUNK // len(run.table(str(head.spec.tied_to)).weight))
    return (head.logits(run, part) for part in torch.split(x, size))


def measured(head: Head, run: Run, batch: Batch) -> Iterator[tuple[int, dict[str, float]]]:
    """(row id, ``{"nats", "tokens", "right"}``) of each row's hidden tokens."""
    part, kept = batch.parts["text"], (batch.targets["masked"] >= 0).nonzero()[:, 0]
    found = measured_of(head, run, batch, run(batch, keep={"text": kept})["text"].values, kept)
    for row, example, reading in zip(part.ids, part.example.tolist(), found, strict=True):
        if example != FILLER:
            yield row, reading


def measured_of(head: Head, run: Run, batch: Batch, x: Tensor, kept: Tensor) -> list[dict[str, float]]:
    """The same of every row, from the hidden values (K, W) of the places (K,) that are predicted."""
    layout, aims = batch.parts["text"].layout, batch.targets["masked"][kept]
    assert layout.rows is not None
    sums = torch.zeros(len(layout), 3, dtype=torch.float64)
    begin = 0
    for chunk in logits(head, run, x):
        rows, wanted = layout.rows[kept[begin : begin + len(chunk)]], aims[begin : begin + len(chunk)]
        nats = chunk.logsumexp(-1) - chunk.gather(1, wanted[:, None])[:, 0]
        figures = torch.stack([nats, torch.ones_like(nats), (chunk.argmax(-1) == wanted).to(nats.dtype)], 1)
        sums.index_add_(0, rows.cpu(), figures.double().cpu())
        begin += len(chunk)
    return [{"nats": nats_, "tokens": int(tokens), "right": int(right)} for nats_, tokens, right in sums.tolist()]


def told(readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``{"nats", "tokens", "right", "perplexity", "accuracy"}`` of an example from the readings of its rows."""
    nats, tokens, right = (sum(reading[name] for reading in readings) for name in ("nats", "tokens", "right"))
    return {"nats": nats, "tokens": tokens, "right": right, "perplexity": _perplexity(nats, tokens), "accuracy": right / tokens}


class MaskedScore:
    """perplexity and accuracy over hidden tokens."""

    def __init__(self) -> None:
        self._nats, self._tokens, self._right = 0.0, 0, 0

    def add(self, answer: Any, truth: object = None) -> None:
        """One answer, as :func:`told` gives it; the truth is within it."""
        self._nats, self._tokens, self._right = self._nats + answer["nats"], self._tokens + answer["tokens"], self._right + answer["right"]

    def result(self) -> dict[str, float]:
        """perplexity, accuracy."""
        tokens = max(self._tokens, 1)
        return {"perplexity": _perplexity(self._nats, tokens), "accuracy": self._right / tokens}


class MaskedAnswers(Hidden):
    """The same row by row."""

    def add(self, answer: Any, truth: Any = None) -> None:
        """One answer, as for :class:`MaskedScore`."""
        super().add((answer["nats"], answer["tokens"], answer["right"]))


def _perplexity(nats: float, tokens: int) -> float:
    return math.exp(min(nats / tokens, 700.0))
