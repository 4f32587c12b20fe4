"""Pictures of several images: how near each is to each text, and halves that a model completes; ``nabi inspect MODEL --image A --image B ... --out PAGE``.

The numbers come first, as plain arrays, and sections are made of them. Unusual: an original beside its completions is shown in the model's own colours,
since it can write no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import checkpoint
from nabi.data.images import Pixels, pixels_of
from nabi.errors import InputError, OptionError
from nabi.inspection.facts import opened
from nabi.inspection.pictures import WIDE, Floats, large, look, mosaic, page
from nabi.model import Model
from nabi.pages.page import render
from nabi.pages.png import png, scaled
from nabi.pages.sections import Cell, Picture, Section, Table
from nabi.tasks.image_completion import ImageCompletion
from nabi.tasks.image_text_retrieval import ImageTextRetrieval

GREY = 128  # of what is not there
SIDE = 64  # CSS pixels of a small image
GAP = 2  # pixels between two pictures of a strip


@dataclass(frozen=True)
class Halves:
    """What a model made of images of which it was given the upper part.

    Attributes:
        originals: (N, H, W, 3) uint8, in the model's own colours.
        completed: (N, K, H, W, 3) uint8.
        kept: rows of pixels from the top that it was given.
        scores: (N, K) log-probability of what was written, natural logarithm.
    """

    originals: Pixels
    completed: Pixels
    kept: int
    scores: Floats


def matched(model: Model, images: Sequence[Any], texts: Sequence[str]) -> Floats:
    """(N, M) cosines of N images with M texts.

    Args:
        model: of image_text_retrieval.
        images: in any form that ``nabi.data.images`` reads.
        texts: what they are held against.

    Raises:
        OptionError: the model doesn't hold images against texts, or nothing is given.
        InputError: an image can't be read, or a text is empty.
    """
    if not isinstance(model.task, ImageTextRetrieval):
        raise OptionError("only models of images and texts hold one against the other", value=model.task.name, expected=ImageTextRetrieval.name)
    if not images or not texts:
        raise OptionError("a matrix needs images and texts", value=f"{len(images)} images, {len(texts)} texts", expected="one of each at least")
    seen = model.predict([{"image": image} for image in images])
    read = model.predict({"text": list(texts)})
    return similarity([each["image_embedding"] for each in seen], read["text_embeddings"])


def similarity(images: Any, texts: Any, scale: float = 1.0) -> Floats:
    """(N, W), (M, W) -> (N, M) cosines of images with texts, times ``scale`` (Radford et al. 2021, figure 3)."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (images, texts))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError("vectors of images and texts have different lengths", value=f"{a.shape} and {b.shape}", expected="(N, W) and (M, W)")
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    found: Floats = (scale * a @ b.T).astype(np.float32)
    return found


def halves(model: Model, images: Sequence[Any], keep: float = 0.5, count: int = 3, seed: int = 0) -> Halves:
    """Images that a model goes on with from their upper part (Chen et al. 2020, figure 1).

    Args:
        model: of image_completion.
        images: in any form that ``nabi.data.images`` reads.
        keep: share of the rows of pixels that stays.
        count: completions of each, K.
        seed: of the draws.

    Raises:
        OptionError: the model completes no images, or none is given.
        InputError: an image can't be read.
    """
    if not isinstance(model.task, ImageCompletion):
        raise OptionError("only models that complete images are asked for halves", value=model.task.name, expected=ImageCompletion.name)
    if not images:
        raise OptionError("no image is given", value=0, expected="one at least")
    reader, own = model.inputs.images, []
    for number, image in enumerate(images, 1):
        streams, rows = reader.read(image, f"image {number}")
        own.append(reader.settings.palette[np.asarray(streams["tokens"])].reshape(*rows["grid"], -1))
    answers = model.predict(list(images), keep=keep, num_return_sequences=count, seed=seed)
    completed = np.array([[each["image"] for each in answer["completions"]] for answer in answers])
    scores = np.array([[each["score"] for each in answer["completions"]] for answer in answers], np.float32)
    return Halves(np.array(own), completed, answers[0]["kept"], scores)


