"""What a report shows of a row: its text, and its image as a thumbnail.

Unusual: a thumbnail has at most ``MOST`` bytes whatever the image, so the size of a page is bounded by the number of its rows.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from nabi.data.images import is_image, pillow, pixels_of
from nabi.pages.sections import Picture

IMAGE = "image"  # the column of the tasks that read images
SIDE = 80  # pixels of a thumbnail's longer side; a smaller image keeps its own
SHOWN = 48  # CSS pixels of the longer side, at least
MOST = 4096  # bytes of a thumbnail
_QUALITIES = (80, 60, 40, 20, 5)  # of JPEG, until it is small enough: even noise is at the last
_NAME = 255  # characters of a file's name at most: a longer text is an image that is written out


def shown(row: Mapping[str, Any], fields: tuple[str, ...]) -> str:
    """The columns of a row that a reader needs, in one text; of an image its file's name, nothing if it has none."""
    return " / ".join(filter(None, (_words(name, row.get(name)) for name in fields)))


def thumbnail(row: Mapping[str, Any], where: str) -> Picture | None:
    """The image of a row, small; None if the row has none.

    Args:
        row: of a task that reads images, or of another.
        where: what to call it.

    Raises:
        InputError: the image can't be read.
    """
    if row.get(IMAGE) is None:
        return None
    pixels = pixels_of(row[IMAGE], where)
    image = pillow("Image").fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    times = max(1.0, SHOWN / max(image.size))
    width, height = (max(1, round(side * times)) for side in image.size)
    return Picture(_small(image), f"image of {where}", width, height)


def _small(image: Any) -> bytes:
    """A file of at most ``MOST`` bytes: PNG, which is exact, if that is small enough."""
    data = _written(image, "PNG", optimize=True)
    for quality in _QUALITIES:
        if len(data) <= MOST:
            break
        data = _written(image, "JPEG", quality=quality)
    return data


def _written(image: Any, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def _words(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and name == IMAGE:  # as `datasets` has it
        value = value.get("path") or b""
    if value is None or isinstance(value, np.ndarray | bytes | bytearray) or (is_image(value) and not hasattr(value, "__fspath__")):
        return ""
    text = str(value)
    return "" if name == IMAGE and (text.startswith("data:") or len(text) > _NAME) else text
