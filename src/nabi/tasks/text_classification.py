"""Text classification: one label a text or pair, several labels, or a number.

Unusual: a long text is read whole, in windows whose logits are averaged by length; nothing is cut unless the caller asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nabi.batch import Row
from nabi.errors import InputError
from nabi.inputs import Inputs, Reading
from nabi.tasks import Example, Use
from nabi.tasks._classifying import ClassificationSettings, Classifying

__all__ = ["ClassificationOptions", "ClassificationSettings", "TextClassification"]


@dataclass(frozen=True)
class ClassificationOptions(Reading):
    """What a call may set, beside how a text is read.

    Attributes:
        top_k: how many labels, None for all; ``best`` is the best one alone.
        function_to_apply: ``sigmoid``, ``softmax`` or ``none``; by the problem if None.
        return_all_scores: v4's old name for ``top_k=None``, labels in their own order.
        threshold: from which score a label of a multi-label model is given.
    """

    top_k: int | Literal["best"] | None = "best"
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    return_all_scores: bool = False
    threshold: float = 0.5


class TextClassification(Classifying):
    """Give each text its label."""

    name = "text_classification"
    aliases = ("sentiment_analysis",)
    defaults = ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "distilbert-base-uncased-finetuned-sst-2-english")
    columns = ("text", "label")
    optional_columns = ("text_pair",)
    Options = ClassificationOptions

    def encode(self, example: Example, inputs: Inputs, options: ClassificationOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text, pair = example.get("text"), example.get("text_pair")
        if not isinstance(text, str) or not isinstance(pair, str | None):
            problem = text if not isinstance(text, str) else pair
            raise InputError(f"{where or 'an input'} has no text", value=problem, expected="a str, or {'text': ..., 'text_pair': ...}")
        windows, cut = inputs.read(text, pair, options, where=where)
        rows = []
        for window in windows:
            notes = {"content": window.weight, "truncated": cut}
            rows.append(Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes=notes))
        if use == "train":
            self.aim(rows, example, where)
        return rows

    def answer(self, readings: Sequence[list[float]], rows: Sequence[Row], example: Example, options: ClassificationOptions) -> dict[str, Any]:
        """``{"label", "score", "scores", "windows", "truncated"}``; the label of a multi-label model is a list, of a regression the number."""
        found = super().answer(readings, rows, example, options)
        return {**found, "windows": len(rows), "truncated": any(row.notes["truncated"] for row in rows)}

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A str, a mapping, or v4's old form of a pair, ``[[text, text_pair]]``."""
        if isinstance(item, list | tuple):
            if len(item) != 1 or not isinstance(item[0], list | tuple) or len(item[0]) != 2:
                fix = "give a pair as {'text': ..., 'text_pair': ...}, several texts in one flat list"
                raise InputError(f"{where} is a list", value=item, expected="a str or a mapping", fix=fix)
            return {"text": item[0][0], "text_pair": item[0][1]}
        return super().example_of(item, where)

    def present(self, answer: Any, options: ClassificationOptions, alone: bool) -> Any:
        """v4's shapes: a dict; a sorted list with ``top_k``; ``return_all_scores`` keeps the labels' own order; in a list again if ``alone``."""
        scored = [{"label": name, "score": score} for name, score in answer["scores"].items()]
        if options.top_k != "best":
            result: Any = sorted(scored, key=lambda item: -item["score"])[: options.top_k]
        else:
            result = scored if options.return_all_scores else max(scored, key=lambda item: item["score"])
        return [result] if alone else result


TASK = TextClassification
