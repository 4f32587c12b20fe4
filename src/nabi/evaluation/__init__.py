"""Evaluation: a model's answers on labelled data in figures, two models on the same rows, and the report and the card that say so."""

from nabi.evaluation.comparison import Comparison, Difference, Flip, compare
from nabi.evaluation.scoring import Evaluation, Kept, evaluate

__all__ = ["Comparison", "Difference", "Evaluation", "Flip", "Kept", "compare", "evaluate"]
