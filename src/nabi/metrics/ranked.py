"""Retrieval: how often what belongs to a query is among the first K that were found for it, both ways, beside what chance would find."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nabi.metrics.detail import Array, Intervals, Verdicts
from nabi.pages.sections import Bars, Cell, Section, Table

FIRST = (1, 5, 10)  # of how many found
BLOCK = 1024  # queries at a time
WAYS = ("image_to_text", "text_to_image")


class RetrievalScore:
    """Recall at 1, 5 and 10 of texts for images and of images for texts.

    Every text of the data is a candidate for each image, and every image for each text. A text is right for an image if one of the image's own has the same
    words. Of equal scores the wrong ones come first, so that a model which tells nothing apart finds nothing.
    """

    def __init__(self) -> None:
        self._images: list[Array] = []
        self._texts: list[Array] = []
        self._of_images: list[frozenset[str]] = []
        self._of_texts: list[str] = []
        self._sizes: list[int] = []

    def add(self, answer: Mapping[str, Any], truth: Sequence[str]) -> None:
        """One image and its texts: ``image_embedding`` (W,), ``text_embeddings`` (n, W); the n texts."""
        self._images.append(np.asarray(answer["image_embedding"], dtype=np.float32))
        self._texts.extend(np.asarray(answer["text_embeddings"], dtype=np.float32))
        self._of_images.append(frozenset(truth))
        self._of_texts.extend(truth)
        self._sizes.append(len(truth))

    def result(self) -> dict[str, float]:
        """mean_recall, and recall@K of both ways, their mean, and chance@K, the recall of a random order."""
        if not self._images:
            return {"mean_recall": 0.0}
        return {name: float(value[0]) for name, value in self.ranks().figures(np.ones((1, len(self._images)))).items()}

    def ranks(self) -> Ranks:
        """Where each query found what belongs to it."""
        images, texts = np.stack(self._images), np.stack(self._texts)
        numbers = {text: i for i, text in enumerate(dict.fromkeys(self._of_texts))}
        of_texts = np.array([numbers[text] for text in self._of_texts])
        right = np.zeros((len(images), len(numbers)), dtype=bool)
        for i, own in enumerate(self._of_images):
            right[i, [numbers[text] for text in own]] = True
        ranks, chances, firsts = [], [], []
        for queries, others, matches in ((images, texts, lambda rows: right[rows][:, of_texts]), (texts, images, lambda rows: right.T[of_texts[rows]])):
            wrong, good, first = [], [], []
            for begin in range(0, len(queries), BLOCK):
                rows = slice(begin, begin + BLOCK)
                scores, fits = queries[rows] @ others.T, matches(rows)
                best = np.where(fits, scores, -np.inf).max(1)
                wrong.append(((scores >= best[:, None]) & ~fits).sum(1))
                good.append(fits.sum(1))
                first.append(scores.argmax(1))
            ranks.append(np.concatenate(wrong))
            chances.append(np.array([[_chance(len(others), int(n), k) for k in FIRST] for n in np.concatenate(good)]))
            firsts.append(np.concatenate(first))
        owner = np.repeat(np.arange(len(images)), self._sizes)
        return Ranks(ranks[0], ranks[1], chances[0], chances[1], owner, [self._of_texts[i] for i in firsts[0]])

    @property
    def texts(self) -> list[list[str]]:
        """Those of each image."""
        ends = np.cumsum(self._sizes).tolist()
        return [self._of_texts[end - size : end] for end, size in zip(ends, self._sizes, strict=True)]


@dataclass(frozen=True)
class Ranks:
    """What N images and their T texts found of each other.

    Attributes:
        images, texts: (N,), (T,) how many wrong ones stand before the first right one.
        by_chance, texts_by_chance: (N, K), (T, K) the recall of a random order at each of FIRST.
        owner: (T,) the image of each text.
        found: N texts, the one that each image found first.
    """

    images: Array
    texts: Array
    by_chance: Array
    texts_by_chance: Array
    owner: Array
    found: list[str]

    def figures(self, weights: Array) -> dict[str, Array]:
        """The recalls when query r, an image with its texts, is asked weights[b, r] times; what they are sought among stays: (B, N) -> (B,) by name."""
        found: dict[str, Array] = {}
        chance: list[Array] = []
        for way, ranks, likely, times in ((WAYS[0], self.images, self.by_chance, weights), (WAYS[1], self.texts, self.texts_by_chance, weights[:, self.owner])):
            whole = np.maximum(times.sum(1), 1e-12)
            found |= {f"recall@{k}/{way}": times @ (ranks < k) / whole for k in FIRST}
            chance.append(times @ likely / whole[:, None])
        both = {f"recall@{k}": (found[f"recall@{k}/{WAYS[0]}"] + found[f"recall@{k}/{WAYS[1]}"]) / 2 for k in FIRST}
        by_chance = {f"chance@{k}": (chance[0][:, i] + chance[1][:, i]) / 2 for i, k in enumerate(FIRST)}
        return {"mean_recall": np.mean(list(both.values()), axis=0), **both, **found, **by_chance}


class Retrieved:
    """What happened to each image and its texts. Rows that are taken are queries: the texts and images that they are sought among stay all."""

    fields: tuple[str, ...] = ("image",)
    choices: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._score = RetrievalScore()
        self._rows: Array | None = None

    def add(self, answer: Mapping[str, Any], truth: Sequence[str]) -> None:
        """One image, as for :class:`RetrievalScore`."""
        self._score.add(answer, truth)

    def take(self, rows: Sequence[int]) -> Retrieved:
        """These queries alone."""
        taken = type(self)()
        taken._score, taken._rows = self._score, self._taken[np.asarray(rows, dtype=np.int64)]
        taken.ranks = self.ranks
        return taken

    @cached_property
    def ranks(self) -> Ranks:
        """Of all images and texts."""
        return self._score.ranks()

    @property
    def _taken(self) -> Array:
        return np.arange(len(self.ranks.images)) if self._rows is None else self._rows

    def figures(self, weights: Array) -> dict[str, Array]:
        """As :meth:`RetrievalScore.result`, each (B,)."""
        times = np.zeros((len(self.ranks.images), len(weights)))
        np.add.at(times, self._taken, weights.T)
        return self.ranks.figures(times.T)

    def verdicts(self) -> Verdicts:
        """Loss is how many wrong texts an image found before its own."""
        wrong, texts = self.ranks.images[self._taken], self._score.texts
        truth, found = ([" | ".join(texts[i]) for i in self._taken], [self.ranks.found[i] for i in self._taken])
        return Verdicts(loss=wrong.astype(np.float64), right=wrong == 0, truth=truth, predicted=found, texts=True)

    def facts(self) -> dict[str, float]:
        """What is sought among: images, texts."""
        return {"images": float(len(self.ranks.images)), "texts": float(len(self.ranks.texts))}

    def sections(self, intervals: Intervals) -> list[Section]:
        """Recall both ways beside chance, and how many wrong ones stand before the right one."""
        whole = {name: float(value[0]) for name, value in self.figures(np.ones((1, len(self._taken)))).items()}
        rows: list[tuple[Cell, ...]] = []
        for way in WAYS:
            for k in FIRST:
                name = f"recall@{k}/{way}"
                rows.append((way.replace("_", " "), k, whole[name], *intervals.get(name, (None, None)), whole[f"chance@{k}"]))
        told = "Rows are drawn anew as queries, with all images and texts to be sought among."
        table = Table(("way", "among the first", "recall", "from", "to", "chance"), rows, told)
        wrong = self.ranks.images[self._taken]
        edges = np.unique(np.concatenate([[0, 1], np.geomspace(2, max(3, int(wrong.max(initial=0)) + 1), 10).round()]))
        counts, _ = np.histogram(wrong, bins=edges)
        title = "Wrong texts before an image's own"
        return [Section("Retrieval", [table, Bars(title, title, edges.tolist(), counts.tolist())])]


def _chance(others: int, right: int, first: int) -> float:
    """How likely one of ``right`` is among the first of ``others`` in a random order."""
    return 1 - math.comb(others - right, first) / math.comb(others, first) if others > first else 1.0
