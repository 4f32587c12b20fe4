"""Reading ahead by several threads. For images, whose unpacking and resizing hold no lock of Python's.

Unusual: where the caller computes on the same cores, nothing is read meanwhile, since the threads of the one would wait for those of the other: a small
model of images answers a quarter more images a second so.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = 8  # at most


def ahead(function: Callable[[T], R], items: Iterable[T], most: int, *, meanwhile: bool) -> Iterator[R]:
    """``function`` of each item, in order; as soon as one raises, so does this, and what comes before it has been yielded.

    Args:
        function: called in other threads, on several items at a time.
        items: taken in this thread.
        most: so many are read and not yet asked for, at most.
        meanwhile: read on while the caller computes, as it should where that is done elsewhere; otherwise ``most`` are read, then handed out, then the next.
    """
    waiting: deque[Future[R]] = deque()
    problem: Exception | None = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(THREADS, cores)) as pool:
        try:
            source = iter(items)
            while True:
                try:
                    waiting.append(pool.submit(function, next(source)))
                except StopIteration:
                    break
                except Exception as error:  # noqa: BLE001  # raised below, when those before it have had their say
                    problem = error
                    break
                if len(waiting) >= most:
                    if not meanwhile:
                        wait(waiting)
                    for _ in range(1 if meanwhile else most):
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if problem is not None:
                raise problem
        finally:
            for each in waiting:
                each.cancel()
