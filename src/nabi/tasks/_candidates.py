"""What the zero-shot tasks have in common: the labels that a call names, the sentences about them, and the score over whatever was chosen from."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from nabi.errors import DataError, InputError, OptionError
from nabi.metrics import ConfusionScore
from nabi.metrics.chosen import Chosen


def names(where: str, *stated: Any) -> tuple[str, ...]:
    """The candidate labels: the first of ``stated`` that is not None.

    Raises:
        InputError: there are none, or they are no names.
    """
    given = next((labels for labels in stated if labels is not None), None)
    found = [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given
    if not isinstance(found, Sequence) or not found or not all(isinstance(name, str) and name.strip() for name in found):
        what = f"{where or 'an input'} has no candidate labels" if not found else f"{where or 'an input'}: the candidate labels are no names"
        fix = "give candidate_labels with the call, or as a column of the data"
        raise InputError(what, value=given if given != () else None, expected="a list of names, or 'a, b, c'", fix=fix)
    return tuple(found)


def hypothesis(template: str, label: str) -> str:
    """The sentence about a label.

    Raises:
        OptionError: the template has no place for it, or more than one can fill.
    """
    wrong = OptionError("the hypothesis template can't be filled", value=template, expected="a sentence with {} where the label goes")
    try:
        if any(name is not None for _, name, _, _ in string.Formatter().parse(template)):
            return template.format(label)
    except (ValueError, IndexError, KeyError, AttributeError):
        raise wrong from None
    raise wrong


def name_of(value: Any, where: str) -> str:
    """The label of a row as a name.

    Raises:
        DataError: it is missing or no label.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | Integral) or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: the label is missing or no label", value=repr(value), expected="one of the candidate labels")
    return str(value)


def softmax(values: Sequence[float]) -> list[float]:
    """Probabilities."""
    high = max(values)
    powers = [math.exp(x - high) for x in values]
    return [p / sum(powers) for p in powers]


class ChosenScore(ConfusionScore):
    """Accuracy over whatever labels the answers chose from."""

    def add(self, answer: Any, truth: Any) -> None:  # type: ignore[override]
        self.labels = tuple(dict.fromkeys((*self.labels, *sorted(answer["labels"]))))
        super().add(answer["label"], truth, answer["score"])


class ChosenDetail(Chosen):
    """The same, row by row."""

    def add(self, answer: Any, truth: Any) -> None:
        super().add((answer["label"], dict(zip(reversed(answer["labels"]), reversed(answer["scores"]), strict=True))), truth)
