"""The doctor's look at the machine: threads, fast paths with a measured speed, memory, disk, the hub's cache, versions, CUDA. Takes about a second.

Unusual: what a container may use is asked of its control group, since the machine under it has more.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nabi.inspection.findings import Finding, finding, ordered, size
from nabi.nn import fast
from nabi.weights import hub

CORE = ("torch", "numpy", "tokenizers", "safetensors", "click")
EXTRAS = ("transformers", "pyarrow", "pandas")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
SHAPE = (128, 768, 3072)  # tokens, in, out: the largest product of BERT-base, for a small batch
SECONDS = 0.2  # a product is repeated
LITTLE_DISK, LITTLE_MEMORY = 2e9, 1e9
_CGROUP = Path("/sys/fs/cgroup")


def check_machine() -> list[Finding]:
    """Facts about this machine (info) and what makes nabi slow or fail on it (warning)."""
    cores = available_cores()
    speeds = product_speeds()
    found = [
        _versions(),
        finding("info", "cpu", f"{cpu()}."),
        *_threads(os.environ, cores, torch.get_num_threads()),
        *_speed(speeds),
        *_memory(),
        *_disk({"here": Path.cwd(), "in the cache": hub.caches()[0]}),
        *_cache(hub.caches()),
        *_network(),
        *_cuda(),
        *_encoding(),
    ]
    return ordered(found)


def available_cores() -> float:
    """Cores that this process may use: its affinity, or less where the container has a quota."""
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(_CGROUP / "cpu.max").split()
    return min(cores, int(quota[0]) / int(quota[1])) if len(quota) == 2 and quota[0].isdigit() else cores


def product_speeds() -> dict[str, float]:
    """GFLOP/s of one linear layer by how it is computed, the best of a fifth of a second each."""
    tokens, inputs, outputs = SHAPE
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(tokens, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    layers = {name: fast.PreparedLinear(w, None, dtype) for name, dtype in (("fp32 prepared", torch.float32), ("bf16 prepared", torch.bfloat16))}
    runs: dict[str, Callable[[], Tensor]] = {"fp32": partial(F.linear, x, w)}
    runs |= {name: partial(layer, x.to(layer.dtype)) for name, layer in layers.items()}
    found = {}
    with torch.no_grad():
        for name, run in runs.items():
            run()
            best, end = float("inf"), time.perf_counter() + SECONDS
            while (began := time.perf_counter()) < end:
                run()
                best = min(best, time.perf_counter() - began)
            found[name] = 2 * tokens * inputs * outputs / best / 1e9
    return found


def _versions() -> Finding:
    named = [f"{name} {_version(name) or 'MISSING'}" for name in CORE] + [f"{name} {found}" for name in EXTRAS if (found := _version(name))]
    return finding("info", "versions", f"Python {platform.python_version()}, {', '.join(named)}; {platform.system()} {platform.machine()}.")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu() -> str:
    """Processor, cores, threads and the instructions that products use, in one line."""
    info = _read(Path("/proc/cpuinfo"))
    name = next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), platform.processor() or platform.machine())
    flags = set(next((line for line in info.splitlines() if line.startswith("flags")), "").split())
    known = ", ".join(i for i in INSTRUCTIONS if i in flags) or torch.backends.cpu.get_cpu_capability()
    return f"{name}, {available_cores():g} cores, {torch.get_num_threads()} torch threads; {known}"


def _threads(environment: Mapping[str, str], cores: float, threads: int) -> Iterator[Finding]:
    """Settings of threads and instructions that make products slow."""
    whole = max(1, int(cores))
    if threads > cores:
        message = f"torch uses {threads} threads on {cores:g} cores: they wait for each other."
        yield finding("warning", "threads", message, f"export OMP_NUM_THREADS={whole}")
    elif threads < whole:
        given = environment.get("OMP_NUM_THREADS") or environment.get("MKL_NUM_THREADS")
        because = f" (OMP_NUM_THREADS or MKL_NUM_THREADS is {given})" if given else ""
        fix = "unset OMP_NUM_THREADS MKL_NUM_THREADS, unless other processes need the rest"
        yield finding("warning", "threads", f"torch uses {threads} of {whole} cores{because}.", fix)
    values = {name: environment.get(name, "").lower() for name in ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "KMP_BLOCKTIME", "TOKENIZERS_PARALLELISM")}
    if values["OMP_WAIT_POLICY"] == "active" or values["KMP_BLOCKTIME"] == "infinite":
        yield finding("warning", "waiting", "idle OpenMP threads spin instead of sleeping, and take cores from others.", "unset OMP_WAIT_POLICY KMP_BLOCKTIME")
    if values["OMP_PROC_BIND"] in ("true", "close", "spread", "master", "primary"):
        message = "OMP_PROC_BIND ties threads to cores: two processes may sit on the same ones."
        yield finding("warning", "binding", message, "unset OMP_PROC_BIND where more than one process runs")
    if values["TOKENIZERS_PARALLELISM"] in ("false", "0", "off", "no"):
        yield finding("warning", "tokenizers", "TOKENIZERS_PARALLELISM is off: texts are tokenised on one core.", "unset TOKENIZERS_PARALLELISM")
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "MKL_CBWR")
    limits = [f"{name}={environment[name]}" for name in names if environment.get(name)]
    if limits:
        unset = "unset " + " ".join(limit.partition("=")[0] for limit in limits)
        yield finding("warning", "instructions", f"{', '.join(limits)}: may keep this processor's fast instructions from being used.", unset)


def _speed(speeds: Mapping[str, float]) -> Iterator[Finding]:
    packed = "oneDNN, packed" if fast.has_onednn() else "torch's default, for oneDNN would compute in bfloat16 here"
    training = "oneDNN" if fast.prefers_onednn() else "torch's default"
    figures = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
    message = f"float32 products go to {training} in training and to {packed}, in a prepared model; measured GFLOP/s: {figures}."
    yield finding("info", "fast_path", message)
    if speeds["bf16 prepared"] < speeds["fp32 prepared"]:
        yield finding("warning", "bf16", "bfloat16 is slower than float32 on this processor.", "use precision fp32 here")


def _memory() -> Iterator[Finding]:
    lines = dict(line.split(":", 1) for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    kilobytes = {name: int(value.split()[0]) * 1024 for name, value in lines.items()}
    if "MemAvailable" not in kilobytes:
        return
    free, whole, note = kilobytes["MemAvailable"], kilobytes["MemTotal"], ""
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and used.isdigit() and int(limit) < whole:
        free, whole, note = min(free, int(limit) - int(used)), int(limit), " in this container"
    yield finding("info", "memory", f"{size(free)} of {size(whole)} memory are available{note}.")
    if free < LITTLE_MEMORY:
        fix = "end other programs; fine-tuning MiniLM takes about 1 GB, BERT-base about 3 GB"
        yield finding("warning", "little_memory", f"only {size(free)} of memory are available{note}.", fix)


def _disk(places: Mapping[str, Path]) -> Iterator[Finding]:
    seen = set()
    for name, place in places.items():
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        usage = shutil.disk_usage(there)
        if (key := (there.stat().st_dev, usage.total)) in seen:
            continue
        seen.add(key)
        yield finding("info", "disk", f"{size(usage.free)} of {size(usage.total)} are free {name} ({there}).")
        if usage.free < LITTLE_DISK:
            yield finding("warning", "little_disk", f"only {size(usage.free)} are free {name}.", f"free some space, or: du -sh {shlex.quote(str(there))}/*")
        if not os.access(there, os.W_OK):
            fix = "give --out a folder elsewhere" if name == "here" else "export HF_HUB_CACHE=DIR"
            yield finding("warning", "read_only", f"{there} can't be written.", fix)


def _cache(folders: list[Path]) -> Iterator[Finding]:
    """The hub's caches: size, models, files that were half fetched, links that lead nowhere."""
    for folder in folders:
        if not folder.is_dir():
            yield finding("info", "cache", f"the hub's cache {folder} does not exist yet.")
            continue
        models = [p for p in folder.iterdir() if p.name.startswith("models--") and p.is_dir()]
        blobs = [p for m in models for p in (m / "blobs").glob("*")]
        half = [p for p in blobs if p.name.endswith(".incomplete")]
        broken = [p for m in models for p in (m / "snapshots").rglob("*") if p.is_symlink() and not p.exists()]
        total = sum(p.stat().st_size for p in blobs if p.is_file())  # a link to what models shared may lead nowhere
        yield finding("info", "cache", f"the hub's cache {folder} holds {len(models)} models, {size(total)}.")
        if half:
            names = sorted({p.parent.parent.name.removeprefix("models--").replace("--", "/") for p in half})
            message = f"{len(half)} files in the cache are half fetched ({size(sum(p.stat().st_size for p in half))}; {', '.join(names[:5])})."
            command = f"fetch the model again, or: find {shlex.quote(str(folder))} -name '*.incomplete' -delete"
            yield finding("warning", "half_fetched", message, command)
        if broken:
            names = sorted({p.relative_to(folder).parts[0].removeprefix("models--").replace("--", "/") for p in broken})
            message = f"{len(broken)} files in the cache lead nowhere ({', '.join(names[:5])})."
            yield finding("warning", "broken_links", message, f"fetch the model again, or: find {shlex.quote(str(folder))} -xtype l -delete")


