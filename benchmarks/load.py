"""Loading BERT-base: seconds and memory from torch imported to a model that can answer, nabi beside transformers' ``from_pretrained``.

    python benchmarks/load.py [--runs 7]

Each load is a fresh process, in turn; torch and the library itself are imported before the clock starts. Memory is the most that the process held above
what it held before loading, as a multiple of the weights' file; a mapped file counts as far as its pages were touched. nabi maps the file and copies what
it must, so it is also measured after one pass over all weights ("touched"), which reads them all. The file lies in the page cache. Goal: 60 ms, 1.15 times
the file. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PREPARE = """
from nabi import create, save
from nabi.tasks import find
task = find("text_classification")
save(create("bert", "base", task.name, task.Settings(labels=("0", "1")), "minilm"), {folder!r})
"""
MEASURE = """
import json, sys, time
import torch
{imports}
def held(key):
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])
torch.zeros(8, 8) @ torch.zeros(8, 8)
open("/proc/self/clear_refs", "w").write("5")
before, began = held("VmRSS"), time.perf_counter()
{load}
seconds, peak = time.perf_counter() - began, held("VmHWM")
with torch.no_grad():
    total = sum(float(p.sum()) for p in model.parameters())
print("RESULT " + json.dumps({{"seconds": seconds, "peak": peak - before, "touched": held("VmHWM") - before, "sum": total}}))
"""
SIDES = {
    "nabi load_body": ("from nabi import checkpoint", "model = checkpoint.load_body({folder!r})"),
    "nabi load": ("from nabi import checkpoint", "model = checkpoint.load({folder!r})"),
    "transformers body": ("from transformers import BertModel", "model = BertModel.from_pretrained({folder!r})"),
    "transformers model": (
        "from transformers import BertForSequenceClassification, BertTokenizerFast",
        "model = BertForSequenceClassification.from_pretrained({folder!r}); tokenizer = BertTokenizerFast.from_pretrained({folder!r})",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary) / "model")
        subprocess.run([sys.executable, "-c", PREPARE.format(folder=folder)], check=True)
        weights = (Path(folder) / "model.safetensors").stat().st_size
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for number in range(runs + 1):
            for side, (imports, load) in SIDES.items():
                code = MEASURE.format(imports=imports, load=load.format(folder=folder))
                text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
                if number:  # the first round fills the caches
                    found[side].append(json.loads(next(line for line in text.splitlines() if line.startswith("RESULT "))[7:]))
    from machine import machine  # imports torch, so only now

    print(f"{machine()}; BERT-base, {weights / 1e6:.0f} MB; {runs} runs, in turn")
    print(f"{'':<20}{'ms':>8}{'smallest, largest':>20}{'peak / file':>13}{'touched / file':>16}")
    for side, each in found.items():
        times = [1000 * r["seconds"] for r in each]
        extremes = f"{min(times):.0f}, {max(times):.0f}"
        memory = [statistics.median(r[key] for r in each) / weights for key in ("peak", "touched")]
        print(f"{side:<20}{statistics.median(times):>8.0f}{extremes:>20}{memory[0]:>13.2f}{memory[1]:>16.2f}")


if __name__ == "__main__":
    main()
