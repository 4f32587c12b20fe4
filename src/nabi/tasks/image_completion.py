"""Image completion: go on with an image from its upper part, pixel by pixel; in training the causal model of pixels (Chen et al. 2020, section 2.2).

Unusual: beside the model's bits per pixel stand those of two guesses that know no neighbours, the colours of all pixels and those of each place, as they are
among the very images that are measured; no such guess made from other images is better there. An answer is an image in the model's own colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nabi import decoding
from nabi.batch import FILLER, Batch, Row
from nabi.data.colours import png_address
from nabi.data.images import Pixels
from nabi.decoding import Generated
from nabi.errors import InputError, OptionError
from nabi.inputs import Inputs
from nabi.metrics.pixels import Drawn, PixelScore
from nabi.nn.body import Body, Run
from nabi.tasks import Example, Score, Use
from nabi.tasks._seeing import Looking, Seeing
from nabi.tasks._writing import Asked, Writing


@dataclass(frozen=True)
class ImageCompletionOptions:
    """What a call may set.

    Attributes:
        keep: share of the image's rows of pixels, from above, that stays; the others are written. 0 writes a whole image.
        do_sample: draw each pixel; otherwise take the most probable one.
        temperature, top_k, top_p, seed, num_return_sequences: as in ``nabi.decoding.Settings``; by default each pixel is drawn as probable as the model has it.
    """

    keep: float = 0.5
    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise OptionError("keep is the share of an image that stays", value=self.keep, expected="0 or more and less than 1")


@dataclass(frozen=True)
class Completed:
    """What was written behind the pixels that stay.

    Attributes:
        tokens: numbers of colours.
        score: log-probability of all of them, natural logarithm.
    """

    tokens: tuple[int, ...]
    score: float


class ImageCompletion(Seeing, Writing):
    """Go on with an image."""

    name = "image_completion"
    columns = ("image",)
    generates = "image"
    Options = ImageCompletionOptions
    main_metric, lower_is_better = "bits_per_pixel", True
    golden_use = "train"

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self._places = 0

    def build(self, body: Body) -> None:
        super().build(body)
        self._places = body.limits["image"]

    def chosen(self, options: ImageCompletionOptions) -> decoding.Settings:
        o = options
        drawn = {"temperature": o.temperature, "top_k": o.top_k, "top_p": o.top_p, "seed": o.seed, "num_return_sequences": o.num_return_sequences}
        return decoding.Settings(do_sample=o.do_sample, **drawn)  # type: ignore[arg-type]  # which are of several types

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: ImageCompletionOptions, use: Use = "predict", where: str = "") -> list[Row]:
        row = self.seen(example, inputs, Looking(), where)
        pixels, (height, width) = row.parts["image"]["tokens"], row.rows["image"]["grid"]
        if len(pixels) > self._places:
            fix = "give the model the size that it was trained with: size in its preprocessor_config.json"
            raise InputError(f"{where or 'an input'} has too many pixels", value=f"{height} x {width}", expected=f"at most {self._places}", fix=fix)
        start = len(inputs.images.settings.clusters)
        if use == "predict":
            kept = math.floor(options.keep * height + 1e-9)
            row.notes = {"kept": kept, "palette": inputs.images.settings.palette}
            row.parts["image"] = {"tokens": [start, *pixels[: kept * width]]}
        else:
            row.targets = {"next": pixels}
            row.parts["image"] = {"tokens": [start, *pixels[:-1]]}
        return [row]

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def _asked(self, batch: Batch) -> dict[int, Asked]:
        part = batch.parts["image"]
        prompts = torch.split(part.streams["tokens"], list(part.layout.lengths))
        sizes = part.rows["grid"].prod(1).tolist()
        rows = zip(part.ids, part.example.tolist(), prompts, sizes, strict=True)
        return {i: Asked(x.tolist(), None, x.device, most=size - len(x) + 1) for i, example, x, size in rows if example != FILLER}

    def _piece(self, run: Run, asked: Asked, result: Generated, options: ImageCompletionOptions) -> Completed:
        assert result.logprobs is not None
        return Completed(result.tokens[: asked.most], sum(result.logprobs[: asked.most]))

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: ImageCompletionOptions) -> dict[str, Any]:
        """``{"image", "kept", "completions"}``: (H, W, 3) uint8, and of each completion ``{"image", "score"}``; evaluated ``{"nats", "colours"}``."""
        ((reading,), (row,)) = readings, rows
        if isinstance(reading, dict):
            return {"nats": reading["nats"], "colours": row.targets["next"]}
        height, width = row.rows["image"]["grid"]
        front, palette = row.parts["image"]["tokens"][1:], row.notes["palette"]
        images = [palette[np.array([*front, *piece.tokens], dtype=np.int64)].reshape(height, width, -1) for piece in reading]
        completions = [{"image": image, "score": piece.score} for image, piece in zip(images, reading, strict=True)]
        return {"image": images[0], "kept": row.notes["kept"], "completions": completions}

    def plain(self, answer: Any) -> Any:
        """With images as PNG in data addresses."""
        if "image" not in answer:
            return answer
        return {**answer, **_told(answer), "completions": [{**each, **_told(each)} for each in answer["completions"]]}

    def line(self, answer: Any) -> str:
        return "\t".join(_told(each)["image"] for each in answer["completions"])

    def present(self, answer: Any, options: ImageCompletionOptions, alone: bool) -> Any:
        """A list of completions, each ``{"image", "score"}``."""
        return answer["completions"]

    def truth(self, example: Example, where: str) -> None:
        """Nothing: what is measured is the image itself."""

    def score(self) -> Score:
        return _Score(self._outputs)

    def detail(self, options: ImageCompletionOptions) -> Any:
        """What a report is made of."""
        return _Detail(self._outputs)


def _told(found: Mapping[str, Any]) -> dict[str, str]:
    image: Pixels = found["image"]
    return {"image": png_address(image)}


class _Score(PixelScore):
    def add(self, answer: Any, truth: object = None) -> None:
        super().add((answer["nats"], answer["colours"]), truth)


class _Detail(Drawn):
    def add(self, answer: Any, truth: object = None) -> None:
        super().add((answer["nats"], answer["colours"]), truth)


TASK = ImageCompletion
