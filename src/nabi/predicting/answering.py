"""The rows of a part to lines of JSON: one an answer, in order, with the columns that are kept; a row that can't be read stops it or is recorded."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabi.batch import Row
from nabi.data import Table
from nabi.data.lines import Broken
from nabi.data.streams import Placed
from nabi.errors import DataError, OptionError, UserError
from nabi.model import CHUNK, Model
from nabi.tasks import Example, Task

ERROR, ANSWER = "error", "answer"  # columns: of a row that could not be answered, and of an answer that is no mapping
One = tuple[str, Mapping[str, Any], Mapping[str, Any] | UserError]  # where an example stands, the row that it was in, and it or what is wrong


@dataclass
class Told:
    """What was found while a part was answered.

    Attributes:
        answers, errors: how many.
        columns: all that occur in a line, in order.
    """

    answers: int = 0
    errors: int = 0
    columns: dict[str, None] = field(default_factory=dict)


class Answerer:
    """A model that answers parts.

    Args:
        model: it.
        options: of its task.
        columns: our column name -> the data's.
        keep: columns of the data that are copied to the answers.
        record: put ``{"error": ...}`` in the place of a row that can't be read.
        name: what to call the data.
        source: the file that its rows come from, beside which there may be what they name.

    Raises:
        OptionError: a column to be kept would hide the errors.
    """

    def __init__(
        self, model: Model, options: Any, columns: Mapping[str, str], keep: Sequence[str], record: bool, name: str, source: Path | None = None
    ) -> None:
        self.model, self.options, self.columns, self.keep, self.record, self.name = model, options, columns, keep, record, name
        self._beside = model.task.beside(source)
        # a row is an example
        self._plain = self._beside is not None or model.task.opened.__func__ is Task.opened.__func__  # type: ignore[attr-defined]
        self._left_out = {*columns, *columns.values()}
        if record and ERROR in keep:
            raise _hidden(ERROR)

    def lines(self, number: int, rows: Sequence[Placed], told: Told) -> Iterator[bytes]:
        """The lines of a part.

        Args:
            number: of the part.
            rows: where each stands, and it.
            told: is filled meanwhile.

        Raises:
            DataError, InputError: a row can't be read, and that is not recorded; or not one row of the first part can be.
        """
        if number == 0:
            self._look([row for _, row in rows if not isinstance(row, Broken)])
        examples = [one for where, row in rows for one in self._examples(where, row)]
        first: UserError | None = None
        for start in range(0, len(examples), CHUNK):
            for (_, row, _), answer in self._answered(examples[start : start + CHUNK]):
                told.answers += 1
                if isinstance(answer, UserError):
                    told.errors += 1
                    first, answer = first or answer, {ERROR: str(answer)}
                else:
                    answer = self.model.task.plain(answer)
                line = self._line(row, answer)
                if isinstance(line, dict):
                    told.columns |= dict.fromkeys(line)
                yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
        if number == 0 and first is not None and told.errors == told.answers:  # no flaw of a row
            raise first

    def _look(self, rows: list[dict[str, Any]]) -> None:
        """A column that is misspelt is told with those that are there."""
        table = Table(rows, self.name)
        table = self.model.task.opened(table.renamed(self.columns) if self.columns else table)
        table.require([name for name in self._needed(table.columns) if name not in table.columns])
        Table(rows, self.name).require([name for name in self.keep if name not in (*table.columns, *(key for row in rows for key in row))])

    def _needed(self, columns: Sequence[str]) -> tuple[str, ...]:
        return self.model.task.required(columns)[:1]

    def _examples(self, where: str, row: dict[str, Any]) -> Iterator[One]:
        """The examples of a row: one, but where the task's rows may hold several."""
        try:
            if isinstance(row, Broken):
                raise row.problem
            example: Example = self._renamed(where, row)
            if self._plain:
                _has(where, example, self._needed(tuple(example)))
                example = self._beside(example, where) if self._beside else example
                yield where, row, example
                return
            table = self.model.task.opened(Table([dict(example)], self.name, places=lambda _: where))
            table.require(self._needed(table.columns))
            yield from ((where, row, each) for each in table)
        except UserError as problem:
            if not self.record:
                raise
            yield where, row, problem

    def _renamed(self, where: str, row: dict[str, Any]) -> dict[str, Any]:
        if not self.columns:
            return row
        _has(where, row, self.columns.values())
        return {ours: row[theirs] for ours, theirs in self.columns.items()} | {k: v for k, v in row.items() if k not in self._left_out}

    def _answered(self, examples: Sequence[One]) -> Iterator[tuple[One, Any]]:
        good, encoded, bad = list[Example](), list[list[Row]](), dict[int, UserError]()
        for place, (where, _, example) in enumerate(examples):
            try:
                if isinstance(example, UserError):
                    raise example
                read = self.model.task.example_of(example, where)
                encoded.append(self.model.encode(read, self.options, "predict", where, len(good)))
                good.append(read)
            except UserError as problem:
                if not self.record:
                    raise
                bad[place] = problem
        answers = self.model.answered(good, encoded, self.options)
        for place, one in enumerate(examples):
            yield one, bad[place] if place in bad else next(answers)

    def _line(self, row: Mapping[str, Any], answer: Any) -> Any:
        if not self.keep:
            return answer
        if not isinstance(answer, Mapping):
            answer = {ANSWER: answer}
        if hidden := [name for name in self.keep if name in answer]:
            raise _hidden(hidden[0])
        return {name: _writable(self._kept(row, name), name) for name in self.keep} | answer

    def _kept(self, row: Mapping[str, Any], name: str) -> Any:
        """A cell by our name for it or the data's; null where the row has none."""
        return row.get(self.columns.get(name, name), row.get(name))


def _has(where: str, row: Mapping[str, Any], names: Any) -> None:
    if missing := [name for name in names if name not in row]:
        raise DataError(f"{where}: no column '{missing[0]}' in this row", value=row, expected="the same columns in each row",
                        fix="add it, or leave the row out")  # fmt: skip


def _hidden(name: str) -> OptionError:
    return OptionError("a column that is to be kept has the name of a column of the answers", value=name,
                       fix=f"give it another name: --columns my_{name}={name} --keep my_{name}")  # fmt: skip


def _writable(value: Any, name: str) -> Any:
    """A cell as JSON has it.

    Raises:
        DataError: JSON has none such (bytes).
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _writable(item, name) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _writable(value.tolist(), name)
    if isinstance(value, list | tuple):
        return [_writable(item, name) for item in value]
    raise DataError(f"the column '{name}' can't be kept: its cells are of type {type(value).__name__}", expected="text, numbers, dates or lists of them")
