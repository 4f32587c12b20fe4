"""Progress of a run: one line that moves on a terminal, plain lines in a file, JSON lines on request; a moving line never reaches a file."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import deque
from typing import IO, Any, Literal

from nabi.training.loop import Step


class Progress:
    """Says how a run goes.

    Args:
        style: ``auto`` is a moving line on a terminal and plain lines elsewhere; ``json`` one object a line; ``quiet`` only what :meth:`say` says.
        stream: standard error if None.
        every: seconds between two plain or JSON lines.
    """

    def __init__(self, style: Literal["auto", "json", "quiet"] = "auto", stream: IO[str] | None = None, every: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.style, self.every = style, every
        self.moving = style == "auto" and self.stream.isatty()
        self._recent: deque[Step] = deque(maxlen=50)
        self._said = time.monotonic()
        self._drawn = False

    def step(self, step: Step) -> None:
        """One update was done."""
        self._recent.append(step)
        now = time.monotonic()
        if self.style == "quiet" or (now - self._said < (0.1 if self.moving else self.every) and step.number != step.total):
            return
        self._said = now
        seconds = sum(s.seconds for s in self._recent)
        speed, left = sum(s.tokens for s in self._recent) / seconds, (step.total - step.number) * seconds / len(self._recent)
        loss = sum(s.loss for s in self._recent) / len(self._recent)
        if self.style == "json":
            self._json("step", step=step.number, steps=step.total, epoch=step.epoch, loss=loss, rate=step.rate, tokens_per_second=speed, seconds_left=left)
            return
        line = f"step {step.number}/{step.total}  loss {loss:.4f}  rate {step.rate:.2e}  {speed:,.0f} tokens/s  {_clock(left)} left"
        if self.moving:
            self.stream.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
            self._drawn = True
        else:
            print(line, file=self.stream, flush=True)

    def say(self, sentence: str, **facts: Any) -> None:
        """A sentence for the reader, on a line of its own; under ``json`` its facts."""
        if self._drawn:
            self.stream.write("\n")
            self._drawn = False
        if self.style == "json":
            self._json("note", text=sentence, **facts)
        else:
            print(sentence, file=self.stream, flush=True)

    def _json(self, kind: str, **facts: Any) -> None:
        print(json.dumps({"event": kind, **facts}, ensure_ascii=False), file=self.stream, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
