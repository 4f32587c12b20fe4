"""What can befall a run from outside and from inside: a signal that asks it to end, and a loss that leaps up and stays there."""

from __future__ import annotations

import signal
import statistics
import threading
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
WINDOW, FEW, PERSIST, FLOOR = 100, 20, 5, 0.05  # losses looked back on; the fewest of them; in a row; least deviation, as a share of the median


class Stopping:
    """Takes SIGTERM, and the first SIGINT, as a wish that is read between two updates; a context manager.

    Handlers are put in place in the main thread alone, only where the caller has none of its own, and taken away at the end. A second SIGINT interrupts
    at once, as it would without us; further SIGTERMs change nothing, since a group that is being ended often gets several.

    Attributes:
        asked: whether this process was asked to end.
        signal: by which signal, the first one.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)

    def end(self) -> None:
        """End this process the way that the signal would have: 143 for SIGTERM, 130 for SIGINT.

        Raises:
            SystemExit, KeyboardInterrupt: always.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


class Spikes:
    """Notices a loss that leaps up and stays there, which no update that follows will mend.

    A loss is too high above median + limit x deviation of the last :data:`WINDOW`, the deviation being 1.4826 x MAD (Leys et al. 2013: the median absolute
    deviation is not moved by the outliers that it is to find) and at least :data:`FLOOR` of the median. A single one is an odd batch, so only
    :data:`PERSIST` of them in a row count.

    Args:
        limit: how many deviations; None never notices anything.
        state: what :meth:`state` gave before the run was broken off.

    Attributes:
        high: the losses of the latest steps in a row that were too high.
    """

    def __init__(self, limit: float | None, state: Mapping[str, Any] | None = None) -> None:
        self.limit = limit
        self.usual: list[float] = list(state["usual"]) if state else []
        self.high: list[float] = list(state["high"]) if state else []

    def add(self, loss: float) -> str | None:
        """Take the loss of the next step; what is wrong, if it is."""
        if self.limit is None:
            return None
        if len(self.usual) >= FEW:
            middle = statistics.median(self.usual)
            spread = max(1.4826 * statistics.median(abs(x - middle) for x in self.usual), FLOOR * abs(middle))
            if loss > middle + self.limit * spread:
                self.high.append(loss)
                if len(self.high) < PERSIST:
                    return None
                how = f"{PERSIST} steps in a row over {self.limit:g} deviations of {spread:.3g} above it"
                return f"the loss is {loss:.4g} and was {middle:.4g}, {how} (plan.spike)"
        self.usual = [*self.usual, *self.high, loss][-WINDOW:]
        self.high = []
        return None

    def state(self) -> dict[str, Any]:
        """Plain data from which it goes on."""
        return {"usual": list(self.usual), "high": list(self.high)}
