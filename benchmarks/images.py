"""Images a second of nabi's pipeline beside the incumbent's, image classification over JPEG files on disk, and nabi's memory over a TAR of many.

The incumbent's side is as its documentation says: ``pipeline("image-classification", model=..., image_processor=...)`` over the list of paths, with the
processor given as an object (the one that needs no torchvision), and over a generator of them; its best batch size counts. Both compute with the same
weights, drawn at random: in float32, where they must give the same scores, and with --bf16 in bfloat16 too, beside the largest difference of a score from
float32. Each side runs in a process of its own, the sides in turn, after a warm-up that is not counted; memory is the process's peak. The photos are synthetic:
smooth colours and some noise, 500 x 375, about 45 kB each.

    python benchmarks/images.py [--sizes base small] [--images 64] [--rounds 3] [--bf16] [--tar 1000 10000]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image

# (side of the image, patch, width, layers, heads); base is ViT-B/16
SIZES = {"base": (224, 16, 768, 12, 12), "small": (64, 8, 128, 4, 4)}
NABI = """
import json, sys, time
from pathlib import Path
from nabi import pipeline
from nabi.memory import peak
pipe = pipeline("image-classification", sys.argv[1], precision=sys.argv[3])
paths = sorted(map(str, Path(sys.argv[2]).glob("*.jpg")))
pipe(paths[:8])
began = time.perf_counter()
found = pipe(paths)
seconds = time.perf_counter() - began
print(json.dumps([seconds, peak(), [sorted((x["label"], x["score"]) for x in each) for each in found]]))
"""
PEER = """
import json, sys, time
from pathlib import Path
import torch
from transformers import pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from nabi.memory import peak
processor = ViTImageProcessorPil.from_pretrained(sys.argv[1])
pipe = pipeline("image-classification", model=sys.argv[1], image_processor=processor, device="cpu", dtype=getattr(torch, sys.argv[5]))
paths = sorted(map(str, Path(sys.argv[2]).glob("*.jpg")))
pipe(paths[:8], batch_size=int(sys.argv[3]))
began = time.perf_counter()
given = paths if sys.argv[4] == "list" else (path for path in paths)
found = list(pipe(given, batch_size=int(sys.argv[3])))
seconds = time.perf_counter() - began
print(json.dumps([seconds, peak(), [sorted((x["label"], x["score"]) for x in each) for each in found]]))
"""
STREAM = """
import sys, time
from nabi import load
from nabi.data import read_table
from nabi.memory import peak
model = load(sys.argv[1], precision="fp32")
table = model.task.opened(read_table(sys.argv[2]))
began = time.perf_counter()
count = sum(1 for _ in model.answers(table))
print(count, time.perf_counter() - began, peak())
"""


def photo(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A JPEG file."""
    dice = np.random.default_rng(seed)
    rough = Image.fromarray(dice.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(rough).astype(np.int16) + dice.normal(0, 8, (height, width, 1)).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def folder(size: str, where: Path) -> Path:
    """A model that both sides read, with random weights."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    side, patch, width, layers, heads = SIZES[size]
    config = ViTConfig(
        image_size=side, patch_size=patch, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width, num_labels=4
    )
    ViTForImageClassification(config).save_pretrained(where / size)
    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(where / size)
    # the name that checkpoints bear
    path = where / size / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_processor_type": "ViTImageProcessor"}))
    return where / size


def measured(code: str, *args: Any) -> list[Any]:
    """What a side prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    last = done.stdout.strip().splitlines()[-1]
    return list(json.loads(last)) if last.startswith("[") else last.split()


def beside(size: str, images: int, rounds: int, precisions: dict[str, str], where: Path) -> None:
    """One table: images a second of both sides, their ratio at each precision, memory, the largest difference of a score from the incumbent's float32."""
    model, photos = folder(size, where), where / "photos"
    photos.mkdir(exist_ok=True)
    for i in range(len(list(photos.iterdir())), images):
        (photos / f"{i:05}.jpg").write_bytes(photo(i))
    ways = [(batch, form) for batch in (1, 8) for form in ("list", "generator")]
    sides: dict[tuple[str, str], list[list[Any]]] = {}
    for _ in range(rounds):
        for precision, dtype in precisions.items():
            sides.setdefault((precision, "nabi"), []).append(measured(NABI, model, photos, precision))
            for batch, form in ways:
                sides.setdefault((precision, f"incumbent, batch {batch}, {form}"), []).append(measured(PEER, model, photos, batch, form, dtype))
    count = len(list(photos.iterdir()))
    rates = {name: statistics.median(count / each[0] for each in runs) for name, runs in sides.items()}
    exact = sides["fp32", f"incumbent, batch 1, {ways[0][1]}"][0][2]
    print(f"\n{size}: {count} photos, {rounds} rounds, medians")
    for name, runs in sides.items():
        peak = statistics.median(each[1] for each in runs)
        gap = max(abs(a[1] - b[1]) for ours, theirs in zip(runs[0][2], exact, strict=True) for a, b in zip(ours, theirs, strict=True))
        print(f"  {name[0]:<5} {name[1]:<32} {rates[name]:8.2f} images/s   {peak / 1e6:7.0f} MB   largest difference of a score {gap:.1e}")
    best = {precision: max(rate for (each, side), rate in rates.items() if each == precision and side != "nabi") for precision in precisions}
    for ours in precisions:
        ratios = ", ".join(f"{rates[ours, 'nabi'] / rate:.2f} of the incumbent's best in {theirs}" for theirs, rate in best.items())
        print(f"  nabi in {ours}: {ratios}")


def streamed(counts: list[int], where: Path) -> None:
    """Peak memory over a TAR of so many photos."""
    model = folder("small", where)
    photos = [photo(i) for i in range(100)]
    for count in counts:
        path = where / f"{count}.tar"
        with tarfile.open(path, "w") as tar:
            for i in range(count):
                member = tarfile.TarInfo(f"{i:06}.jpg")
                member.size = len(photos[i % 100])
                tar.addfile(member, io.BytesIO(photos[i % 100]))
        rows, seconds, peak = map(float, measured(STREAM, model, path))
        print(f"  TAR of {int(rows):,} photos ({path.stat().st_size / 1e6:,.0f} MB): {rows / seconds:.0f} images/s, peak {peak / 1e6:.0f} MB")
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="both sides in bfloat16 too")
    parser.add_argument("--tar", type=int, nargs="*", default=[1000, 10_000])
    given = parser.parse_args()
    print(machine())
    precisions = {"fp32": "float32", **({"bf16": "bfloat16"} if given.bf16 else {})}
    with tempfile.TemporaryDirectory() as temporary:
        for size in given.sizes:
            beside(size, given.images, given.rounds, precisions, Path(temporary))
        if given.tar:
            print("\nnabi's memory")
            streamed(given.tar, Path(temporary))


if __name__ == "__main__":
    main()
