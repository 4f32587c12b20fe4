"""Fifty pictures as people have them, made here: sizes from a pixel to larger than any target, all modes, the eight orientations, six formats."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = ((1, 1), (3, 200), (200, 3), (224, 224), (37, 61), (300, 90), (256, 257), (5, 8), (31, 32), (640, 480))  # (width, height)
MODES = ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr")
ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}
WRITES = {
    "JPEG": ("RGB", "L", "CMYK", "YCbCr"), "PNG": ("RGB", "L", "P", "RGBA", "LA", "1"), "GIF": ("L", "P", "1"), "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"), "TIFF": ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1"),
}  # fmt: skip
ORIENTATION = 0x0112  # of EXIF


def picture(mode: str, size: tuple[int, int], seed: int = 0) -> Any:
    """Slopes with noise, so that no crop or turn of it looks like another."""
    width, height = size
    generator = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    made = Image.fromarray((slopes * 0.7 + generator.integers(0, 70, (height, width, 3))).clip(0, 255).astype(np.uint8))
    if mode == "P":
        return made.quantize(16)
    if mode in ("RGBA", "LA"):
        made = made.convert("RGBA" if mode == "RGBA" else "LA")
        made.putalpha(Image.fromarray(generator.integers(0, 256, (height, width)).astype(np.uint8)))
        return made
    return made.convert(mode)


def written(image: Any, kind: str, **how: Any) -> bytes:
    """A file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def turned(kind: str, orientation: int, size: tuple[int, int] = (40, 24), mode: str = "RGB") -> bytes:
    """A file that says how it has to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return written(picture(mode, size), kind, exif=exif)


def fifty(folder: Path) -> list[Path]:
    """The files, each with its kind in its name."""
    made: dict[str, bytes] = {}
    pairs = [(kind, mode) for kind, modes in WRITES.items() for mode in modes]
    for i, (kind, mode) in enumerate(pairs):
        size = SIZES[i % len(SIZES)]
        made[f"{mode}-{size[0]}x{size[1]}{ENDINGS[kind]}"] = written(picture(mode, size, i), kind)
    for orientation in range(1, 9):
        kind = ("JPEG", "WEBP", "TIFF", "PNG")[orientation % 4]
        made[f"turned-{orientation}{ENDINGS[kind]}"] = turned(kind, orientation)
    made["turned-9.jpg"] = turned("JPEG", 9)  # means nothing
    palette = picture("P", (50, 20))
    made["one-clear.png"] = written(palette, "PNG", transparency=3)
    made["many-clear.png"] = written(palette, "PNG", transparency=bytes(range(0, 160, 10)))
    made["clear.gif"] = written(palette, "GIF", transparency=2)
    made["clear-RGB.png"] = written(picture("RGB", (20, 20)), "PNG", transparency=(10, 20, 30))
    made["clear-L.png"] = written(picture("L", (20, 20)), "PNG", transparency=7)
    made["interlaced.png"] = written(picture("RGB", (33, 65)), "PNG")
    made["progressive.jpg"] = written(picture("RGB", (90, 70)), "JPEG", progressive=True, quality=30)
    made["moving.gif"] = written(picture("P", (30, 30)), "GIF", save_all=True, append_images=[picture("P", (30, 30), 9)])
    made["moving.webp"] = written(picture("RGB", (30, 30)), "WEBP", save_all=True, append_images=[picture("RGB", (30, 30), 9)])
    made["wide.ppm"] = written(picture("RGB", (200, 7)), "PPM")
    made["grey.pgm"] = written(picture("L", (7, 200)), "PPM")
    for i, size in enumerate(SIZES[: 50 - len(made)]):
        made[f"more-{size[0]}x{size[1]}.png"] = written(picture("RGB", size, 100 + i), "PNG")
    folder.mkdir(exist_ok=True)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in sorted(made)]
