"""Image classification: one label an image, several labels, or a number (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from nabi.batch import Row
from nabi.data.augmenting import Augmentation
from nabi.inputs import Inputs
from nabi.tasks import Example, Use
from nabi.tasks._classifying import ClassificationSettings, Classifying
from nabi.tasks._seeing import Looking, Seeing


@dataclass(frozen=True)
class ImageClassificationOptions(Looking):
    """What a call may set, beside how an image is read.

    Attributes:
        top_k: how many labels a pipeline gives, None for all.
        function_to_apply: ``sigmoid``, ``softmax`` or ``none``; by the problem if None.
        threshold: from which score a label of a multi-label model is given.
    """

    top_k: int | None = 5
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    threshold: float = 0.5


@dataclass(frozen=True)
class ImageClassificationSettings(ClassificationSettings):
    """What belongs to the model.

    Attributes:
        augmentation: what is done to images of training.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)


class ImageClassification(Seeing, Classifying):
    """Give each image its label."""

    name = "image_classification"
    defaults = ("google/vit-base-patch16-224",)
    columns = ("image", "label")
    told_by = (("image",),)
    classed = True
    Options, Settings = ImageClassificationOptions, ImageClassificationSettings

    def encode(self, example: Example, inputs: Inputs, options: ImageClassificationOptions, use: Use = "predict", where: str = "") -> list[Row]:
        row = self.seen(example, inputs, options, where, content=1.0)
        if use == "train":
            row.notes["side"] = inputs.images.side
            self.aim([row], example, where)
        return [row]

    def corrupt(self, row: Row, generator: torch.Generator) -> Row:
        augmentation: Augmentation = self.settings.augmentation
        return augmentation.applied(row, generator)

    def present(self, answer: Any, options: ImageClassificationOptions, alone: bool) -> Any:
        """v4's shape: a list of labels with their scores, best first."""
        scored = [{"label": name, "score": score} for name, score in answer["scores"].items()]
        return sorted(scored, key=lambda item: -item["score"])[: options.top_k]


TASK = ImageClassification
