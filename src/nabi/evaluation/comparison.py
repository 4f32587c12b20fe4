"""Two models on the same rows: which is better, by how much, how sure that is, and the rows on which they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nabi.data import Table, read_table
from nabi.errors import OptionError
from nabi.evaluation.bootstrap import distributions, interval, mcnemar, resamples, share_p
from nabi.evaluation.scoring import Evaluation, Kept, evaluate
from nabi.evaluation.thumbnails import shown
from nabi.metrics.detail import Detailed
from nabi.model import Model


@dataclass(frozen=True)
class Difference:
    """Of one figure, the second model's minus the first's.

    Attributes:
        difference: on the rows as they are.
        low, high: its 95 % interval over paired resamples.
        p: twice the smaller share of resamples in which it is 0 or has the other sign.
    """

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Flip:
    """A row that one model has right and the other wrong.

    Attributes:
        row: its number, from 0; where: its place in the data.
        truth: its label; first, second: what the models answered.
        right: which of them is right, ``first`` or ``second``.
        text: the row's text; of an image its file's name.
    """

    row: int
    where: str
    truth: str
    first: str
    second: str
    right: str
    text: str


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        first, second: the evaluations, with what they kept.
        intervals: (first, second), 95 % interval by figure.
        differences: by figure, over the figures that both have.
        only_first, only_second: rows that one model alone has right; None where answers are not simply right or wrong.
        mcnemar: exact p-value that the models are equally often right, or None.
        flips: those rows, in the order of the data.
        resamples: of the bootstrap.
    """

    first: Evaluation
    second: Evaluation
    intervals: tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]
    differences: dict[str, Difference]
    only_first: int | None
    only_second: int | None
    mcnemar: float | None
    flips: list[Flip]
    resamples: int

    def facts(self, *, examples: bool = True) -> dict[str, Any]:
        """Plain data, as ``nabi evaluate --json`` prints it for two models.

        Args:
            examples: with the texts of the rows that flip.
        """
        flips = [{k: v for k, v in vars(flip).items() if k != "row" and (examples or k != "text")} for flip in self.flips]
        return {
            **self.first.facts(),
            "second": {"model": self.second.model, "metrics": self.second.metrics, "seconds": self.second.seconds},
            "comparison": {
                "resamples": self.resamples,
                "intervals": {"first": self.intervals[0], "second": self.intervals[1]},
                "differences": {name: vars(found) for name, found in self.differences.items()},
                "only_first": self.only_first,
                "only_second": self.only_second,
                "mcnemar": self.mcnemar,
                "flips": flips,
            },
        }


def compare(
    model_a: Model,
    model_b: Model,
    data: Any,
    *,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    names: tuple[str, str] = ("first", "second"),
    seed: int = 0,
) -> Comparison:
    """Score two models on the same labelled rows and say how sure the difference is.

    Args:
        model_a, model_b: of one task, with the same labels in any order.
        data: a path, a table, a DataFrame or rows.
        columns: our column name -> the data's.
        options: of the task, for both.
        names: what to call the models.
        seed: of the resamples.

    Raises:
        OptionError: their tasks or labels differ, or the task keeps nothing that can be compared.
        DataError: the data can't be read, or a label is not among the models'.
    """
    if model_a.task.name != model_b.task.name:
        raise OptionError("the models answer different tasks", value=f"{model_a.task.name} and {model_b.task.name}", expected="two models of one task")
    table = data if isinstance(data, Table) and not columns else read_table(data, columns)
    _check_labels(model_a, model_b, names, options)
    first, second = (evaluate(m, table, options=options, name=n, keep=True) for m, n in zip((model_a, model_b), names, strict=True))
    kept = _kept(first), _kept(second)
    found = distributions([k.detail for k in kept], len(table), seed)
    differences = {}
    for name in (n for n in found[0] if n in found[1]):
        values = found[1][name] - found[0][name]
        differences[name] = Difference(second.metrics[name] - first.metrics[name], *interval(values), share_p(values))
    verdicts = [k.detail.verdicts() for k in kept]
    flips: list[Flip] = []
    only: list[int] | None = None
    if verdicts[0].right is not None and verdicts[1].right is not None:
        apart = np.flatnonzero(verdicts[0].right != verdicts[1].right)
        for i in apart.tolist():
            right = "first" if verdicts[0].right[i] else "second"
            text = shown(table[i], kept[0].detail.fields)
            flips.append(Flip(i, table.where(i), verdicts[0].truth[i], verdicts[0].predicted[i], verdicts[1].predicted[i], right, text))
        only = [sum(flip.right == side for flip in flips) for side in ("first", "second")]
    return Comparison(
        first,
        second,
        ({n: interval(v) for n, v in found[0].items()}, {n: interval(v) for n, v in found[1].items()}),
        differences,
        only[0] if only else None,
        only[1] if only else None,
        mcnemar(*only) if only else None,
        flips,
        resamples(len(table)),
    )


def _check_labels(model_a: Model, model_b: Model, names: tuple[str, str], options: Mapping[str, Any] | None) -> None:
    tasks = model_a.task, model_b.task
    if not isinstance(tasks[0], Detailed) or not isinstance(tasks[1], Detailed):
        raise OptionError(f"{tasks[0].name} keeps nothing of its rows that could be compared", fix="give the task a detail(): see docs/reports.md")
    labels = [set(task.detail(model.options(options)).choices) for task, model in ((tasks[0], model_a), (tasks[1], model_b))]
    if labels[0] != labels[1]:
        apart = [f"only in {name}: {', '.join(sorted(mine - other)) or 'none'}" for name, mine, other in zip(names, labels, labels[::-1], strict=True)]
        raise OptionError("the models have different labels", value="; ".join(apart), expected="the same label names, in any order")


def _kept(evaluation: Evaluation) -> Kept:
    assert evaluation.kept is not None
    return evaluation.kept
