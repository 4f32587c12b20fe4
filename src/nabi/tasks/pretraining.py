"""BERT's pretraining: the masked language model and the next sentence together, over one pass (Devlin et al. 2018, section 3.1, appendix A.2).

A folder of this task is opened as ``fill_mask`` or ``next_sentence`` too. In use it says whether a text goes on with another.
Unusual: what is too far from the seam of a long pair to be in its row is learnt from all the same, as masked rows of their own that no pair is asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from nabi.batch import FILLER, Batch, Row, Target
from nabi.data.corrupt import IGNORED
from nabi.errors import DataError
from nabi.inputs import Inputs
from nabi.metrics.detail import Detail
from nabi.metrics.written import Hidden
from nabi.nn.body import Body, Run
from nabi.nn.heads import Head
from nabi.tasks import Example, Score, Use, _masking
from nabi.tasks.fill_mask import FillMaskSettings
from nabi.tasks.next_sentence import NAMES, NextScore, NextSentence, NextSentenceOptions, seam, told
from nabi.text import Tokenizer


class Pretraining(NextSentence):
    """Say what stands behind masks, and whether a text goes on with another."""

    name = "pretraining"
    heads = ("vocabulary", "next_sentence")
    Options, Settings = NextSentenceOptions, FillMaskSettings
    targets = {"masked": Target("token"), "next": Target("row")}
    main_metric, lower_is_better = "perplexity", True
    told_by = ()  # the rows of next_sentence, which its name stands for
    golden_use = "evaluate"

    def __init__(self, settings: FillMaskSettings) -> None:
        super().__init__(settings)
        _masking.check_share(settings.mask_probability)

    @classmethod
    def completed(cls, settings: Any, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Any:
        _masking.mask_of(tokenizer)
        return settings

    def build(self, body: Body) -> None:
        self._words = body.tables["tokens"]
        super().build(body)

    def outputs(self) -> dict[str, int]:
        return {"vocabulary": self._words, "next_sentence": len(NAMES)}

    def encode(self, example: Example, inputs: Inputs, options: NextSentenceOptions, use: Use = "predict", where: str = "") -> list[Row]:
        if use == "predict":
            (pair,) = super().encode(example, inputs, options, use, where)
            pair.targets = {"masked": [IGNORED] * pair.length("text")}
            return [pair]
        encoding, rest = seam(example, inputs, options.max_length, where)
        limit = options.max_length or inputs.max_length
        others = [window for text in rest if text for window in inputs.tokenizer.windows(text, max_length=limit, stride=0)]
        found = [_masking.row_of(each, inputs.tokenizer, self.settings.whole_word) for each in (encoding, *others)]
        if found[0] is None:
            raise DataError(f"{where or 'a pair'} has no token that could be hidden", value=dict(example), expected="one at least", fix="remove the row")
        rows = [row for row in found if row is not None]
        for number, row in enumerate(rows):
            row.notes["truncated"] = any(rest)
            if use == "train":
                row.targets = {"next": IGNORED if number else int(not self.truth(example, where))}
        return [_masking.hidden_as_ever(row, self.settings.mask_probability) for row in rows]

    def corrupt(self, row: Row, generator: torch.Generator) -> Row:
        return _masking.hidden(row, self.settings.mask_probability, generator)

    def counts(self, targets: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return {"masked": _masking.count(targets), "next": float((targets["next"] != IGNORED).sum())}

    def loss(self, run: Run, batch: Batch) -> dict[str, torch.Tensor]:
        first, hidden, kept = self._hidden(run, batch)
        masked = _masking.loss_of(self._head("vocabulary"), run, hidden, batch.targets["masked"][kept])
        pairs = self._head("next_sentence").logits(run, first)
        return {"masked": masked, "next": F.cross_entropy(pairs, batch.targets["next"], ignore_index=IGNORED, reduction="sum")}

    def read(self, run: Run, batches: Iterable[Batch], options: NextSentenceOptions) -> Iterator[tuple[int, Any]]:
        """``{"next", "nats", "tokens", "right"}`` of each row: the logits of the pair, and what is said of its hidden tokens."""
        for batch in batches:
            part = batch.parts["text"]
            first, hidden, kept = self._hidden(run, batch)
            masked = _masking.measured_of(self._head("vocabulary"), run, batch, hidden, kept)
            logits = self._head("next_sentence").logits(run, first).tolist()
            for row, example, pair, reading in zip(part.ids, part.example.tolist(), logits, masked, strict=True):
                if example != FILLER:
                    yield row, {"next": pair, **reading}

    def _hidden(self, run: Run, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of one pass: (N, W) of the first tokens, (K, W) of the hidden ones, and their places (K,)."""
        first, kept = self._head("next_sentence").spec.kept(batch.parts["text"].layout), (batch.targets["masked"] >= 0).nonzero()[:, 0]
        assert first is not None
        values = run(batch, keep={"text": torch.cat([first, kept])})["text"].values
        return values[: len(first)], values[len(first) :], kept

    def _head(self, kind: str) -> Head:
        head = self.get_submodule(kind)
        assert isinstance(head, Head)
        return head

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: NextSentenceOptions) -> dict[str, Any]:
        """As of ``next_sentence``; of an evaluated pair ``{"nats", "tokens", "right", "perplexity", "accuracy"}`` too, of its hidden tokens."""
        masked = _masking.told(readings) if readings[0]["tokens"] else {}
        return {**told(readings[0]["next"]), "truncated": rows[0].notes["truncated"], **masked}

    def score(self) -> Score:
        return _Score()

    def detail(self, options: NextSentenceOptions) -> Detail:
        """What a report is made of."""
        return _Answers(("text", "next"), pairs=True)


class _Answers(Hidden):
    def add(self, answer: Any, truth: Any = None) -> None:
        super().add((answer["nats"], answer["tokens"], answer["right"]), answer["is_next"] == truth)


class _Score:
    def __init__(self) -> None:
        self._masked, self._next = _masking.MaskedScore(), NextScore()

    def add(self, answer: Any, truth: Any) -> None:
        self._masked.add(answer)
        self._next.add(answer, truth)

    def result(self) -> dict[str, float]:
        return {**self._masked.result(), "next_accuracy": self._next.result()["accuracy"]}


TASK = Pretraining