def completions(originals: NDArray[Any], completed: NDArray[Any], kept: int, gap: int = GAP) -> Pixels:
    """A row an image: the original, what the model was given, what it made of it (Chen et al. 2020, figure 1).

    Args:
        originals: (N, H, W, C) uint8.
        completed: (N, K, H, W, C) uint8, several completions of each.
        kept: rows of pixels from the top that the model was given; the others are drawn grey.
        gap: pixels between two pictures.
    """
    given = originals.copy()
    given[:, kept:] = GREY
    pieces = np.concatenate([originals[:, None], given[:, None], completed], axis=1)
    return mosaic(pieces if pieces.shape[-1] == 3 else pieces.repeat(3, axis=-1), gap)


def drawn(model: str, images: Sequence[str], texts: Sequence[str] = (), plugins: Iterable[str | Path | ModuleType] = ()) -> tuple[str, dict[str, Any]]:
    """The page about a model and images, and its facts as plain data.

    Args:
        model: a folder.
        images: files.
        texts: what each image is held against; none shows what the model does with one image, or how it completes several.
        plugins: files with families and tasks of your own.

    Raises:
        OptionError: the model can't be asked for this.
        InputError: an image can't be read, or a text is empty.
    """
    name, names = Path(model).name, [Path(image).name for image in images]
    if texts:
        values = matched(checkpoint.load(model, ImageTextRetrieval.name, plugins=plugins), images, texts)
        section = similarity_section(values, texts, [small(image, given) for image, given in zip(images, names, strict=True)])
        return render(f"Inside {name}", f"reading {', '.join(names)}", [], [section]), {"texts": list(texts), "cosines": values.tolist()}
    loaded, _ = opened(model, plugins)
    completes = isinstance(loaded, Model) and isinstance(loaded.task, ImageCompletion)
    if len(images) > 1 and not completes:
        raise OptionError("several images are drawn beside texts, or by a model that completes them", value=len(images), fix="give one --image, or --text too")
    facts: dict[str, Any] = {}
    sections = []
    if completes:
        found = halves(loaded, images)
        sections, facts = [completions_section(found)], {"kept": found.kept, "scores": found.scores.tolist()}
    if len(images) > 1:
        return render(f"Inside {name}", f"reading {', '.join(names)}", [], sections), facts
    seen = look(loaded if isinstance(loaded, Model) else model, images[0], plugins=plugins)
    return page(seen, name, names[0], sections), {**seen.facts(), **facts}


# ---- sections ----------------------------------------------------------------------------------------------------------------------------------------


def similarity_section(values: Floats, texts: Sequence[str], images: Sequence[Cell]) -> Section:
    """A table of images by texts, each row's largest value told.

    Args:
        values: (N, M) as of :func:`similarity`.
        texts: M of them.
        images: N, each a picture or a name.
    """
    rows: list[tuple[Cell, ...]] = [(image, *map(float, each), texts[int(each.argmax())]) for image, each in zip(images, values, strict=True)]
    return Section("Images and texts", [Table(("image", *texts, "nearest text"), rows, "Cosine of the vector of each image with that of each text.")])


def completions_section(found: Halves) -> Section:
    """A strip of originals, what was given, completions; and how probable each was to the model."""
    strip = completions(found.originals, found.completed, found.kept)
    times = max(1, min(8, WIDE // strip.shape[1]))
    height, count = found.originals.shape[1], found.scores.shape[1]
    told = f"A row an image: the original in the model's own colours, the {found.kept} of {height} rows of pixels that it was given, {count} completions."
    rows: list[tuple[Cell, ...]] = [(number, *map(float, each)) for number, each in enumerate(found.scores, 1)]
    head = ("image", *(f"completion {k}" for k in range(1, count + 1)))
    table = Table(head, rows, "Log-probability of what was written, natural logarithm.")
    return Section("Completions", [told, large(scaled(strip, times), f"{len(found.originals)} images and their completions", "Halves completed"), table])


def small(image: Any, where: str) -> Picture:
    """An image as a cell of a table."""
    pixels = pixels_of(image, where)
    step = max(1, max(pixels.shape[:2]) // (2 * SIDE))
    pixels = np.ascontiguousarray(pixels[::step, ::step])
    times = SIDE / max(pixels.shape[:2])
    return Picture(png(pixels), where, max(1, round(pixels.shape[1] * times)), max(1, round(pixels.shape[0] * times)))
