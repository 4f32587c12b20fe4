"""One worker process of the local executor: told (stage, task).

    python -m nabi.data.corpus.worker FOLDER
"""

from __future__ import annotations

import sys

from nabi.data.corpus.stages import stage
from nabi.data.corpus.work import Work
from nabi.pool import Order, serve


def main() -> None:
    """Do what is told until the input ends."""
    work = Work(sys.argv[1])

    def do(order: Order) -> dict[str, int]:
        name, number = order
        stage(work.recipe, name).do(work, number)
        return {"task": number}

    serve(do)


if __name__ == "__main__":
    main()
