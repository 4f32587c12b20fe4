"""What the tasks that give labels have in common: settings, loss, scores, answers; for one label, several, or a number.

A task adds how an example becomes rows; where it becomes several, their logits are averaged by the ``content`` of each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.batch import Batch, Row, Target
from nabi.errors import DataError, OptionError, unknown
from nabi.metrics import ConfusionScore, CorrelationScore, MultiLabelScore
from nabi.metrics.classified import Classified
from nabi.metrics.detail import Detail
from nabi.metrics.measured import Measured
from nabi.metrics.multi_label import MultiLabelled
from nabi.nn.body import Run
from nabi.tasks import Example, Score, Task, _labels

Problem = Literal["single", "multi", "regression"]
Function = Literal["softmax", "sigmoid", "none"]
_HF_PROBLEM = {"single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression"}


@dataclass(frozen=True)
class ClassificationSettings:
    """What belongs to the model.

    Attributes:
        labels: names in the order of the output layer; one for regression.
        problem: ``single``, ``multi`` or ``regression``.
        loss: ``cross_entropy`` or ``focal`` (Lin et al. 2017).
        focal_gamma: how strongly the focal loss turns from easy rows.
        label_smoothing: share of the target spread over all labels.
        class_weights: one a label, by label name; ``balanced`` is worked out from the data.
    """

    labels: tuple[str, ...]
    problem: Problem = "single"
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    class_weights: Mapping[str, float] | Literal["balanced"] | None = None


class Classifying(Task):
    """Base of the tasks that label an example; their ``Options`` have ``function_to_apply`` and ``threshold``."""

    heads = ("row",)
    Settings = ClassificationSettings
    main_metric = "macro_f1"

    def __init__(self, settings: ClassificationSettings) -> None:
        super().__init__(settings)
        self.problem, self.labels = settings.problem, settings.labels
        if len(set(self.labels)) != len(self.labels):
            raise OptionError("two labels have one name", value=list(self.labels))
        if not 0 <= settings.label_smoothing < 1:
            raise OptionError("label_smoothing must be in [0, 1)", value=settings.label_smoothing)
        if self.problem != "single" and (settings.loss == "focal" or settings.label_smoothing):
            raise OptionError("focal loss and label smoothing are for single-label problems", value=self.problem)
        self.index = {label: i for i, label in enumerate(self.labels)}
        weights = settings.class_weights or {}
        if isinstance(weights, str):
            raise OptionError("class_weights 'balanced' is worked out from data", fix="call fitted() first, or give a weight for each label")
        for label in weights:
            if label not in self.index:
                raise unknown("label in class_weights", label, self.labels)
        self.weights = [float(weights.get(label, 1.0)) for label in self.labels]
        kind = torch.int64 if self.problem == "single" else torch.float32
        (part,) = self.parts
        self.targets = {"label": Target("row", part, kind), "weight": Target("row", part, torch.float32)}
        if self.problem == "regression":
            self.main_metric = "pearson"

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> Any:
        values = [example["label"] for example in examples]
        problem = given.get("problem") or _problem(values, where)
        if problem == "regression":
            return cls.Settings(**{**given, "problem": problem, "labels": tuple(given.get("labels") or ("score",))})
        flat = [name for i, value in enumerate(values) for name in _names(value, problem, f"{where}, row {i + 1}")]
        counts = Counter(flat)
        labels = tuple(given.get("labels") or sorted(counts, key=_order))
        if len(labels) < 2 and problem == "single":
            raise DataError("there is only one class", value=f"{where}: {list(labels)}", expected="at least two labels", fix="add rows of another class")
        weights = given.get("class_weights")
        if weights == "balanced":
            weights = {label: len(values) / (len(labels) * counts[label]) for label in labels if counts[label]}
        return cls.Settings(**{**given, "problem": problem, "labels": labels, "class_weights": weights})

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> Any:
        problem = {v: k for k, v in _HF_PROBLEM.items()}.get(config.get("problem_type") or "", "single")
        return cls.Settings(labels=_labels.stated(config, outputs["row"]), problem=problem)  # type: ignore[arg-type]

    def to_hf(self) -> dict[str, Any]:
        return {**_labels.as_hf(self.labels), "problem_type": _HF_PROBLEM[self.problem]}

    def outputs(self) -> dict[str, int]:
        return {"row": len(self.labels)}

    # ---- a row ---------------------------------------------------------------------------------------------------------------------------------

    def aim(self, rows: Sequence[Row], example: Example, where: str) -> None:
        """Give the rows of one example their targets; together they count as one."""
        value = self._target(self.truth(example, where))
        weight = self.weights[value] if isinstance(value, int) else 1.0
        for row in rows:
            row.targets = {"label": value, "weight": weight / len(rows)}

    def _target(self, truth: Any) -> Any:
        if self.problem == "single":
            return self.index[truth]
        if self.problem == "regression":
            return truth
        return [float(label in truth) for label in self.labels]

    def stratum(self, row: Row) -> str | None:
        return self.labels[row.targets["label"]] if self.problem == "single" else None

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"label": float(targets["weight"].double().sum())}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        logits, label = self.row.read(run, batch), batch.targets["label"]  # type: ignore[operator,union-attr]
        if self.problem == "single":
            each = F.cross_entropy(logits, label, reduction="none", label_smoothing=self.settings.label_smoothing)
            if self.settings.loss == "focal":
                p = logits.softmax(-1).gather(1, label[:, None])[:, 0]
                each = each * (1 - p) ** self.settings.focal_gamma
        elif self.problem == "multi":
            scale = torch.tensor(self.weights, device=logits.device)
            each = F.binary_cross_entropy_with_logits(logits, label, reduction="none", pos_weight=scale).mean(-1)
        else:
            each = (logits[:, 0] - label) ** 2
        return {"label": (each * batch.targets["weight"]).sum()}

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[list[float]], rows: Sequence[Row], example: Example, options: Any) -> dict[str, Any]:
        """``{"label", "score", "scores"}``; the label of a multi-label model is a list, of a regression the number."""
        weights = [row.notes["content"] for row in rows]
        total = sum(weights)
        logits = [sum(w * reading[c] for w, reading in zip(weights, readings, strict=True)) / total for c in range(len(self.labels))]
        scores = dict(zip(self.labels, self._applied(logits, options), strict=True))
        best = max(scores, key=scores.__getitem__)
        label: Any = best
        if self.problem == "multi":
            label = [name for name, score in scores.items() if score >= options.threshold]
        elif self.problem == "regression":
            label = scores[best]
        return {"label": label, "score": scores[best], "scores": scores}

    def _function(self, options: Any, outputs: int) -> Function:
        # the incumbent's rule: one label is a sigmoid, more are a softmax, a regression is left as it is
        usual: dict[Problem, Function] = {"multi": "sigmoid", "regression": "none", "single": "softmax" if outputs > 1 else "sigmoid"}
        return options.function_to_apply or usual[self.problem]

    def _applied(self, logits: list[float], options: Any) -> list[float]:
        function = self._function(options, len(logits))
        if function == "none":
            return logits
        if function == "sigmoid":
            return [1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x)) for x in logits]
        high = max(logits)
        powers = [math.exp(x - high) for x in logits]
        return [p / sum(powers) for p in powers]

    def truth(self, example: Example, where: str) -> Any:
        value = example.get("label")
        if self.problem == "regression":
            return _number(value, where)
        found = _names(value, self.problem, where)
        strange = [name for name in found if name not in self.index]
        if strange:
            raise unknown(f"label ({where})", strange[0], self.labels, error=DataError)
        return found if self.problem == "multi" else found[0]

    def score(self) -> Score:
        if self.problem == "regression":
            return _Regression()
        return _Multi(self.labels) if self.problem == "multi" else _Single(self.labels)

    def detail(self, options: Any) -> Detail:
        """What a report is made of; answers must be given under these ``options``."""
        fields = (self.columns[0], *self.optional_columns)
        if self.problem == "regression":
            return _MeasuredAnswers(fields)
        inverse = _INVERSE[self._function(options, len(self.labels))]
        if self.problem == "multi":
            return _MultiAnswers(self.labels, fields, inverse)
        return _SingleAnswers(self.labels, fields, inverse)

    def line(self, answer: Any) -> str:
        label = ", ".join(answer["label"]) if self.problem == "multi" else answer["label"]
        return f"{label}\t{answer['score']:.4f}" if self.problem != "regression" else f"{label:.4f}"


class _Single(ConfusionScore):
    def add(self, answer: Any, truth: Any) -> None:  # type: ignore[override]
        super().add(answer["label"], truth, answer["score"])


class _Multi(MultiLabelScore):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["label"], truth)


class _Regression(CorrelationScore):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["label"], truth)


def _log(p: float) -> float:
    return math.log(max(p, 1e-300))


# from the scores of an answer back to logits, up to what a softmax does not see
_INVERSE: dict[Function, Callable[[float], float]] = {"softmax": _log, "sigmoid": lambda p: _log(p) - _log(1 - p), "none": lambda x: x}


class _SingleAnswers(Classified):
    def __init__(self, labels: Sequence[str], fields: tuple[str, ...], inverse: Callable[[float], float]) -> None:
        super().__init__(labels, fields)
        self._inverse = inverse

    def add(self, answer: Any, truth: Any) -> None:
        super().add(map(self._inverse, answer["scores"].values()), truth)


class _MultiAnswers(MultiLabelled):
    def __init__(self, labels: Sequence[str], fields: tuple[str, ...], inverse: Callable[[float], float]) -> None:
        super().__init__(labels, fields)
        self._inverse = inverse

    def add(self, answer: Any, truth: Any) -> None:
        super().add((list(map(self._inverse, answer["scores"].values())), answer["label"]), truth)


class _MeasuredAnswers(Measured):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["label"], truth)


def _problem(values: Sequence[Any], where: str) -> Problem:
    """Which problem the labels are: lists are multi-label, numbers with a fraction (a CSV's are strings) a regression, all else single-label."""
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value is not None:  # a missing label is told with its row
            kind = "list" if isinstance(value, list | tuple) else "number" if isinstance(value, Real) and not isinstance(value, bool) else type(value).__name__
            first.setdefault(kind, i + 1)
    if len(first) > 1:
        raise DataError(f"{where}: labels of mixed types", value=first, expected="one type in all rows", fix="make them all text, all numbers or all lists")
    if "list" in first:
        return "multi"
    try:
        numbers = [float(value) for value in values if value is not None]
    except (TypeError, ValueError):
        return "single"
    finite = [n for n in numbers if math.isfinite(n)]
    names = "number" not in first and len(finite) < len(numbers)  # such as the string "nan"
    return "regression" if any(not n.is_integer() for n in finite) and not names else "single"


def _names(value: Any, problem: Problem, where: str) -> list[str]:
    items = value if problem == "multi" else [value]
    if problem == "multi" and not isinstance(value, list | tuple):
        raise DataError(f"{where}: the label is not a list", value=value, expected="a list of label names")
    names = []
    for item in items:
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        if not isinstance(item, str | Integral) or (isinstance(item, str) and not item.strip()):
            raise DataError(f"{where}: the label is missing or no label", value=repr(item), expected="a name or a whole number")
        names.append(str(item))
    return names


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: the label is not a number", value=repr(value), expected="a finite number, because this is a regression")
    return number


def _order(label: str) -> tuple[int, float, str]:
    """Numbers by value, then names by letter."""
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)
