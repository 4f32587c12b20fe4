"""How work tells of itself: one line that moves on a terminal, plain lines in a file, JSON lines on request; a moving line never reaches a file."""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import IO, Any, Literal


class Telling:
    """Tells how work goes on.

    Args:
        style: ``auto`` is a moving line on a terminal and plain lines elsewhere; ``json`` one object a line; ``quiet`` only what :meth:`say` says;
            ``none`` nothing.
        stream: standard error if None.
        every: seconds between two plain or JSON lines.
    """

    def __init__(self, style: Literal["auto", "json", "quiet", "none"] = "auto", stream: IO[str] | None = None, every: float = 10.0) -> None:
        self.stream = stream or sys.stderr
        self.style, self.every = style, every
        self.moving = style == "auto" and self.stream.isatty()
        self._told = time.monotonic()
        self._drawn = False

    def due(self, last: bool = False) -> bool:
        """Whether it is time for another line; ``last``: of the work, which is told at any time."""
        now = time.monotonic()
        if self.style in ("quiet", "none") or (now - self._told < (0.1 if self.moving else self.every) and not last):
            return False
        self._told = now
        return True

    def tell(self, line: str) -> None:
        """A line in the place of the one before it on a terminal, else below it."""
        if self.moving:
            self.stream.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
            self.stream.flush()
            self._drawn = True
        else:
            print(line, file=self.stream, flush=True)

    def say(self, sentence: str, **facts: Any) -> None:
        """A sentence for the reader, on a line of its own; under ``json`` its facts."""
        if self.style == "none":
            return
        if self._drawn:
            self.stream.write("\n")
            self._drawn = False
        if self.style == "json":
            self.event("note", text=sentence, **facts)
        else:
            print(sentence, file=self.stream, flush=True)

    def event(self, kind: str, **facts: Any) -> None:
        """One JSON object on a line of its own."""
        print(json.dumps({"event": kind, **facts}, ensure_ascii=False), file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
