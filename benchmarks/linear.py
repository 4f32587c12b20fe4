"""Speed of the matrix products that fine-tuning is made of: torch's default, oneDNN by precision setting, oneDNN prepacked, bfloat16; and each one's error.

    python benchmarks/linear.py [--runs 20]

The shapes are MiniLM's and BERT-base's. ``nabi.nn.fast`` chooses by what this prints on the processors seen so far.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor

from nabi.nn import fast

SHAPES = [(200, 384, 1152), (800, 384, 1152), (800, 384, 1536), (800, 1536, 384), (512, 768, 3072)]


def seconds(run: Callable[[], Tensor], runs: int) -> float:
    """The median of several runs, after three that warm up."""
    times = []
    for i in range(runs + 3):
        began = time.perf_counter()
        run()
        if i >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    print(f"{machine()}; oneDNN keeps float32: {fast.has_onednn()}, training goes to it: {fast.prefers_onednn()}")
    print(f"{'tokens x in x out':<20}{'default':>10}{'oneDNN':>10}{'prepacked':>10}{'bf16':>10}   GFLOP/s; then the largest error relative to float64")
    for tokens, inputs, outputs in SHAPES:
        generator = torch.Generator().manual_seed(0)
        x, w, b = (torch.randn(*shape, generator=generator) for shape in ((tokens, inputs), (outputs, inputs), (outputs,)))
        exact = F.linear(x.double(), w.double(), b.double())
        packed = {name: fast.PreparedLinear(w, b, dtype) for name, dtype in (("prepacked", torch.float32), ("bf16", torch.bfloat16))}
        variants: dict[str, Callable[[], Tensor]] = {
            "default": lambda x=x, w=w, b=b: F.linear(x, w, b),
            "oneDNN": lambda x=x, w=w, b=b: fast.in_onednn(F.linear, x, w, b),
            **{name: (lambda layer=layer, x=x: layer(x)) for name, layer in packed.items()},
        }
        with torch.no_grad():
            speeds = {name: 2 * tokens * inputs * outputs / seconds(run, runs) / 1e9 for name, run in variants.items()}
            errors = {name: float((run().double() - exact).abs().max() / exact.abs().max()) for name, run in variants.items()}
        shape = f"{tokens} x {inputs} x {outputs}"
        print(f"{shape:<20}" + "".join(f"{v:>10.0f}" for v in speeds.values()) + "   " + "  ".join(f"{v:.1e}" for v in errors.values()))


if __name__ == "__main__":
    main()
