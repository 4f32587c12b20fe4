"""The colours that an image's pixels are numbers of: k-means over pixels of training (Chen et al. 2020, section 3.2), and pictures made of colours.

Images are read as red, green and blue, grey ones too: their clusters are then levels of grey, three equal numbers each, which the incumbent's processor takes
as they are. Unusual: equal pixels are one point with a weight, so a hundred thousand pixels of grey images are at most 256 points.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.images import Pixels, pillow, pixels_of
from nabi.data.pixels import ImageSettings
from nabi.data.tables import Table

IMAGES, POINTS, ROUNDS = 2048, 1 << 16, 100  # images that are looked at, different colours of them that are clustered, rounds at most

Floats = NDArray[np.float64]


def fitted_colours(table: Table, settings: ImageSettings, count: int, seed: int = 0) -> tuple[tuple[float, ...], ...]:
    """Colours for the images of a table, dark ones first, in the scale of ``ImageSettings.clusters``.

    Args:
        table: with a column ``image``.
        settings: how images are read; their own clusters are not looked at.
        count: of colours; where the images have fewer, the last one is repeated and never used.
        seed: of the images that are looked at, where there are more than ``IMAGES``, and of the first colours.

    Raises:
        InputError: an image can't be read; it is named by its place.
    """
    dice = np.random.default_rng(seed)
    chosen = np.arange(len(table)) if len(table) <= IMAGES else np.sort(dice.choice(len(table), IMAGES, replace=False))
    seen: dict[int, int] = {}  # colour as one number -> how often
    for i in chosen.tolist():
        pixels = settings.resized(pixels_of(table[i].get("image"), table.where(i), settings.channels)).reshape(-1, settings.channels).astype(np.int64)
        for number, times in zip(*(x.tolist() for x in np.unique(pixels @ (256 ** np.arange(settings.channels)), return_counts=True)), strict=True):
            seen[number] = seen.get(number, 0) + times
    numbers, weights = np.array(sorted(seen)), np.array([seen[number] for number in sorted(seen)], dtype=np.float64)
    if len(numbers) > POINTS:
        kept = np.sort(dice.choice(len(numbers), POINTS, replace=False, p=weights / weights.sum()))
        numbers, weights = numbers[kept], weights[kept]
    points = (numbers[:, None] // 256 ** np.arange(settings.channels) % 256).astype(np.float64)
    found = k_means(points, weights, min(count, len(points)), dice)
    found = found[np.lexsort((*found.T, found.sum(1)))]
    scaled = settings.numbers(found)
    return tuple(map(tuple, [*scaled.tolist(), *[scaled[-1].tolist()] * (count - len(scaled))]))


def k_means(points: Floats, weights: Floats, count: int, dice: np.random.Generator) -> Floats:
    """(P, C) points with (P,) weights -> (count, C) centres: Lloyd 1982, begun as k-means++ does (Arthur and Vassilvitskii 2007).

    Args:
        count: of centres, at most as many as there are different points.
    """
    centres = points[[dice.choice(len(points), p=weights / weights.sum())]]
    nearest = _distances(points, centres)[:, 0]
    while len(centres) < count:
        chance = weights * nearest
        fresh = points[[dice.choice(len(points), p=chance / chance.sum())]]
        centres, nearest = np.concatenate([centres, fresh]), np.minimum(nearest, _distances(points, fresh)[:, 0])
    for _ in range(ROUNDS):
        distances = _distances(points, centres)
        of = distances.argmin(1)
        mass = np.bincount(of, weights, count)
        moved = np.stack([np.bincount(of, weights * axis, count) for axis in points.T], axis=1) / np.where(mass, mass, 1)[:, None]
        lost = np.flatnonzero(mass == 0)  # a centre that no point is near to begins again at the points that are worst off
        moved[lost] = points[np.argsort(-weights * distances.min(1), kind="stable")[: len(lost)]]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _distances(points: Floats, centres: Floats) -> Floats:
    """(P, count) squared."""
    found: Floats = np.square(points).sum(1)[:, None] - 2 * points @ centres.T + np.square(centres).sum(1)
    return np.maximum(found, 0)


def png_address(pixels: Pixels) -> str:
    """(H, W, 3) -> ``data:image/png;base64,...``, which browsers show and nabi reads."""
    file = io.BytesIO()
    picture: Any = pillow("Image").fromarray(pixels)
    picture.save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