def _network() -> Iterator[Finding]:
    if hub.offline():
        yield finding("info", "offline", "HF_HUB_OFFLINE is set: models that are not here are not fetched.", "unset HF_HUB_OFFLINE")


def _cuda() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, whole = torch.cuda.mem_get_info(i)
            properties = torch.cuda.get_device_properties(i)
            message = f"cuda:{i} is {properties.name}, capability {properties.major}.{properties.minor}, {size(free)} of {size(whole)} free."
            yield finding("info", "cuda", message, f"--device cuda:{i}")
    elif Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        built = f"is built for CUDA {torch.version.cuda}, but the driver does not answer" if torch.version.cuda else "is built without CUDA"
        fix = "check the driver with nvidia-smi" if torch.version.cuda else "install the CUDA build of torch"
        yield finding("warning", "cuda", f"this machine has an NVIDIA driver, but torch {torch.__version__} {built}.", fix)


def _encoding() -> Iterator[Finding]:
    encodings = {sys.getfilesystemencoding(), (sys.stdout.encoding or "utf-8")}
    strange = sorted(e for e in encodings if e.lower().replace("-", "") != "utf8")
    if strange:
        message = f"texts and file names are written as {', '.join(strange)}, which has no Hangul."
        yield finding("warning", "locale", message, "export PYTHONUTF8=1")


def _read(path: Path) -> str:
    """A small file of the operating system; empty where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
