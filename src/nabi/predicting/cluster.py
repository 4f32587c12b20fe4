"""The machines of a Ray cluster: the numbers of parts go through Ray Data, whose actors hold a model each; answers lie in the work folder, which all must see.

Ray Data deals the parts out and starts an actor or a part again where a machine is lost. What is done is noted here, where the call was made.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from nabi.errors import OptionError, WorkError
from nabi.pool import problem
from nabi.predicting.running import Call
from nabi.predicting.work import Work

BLOCKS = 1000  # at most: parts of a block are noted together


class Answering:
    """An actor: a model, and the source that it reads its parts from."""

    def __init__(self, out: str, call: str) -> None:
        self._told = out, call
        self._do: Callable[[int], dict[str, Any]] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the parts of a batch; a problem is told as an answer."""
        from nabi.predicting.worker import opened

        found = []
        for number in batch["part"].tolist():
            try:
                self._do = do = self._do or opened(*self._told)
                found.append(do(number))
            except Exception as error:  # noqa: BLE001 (whatever it is, the caller tells it)
                found.append(problem(error))
        return {"part": batch["part"], "facts": [json.dumps(facts) for facts in found]}


def answers(work: Work, call: Call, numbers: Sequence[int], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(part, what the journal says of it) of these parts, as they come: on the cluster at RAY_ADDRESS, else on one that is started here.

    Raises:
        OptionError: Ray Data is not installed.
        WorkError: Ray gave up.
    """
    try:
        import ray
        import ray.data
    except ImportError as missing:
        raise OptionError("this executor needs packages that are not installed", value=missing.name, fix="pip install 'nabi[cluster]'") from None
    if not numbers:
        return
    ours = not ray.is_initialized()
    if ours:
        ray.data.DataContext.get_current().enable_progress_bars = False  # it would log of itself every few seconds; nabi tells how the run goes
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR, num_cpus=None if "RAY_ADDRESS" in os.environ else workers)
    try:
        told = (str(work.out.absolute()), json.dumps(asdict(call)))
        parts = ray.data.from_items([{"part": number} for number in numbers], override_num_blocks=min(len(numbers), BLOCKS))
        done = parts.map_batches(Answering, fn_constructor_args=told, batch_size=1, compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=1)
        for row in done.iter_rows():
            yield int(row["part"]), json.loads(row["facts"])
    except ray.exceptions.RayError as error:
        raise WorkError(f"Ray gave up: {error}") from error
    finally:
        if ours:
            ray.shutdown()

