"""The training loss of every step, kept small however long the run: when there are too many values, neighbours become their mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIMIT = 1000  # values that are kept at most


class Curve:
    """Means over equally many steps.

    Args:
        state: what :meth:`state` gave before the run was broken off.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.each: int = state["each"] if state else 1  # steps in a value
        self.values: list[float] = list(state["values"]) if state else []
        self.rest: list[float] = list(state["rest"]) if state else []  # steps that do not make a value yet

    def add(self, loss: float) -> None:
        """The loss of the next step."""
        self.rest.append(loss)
        if len(self.rest) < self.each:
            return
        self.values.append(sum(self.rest) / self.each)
        self.rest = []
        if len(self.values) == LIMIT:
            self.values = [(a + b) / 2 for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
            self.each *= 2

    def state(self) -> dict[str, Any]:
        """Plain data from which the curve goes on."""
        return {"each": self.each, "values": list(self.values), "rest": list(self.rest)}

    def points(self) -> list[tuple[float, float]]:
        """(last step of a mean, mean)."""
        return [(float((i + 1) * self.each), value) for i, value in enumerate(self.values)]
