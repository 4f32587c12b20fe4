"""Augmentation of images: shifted, mirrored, cut out and scaled up again, a rectangle erased; drawn anew for each image and epoch, as dropout is.

It works on what the body reads, patches or colours, so a training image is read and resized once. Unusual: a picture's border is continued where a shift
uncovers it, and what is erased becomes the picture's mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nabi.batch import Row
from nabi.data.pixels import joined, patched
from nabi.errors import OptionError


@dataclass(frozen=True)
class Augmentation:
    """What is done to an image, each drawn by itself; nothing by default.

    Attributes:
        shift: by at most so many pixels up or down, left or right.
        flip: mirror left and right, with this probability.
        crop: cut out a square part of at least this share of the area and scale it up (Szegedy et al. 2015, section 6); 1 is no crop.
        erase: erase a rectangle of 2 to 33 % of the area, with this probability (Zhong et al. 2017, "Random Erasing", section 3.2).
    """

    shift: int = 0
    flip: float = 0.0
    crop: float = 1.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is a probability", value=getattr(self, name), expected="0 to 1")
        if self.shift < 0 or not 0 < self.crop <= 1:
            told = f"shift {self.shift}, crop {self.crop}"
            raise OptionError("impossible augmentation", value=told, expected="shift of 0 or more, crop above 0 and at most 1")

    def applied(self, row: Row, generator: torch.Generator) -> Row:
        """The row with its image changed; ``notes["side"]`` is the side of its patches. The row itself if there is nothing to do."""
        if self == Augmentation():
            return row
        part, side = row.parts["image"], row.notes["side"]
        rows, columns = row.rows["image"]["grid"]
        name = "patches" if "patches" in part else "tokens"
        flat = np.asarray(part[name])
        picture = joined(flat, (rows, columns), side) if name == "patches" else flat.reshape(rows, columns, 1)
        picture = self.changed(picture, generator)
        new: Any = patched(picture, side) if name == "patches" else picture.ravel().tolist()
        return replace(row, parts={**row.parts, "image": {name: new}})

    def changed(self, picture: Any, generator: torch.Generator) -> Any:
        """(H, W, C) -> (H, W, C); every number is drawn whether it is used or not, so that a setting changes nothing of another."""
        height, width, _ = picture.shape
        down, right, mirrored, share, top, left, erased, area, ratio, y, x = torch.rand(11, generator=generator).tolist()
        if self.shift:
            dy, dx = (int(u * (2 * self.shift + 1)) - self.shift for u in (down, right))
            picture = picture[np.clip(np.arange(height) - dy, 0, height - 1)][:, np.clip(np.arange(width) - dx, 0, width - 1)]
        if mirrored < self.flip:
            picture = picture[:, ::-1]
        if self.crop < 1:
            scale = (self.crop + share * (1 - self.crop)) ** 0.5
            # the nearest pixel: it works for colour numbers too
            rows = (top * (1 - scale) + scale * (np.arange(height) + 0.5) / height) * height
            columns = (left * (1 - scale) + scale * (np.arange(width) + 0.5) / width) * width
            picture = picture[rows.astype(int)][:, columns.astype(int)]
        if erased < self.erase:
            tall = max(1, min(height, round(height * (0.02 + 0.31 * area) ** 0.5 * 2 ** (2 * ratio - 1))))
            wide = max(1, min(width, round(height * width * (0.02 + 0.31 * area) / tall)))
            first, start = int(y * (height - tall + 1)), int(x * (width - wide + 1))
            picture = picture.copy()
            hole = picture[first : first + tall, start : start + wide]
            # of colours that are numbers there is no mean, but a middle one
            hole[...] = picture.mean((0, 1)) if picture.dtype.kind == "f" else np.median(picture)
        return np.ascontiguousarray(picture)
