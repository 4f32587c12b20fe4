"""Image feature extraction: the vectors of an image's patches or places, or one vector for the whole image (Dosovitskiy et al. 2020, section 3.1).

It has nothing to train, so any body that reads images gives features. Unusual: the layer by which the incumbent's base model pools is an optional head, so a
folder that has one keeps it when it is saved, and a body without one still gives a pooled vector: that of the whole image's token, or the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nabi.batch import FILLER, Batch, Row
from nabi.errors import OptionError
from nabi.inputs import Inputs
from nabi.layout import Packed, join
from nabi.metrics.detail import Array
from nabi.nn.body import Body, Run
from nabi.nn.heads import Head
from nabi.tasks import Example, Score, Use
from nabi.tasks._seeing import Looking, Seeing


@dataclass(frozen=True)
class ImageFeatureSettings:
    """What belongs to the model.

    Attributes:
        pooler: how many numbers its pooling layer gives; 0 if it has none.
    """

    pooler: int = 0


@dataclass(frozen=True)
class ImageFeatureOptions(Looking):
    """What a call may set, beside how an image is read.

    Attributes:
        pool: one vector an image in place of one a token.
        return_tensors: a tensor in place of nested lists.
    """

    pool: bool = False
    return_tensors: bool = False


class ImageFeatureExtraction(Seeing):
    """Give each image the vectors that a body makes of it."""

    name = "image_feature_extraction"
    defaults = ("google/vit-base-patch16-224",)
    columns = ()
    optional_columns = ("image",)
    heads = ()
    optional_heads = ("pooled",)
    Options, Settings = ImageFeatureOptions, ImageFeatureSettings

    reads: tuple[str, ...] = ("image",)

    @classmethod
    def fits(cls, body: Body | type[Body]) -> bool:
        return "image" in body.needs

    @classmethod
    def builds(cls, settings: ImageFeatureSettings) -> tuple[str, ...]:
        return cls.optional_heads if settings.pooler else ()

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> ImageFeatureSettings:
        fix = "train image_classification and take the features of that model"
        raise OptionError("image_feature_extraction has no head to be trained", fix=fix)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> ImageFeatureSettings:
        return ImageFeatureSettings(outputs.get("pooled", 0))

    def outputs(self) -> dict[str, int]:
        return {"pooled": self.settings.pooler} if self.settings.pooler else {}

    def build(self, body: Body) -> None:
        super().build(body)
        self.reads = ("whole", "image") if "whole" in body.makes else ("image",)

    # ---- an example ----------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: ImageFeatureOptions, use: Use = "predict", where: str = "") -> list[Row]:
        return [self.seen(example, inputs, options, where)]

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def read(self, run: Run, batches: Iterable[Batch], options: ImageFeatureOptions) -> Iterator[tuple[int, Array]]:
        """(row id, (W,) of the whole image, or (tokens, W), the whole image's token first where there is one)."""
        for batch in batches:
            part = run.part(batch, "image")
            pieces = self._pooled(run, batch) if options.pool else self._tokens(run, batch)
            for row, example, piece in zip(part.ids, part.example.tolist(), pieces, strict=True):
                if example != FILLER:
                    found = piece if piece.dtype == torch.float64 else piece.float()
                    yield row, found.cpu().numpy().copy()  # not a view, which would keep the whole batch

    def _tokens(self, run: Run, batch: Batch) -> Sequence[Tensor]:
        hidden = run(batch, keep=dict.fromkeys(self.reads))
        found = Packed(hidden[self.reads[0]].values, run.layout(batch, self.reads[0]))
        for name in self.reads[1:]:
            found = join(found, Packed(hidden[name].values, run.layout(batch, name)))
        assert found.layout is not None
        return torch.split(found.values, list(found.layout.lengths))

    def _pooled(self, run: Run, batch: Batch) -> Sequence[Tensor]:
        if self.heads:
            head = self.pooled
            assert isinstance(head, Head) and head.act is not None
            return list(head.act(head.read(run, batch)))
        name = self.reads[0]
        return list(run.layout(batch, name).mean(run(batch, keep={name: None})[name].values))

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Array], rows: Sequence[Row], example: Example, options: ImageFeatureOptions) -> dict[str, Any]:
        """``{"features"}`` (tokens, W), or ``{"embedding"}`` (W,)."""
        return {"embedding" if options.pool else "features": readings[0].tolist()}

    def truth(self, example: Example, where: str) -> Any:
        raise OptionError("features have no truth to be held against", fix="evaluate a task that uses them, such as image_classification")

    def score(self) -> Score:
        raise OptionError("features have no truth to be held against", fix="evaluate a task that uses them, such as image_classification")

    def golden_examples(self) -> list[Example]:
        return super().golden_examples()[:1]  # every number of every token is saved

    def present(self, answer: Any, options: ImageFeatureOptions, alone: bool) -> Any:
        """v4's shape: (1, tokens, W), or (1, W) of a pooled image."""
        found = [answer["embedding" if options.pool else "features"]]
        return torch.tensor(found) if options.return_tensors else found


TASK = ImageFeatureExtraction
