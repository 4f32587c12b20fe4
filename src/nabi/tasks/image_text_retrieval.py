"""Image-text retrieval: which text belongs to an image, and which image to a text (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", section 2.3).

Each pair of a batch is told from all others of it, both ways. Unusual: an image may come with several captions, of which each epoch takes one and each is
right; texts that are equal are one text, so whoever finds the caption of another image that has the same words was right. A batch's other captions count as
wrong even then, as in the paper.
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
from nabi.errors import DataError, InputError
from nabi.inputs import Inputs
from nabi.metrics.detail import Array
from nabi.metrics.ranked import RetrievalScore, Retrieved
from nabi.tasks import Example, Score, Task, Use
from nabi.tasks._pairing import ImageText, PairingOptions


@dataclass(frozen=True)
class RetrievalSettings:
    """What belongs to the model.

    Attributes:
        augmentation: what is done to images of training.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)


class ImageTextRetrieval(ImageText):
    """Say how well texts belong to images."""

    name = "image_text_retrieval"
    aliases = ("image_text_matching", "text_image_retrieval")
    columns = ("image", "text")
    Options, Settings = PairingOptions, RetrievalSettings
    main_metric = "mean_recall"
    told_by = (("image", "text"),)

    def encode(self, example: Example, inputs: Inputs, options: PairingOptions, use: Use = "predict", where: str = "") -> list[Row]:
        where = where or "an input"
        if use == "train":
            return self.pairs(example, self.truth(example, where), 0, inputs, options, where)
        texts = _texts(example.get("text"), where, InputError) if example.get("text") is not None else []
        images = [self.seen(example, inputs, options, where)] if example.get("image") is not None or not texts else []
        return [*images, *self.shared(texts, inputs, options, where)]

    def contrast(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """Half the cross entropies of both ways (section 2.3, figure 3)."""
        scores, right = self.head.scores(images, texts), torch.arange(len(images), device=images.device)
        return (F.cross_entropy(scores, right, reduction="sum") + F.cross_entropy(scores.T, right, reduction="sum")) / 2

    def answer(self, readings: Sequence[Array], rows: Sequence[Row], example: Example, options: PairingOptions) -> dict[str, Any]:
        """``{"texts", "scores", "image_embedding", "text_embeddings", "truncated"}``, as far as there is an image or a text; a score is a cosine."""
        images = [vector for vector, row in zip(readings, rows, strict=True) if "image" in row.parts]
        texts = [vector for vector, row in zip(readings, rows, strict=True) if "text" in row.parts]
        found: dict[str, Any] = {"truncated": any(row.notes.get("truncated", False) for row in rows)}
        if texts:
            found |= {"texts": _texts(example["text"], "an input", InputError), "text_embeddings": [vector.tolist() for vector in texts]}
        if images:
            found["image_embedding"] = images[0].tolist()
        if images and texts:
            found["scores"] = [float(vector @ images[0]) for vector in texts]
        return found

    def truth(self, example: Example, where: str) -> list[str]:
        return _texts(example.get("text"), where, DataError)

    def score(self) -> Score:
        return RetrievalScore()

    def detail(self, options: PairingOptions) -> Retrieved:
        return Retrieved()

    def golden_examples(self) -> list[Example]:
        texts = [example["text"] for example in Task.golden_examples(self)[:2]]
        return [{**example, "text": texts} for example in super().golden_examples()]

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """An image and its texts also as two arguments, or the texts as ``text=``."""
        args, options = tuple(args), dict(given)
        if not args and "image" in options:
            args = (options.pop("image"),)
        if len(args) == 1 and "text" in options:
            args = (*args, options.pop("text"))
        if len(args) == 2:
            args = ({"image": args[0], "text": args[1]},)
        return super().called(args, options)

    def line(self, answer: Any) -> str:
        return "\t".join(f"{score:.4f}" for score in answer["scores"]) if "scores" in answer else super().line(answer)

    def present(self, answer: Any, options: PairingOptions, alone: bool) -> Any:
        """Of an image and texts a list of ``{"text", "score"}``, best first; of one of the two its embeddings."""
        if "scores" not in answer:
            return answer.get("image_embedding", answer.get("text_embeddings"))
        return sorted(({"text": t, "score": s} for t, s in zip(answer["texts"], answer["scores"], strict=True)), key=lambda item: -item["score"])


def _texts(value: Any, where: str, error: type[InputError] | type[DataError]) -> list[str]:
    """One text or several as a list."""
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple | np.ndarray) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise error(f"{where} has no text", value=repr(value), expected="a str that says something, or a list of them")
    return texts


TASK = ImageTextRetrieval
