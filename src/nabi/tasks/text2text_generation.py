"""Text to text: write a text for a text, whatever the task in front of it says (Raffel et al. 2019, section 2.1)."""

from __future__ import annotations

from typing import Any

from nabi.metrics import SummaryScore
from nabi.metrics.written import Summarised
from nabi.tasks import Score
from nabi.tasks._seq2seq import TextToText


class Text2TextGeneration(TextToText):
    """Write a target for a source."""

    name = "text2text_generation"
    defaults = ("google-t5/t5-base", "t5-base")
    hf_task = "text2text-generation"
    key = "generated"
    main_metric = "rougeL"
    told_by = (("source", "target"),)
    in_pieces = False  # what a piece of a question means, nobody knows

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
