"""What each step trains on: a pure function of (seed, step), so that a resumed run reads exactly what it would have read.

Unusual: there is no shuffled list and no iterator state; the order is a permutation that can be asked for any place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from nabi.batch import FILLER, Batch, Row, batch_of
from nabi.data.order import Order, mixed, permuted
from nabi.errors import DataError
from nabi.model import Model
from nabi.training.plan import Plan
from nabi.training.windows import Windows


class Feed:
    """The encoded training data and its order.

    Args:
        model: whose task corrupts rows and names their class.
        rows: the rows of each example, as ``Model.encode`` made them with ``use="train"``, or the ``Windows`` of token shards.
        plan: batch, tokens, windows, sampler, seed.

    Raises:
        DataError: there are no examples.
    """

    def __init__(self, model: Model, rows: Sequence[Sequence[Row]], plan: Plan) -> None:
        if not rows:
            raise DataError("there is nothing to train on")
        self.task, self.rows, self.plan, self._grain = model.task, rows, plan, model.body.grain
        self.steps_per_epoch = math.ceil(len(rows) / plan.batch)
        self._strata: list[list[int]] = []
        if plan.sampler == "balanced":
            by_class: dict[str, list[int]] = {}
            for i, of_example in enumerate(rows):
                label = self.task.stratum(of_example[0])
                if label is None:
                    raise DataError(f"{self.task.name} has no classes that could be balanced", fix="use plan.sampler=shuffle")
                by_class.setdefault(label, []).append(i)
            self._strata = list(by_class.values())

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.plan.total(self.steps_per_epoch)

    def order(self, epoch: int, i: int) -> int:
        """The example at place ``i`` of an epoch."""
        if self._strata:
            members = self._strata[mixed(self.plan.seed, epoch, i, 1) % len(self._strata)]
            return members[mixed(self.plan.seed, epoch, i, 2) % len(members)]
        return Order(len(self.rows), self.plan.seed, epoch)[i]

    def examples(self, n: int) -> list[int]:
        """The examples of step ``n``; the last step of an epoch may have fewer."""
        epoch, step = divmod(n, self.steps_per_epoch)
        first = step * self.plan.batch
        return [self.order(epoch, i) for i in range(first, min(first + self.plan.batch, len(self.rows)))]

    def step(self, n: int, rank: int = 0, world: int = 1) -> list[Batch]:
        """The micro-batches of step ``n`` for one of ``world`` processes; every process gets equally many."""
        epoch = n // self.steps_per_epoch
        chosen = [self._corrupted(row, epoch, e, window) for e in self.examples(n) for window, row in enumerate(self._windows(e, epoch))]
        groups = self._cut(chosen, world)
        while len(groups) % world:  # an empty micro-batch would leave the other processes waiting
            first = [replace(row, example=FILLER) for row in chosen if row.example == chosen[0].example]
            groups.append(list(range(len(chosen), len(chosen) + len(first))))
            chosen += first
        return [batch_of(chosen, ids, self.task.targets) for ids in groups[rank::world]]

    def _windows(self, example: int, epoch: int) -> Sequence[Row]:
        rows = self.rows[example]
        if len(rows) <= self.plan.windows or self.task.together or isinstance(self.rows, Windows):  # these rows are documents, not pieces of one text
            return rows
        key = mixed(self.plan.seed, epoch, example, 3)
        return [rows[i] for i in sorted(permuted(j, len(rows), key) for j in range(self.plan.windows))]

    def _corrupted(self, row: Row, epoch: int, example: int, window: int) -> Row:
        return self.task.corrupt(row, torch.Generator().manual_seed(mixed(self.plan.seed, epoch, example, 4, window) >> 1))

    def _cut(self, rows: Sequence[Row], world: int) -> list[list[int]]:
        """Row numbers by micro-batch: by length, at most ``plan.tokens`` each; the rows of an example, or of the whole step, stay together if they must."""
        if self.task.whole_batch:  # every process has a share, and the loss gathers the others'
            return [list(range(rank, len(rows), world)) for rank in range(min(world, len(rows)))]
        units: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            units.setdefault(row.example if self.task.together else i, []).append(i)
        sizes = {key: sum(rows[i].work(self._grain) for i in ids) for key, ids in units.items()}
        groups: list[list[int]] = []
        filled = 0
        for key in sorted(units, key=sizes.__getitem__):
            if not groups or filled + sizes[key] > self.plan.tokens:
                groups.append([])
                filled = 0
            groups[-1] += units[key]
            filled += sizes[key]
        return groups
