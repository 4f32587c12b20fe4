"""What a benchmark ran on, in one line: every table of figures begins with it.

    python benchmarks/machine.py
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processor, cores, threads and versions."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    capability = torch.backends.cpu.get_cpu_capability()
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return f"{name} ({capability}), {cores} cores, {threads} threads, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    print(machine())
