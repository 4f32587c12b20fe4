"""Arrays as PNG files (ISO/IEC 15948), and numbers as colours: what a page needs to draw a matrix of any size.

Written with zlib alone, so that drawing needs no package. Unusual: the colours run from dark to bright in light and dark pages alike, evenly in lightness, so
brighter always means more, to those who see few colours too.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
# after the map "inferno" of matplotlib (CC0), every 32nd colour: from black over violet and orange to pale yellow
_STOPS = ((0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164))


def png(pixels: Pixels) -> bytes:
    """(H, W, 3) colours or (H, W) greys -> a PNG file."""
    height, width = pixels.shape[:2]
    flat = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), flat], axis=1)  # each line begins with its filter: none
    head = struct.pack(">2I5B", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + _chunk(b"IEND", b"")


def coloured(values: Any, low: float, high: float) -> Pixels:
    """Numbers (...) -> colours (..., 3), dark at ``low`` and bright at ``high``; what lies beyond is as these, and what is no number is grey."""
    numbers = np.asarray(values, dtype=np.float64)
    place = np.clip((numbers - low) / (high - low) if high > low else np.zeros_like(numbers), 0, 1) * (len(_STOPS) - 1)
    at = np.arange(len(_STOPS))
    mixed = np.stack([np.interp(np.nan_to_num(place), at, [stop[c] for stop in _STOPS]) for c in range(3)], axis=-1)
    mixed[np.isnan(numbers)] = 128
    found: Pixels = mixed.round().astype(np.uint8)
    return found


def scaled(pixels: Pixels, times: int) -> Pixels:
    """Each pixel as ``times`` x ``times``."""
    found: Pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
