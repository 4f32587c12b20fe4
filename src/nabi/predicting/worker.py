"""One process of several that answer a file: told the numbers of parts.

    python -m nabi.predicting.worker OUT CALL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nabi.config import from_dict
from nabi.errors import DataError
from nabi.pool import Order, serve
from nabi.predicting.answering import Answerer
from nabi.predicting.running import Call, Parts, digest_of_model
from nabi.predicting.source import Source
from nabi.predicting.work import Work


def opened(out: str, call: str) -> Callable[[int], dict[str, Any]]:
    """What answers a part, with a model of its own.

    Args:
        out: the file that is written.
        call: a ``Call`` as JSON.

    Raises:
        DataError: the model is not the one that the run was begun with.
    """
    work, told = Work(Path(out)), from_dict(Call, json.loads(call), "the call of a worker")
    source, model = Source(told.data, told.record), told.load()
    if digest_of_model(model) != json.loads((work.folder / "job.json").read_text(encoding="utf-8"))["model"]:
        raise DataError("the model was changed while it was in use", value=told.model, fix="leave it alone, and start again")
    return Parts(work, source, told.part, Answerer(model, model.options(told.options), told.columns, told.keep, told.record, source.name, source.table))


def main() -> None:
    """Answer what is ordered until the input ends."""
    do: list[Callable[[int], dict[str, Any]]] = []

    def answer(order: Order) -> dict[str, Any]:
        if not do:  # now, so that its errors are told as answers
            do.append(opened(*sys.argv[1:]))
        return do[0](order[0])

    serve(answer)


if __name__ == "__main__":
    main()
