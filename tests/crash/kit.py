"""Checkpoints made by hand, in one process or in several that are threads here, for the tests of what can befall them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

import nabi
from nabi.model import Model
from nabi.ranks import Ranks
from nabi.tasks.text_classification import ClassificationSettings
from nabi.training.loop import State
from nabi.training.plan import Plan
from nabi.training.runs import RunFolder
from nabi.weights import dealt

T = TypeVar("T")
SIZE = {"vocab_size": 1, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "max_positions": 64}
GIVEN = {"data": "these rows"}
WAIT = 20  # seconds that a rank waits for the others


class Threads(Ranks):
    """One of several processes, which are threads here."""

    def __init__(self, rank: int, world: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world, self.board, self.barrier = rank, world, board, barrier

    def all(self, value: Any) -> list[Any]:
        self.board[self.rank] = value
        self.barrier.wait(WAIT)
        found = list(self.board)
        self.barrier.wait(WAIT)
        return found


def on_all(world: int, work: Callable[[Threads], T]) -> list[T | BaseException]:
    """What each of ``world`` ranks gives or raises."""
    board, barrier = [None] * world, threading.Barrier(world)

    def one(rank: int) -> T | BaseException:
        try:
            return work(Threads(rank, world, board, barrier))
        except Exception as problem:  # noqa: BLE001 - the tests look at it
            return problem

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def model(tokenizer: Path, step: int = 0) -> Model:
    """A BERT of one tiny layer, its weights drawn from ``step``."""
    return nabi.create("bert", SIZE, "text_classification", ClassificationSettings(labels=("neg", "pos")), tokenizer, seed=step)


def moments(built: Model, step: int) -> dict[str, torch.Tensor]:
    """Something like an optimizer's tensors, of this step."""
    dice = torch.Generator().manual_seed(step)
    return {f"{name}.{what}": torch.rand(p.shape, generator=dice) for name, p in built.named_parameters() for what in ("exp_avg", "exp_avg_sq")}


def save(folder: RunFolder, built: Model, step: int, plan: Plan | None = None, *, best: bool = False, wait: bool = True) -> None:
    """The checkpoint of a step; each rank gives its share of the moments."""
    mine, ranks = moments(built, step), folder.ranks
    share = dealt({name: x.nbytes for name, x in mine.items()}, ranks.world)[ranks.rank]
    folder.save_last(built, State(step, {name: mine[name] for name in share}, {"note": f"of step {step}"}), plan or Plan(), GIVEN, best, wait)


def written(path: Path, tokenizer: Path, steps: list[int], world: int = 1, plan: Plan | None = None, *, best: bool = False) -> None:
    """A run with a checkpoint at each of ``steps``."""

    def work(ranks: Threads) -> None:
        with RunFolder(path, resume=True, ranks=ranks) as folder:
            folder.make()
            for step in steps:
                save(folder, model(tokenizer, step), step, plan, best=best)

    problems = [problem for problem in on_all(world, work) if problem is not None]
    assert not problems, problems


def found(path: Path, plan: Plan | None = None) -> tuple[RunFolder, State]:
    """What one process that goes on with the run would take."""
    with RunFolder(path, resume=True) as folder:
        return folder, folder.load_last(plan or Plan(), GIVEN)
