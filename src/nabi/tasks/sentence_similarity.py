"""Sentence similarity: how alike two texts are, as a number.

A ``cross`` encoder reads both in one row and its head gives the number (Devlin et al. 2018, "BERT", section 4.1, on STS-B); it is the usual choice, for
each text is read in view of the other, which is often better (Thakur et al. 2020, "Augmented SBERT", abstract). A ``bi`` encoder reads each alone, and the
number is the cosine of their vectors, the means of the tokens' unless the folder says how its makers pool (Reimers & Gurevych 2019, "Sentence-BERT",
section 3): it needs no head, so a bare sentence encoder answers without training, and a source is read once for any number of sentences. Unusual: the scale
of the scores is found in the data, and answers are on it; a long text is read whole, in windows, in training too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.batch import FILLER, Batch, Row, Target
from nabi.errors import DataError, InputError, MissingHeadError, OptionError
from nabi.inputs import Inputs, Reading
from nabi.metrics import CorrelationScore
from nabi.metrics.detail import Detail
from nabi.metrics.measured import Measured
from nabi.nn.body import Body, Run
from nabi.nn.heads import Head
from nabi.tasks import Example, Form, Score, Task, Use
from nabi.weights.pooled import checked

_PAIR = "{'text': ..., 'text_pair': ...}, or {'source_sentence': ..., 'sentences': [...]}"


@dataclass(frozen=True)
class SimilaritySettings:
    """What belongs to the model.

    Attributes:
        encoder: ``cross`` reads both texts in one row, ``bi`` each in a row of its own.
        scale: the score of texts that have nothing in common and of those that say the same; found in the training data. A ``bi`` encoder's cosines of
            0 and 1 stand for them.
        pooling: of a ``bi`` encoder how a text's vectors become one: ``mean``, ``max``, ``cls`` (the first) or ``last``; if None as its
            folder says (``modules.json``), else the mean. Those of a long text's windows are averaged by their length.
        normalize: whether the folder scales vectors to length 1, which no cosine feels.
        sigmoid: a ``cross`` encoder's output goes through a sigmoid, which is stretched over the scale; without it the output is the score.
    """

    encoder: Literal["cross", "bi"] = "cross"
    scale: tuple[float, float] = (0.0, 1.0)
    sigmoid: bool = False
    pooling: str | None = None
    normalize: bool = False


class SentenceSimilarity(Task):
    """Say how alike two texts are."""

    name = "sentence_similarity"
    aliases = ("semantic_similarity", "semantic_textual_similarity", "sts")
    columns = ("text", "text_pair", "score")
    heads = ()
    optional_heads = ("row",)
    Options, Settings = Reading, SimilaritySettings
    targets = {"side": Target("row"), "share": Target("row", dtype=torch.float32), "score": Target("row", dtype=torch.float32)}
    main_metric = "spearman"
    told_by = (("text", "text_pair", "score"),)
    together = "training"

    reads: str = "text"

    def __init__(self, settings: SimilaritySettings) -> None:
        super().__init__(settings)
        self.low, self.high = settings.scale
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise OptionError("the scale is none", value=list(settings.scale), expected="the lowest score and a higher one, such as [0, 5]")
        if settings.sigmoid and settings.encoder == "bi":
            raise OptionError("a bi-encoder has no output that could go through a sigmoid", fix="leave sigmoid out, or take encoder=cross")
        if settings.encoder == "cross" and settings.pooling is not None:
            raise OptionError("a cross-encoder pools nothing", value=settings.pooling, fix="leave pooling out, or take encoder=bi")
        self.pooling = checked(settings.pooling or "mean")

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def fits(cls, body: Body | type[Body]) -> bool:
        return "text" in body.needs and set(cls.optional_heads) <= set(body.heads)

    @classmethod
    def builds(cls, settings: SimilaritySettings) -> tuple[str, ...]:
        return cls.optional_heads if settings.encoder == "cross" else ()

    @classmethod
    def pools(cls, settings: SimilaritySettings) -> bool:
        return settings.encoder == "bi" and settings.pooling is None

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> SimilaritySettings:
        values = [_number(example.get("score"), f"{where}, row {i + 1}") for i, example in enumerate(examples)]
        low, high = given.get("scale") or (min(values), max(values))
        if "scale" not in given and low == high:
            fix = "add rows of another score, or give the scale, such as task.scale=[0,5]"
            raise DataError("there is only one score", value=f"{where}: {low:g}", expected="at least two", fix=fix)
        for i, value in enumerate(values):
            if not low <= value <= high:
                fix = "correct the row, or give a wider scale"
                raise DataError(f"{where}, row {i + 1}: the score is not on the scale", value=value, expected=f"{low:g} to {high:g}", fix=fix)
        return SimilaritySettings(**{**given, "scale": (low, high)})

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> SimilaritySettings:
        if "row" not in outputs:
            return SimilaritySettings(encoder="bi")
        if outputs["row"] != 1:
            fix = "train one: nabi train --task sentence_similarity --base MODEL --data FILE --out DIR"
            raise MissingHeadError("no head for sentence_similarity: this one gives more than one score a pair", value=outputs["row"], expected="1", fix=fix)
        return SimilaritySettings(sigmoid=config.get("problem_type") != "regression")  # the incumbent's rule for a single output

    def to_hf(self) -> dict[str, Any]:
        if self.settings.encoder == "bi":
            return {}
        return {"id2label": {"0": "score"}, "label2id": {"score": 0}, "problem_type": None if self.settings.sigmoid else "regression"}

    def outputs(self) -> dict[str, int]:
        return dict.fromkeys(self.heads, 1)

    def build(self, body: Body) -> None:
        super().build(body)
        # of a bi-encoder what feature_extraction reads: where this family tags tokens, which is T5's encoder, else where it classifies
        spec = type(body).heads.get("token" if self.settings.encoder == "bi" else "row") or type(body).heads.get("row")
        self.reads = spec.reads if spec is not None else "text"

    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        if self.settings.encoder == "cross" and not self.settings.sigmoid:
            bias = self.get_submodule("row").out.bias  # type: ignore[union-attr]
            if isinstance(bias, Tensor):  # from the middle of the scale it is not far to any score; GPT-2's head has no bias
                torch.nn.init.constant_(bias, (self.low + self.high) / 2)

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: Reading, use: Use = "predict", where: str = "") -> list[Row]:
        text, others = _texts(example, where or "an input")
        pairs: list[tuple[str, str | None]] = [(text, other) for other in others]
        if self.settings.encoder == "bi":
            pairs = [(text, None), *((other, None) for other in others)]
        target = (self.truth(example, where) - self.low) / (self.high - self.low) if use == "train" else 0.0
        rows = []
        for side, (one, pair) in enumerate(pairs):
            windows, cut = inputs.read(one, pair, options, where=where)
            whole = sum(window.weight for window in windows)
            for window in windows:
                share = window.weight / whole
                row = Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes={"side": side, "share": share, "truncated": cut})
                if use == "train":
                    row.targets = {"side": side, "share": share, "score": target}
                rows.append(row)
        return rows

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"score": float(targets["share"][targets["side"] == 0].double().sum())}  # the shares of an example's first text add up to 1

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        """Squared errors, of the cosine as in Reimers & Gurevych 2019, section 3, or of the output; in shares of the scale."""
        values, side, share = self._values(run, batch), batch.targets["side"], batch.targets["share"]
        groups, example = torch.unique(run.part(batch, self.reads).example, return_inverse=True)
        sides = 2 if self.settings.encoder == "bi" else 1

        def summed(x: Tensor) -> Tensor:
            found = x.new_zeros(len(groups) * sides, x.shape[1]).index_add(0, example * sides + side, x * share[:, None].to(x.dtype))
            return found.view(len(groups), sides, x.shape[1])

        whole, wanted = summed(values), summed(batch.targets["score"][:, None])[:, 0, 0]
        if self.settings.encoder == "bi":
            found = F.cosine_similarity(whole[:, 0], whole[:, 1], dim=-1)
        else:
            found = whole[:, 0, 0].sigmoid() if self.settings.sigmoid else (whole[:, 0, 0] - self.low) / (self.high - self.low)
        return {"score": ((found - wanted) ** 2).sum()}

    def _values(self, run: Run, batch: Batch) -> Tensor:
        """(N, W) the mean of each row's tokens, special ones included, or what else the folder pools; or (N, 1) the head's output."""
        if self.settings.encoder == "cross":
            head: Head = self.row  # type: ignore[assignment]
            return head.read(run, batch)
        values = run(batch, keep={self.reads: None})[self.reads].values
        values, layout = values if values.dtype == torch.float64 else values.float(), run.layout(batch, self.reads)
        if self.pooling == "max":
            return torch.stack([row.amax(0) for row in torch.split(values, list(layout.lengths))])
        return {"mean": layout.mean, "cls": layout.first, "last": layout.last}[self.pooling](values)

    def read(self, run: Run, batches: Iterable[Batch], options: Reading) -> Iterator[tuple[int, list[float]]]:
        """(row id, (W,) the vector of a text's window, or (1,) the output of a pair's)."""
        for batch in batches:
            part = run.part(batch, self.reads)
            for row, example, values in zip(part.ids, part.example.tolist(), self._values(run, batch).tolist(), strict=True):
                if example != FILLER:
                    yield row, values

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[list[float]], rows: Sequence[Row], example: Example, options: Reading) -> dict[str, Any]:
        """``{"score", "windows", "truncated"}``, of a bi-encoder with ``cosine``; of a source and its sentences the lists ``scores`` and ``cosines``."""
        sides = [row.notes["side"] for row in rows]
        shares = torch.tensor([row.notes["share"] for row in rows], dtype=torch.float64)
        values = torch.tensor(readings, dtype=torch.float64) * shares[:, None]
        whole = values.new_zeros(max(sides) + 1, values.shape[1]).index_add(0, torch.tensor(sides), values)
        found: dict[str, list[float]] = {}
        if self.settings.encoder == "bi":
            units = F.normalize(whole, dim=1)
            found["cosine"] = (units[1:] @ units[0]).clamp(-1, 1).tolist()
            found["score"] = [self.low + (self.high - self.low) * cosine for cosine in found["cosine"]]
        else:
            outputs = self.low + (self.high - self.low) * whole[:, 0].sigmoid() if self.settings.sigmoid else whole[:, 0]
            found["score"] = outputs.tolist()
        several = _several(example)
        told: dict[str, Any] = {f"{name}s" if several else name: found[name] if several else found[name][0] for name in ("score", "cosine") if name in found}
        return {**told, "windows": max(Counter(sides).values()), "truncated": any(row.notes["truncated"] for row in rows)}

    def truth(self, example: Example, where: str) -> float:
        return self.said(example, where)

    @classmethod
    def shown(cls, example: Example) -> tuple[Any, Any]:
        return example.get("text"), example.get("text_pair")

    @classmethod
    def said(cls, example: Example, where: str) -> float:
        return _number(example.get("score"), where)

    def score(self) -> Score:
        return _Correlation()

    def detail(self, options: Reading) -> Detail:
        """What a report is made of."""
        return _MeasuredAnswers(self.columns[:2])

    def golden_examples(self) -> list[Example]:
        texts = [example["text"] for example in super().golden_examples()]
        return [{"text": a, "text_pair": b} for a, b in ((texts[0], texts[1]), (texts[2], texts[0]))]  # every number of a vector is saved

    def line(self, answer: Any) -> str:
        return "\t".join(f"{score:.4f}" for score in (answer["scores"] if "scores" in answer else [answer["score"]]))

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """One pair may also come as two strings in a list, and a mapping's entries by name: ``source_sentence=..., sentences=[...]``."""
        options = dict(given)
        for names in (("source_sentence", "sentences"), ("text", "text_pair")):
            if not args and set(names) <= options.keys():
                args = ({name: options.pop(name) for name in names},)
        inputs, options = super().called(args, options)
        one = isinstance(inputs, list | tuple) and len(inputs) == 2 and all(isinstance(text, str) for text in inputs)
        return self.example_of(inputs) if one else inputs, options

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A pair ``[text, text_pair]``, or a mapping: with these two, or with ``source_sentence`` and ``sentences``."""
        if isinstance(item, list | tuple) and len(item) == 2:
            return {"text": item[0], "text_pair": item[1]}
        if not isinstance(item, Mapping):
            raise InputError(f"{where} is no pair of texts", value=repr(item), expected=_PAIR)
        return item

    def present(self, answer: Any, options: Reading, alone: bool) -> Any:
        """A number a pair; of a source and its sentences a list of them, as the hub's widget has it."""
        return answer["scores"] if "scores" in answer else answer["score"]


class _Correlation(CorrelationScore):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["score"], truth)


class _MeasuredAnswers(Measured):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["score"], truth)


def _several(example: Example) -> bool:
    """Whether an example is a source with its sentences, and no pair."""
    return "source_sentence" in example and "text" not in example


def _texts(example: Example, where: str) -> tuple[str, list[str]]:
    """The first text and what it is held against."""
    text: Any = example.get("source_sentence" if _several(example) else "text")
    others: Any = example.get("sentences") if _several(example) else [example.get("text_pair")]
    if hasattr(others, "tolist"):  # of a data frame
        others = others.tolist()
    if not isinstance(others, list | tuple) or not others:
        raise InputError(f"{where} has no sentences", value=repr(others), expected="a list of one text at least", fix=f"give {_PAIR}")
    for one in (text, *others):
        if not isinstance(one, str):
            raise InputError(f"{where} is no pair of texts", value=repr(one), expected="a str", fix=f"give {_PAIR}")
    return text, list(others)


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: the score is missing or no number", value=repr(value), expected="a finite number, such as 3.5")
    return number


TASK = SentenceSimilarity
