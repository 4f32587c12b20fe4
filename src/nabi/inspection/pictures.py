"""What a model of images sees: the patches, which positions it takes for alike, where its token of the whole image looks; ``nabi inspect MODEL --image FILE``.

The numbers are plain arrays (:func:`look`), and a page draws them. Pictures of several images are in ``galleries.py``. Unusual: every map is drawn pixel for
pixel from its numbers, without smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nabi.batch import Row, pack
from nabi.config import read_file
from nabi.data.images import Pixels, pixels_of
from nabi.data.pixels import Images
from nabi.errors import CheckpointError, InputError, OptionError
from nabi.inputs import images_of
from nabi.inspection.facts import opened
from nabi.model import Model
from nabi.nn.body import Body, Run
from nabi.nn.linear import Embedding
from nabi.nn.watch import watch
from nabi.pages.page import render
from nabi.pages.png import coloured, png, scaled
from nabi.pages.sections import Cell, Picture, Section, Table
from nabi.weights.sources import resolve

Floats = NDArray[np.float32]
WIDE = 640  # CSS pixels of a large picture, about
SMALL = 56  # of a map in a table
WHOLE = "whole"  # the part with one token for the whole image, in the families that have one


@dataclass(frozen=True)
class Inside:
    """What was seen of a model while it read an image.

    Attributes:
        pixels: (H, W, C) the image as it was cut up, resized and cropped.
        grid: rows and columns of patches, P of them; side: of a patch in pixels.
        attention: (layers, heads, P) where the token of the whole image looks, or the last one of a body that has none; None of a body without attention.
        own: (layers, heads) the share of attention that this token gives to itself, where it is none of the patches: with the patches' it sums to 1.
        positions: (S, S, S, S) cosine of the position embedding of the patch at the first two with that at the last two (row, column), of the model's own
            grid of S x S; None if it has none.
    """

    pixels: Pixels
    grid: tuple[int, int]
    side: int
    attention: Floats | None
    own: Floats | None
    positions: Floats | None

    def facts(self) -> dict[str, Any]:
        """Sizes as plain data; the arrays are for Python."""
        layers, heads = (0, 0) if self.attention is None else self.attention.shape[:2]
        size = {"pixels": list(self.pixels.shape[:2]), "grid": list(self.grid), "side": self.side}
        return {**size, "layers": layers, "heads": heads, "positions": self.positions is not None}


def look(model: str | Path | Model, image: Any, size: Any = None, plugins: Iterable[str | Path | ModuleType] = ()) -> Inside:
    """What a model does inside with an image.

    Args:
        model: a folder, with or without a head, or a model that is loaded.
        image: in any form that ``nabi.data.images`` reads.
        size: as the option of the tasks: [height, width], the shorter side, ``own``; the model's if None.
        plugins: files with families and tasks of your own.

    Raises:
        OptionError: the model reads no images.
        InputError: the image can't be read.
    """
    body, images = _opened(model, plugins)
    if "image" not in body.needs or images is None:
        raise OptionError("the model reads no images, so there is nothing to draw", value=str(model) if not isinstance(model, Model) else model.task.name)
    images = images.sized(size)
    pixels = images.settings.resized(pixels_of(image, "the image", images.settings.channels), images.side)
    streams, rows = images.read(image, "the image")
    attention, own = _attention(body, Row({"image": streams}, {"image": rows}))
    height, width = rows["grid"]
    return Inside(pixels, (height, width), images.side, attention, own, position_similarity(body))


def position_similarity(body: Body) -> Floats | None:
    """(S, S, S, S) cosines of the body's embeddings of positions with each other, as in Dosovitskiy et al. 2020, figure 7; None if it has no square of them."""
    for path, module in body.named_modules():
        table = getattr(module, "positions", None)
        vectors = table.weight if isinstance(table, Embedding) else table
        # of a model of images and texts the tower of texts has positions too, but no square of patches beside them
        if not isinstance(vectors, Tensor) or (not hasattr(module, "patches") and "text" in body.needs):
            continue
        flat = vectors.detach().float().flatten(0, -2)
        side = math.isqrt(len(flat))
        if len(flat) - side**2 > 1:  # tokens that are no patches come first
            raise InputError("the model's positions are no square", value=f"{path}: {len(flat)}")
        unit = torch.nn.functional.normalize(flat[len(flat) - side**2 :], dim=-1)
        return (unit @ unit.T).view(side, side, side, side).numpy()
    return None


def mosaic(pieces: NDArray[Any], gap: int = 1, ground: int = 255) -> Pixels:
    """(R, C, h, w, 3) -> (R * h + (R - 1) * gap, C * w + (C - 1) * gap, 3): pictures in rows, ``gap`` pixels of the grey ``ground`` between them."""
    rows, columns, height, width, channels = pieces.shape
    whole = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), ground, np.uint8)
    for r in range(rows):
        for c in range(columns):
            whole[r * (height + gap) : r * (height + gap) + height, c * (width + gap) : c * (width + gap) + width] = pieces[r, c]
    return whole


