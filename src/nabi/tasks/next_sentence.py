"""Next sentence: whether the second text goes on with the first (Devlin et al. 2018, section 3.1, task 2).

Unusual: of a pair that is too long, the text around its seam is read: the end of the first text and the begin of the second. That the second goes on with
the first is said of the place where they meet, so other windows of the two would be asked about text that does not touch, which training never shows, and
what they say would have to be averaged away. ``truncated`` tells that not all was read. ``nabi.data.corrupt.next_sentence_pairs`` makes rows that fit out of
documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from nabi.batch import Batch, Row, Target
from nabi.errors import DataError, InputError, OptionError
from nabi.inputs import Inputs
from nabi.metrics import ConfusionScore
from nabi.metrics.classified import Classified
from nabi.metrics.detail import Detail
from nabi.nn.body import Run
from nabi.nn.heads import Head
from nabi.tasks import Example, Score, Task, Use
from nabi.text.encoding import Encoding

NAMES = ("is_next", "not_next")  # in the order of the incumbent's output layer
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class NextSentenceOptions:
    """What a call may set.

    Attributes:
        max_length: tokens in a row, special ones included; the model's own limit if None.
    """

    max_length: int | None = None


class NextSentence(Task):
    """Say whether a text goes on with another."""

    name = "next_sentence"
    columns = ("text", "next", "is_next")
    heads: ClassVar[tuple[str, ...]] = ("next_sentence",)
    Options = NextSentenceOptions
    targets = {"next": Target("row")}
    main_metric = "accuracy"
    told_by: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "next"),)
    classed = True

    def outputs(self) -> dict[str, int]:
        return {"next_sentence": len(NAMES)}

    def encode(self, example: Example, inputs: Inputs, options: NextSentenceOptions, use: Use = "predict", where: str = "") -> list[Row]:
        encoding, rest = seam(example, inputs, options.max_length, where)
        row = Row({"text": {"tokens": encoding.ids, "segments": encoding.segments}}, notes={"truncated": any(rest)})
        if use == "train":
            row.targets = {"next": int(not self.truth(example, where))}
        return [row]

    def stratum(self, row: Row) -> str | None:
        return NAMES[row.targets["next"]]

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"next": float(len(targets["next"]))}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        head = self.get_submodule("next_sentence")
        assert isinstance(head, Head)
        return {"next": F.cross_entropy(head.read(run, batch), batch.targets["next"], reduction="sum")}

    def answer(self, readings: Sequence[list[float]], rows: Sequence[Row], example: Example, options: NextSentenceOptions) -> dict[str, Any]:
        """``{"label", "score", "scores", "is_next", "truncated"}``; labels are ``is_next`` and ``not_next``.

        ``truncated`` says that the text around the seam alone was read.
        """
        return {**told(readings[0]), "truncated": rows[0].notes["truncated"]}

    def truth(self, example: Example, where: str) -> bool:
        return self.said(example, where)

    @classmethod
    def shown(cls, example: Example) -> tuple[Any, Any]:
        return example.get("text"), example.get("next")

    @classmethod
    def said(cls, example: Example, where: str) -> bool:
        value = example.get("is_next")
        found = _TRUTHS.get(str(value).lower())
        if found is None:
            raise DataError(f"{where}: is_next says neither yes nor no", value=value, expected="true or false")
        return found

    def score(self) -> Score:
        return NextScore()

    def detail(self, options: NextSentenceOptions) -> Detail:
        """What a report is made of."""
        return _Answers(NAMES, ("text", "next"))

    def golden_examples(self) -> list[Example]:
        texts = [example["text"] for example in super().golden_examples()]
        return [{"text": text, "next": other} for text, other in zip(texts, [*texts[1:], texts[0]], strict=True)]

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A mapping, or a list of two texts."""
        if isinstance(item, list | tuple) and len(item) == 2:
            return {"text": item[0], "next": item[1]}
        return super().example_of(item, where)

    def line(self, answer: Any) -> str:
        return f"{answer['label']}\t{answer['score']:.4f}"


class NextScore(ConfusionScore):
    """accuracy, macro_f1, mcc, ece, F1 of both labels."""

    def __init__(self) -> None:
        super().__init__(NAMES)

    def add(self, answer: Any, truth: Any) -> None:  # type: ignore[override]
        """One answer and whether the text is the next."""
        super().add(answer["label"], NAMES[not truth], answer["score"])


class _Answers(Classified):
    def add(self, answer: Any, truth: Any) -> None:
        super().add([math.log(max(p, 1e-300)) for p in answer["scores"].values()], NAMES[not truth])


def told(logits: Sequence[float]) -> dict[str, Any]:
    """``{"label", "score", "scores", "is_next"}`` from the two logits."""
    yes = 1 / (1 + math.exp(min(logits[1] - logits[0], 700.0)))
    scores = dict(zip(NAMES, (yes, 1 / (1 + math.exp(min(logits[0] - logits[1], 700.0)))), strict=True))
    label = max(scores, key=scores.__getitem__)
    return {"label": label, "score": scores[label], "scores": scores, "is_next": label == NAMES[0]}


def seam(example: Example, inputs: Inputs, max_length: int | None, where: str) -> tuple[Encoding, tuple[str, str]]:
    """The pair with what lies farthest from the seam cut off, the longer text first; and what was cut off the first text and off the second.

    Raises:
        InputError: a text is missing.
        OptionError: the special tokens alone are too many.
    """
    text, following = example.get("text"), example.get("next")
    if not isinstance(text, str) or not isinstance(following, str):
        name, value = ("next", following) if isinstance(text, str) else ("text", text)
        raise InputError(f"{where or 'an input'} has no '{name}'", value=value, expected="a pair, {'text': ..., 'next': ...}")
    full = inputs.tokenizer.encode(text, following)
    limit = max_length or inputs.max_length
    if len(full) <= limit:
        return full, ("", "")
    (a, b), (c, d) = full.extent(0), full.extent(1)
    room = limit - (len(full) - (b - a) - (d - c))
    if room < 2:
        raise OptionError("max_length is too small for a pair", value=limit, expected=f"{limit - room + 2} or more")
    short = min(b - a, d - c, room // 2)
    first, second = (short, room - short) if b - a <= d - c else (room - short, short)
    begin, end = b - first, c + second
    rest = text[: full.offsets[begin - 1][1]] if begin > a else "", following[full.offsets[end][0] :] if end < d else ""
    return full.without((a, begin), (end, d)), rest


TASK = NextSentence
