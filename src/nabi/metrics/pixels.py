"""Models of images whose pixels are numbers of colours: bits per pixel, beside those of guesses that know no neighbours.

A guess is a table of how frequent each colour is, over all pixels (``marginal``) or at each place (``place``). Unusual: it is made of the very pixels that it
is held to, so it is the entropy of their own distribution, which no table made of other images is below.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Bars, Section, Table

BINS = 20  # of a histogram


class PixelScore:
    """Bits per pixel of a model, and of the two guesses; all 0 without pixels. Only models with the same colours compare.

    Args:
        colours: K, that a pixel can have.
    """

    def __init__(self, colours: int) -> None:
        self._colours, self._nats = colours, 0.0
        self._counts = np.zeros((0, colours))  # by place

    def add(self, answer: tuple[float, Sequence[int]], truth: object = None) -> None:
        """One image: its negative log likelihood in nats, and the colours of its pixels, place by place."""
        nats, pixels = answer
        if len(pixels) > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros((len(pixels) - len(self._counts), self._colours))])
        self._counts[np.arange(len(pixels)), pixels] += 1
        self._nats += nats

    def result(self) -> dict[str, float]:
        """bits_per_pixel, marginal_bits_per_pixel, place_bits_per_pixel."""
        return _figures(self._nats, self._counts)


def _figures(nats: float, counts: Array) -> dict[str, float]:
    """From the nats of all images and (places, K) counts of colours."""
    pixels = max(float(counts.sum()), 1.0)
    return {
        "bits_per_pixel": nats / math.log(2) / pixels,
        "marginal_bits_per_pixel": _bits(counts.sum(0, keepdims=True)) / pixels,
        "place_bits_per_pixel": _bits(counts) / pixels,
    }


def _bits(counts: Array) -> float:
    """Of all that is counted, under the frequencies of its own row."""
    whole = counts.sum(1, keepdims=True)
    return float(np.where(counts > 0, counts * np.log2(np.where(counts > 0, whole, 1) / np.where(counts > 0, counts, 1)), 0).sum())


class Drawn:
    """What a model says of each image: nats, and the pixels.

    Args:
        colours: K.
    """

    fields: tuple[str, ...] = ("image",)
    choices: tuple[str, ...] = ()

    def __init__(self, colours: int) -> None:
        self._colours, self._nats = colours, array("d")
        self._pixels: list[Array] = []

    def add(self, answer: tuple[float, Sequence[int]], truth: object = None) -> None:
        """One image, as for :class:`PixelScore`."""
        self._nats.append(answer[0])
        self._pixels.append(np.asarray(answer[1], dtype=np.uint16))

    def take(self, rows: Sequence[int]) -> Drawn:
        """These rows alone."""
        taken = type(self)(self._colours)
        taken._nats.extend(self._nats[row] for row in rows)
        taken._pixels.extend(self._pixels[row] for row in rows)
        return taken

    @cached_property
    def each(self) -> Array:
        """(R,) bits per pixel of each image."""
        found: Array = np.array(self._nats) / math.log(2) / np.array([len(pixels) for pixels in self._pixels])
        return found

    def figures(self, weights: Array) -> dict[str, Array]:
        """bits_per_pixel, marginal_bits_per_pixel, place_bits_per_pixel, each (B,)."""
        sizes, places = [len(pixels) for pixels in self._pixels], max(map(len, self._pixels), default=0)
        cell = np.concatenate([np.arange(len(p)) * self._colours + p for p in self._pixels])  # of each pixel in a table of counts
        found = [
            _figures(float(np.dot(row, self._nats)), np.bincount(cell, np.repeat(row, sizes), places * self._colours).reshape(-1, self._colours))
            for row in weights
        ]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    def verdicts(self) -> Verdicts:
        """Loss is the image's bits per pixel."""
        truth = [f"{len(pixels):,} pixels of {len(np.unique(pixels))} colours" for pixels in self._pixels]
        return Verdicts(loss=self.each, right=None, truth=truth, predicted=[f"{x:,.1f} nats" for x in self._nats])

    def facts(self) -> dict[str, float]:
        """Totals: nats, pixels."""
        return {"nats": float(sum(self._nats)), "pixels": float(sum(map(len, self._pixels)))}

    def sections(self, intervals: Intervals) -> list[Section]:
        """How bits per pixel spread over the images, and the guesses that know no neighbours."""
        whole = self.figures(np.ones((1, len(self._nats))))
        names = {"bits_per_pixel": "the model", "marginal_bits_per_pixel": "the colours of all pixels", "place_bits_per_pixel": "the colours of each place"}
        counts, edges = np.histogram(self.each, bins=BINS, range=(0.0, float(self.each.max(initial=1.0))))
        title, caption = "Bits per pixel of an image", f"Bits per pixel, of {self._colours} colours. The guesses are made of these very images."
        rows = [(told, float(whole[name][0])) for name, told in names.items()]
        return [Section("Images", [Bars(title, title, edges.tolist(), counts.tolist()), Table(("who tells the next pixel", "bits"), rows, caption)])]
