"""Progress of a run: loss, rate, speed and the time that is left."""

from __future__ import annotations

from collections import deque
from typing import IO, Literal

from nabi.progress import Telling, clock
from nabi.training.loop import Step


class Progress(Telling):
    """Says how a run goes.

    Args:
        style: ``auto`` is a moving line on a terminal and plain lines elsewhere; ``json`` one object a line; ``quiet`` only what :meth:`say` says;
            ``none`` nothing.
        stream: standard error if None.
        every: seconds between two plain or JSON lines.
    """

    def __init__(self, style: Literal["auto", "json", "quiet", "none"] = "auto", stream: IO[str] | None = None, every: float = 10.0) -> None:
        super().__init__(style, stream, every)
        self._recent: deque[Step] = deque(maxlen=50)

    def step(self, step: Step) -> None:
        """One update was done."""
        self._recent.append(step)
        if not self.due(last=step.number == step.total):
            return
        seconds = sum(s.seconds for s in self._recent)
        speed, left = sum(s.tokens for s in self._recent) / seconds, (step.total - step.number) * seconds / len(self._recent)
        loss = sum(s.loss for s in self._recent) / len(self._recent)
        if self.style == "json":
            self.event("step", step=step.number, steps=step.total, epoch=step.epoch, loss=loss, rate=step.rate, tokens_per_second=speed, seconds_left=left)
        else:
            self.tell(f"step {step.number}/{step.total}  loss {loss:.4f}  rate {step.rate:.2e}  {speed:,.0f} tokens/s  {clock(left)} left")
