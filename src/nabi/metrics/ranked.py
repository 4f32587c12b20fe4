"""Retrieval: how often what belongs to a query is among the first K that were found for it, both ways, beside what chance would find."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nabi.metrics.detail import Array

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

    def add(self, answer: Mapping[str, Any], truth: Sequence[str]) -> None:
        """One image and its texts: ``image_embedding`` (W,), ``text_embeddings`` (n, W); the n texts."""
        self._images.append(np.asarray(answer["image_embedding"], dtype=np.float32))
        self._texts.extend(np.asarray(answer["text_embeddings"], dtype=np.float32))
        self._of_images.append(frozenset(truth))
        self._of_texts.extend(truth)

    def result(self) -> dict[str, float]:
        """mean_recall, and recall@K of both ways, their mean, and chance@K, the recall of a random order."""
        if not self._images:
            return {"mean_recall": 0.0}
        images, texts = np.stack(self._images), np.stack(self._texts)
        numbers = {text: i for i, text in enumerate(dict.fromkeys(self._of_texts))}
        of_texts = np.array([numbers[text] for text in self._of_texts])
        right = np.zeros((len(images), len(numbers)), dtype=bool)
        for i, own in enumerate(self._of_images):
            right[i, [numbers[text] for text in own]] = True
        ranks, chances = [], []
        for queries, others, matches in ((images, texts, lambda rows: right[rows][:, of_texts]), (texts, images, lambda rows: right.T[of_texts[rows]])):
            wrong, good = [], []
            for begin in range(0, len(queries), BLOCK):
                rows = slice(begin, begin + BLOCK)
                scores, fits = queries[rows] @ others.T, matches(rows)
                best = np.where(fits, scores, -np.inf).max(1)
                wrong.append(((scores >= best[:, None]) & ~fits).sum(1))
                good.append(fits.sum(1))
            ranks.append(np.concatenate(wrong))
            chances.append([np.mean([_chance(len(others), int(n), k) for n in np.concatenate(good)]) for k in FIRST])
        found = {f"recall@{k}/{way}": float((rank < k).mean()) for way, rank in zip(WAYS, ranks, strict=True) for k in FIRST}
        both = {f"recall@{k}": sum(found[f"recall@{k}/{way}"] for way in WAYS) / 2 for k in FIRST}
        chance = {f"chance@{k}": float(np.mean([by_way[i] for by_way in chances])) for i, k in enumerate(FIRST)}
        return {"mean_recall": sum(both.values()) / len(both), **both, **found, **chance}


def _chance(others: int, right: int, first: int) -> float:
    """How likely one of ``right`` is among the first of ``others`` in a random order."""
    return 1 - math.comb(others - right, first) / math.comb(others, first) if others > first else 1.0
