"""Text to text: write a text for a text, whatever the task in front of it says (Raffel et al. 2019, section 2.1).

Unusual: a source that does not fit is read in pieces, whole sentences where it has any, and each piece begins with what stands in front of the first: the task
("summarize: "), or a question whose context is long. The answers of the pieces are joined, and ``pieces`` has each with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nabi.metrics import SummaryScore
from nabi.metrics.written import Summarised
from nabi.tasks import Score
from nabi.tasks._seq2seq import TextToText

# what T5 was trained with: a few words before a colon, as its appendix D spells them, or a question and its context
_TASK = re.compile(r"\s*(?:question:.*?\bcontext:|[^\W\d_][\w-]*(?: [\w-]+){0,5}:)\s+", re.DOTALL)


class Text2TextGeneration(TextToText):
    """Write a target for a source."""

    name = "text2text_generation"
    defaults = ("google-t5/t5-base", "t5-base")
    hf_task = "text2text-generation"
    key = "generated"
    main_metric = "rougeL"
    told_by = (("source", "target"),)

    def front(self, source: str, small: Callable[[str], bool]) -> int:
        task = _TASK.match(source)
        return task.end() if task and task.end() < len(source) and small(task.group()) else 0

    def score(self) -> Score:
        return _Score()

    def detail(self, options: Any) -> Any:
        """What a report is made of."""
        return _Detail()


class _Score(SummaryScore):
    def add(self, answer: Any, truth: str) -> None:
        super().add(answer["text"], truth)


class _Detail(Summarised):
    def add(self, answer: Any, truth: Any) -> None:
        super().add(answer["text"], truth)


TASK = Text2TextGeneration
