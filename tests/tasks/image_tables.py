"""Tiny labelled images, dark ones and light ones, in every form that a table of images has."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FORMS = (
    "folder", "tar", "paths beside jsonl", "paths beside csv", "tar beside jsonl", "npz beside jsonl", "folder beside jsonl", "npz of both", "npz of bytes",
)  # fmt: skip
COLUMNS = {"npz of both": "image=images,label=labels", "npz of bytes": "image=jpeg,label=labels"}


def pictures(count: int = 16, seed: int = 0) -> list[tuple[np.ndarray, str]]:
    """(H, W, 3) and its label, by turns."""
    generator = np.random.default_rng(seed)
    return [(generator.integers(0, 90, (12, 10, 3)).astype(np.uint8) + np.uint8(160 * (i % 2)), ("dark", "light")[i % 2]) for i in range(count)]


def file_of(array: np.ndarray, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    """A TAR."""
    with tarfile.open(path, "w") as made:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return path


def table(folder: Path, form: str, count: int = 16, seed: int = 0) -> Path:
    """What --data takes, in a form of ``FORMS``."""
    folder.mkdir(parents=True, exist_ok=True)
    given = pictures(count, seed)
    named = {f"{i:03}.png": (file_of(array), label) for i, (array, label) in enumerate(given)}
    if form == "folder":
        for name, (data, label) in named.items():
            (folder / "images" / label).mkdir(parents=True, exist_ok=True)
            (folder / "images" / label / name).write_bytes(data)
        return folder / "images"
    if form == "tar":
        return archive(folder / "images.tar", {f"{label}/{name}": data for name, (data, label) in named.items()})
    if form.startswith("npz of"):
        labels = np.array([label for _, label in given])
        if form == "npz of both":
            np.savez(folder / "images.npz", images=np.stack([array for array, _ in given]), labels=labels)
        else:
            files = [np.frombuffer(file_of(array, "JPEG"), np.uint8) for array, _ in given]
            np.savez(folder / "images.npz", jpeg=np.concatenate(files), offsets=np.cumsum([0, *map(len, files)]), labels=labels)
        return folder / "images.npz"
    rows: list[dict[str, Any]] = [{"image": name, "label": label} for name, (_, label) in named.items()]
    if form.startswith("paths"):
        (folder / "here").mkdir()
        for name, (data, _) in named.items():
            (folder / "here" / name).write_bytes(data)
        rows = [{**row, "image": f"here/{row['image']}"} for row in rows]
    elif form.startswith("tar"):
        archive(folder / "rows_images.tar", {name: data for name, (data, _) in named.items()})
    elif form.startswith("folder"):
        (folder / "rows_images").mkdir()
        for name, (data, _) in named.items():
            (folder / "rows_images" / name).write_bytes(data)
        rows = [{**row, "image": row["image"].removesuffix(".png")} for row in rows]
    else:
        np.savez(folder / "rows_images.npz", images=np.stack([array for array, _ in given]))
        rows = [{**row, "image": i} for i, row in enumerate(rows)]
    if form.endswith("csv"):
        (folder / "rows.csv").write_text("image,label\n" + "".join(f"{row['image']},{row['label']}\n" for row in rows))
        return folder / "rows.csv"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"
