"""A model's answers on labelled data, in figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from nabi.batch import Row
from nabi.data import Table, read_table
from nabi.errors import DataError
from nabi.metrics.detail import Detail, Detailed
from nabi.model import Model
from nabi.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Kept:
    """What an evaluation keeps on request.

    Attributes:
        table: the rows.
        detail: what happened to each.
    """

    table: Table
    detail: Detail


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        task, model, data: names; rows: how many were read.
        metrics: figure by name.
        seconds: for encoding, computing and scoring.
        kept: the rows and what happened to each, if it was asked for.
    """

    task: str
    model: str
    data: str
    rows: int
    metrics: dict[str, float]
    seconds: float
    kept: Kept | None = field(default=None, repr=False, compare=False)

    def facts(self) -> dict[str, Any]:
        """Plain data, as ``nabi evaluate --json`` prints it."""
        return {name: getattr(self, name) for name in ("task", "model", "data", "rows", "metrics", "seconds")}


def evaluate(
    model: Model,
    data: Any,
    *,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    tokens: int | None = None,
    name: str = "",
    keep: bool = False,
    calibrate: bool = False,
    rows: Sequence[Sequence[Row]] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Score a model on labelled rows.

    Args:
        model: of any task.
        data: a path, a table, a DataFrame or rows.
        columns: our column name -> the data's.
        options: of the task.
        tokens: in a batch at most.
        name: what to call the model.
        calibrate: let the model fit on these rows what it chooses on dev rows, such as a threshold; the figures are those with it.
        rows: of each example, if they are encoded already.
        ranks: the processes that share the rows; each has to call this, with the same, and gets the whole.
        keep: also keep the rows and what happened to each, for a report; nothing is kept of a task that has no ``detail``.

    Raises:
        DataError: the data can't be read, or a label is not among the model's.
    """
    table = data if isinstance(data, Table) and not columns else read_table(data, columns)
    table = model.task.opened(table)
    table.require(model.task.required(table.columns))
    if not len(table):
        raise DataError("there is nothing to evaluate on", value=table.name)
    began = time.perf_counter()
    where = table.places
    truths = [model.task.truth(row, place) for row, place in zip(table, where, strict=True)]
    given = model.options(options)
    score = model.task.score()
    detail = model.task.detail(given) if keep and isinstance(model.task, Detailed) else None
    share = range(ranks.rank * len(table) // ranks.world, (ranks.rank + 1) * len(table) // ranks.world)
    mine = slice(share.start, share.stop)
    answers = model.reader().answers(table[mine], given, tokens=tokens, where=where[mine], use="evaluate", rows=None if rows is None else rows[mine])
    if ranks.world > 1:
        answers = chain.from_iterable(ranks.all(list(answers)))
    for answer, truth in zip(answers, truths, strict=True):
        score.add(answer, truth)
        if detail is not None:
            detail.add(answer, truth)
    if calibrate:
        model.task.calibrate(score, *(() if detail is None else (detail,)))
    seconds = time.perf_counter() - began
    kept = None if detail is None else Kept(table, detail)
    return Evaluation(model.task.name, name or model.origin.family_name, table.name, len(table), score.result(), seconds, kept)