def patch_grid(pixels: Pixels, side: int, times: int = 1) -> Pixels:
    """(H, W, C) -> the picture, each pixel ``times`` as wide, with lines between the patches."""
    height, width, channels = pixels.shape
    colours = pixels if channels == 3 else pixels.repeat(3, axis=2)
    pieces = scaled(colours, times).reshape(height // side, side * times, width // side, side * times, 3)
    return mosaic(pieces.transpose(0, 2, 1, 3, 4))


# ---- the page ------------------------------------------------------------------------------------------------------------------------------------------


def page(found: Inside, model: str, image: str, more: Iterable[Section] = ()) -> str:
    """The page about one image, self-contained: no script, nothing from outside.

    Args:
        found: what was seen.
        model, image: names for its head.
        more: what else it shows, at the end.
    """
    rows, columns = found.grid
    times = max(1, WIDE // max(found.pixels.shape[:2]))
    told = f"{found.pixels.shape[0]} x {found.pixels.shape[1]} pixels, {rows} x {columns} patches of {found.side} x {found.side}."
    grid = patch_grid(found.pixels, found.side, times) if found.side > 1 else scaled(_colours(found.pixels), times)
    sections = [Section("The image as the model reads it", [told, large(grid, "the image, cut into patches", "Patches")])]
    tiles = [("patches", rows * columns, "")]
    if found.attention is not None:
        sections.append(_attended(found))
        tiles += [("layers", found.attention.shape[0], ""), ("heads", found.attention.shape[1], "in each layer")]
    if found.positions is not None:
        sections.append(_positions(found.positions))
    return render(f"Inside {model}", f"reading {image}", tiles, [*sections, *more])


def _attended(found: Inside) -> Section:
    assert found.attention is not None
    maps = found.attention.reshape(*found.attention.shape[:2], *found.grid)
    rows: list[tuple[Cell, ...]] = []
    for number, heads in enumerate(maps, 1):
        share = None if found.own is None else float(found.own[number - 1].mean())
        cells = [_map(head, f"layer {number}, head {h}") for h, head in enumerate(heads, 1)]
        rows.append((number, _map(heads.mean(0), f"layer {number}, mean of heads"), *cells, *([] if share is None else [share])))
    head = ("layer", "mean", *map(str, range(1, maps.shape[1] + 1)), *([] if found.own is None else ["to itself"]))
    who = "The last token" if found.own is None else "The token of the whole image"
    told = f"{who} looks at the patches: by layer, the mean of the heads and each head. Bright is much; each map is scaled from 0 to its own largest weight."
    note = "Attention shows where information may flow; it is not the reason for an answer."
    return Section("Attention", [told, Table(head, rows, "" if found.own is None else "To itself: the mean share that is not on patches."), note])


def _positions(values: Floats) -> Section:
    side = len(values)
    drawn = mosaic(coloured(values, -1.0, 1.0))
    told = (
        "One map a patch, at the patch's place: how alike its position embedding is to that of each other patch, as a cosine from -1 (dark) to 1 (bright), "
        "after figure 7 of Dosovitskiy et al. 2020. The brightest pixel of a map is the patch itself."
    )
    name = f"{side} x {side} maps of {side} x {side} cosines"
    return Section("Position embeddings", [told, large(scaled(drawn, max(1, WIDE // len(drawn))), name, "Similarity of positions")])


def _map(values: Floats, name: str) -> Picture:
    most = float(values.max())
    tall, wide = values.shape
    times = SMALL / max(tall, wide)
    return Picture(png(coloured(values, 0.0, most)), f"{name}, at most {most:.4f}", max(1, round(wide * times)), max(1, round(tall * times)))


def large(pixels: Pixels, name: str, caption: str) -> Picture:
    """A picture of its own, at one CSS pixel a pixel."""
    return Picture(png(pixels), name, pixels.shape[1], pixels.shape[0], caption)


def _colours(pixels: Pixels) -> Pixels:
    return pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)


# ---- what is looked at ---------------------------------------------------------------------------------------------------------------------------------


def _opened(model: str | Path | Model, plugins: Iterable[str | Path | ModuleType]) -> tuple[Body, Images | None]:
    if isinstance(model, Model):
        return model.body, model.inputs.pictures
    loaded, _ = opened(str(model), plugins)
    if isinstance(loaded, Model):
        return loaded.body, loaded.inputs.pictures
    if "image" not in loaded.needs:
        return loaded, None
    folder = resolve(str(model))
    return loaded, images_of(folder, str(read_file(folder / "config.json", CheckpointError).get("model_type")), loaded.side, loaded.channels)


@torch.no_grad()
def _attention(body: Body, row: Row) -> tuple[Floats | None, Floats | None]:
    """(layers, heads, P) of the token of the whole image, or of the last one; (layers, heads) what it gives to itself, where it is no patch."""
    row.parts = {"image": {name: x for name, x in row.parts["image"].items() if name in body.needs["image"]}}
    (batch,) = pack([row])
    whole = body.makes.get(WHOLE) == "image"
    training = body.training
    body.eval()
    try:
        with watch(body) as seen:
            Run(body)(batch, keep={WHOLE if whole else "image": None})
            weights = [seen[path][0].weights[0] for path in seen]
    finally:
        body.train(training)
    if not weights:
        return None, None
    # the token of the whole image comes first; the last layer computes no other query
    looks = torch.stack([each[:, 0 if whole else -1] for each in weights]).float().numpy()
    return (looks[..., 1:], looks[..., 0]) if whole else (looks, None)
