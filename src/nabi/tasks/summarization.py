"""Summarisation: a short text for a long one.

Unusual: a document that does not fit is summarised by parts, whole sentences each, and then the summaries are, until one is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nabi.batch import Row
from nabi.errors import InputError
from nabi.inputs import Inputs
from nabi.metrics import SummaryScore
from nabi.metrics.written import Summarised
from nabi.tasks import Again, Example, Score, Use
from nabi.tasks._seq2seq import TextToText

ROUNDS = 8  # of summaries of summaries, at most


class Summarization(TextToText):
    """Write a summary."""

    name = "summarization"
    defaults = ("sshleifer/distilbart-cnn-12-6",)
    hf_task = "summarization"
    key = "summary"
    main_metric = "rougeL"

    def encode(self, example: Example, inputs: Inputs, options: Any, use: Use = "predict", where: str = "") -> list[Row]:
        rows = super().encode(example, inputs, options, use, where)
        if len(rows) > 1:
            # what a later round puts around the summaries: the special tokens, and the prefix
            frame = inputs.tokenizer.encode(self.before(options, inputs)).ids
            marked = inputs.tokenizer.encode("a").special
            after = len(frame) - next(i for i, special in enumerate(reversed(marked)) if not special)
            for row in rows:
                row.notes |= {"frame": (frame[:after], frame[after:]), "limit": inputs.max_length, "round": 1}
        return rows

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: Any) -> Any:
        """As for ``TextToText``; a document in parts asks for another round, over the summaries of its parts."""
        if len(rows) == 1:
            answer = super().answer(readings, rows, example, options)
            return {**answer, "parts": rows[0].notes["parts"]} if "parts" in rows[0].notes else answer
        notes = rows[0].notes
        if notes["round"] >= ROUNDS:
            raise InputError("summaries of summaries do not become short", value=f"{len(rows)} parts left", fix="lower max_length or min_length")
        before, after = notes["frame"]
        room = notes["limit"] - len(before) - len(after)
        groups: list[list[int]] = [[]]
        for pieces in readings:
            tokens = list(pieces[0].tokens)[:room]
            if len(groups[-1]) + len(tokens) > room:
                groups.append([])
            groups[-1] += tokens
        parts = notes.get("parts") or [
            {"start": row.notes["place"][0], "end": row.notes["place"][1], "text": pieces[0].text} for row, pieces in zip(rows, readings, strict=True)
        ]
        whole = (0, len(example["source"]))
        return Again(
            [
                Row(
                    {"text": {"tokens": [*before, *group, *after]}},
                    example=rows[0].example,
                    notes={**notes, "place": whole, "round": notes["round"] + 1, "parts": parts, "truncated": False},
                )
                for group in groups
            ]
        )

    def final(self, rows: Sequence[Row]) -> bool:
        return len(rows) == 1

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


TASK = Summarization
