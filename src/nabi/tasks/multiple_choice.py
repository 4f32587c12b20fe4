"""Multiple choice: which of an example's choices goes with its question (the SWAG set-up of Devlin et al. 2018, "BERT", section 4.4).

Each choice is a row, the head gives it one score, and a softmax over the choices of the example decides; they may be any number, another one in each
example. Unusual: a long context is read whole, in windows that each repeat the choice; a choice's score is their mean by length, in training too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from nabi.batch import Batch, Row, Target
from nabi.errors import DataError, InputError, MissingHeadError
from nabi.inputs import Inputs, Reading
from nabi.metrics.chosen import Chosen
from nabi.metrics.detail import Detail
from nabi.nn.body import Run
from nabi.nn.heads import Head
from nabi.tasks import Example, Form, NoSettings, Score, Task, Use


class MultipleChoice(Task):
    """Choose the answer to each question."""

    name = "multiple_choice"
    columns = ("question", "choices", "label")
    optional_columns = ("context",)
    heads = ("choice",)
    Options = Reading
    targets = {"choice": Target("row"), "share": Target("row", dtype=torch.float32), "right": Target("row", dtype=torch.float32)}
    main_metric = "accuracy"
    told_by, classed = (("question", "choices"),), True
    together = "training"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> NoSettings:
        if outputs["choice"] != 1:
            fix = "train one: nabi train --task multiple_choice --base MODEL --data FILE --out DIR"
            raise MissingHeadError("no head for multiple_choice: this one gives more than one score a choice", value=outputs["choice"], expected="1", fix=fix)
        return NoSettings()

    def outputs(self) -> dict[str, int]:
        return {"choice": 1}

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: Reading, use: Use = "predict", where: str = "") -> list[Row]:
        where = where or "an input"
        choices, question, context = _choices(example, where), example.get("question"), example.get("context")
        if not isinstance(question, str) or not isinstance(context, str | None):
            problem, name = (question, "question") if not isinstance(question, str) else (context, "context")
            raise InputError(f"{where} has no {name}", value=repr(problem), expected="a str", fix="give {'question': ..., 'choices': [...]}")
        right = self.truth(example, where) if use == "train" else -1
        rows = []
        for number, choice in enumerate(choices):
            # with a context the question stands before its answer
            text, pair = (question, choice) if context is None else (context, f"{question} {choice}")
            windows, cut = inputs.read(text, pair, options, where=where)
            whole = sum(window.weight for window in windows)
            for window in windows:
                share = window.weight / whole
                row = Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes={"choice": number, "share": share, "truncated": cut})
                if use == "train":
                    row.targets = {"choice": number, "share": share, "right": float(number == right)}
                rows.append(row)
        return rows

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"choice": float((targets["right"].double() * targets["share"].double()).sum())}  # the shares of an example's right choice add up to 1

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        choice, share, right = (batch.targets[name] for name in ("choice", "share", "right"))
        head: Head = self.choice  # type: ignore[assignment]
        each = head.read(run, batch)[:, 0]
        groups, example = torch.unique(run.part(batch, head.spec.reads).example, return_inverse=True)
        shape = (len(groups), int(choice.max()) + 1)
        slot = example * shape[1] + choice

        def summed(x: Tensor) -> Tensor:
            return torch.zeros(shape[0] * shape[1], dtype=x.dtype, device=x.device).index_add(0, slot, x).view(shape)

        scores, there, answer = summed(each * share), summed(share) > 0, summed(share * right)
        return {"choice": (scores.masked_fill(~there, -math.inf).logsumexp(1) * answer.sum(1) - (scores * answer).sum(1)).sum()}

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[list[float]], rows: Sequence[Row], example: Example, options: Reading) -> dict[str, Any]:
        """``{"label", "choice", "score", "scores", "windows", "truncated"}``: the number of the best choice, its text, its probability, and all of them."""
        choices = _choices(example, "an input")
        logits, windows = [0.0] * len(choices), [0] * len(choices)
        for row, (reading,) in zip(rows, readings, strict=True):
            logits[row.notes["choice"]] += row.notes["share"] * reading
            windows[row.notes["choice"]] += 1
        powers = [math.exp(x - max(logits)) for x in logits]
        scores = [p / sum(powers) for p in powers]
        best = max(range(len(scores)), key=scores.__getitem__)
        cut = any(row.notes["truncated"] for row in rows)
        return {"label": best, "choice": choices[best], "score": scores[best], "scores": scores, "windows": max(windows), "truncated": cut}

    def truth(self, example: Example, where: str) -> int:
        return self.said(example, where)

    @classmethod
    def shown(cls, example: Example) -> tuple[Any, Any]:
        choices = example.get("choices")
        told = map(str, choices) if isinstance(choices, list | tuple) else ()
        return example.get("question"), "\n".join((str(example.get("context") or ""), *told))

    @classmethod
    def said(cls, example: Example, where: str) -> int:
        """The number of the right choice, which the label gives as such or by its text."""
        choices, label = _choices(example, where), example.get("label")
        if isinstance(label, str) and label in choices:
            return choices.index(label)
        number = label
        if (isinstance(label, str) and label.strip().isdecimal()) or (isinstance(label, float) and label.is_integer()):  # as CSV files and data frames have it
            number = int(label)
        if not isinstance(number, Integral) or isinstance(number, bool) or int(number) not in range(len(choices)):
            expected = f"a number from 0 to {len(choices) - 1}, or the text of a choice"
            raise DataError(f"{where}: the label is none of the choices", value=repr(label), expected=expected)
        return int(number)

    def score(self) -> Score:
        return _Accuracy()

    def detail(self, options: Reading) -> Detail:
        """What a report is made of."""
        return _Answers(None, ("context", "question", "choices"))

    def golden_examples(self) -> list[Example]:
        return [{"question": example["text"], "choices": ["good", "나비", "WINNER"]} for example in super().golden_examples()]

    def line(self, answer: Any) -> str:
        return f"{answer['choice']}\t{answer['score']:.4f}"

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A mapping with ``question`` and ``choices``."""
        if not isinstance(item, Mapping):
            raise InputError(f"{where} has no choices", value=item, expected="{'question': ..., 'choices': [...]}")
        return item


class _Accuracy:
    def __init__(self) -> None:
        self._right = self._rows = 0

    def add(self, answer: Any, truth: int) -> None:
        self._right += answer["label"] == truth
        self._rows += 1

    def result(self) -> dict[str, float]:
        return {"accuracy": self._right / self._rows if self._rows else 0.0}


class _Answers(Chosen):
    def add(self, answer: Any, truth: Any) -> None:
        scores = {str(number): score for number, score in enumerate(answer["scores"])}  # two choices may have one text
        super().add((str(answer["label"]), scores), str(truth))


def _choices(example: Example, where: str) -> list[str]:
    choices: Any = example.get("choices")
    if hasattr(choices, "tolist"):  # of a data frame
        choices = choices.tolist()
    if not isinstance(choices, list | tuple) or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise InputError(f"{where} has no choices", value=repr(choices), expected="a list of two texts at least")
    return list(choices)


TASK = MultipleChoice
