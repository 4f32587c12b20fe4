"""Zero-shot classification: any candidate labels, by a model of natural language inference (Yin et al. 2019, "Benchmarking Zero-shot Text Classification").

Each label becomes a hypothesis ("This example is sports."), and the text is the premise that entails it or not. Unusual: all labels of all texts are
rows of the same packed batches; a long text is read whole, in windows that each hold the whole hypothesis. Training is inference too: the hypothesis
of a row's own label is entailed, those of the other candidates are contradicted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.batch import Batch, Row, Target
from nabi.errors import DataError, InputError, OptionError, unknown
from nabi.inputs import Inputs, Reading
from nabi.metrics.detail import Detail
from nabi.nn.body import Run
from nabi.tasks import Example, Form, Score, Task, Use, _candidates, _labels

TEMPLATE = "This example is {}."  # the incumbent's


@dataclass(frozen=True)
class ZeroShotOptions(Reading):
    """What a call may set, beside how a text is read.

    Attributes:
        candidate_labels: a list, or one str with commas between them; those of the example, else of the model's training, if None.
        hypothesis_template: a sentence with {} where a label goes; the one that the model was trained with if None.
        multi_label: score each label by itself, entailment against contradiction, in place of all against each other.
        multi_class: the old name of ``multi_label``.
    """

    candidate_labels: str | tuple[str, ...] | None = None
    hypothesis_template: str | None = None
    multi_label: bool = False
    multi_class: bool | None = None

    @property
    def each(self) -> bool:
        """Whether labels are scored by themselves."""
        return self.multi_label if self.multi_class is None else self.multi_class


@dataclass(frozen=True)
class ZeroShotSettings:
    """What belongs to the model.

    Attributes:
        labels: of the inference head, in the order of its output layer; the first that begins with "entail" is entailment.
        candidates: the labels that it was trained on, used where a call names none.
        hypothesis_template: a sentence with {} where a label goes.
    """

    labels: tuple[str, ...] = ("contradiction", "entailment")
    candidates: tuple[str, ...] = ()
    hypothesis_template: str = TEMPLATE


class ZeroShotClassification(Task):
    """Give each text one of the labels that the caller names."""

    name = "zero_shot_classification"
    defaults = ("facebook/bart-large-mnli",)
    columns = ("text", "label")
    optional_columns = ("candidate_labels",)
    heads = ("row",)
    Options, Settings = ZeroShotOptions, ZeroShotSettings
    targets = {"label": Target("row"), "weight": Target("row", dtype=torch.float32)}
    main_metric = "accuracy"

    def __init__(self, settings: ZeroShotSettings) -> None:
        super().__init__(settings)
        self.labels = settings.labels
        if len(self.labels) < 2:
            fix = "take a model of natural language inference"
            raise OptionError("zero-shot classification needs entailment and contradiction", value=list(self.labels), expected="two labels at least", fix=fix)
        _candidates.hypothesis(settings.hypothesis_template, "")
        entails = [i for i, label in enumerate(self.labels) if label.lower().startswith("entail")]
        # as the incumbent: the last output where none has the name; contradiction is the first, or the last where entailment is the first
        self.entailment = entails[0] if entails else len(self.labels) - 1
        self.contradiction = len(self.labels) - 1 if self.entailment == 0 else 0

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> ZeroShotSettings:
        names = {_candidates.name_of(example.get("label"), f"{where}, row {i + 1}") for i, example in enumerate(examples)}
        candidates = tuple(given.get("candidates") or sorted(names))
        if len(candidates) < 2 and not any(example.get("candidate_labels") for example in examples):
            raise DataError("there is only one class", value=f"{where}: {list(candidates)}", expected="at least two labels", fix="add rows of another class")
        return ZeroShotSettings(**{**given, "candidates": candidates, **({"labels": tuple(given["labels"])} if "labels" in given else {})})

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> ZeroShotSettings:
        labels = _labels.stated(config, outputs["row"])
        if not any(label.lower().startswith("entail") for label in labels):
            warnings.warn(
                f"none of the checkpoint's labels begins with 'entail' ({', '.join(labels)}): the last is taken for entailment. "
                "If the model was not trained on natural language inference, its scores mean nothing.",
                stacklevel=2,
            )
        return ZeroShotSettings(labels=labels)

    def to_hf(self) -> dict[str, Any]:
        return {**_labels.as_hf(self.labels), "problem_type": "single_label_classification"}

    def outputs(self) -> dict[str, int]:
        return {"row": len(self.labels)}

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def candidates(self, example: Example, options: ZeroShotOptions, where: str = "") -> tuple[str, ...]:
        """The labels that one example is held against: the call's, else the example's own, else those of the training.

        Raises:
            InputError: there are none, or they are no names.
        """
        return _candidates.names(where, options.candidate_labels, example.get("candidate_labels"), self.settings.candidates)

    def encode(self, example: Example, inputs: Inputs, options: ZeroShotOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text, where = example.get("text"), where or "an input"
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where} has no text", value=repr(text), expected="a str that says something")
        names = self.candidates(example, options, where)
        truth = None if use == "predict" else self.truth(example, where)
        if truth is not None and truth not in names:
            raise unknown(f"label ({where})", truth, names, error=DataError)
        template = options.hypothesis_template or self.settings.hypothesis_template
        rows = []
        for number, name in enumerate(names):
            windows, cut = inputs.read(text, _candidates.hypothesis(template, name), options, over="text", where=where)
            for window in windows:
                notes = {"candidate": number, "content": max(1, window.sequence.count(0)), "truncated": cut}
                row = Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes=notes)
                if use == "train":  # an example counts once, however many candidates and windows it has
                    label = self.entailment if name == truth else self.contradiction
                    row.targets = {"label": label, "weight": 1 / (len(names) * len(windows))}
                rows.append(row)
        return rows

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"label": float(targets["weight"].double().sum())}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        logits = self.row.read(run, batch)  # type: ignore[operator,union-attr]
        return {"label": (F.cross_entropy(logits, batch.targets["label"], reduction="none") * batch.targets["weight"]).sum()}

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[list[float]], rows: Sequence[Row], example: Example, options: ZeroShotOptions) -> dict[str, Any]:
        """``{"sequence", "labels", "scores", "label", "score", "windows", "truncated"}``, the labels by falling score."""
        names = self.candidates(example, options)
        outputs, sums, totals = (self.contradiction, self.entailment), [[0.0, 0.0] for _ in names], [0] * len(names)
        for row, reading in zip(rows, readings, strict=True):
            number, content = row.notes["candidate"], row.notes["content"]
            totals[number] += content
            sums[number] = [x + content * reading[c] for x, c in zip(sums[number], outputs, strict=True)]
        logits = [[x / total for x in pair] for pair, total in zip(sums, totals, strict=True)]
        if options.each or len(names) == 1:
            scores = [_candidates.softmax(pair)[1] for pair in logits]
        else:
            scores = _candidates.softmax([entailed for _, entailed in logits])
        order = sorted(range(len(names)), key=scores.__getitem__)[::-1]  # of equals the later first, as the incumbent
        labels = [names[i] for i in order]
        return {
            "sequence": example["text"],
            "labels": labels,
            "scores": [scores[i] for i in order],
            "label": labels[0],
            "score": scores[order[0]],
            "windows": max(Counter(row.notes["candidate"] for row in rows).values()),
            "truncated": any(row.notes["truncated"] for row in rows),
        }

    def truth(self, example: Example, where: str) -> str:
        return _candidates.name_of(example.get("label"), where)

    def score(self) -> Score:
        return _candidates.ChosenScore(self.settings.candidates)

    def detail(self, options: ZeroShotOptions) -> Detail:
        """What a report is made of."""
        return _candidates.ChosenDetail(self.settings.candidates, (self.columns[0],))

    def golden_examples(self) -> list[Example]:
        return [{**example, "candidate_labels": ["good", "나비"]} for example in super().golden_examples() if example["text"]]

    def line(self, answer: Any) -> str:
        return f"{answer['label']}\t{answer['score']:.4f}"

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """v4's forms too: the candidate labels as the second argument, the texts as ``sequences=``."""
        inputs, options = list(args), dict(given)
        if not inputs and "sequences" in options:
            inputs.append(options.pop("sequences"))
        if len(inputs) == 2 and "candidate_labels" not in options:
            options["candidate_labels"] = inputs.pop()
        return super().called(tuple(inputs), options)

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A str, a mapping with ``text``, or one with v4's name for it, ``sequences``."""
        if isinstance(item, Mapping) and "text" not in item and "sequences" in item:
            return {**{k: v for k, v in item.items() if k != "sequences"}, "text": item["sequences"]}
        return super().example_of(item, where)

    def present(self, answer: Any, options: ZeroShotOptions, alone: bool) -> Any:
        """v4's keys: ``sequence``, ``labels``, ``scores``."""
        return {key: answer[key] for key in ("sequence", "labels", "scores")}


TASK = ZeroShotClassification
