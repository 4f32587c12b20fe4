"""Answers to a whole file of rows: resumable, each row exactly once, in constant memory."""

from nabi.predicting.running import Predicted, predict_file

__all__ = ["Predicted", "predict_file"]
