"""Zero-shot image classification: any candidate labels, by a model of two towers (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", section 3.1).

Each label becomes a sentence ("This is a photo of a cat."), and the image belongs to the one whose vector is nearest. Several sentences to a label are
averaged (section 3.1.4). Unusual: a label is read once for all images, and again only if the weights change; training sets an image against the labels
of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.batch import Row
from nabi.data.augmenting import Augmentation
from nabi.errors import DataError, unknown
from nabi.inputs import Inputs
from nabi.metrics.detail import Array, Detail
from nabi.tasks import Example, Score, Use, _candidates
from nabi.tasks._pairing import ImageText, PairingOptions

TEMPLATE = "This is a photo of {}."  # the incumbent's


@dataclass(frozen=True)
class ZeroShotImageOptions(PairingOptions):
    """What a call may set, beside how an image and a text are read.

    Attributes:
        candidate_labels: a list, or one str with commas between them; those of the example, else of the model's training, if None.
        hypothesis_template: a sentence with {} where a label goes, or several; those that the model was trained with if None.
    """

    candidate_labels: str | tuple[str, ...] | None = None
    hypothesis_template: str | tuple[str, ...] | None = None


@dataclass(frozen=True)
class ZeroShotImageSettings:
    """What belongs to the model.

    Attributes:
        candidates: the labels that it was trained on, used where a call names none.
        hypothesis_template: a sentence with {} where a label goes, or several, of which each epoch of training takes one for an image.
        augmentation: what is done to images of training.
    """

    candidates: tuple[str, ...] = ()
    hypothesis_template: str | tuple[str, ...] = TEMPLATE
    augmentation: Augmentation = field(default_factory=Augmentation)


class ZeroShotImageClassification(ImageText):
    """Give each image one of the labels that the caller names."""

    name = "zero_shot_image_classification"
    defaults = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32")
    columns = ("image", "label")
    optional_columns = ("candidate_labels",)
    Options, Settings = ZeroShotImageOptions, ZeroShotImageSettings
    main_metric = "accuracy"

    def __init__(self, settings: ZeroShotImageSettings) -> None:
        super().__init__(settings)
        self._sentences("", settings.hypothesis_template)

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> ZeroShotImageSettings:
        found = {_candidates.name_of(example.get("label"), f"{where}, row {i + 1}") for i, example in enumerate(examples)}
        candidates = tuple(given.get("candidates") or sorted(found))
        if len(candidates) < 2:
            raise DataError("there is only one class", value=f"{where}: {list(candidates)}", expected="at least two labels", fix="add rows of another class")
        return ZeroShotImageSettings(**{**given, "candidates": candidates})

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def _sentences(self, label: str, template: str | tuple[str, ...] | None) -> list[str]:
        templates = template or self.settings.hypothesis_template
        return [_candidates.hypothesis(one, label) for one in ((templates,) if isinstance(templates, str) else templates)]

    def _names(self, example: Example, options: ZeroShotImageOptions, where: str = "") -> tuple[str, ...]:
        """The labels that one example is held against: the call's, else the example's own, else those of the training."""
        return _candidates.names(where, options.candidate_labels, example.get("candidate_labels"), self.settings.candidates)

    def encode(self, example: Example, inputs: Inputs, options: ZeroShotImageOptions, use: Use = "predict", where: str = "") -> list[Row]:
        names = self.settings.candidates if use == "train" else self._names(example, options, where)
        truth = None if use == "predict" else self.truth(example, where)
        if truth is not None and truth not in names:
            raise unknown(f"label ({where})", truth, names, error=DataError)
        if use == "train":
            assert truth is not None
            return self.pairs(example, self._sentences(truth, options.hypothesis_template), names.index(truth), inputs, options, where)
        texts = [sentence for name in names for sentence in self._sentences(name, options.hypothesis_template)]
        return [self.seen(example, inputs, options, where), *self.shared(texts, inputs, options, where)]

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def contrast(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy of each image over the labels of the batch; a label's vector is the mean of its sentences'."""
        groups, label = torch.unique(labels, return_inverse=True)
        means = F.normalize(texts.new_zeros(len(groups), texts.shape[1]).index_add(0, label, texts), dim=-1)
        return F.cross_entropy(self.head.scores(images, means), label, reduction="sum")

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Array], rows: Sequence[Row], example: Example, options: ZeroShotImageOptions) -> dict[str, Any]:
        """``{"labels", "scores", "label", "score", "truncated"}``, the labels by falling score."""
        names = self._names(example, options)
        means = np.stack(readings[1:]).reshape(len(names), -1, len(readings[0])).mean(1)
        cosines = means @ readings[0] / np.linalg.norm(means, axis=1)
        scores = _candidates.softmax((float(self.head.scale.detach().exp()) * cosines.astype(np.float64)).tolist())
        order = sorted(range(len(names)), key=lambda i: -scores[i])
        return {
            "labels": [names[i] for i in order],
            "scores": [scores[i] for i in order],
            "label": names[order[0]],
            "score": scores[order[0]],
            "truncated": any(row.notes["truncated"] for row in rows[1:]),
        }

    def truth(self, example: Example, where: str) -> str:
        return _candidates.name_of(example.get("label"), where)

    def score(self) -> Score:
        return _candidates.ChosenScore(self.settings.candidates)

    def detail(self, options: ZeroShotImageOptions) -> Detail:
        """What a report is made of."""
        return _candidates.ChosenDetail(self.settings.candidates, (self.columns[0],))

    def golden_examples(self) -> list[Example]:
        return [{**example, "candidate_labels": ["good", "나비"]} for example in super().golden_examples()]

    def line(self, answer: Any) -> str:
        return f"{answer['label']}\t{answer['score']:.4f}"

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """v4's forms too: the candidate labels as the second argument, the image as ``image=``."""
        inputs, options = list(args), dict(given)
        if not inputs and "image" in options:
            inputs.append(options.pop("image"))
        if len(inputs) == 2 and "candidate_labels" not in options:
            options["candidate_labels"] = inputs.pop()
        return super().called(tuple(inputs), options)

    def present(self, answer: Any, options: ZeroShotImageOptions, alone: bool) -> Any:
        """v4's shape: a list of labels with their scores, best first."""
        return [{"score": score, "label": label} for label, score in zip(answer["labels"], answer["scores"], strict=True)]


TASK = ZeroShotImageClassification
