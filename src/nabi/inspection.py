"""What a model is made of, and what is wrong with a machine, a model or a data file: ``nabi inspect`` and ``nabi doctor``."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nabi import checkpoint
from nabi.data import check_labelled, read_table
from nabi.errors import MissingHeadError, UserError
from nabi.layout import Layout
from nabi.model import Model
from nabi.nn import fast
from nabi.nn.kernels import Call, Pattern, explain_kernels

Finding = dict[str, Any]


def inspect_model(model: str, plugins: Iterable[str | Path | ModuleType] = ()) -> dict[str, Any]:
    """Facts about a model folder, in the order in which a reader wants them.

    Args:
        model: a folder or shipped name, with or without a head.
        plugins: files with families and tasks of your own.
    """
    loaded, task = _opened(model, plugins)
    body = loaded.body if isinstance(loaded, Model) else loaded
    groups = loaded.groups()
    total = sum(p.numel() for p in loaded.parameters())
    facts: dict[str, Any] = {"model": model, "task": task, "parameters": f"{total:,}"}
    facts["groups"] = [f"{i}: {type(m).__name__}, {sum(p.numel() for p in m.parameters()):,} parameters" for i, m in enumerate(groups)]
    patterns = dict.fromkeys(pattern for m in body.modules() if isinstance(pattern := getattr(m, "pattern", None), Pattern))
    lengths = {"64 rows of 24 tokens": [24] * 64, "32 rows of 5 to 60 tokens": sorted(5 + i * 55 // 31 for i in range(32))}
    layouts = {name: Layout.of(sizes) for name, sizes in lengths.items()}
    facts["kernels"] = [f"{name}, {pattern}: {line}" for pattern in patterns for name, at in layouts.items() for line in explain_kernels(Call(at, at, pattern))]
    if isinstance(loaded, Model):
        tokenizer = loaded.inputs.tokenizer
        facts["tokenizer"] = [f"{tokenizer.vocab_size:,} tokens, at most {loaded.inputs.max_length} in a row"]
        if tokenizer.stored_truncation or tokenizer.stored_padding:
            facts["tokenizer"].append(f"its file stores truncation {tokenizer.stored_truncation} and padding {tokenizer.stored_padding}; neither is applied")
        facts["golden"] = loaded.check_golden() or f"{len(loaded.origin.golden)} vectors, all as saved"
    return facts


def _opened(model: str, plugins: Iterable[str | Path | ModuleType]) -> tuple[Any, str]:
    try:
        loaded = checkpoint.load(model, plugins=plugins)
    except MissingHeadError:
        return checkpoint.load_body(model, plugins=plugins), "none: a bare encoder, to be trained"
    return loaded, loaded.task.name


def check(
    target: str | None, dev: str | None = None, columns: Mapping[str, str] | None = None, plugins: Iterable[str | Path | ModuleType] = ()
) -> list[Finding]:
    """What ``nabi doctor`` finds: dicts with severity (error, warning, info), code, message and fix.

    Args:
        target: a model folder or shipped name, a data file, or None for the machine.
        dev: dev rows beside a data file.
    """
    if target is None:
        return check_machine()
    if Path(target).is_dir() or target in checkpoint.SHIPPED:
        return check_model(target, plugins)
    table = read_table(target, columns)
    held_out = read_table(dev, columns) if dev else None
    found = [asdict(finding) for finding in check_labelled(table, held_out)]
    return found or [_finding("info", "clean", f"{table.name}: {len(table)} rows, nothing found.")]


def check_model(target: str, plugins: Iterable[str | Path | ModuleType] = ()) -> list[Finding]:
    """Whether a model folder loads and reads as it did when it was saved."""
    try:
        loaded, task = _opened(target, plugins)
    except UserError as error:
        return [_finding("error", "load", str(error))]
    if not isinstance(loaded, Model):
        return [_finding("info", "no_head", f"{target} is a bare encoder and loads.", "train it: nabi train --task ... --base " + target)]
    problems = loaded.check_golden()
    if problems:
        return [_finding("error", "golden", problem, "the files differ from what was saved; fetch or train the model again") for problem in problems]
    if not loaded.origin.golden:
        return [_finding("warning", "no_golden", f"{target} loads as {task} but holds no golden vectors to check.", "save it once with nabi")]
    return [_finding("info", "golden", f"{target} loads as {task}; all {len(loaded.origin.golden)} golden vectors are as saved.")]


def check_machine() -> list[Finding]:
    """Versions, threads, fast paths, memory and disk."""
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = [
        _finding("info", "versions", f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}."),
        _finding("info", "cpu", f"{cores} cores, {threads} torch threads, capability {torch.backends.cpu.get_cpu_capability()}, AMX {fast.has_amx()}."),
        _finding("info", "fast_path", f"float32 products go to {'oneDNN' if fast.has_onednn() else 'the default library'}."),
    ]
    if threads > cores:
        found.append(_finding("warning", "threads", f"torch uses {threads} threads on {cores} cores.", f"Set OMP_NUM_THREADS={cores}."))
    if free < 2:
        found.append(_finding("warning", "disk", f"{free:.1f} GiB are free here.", "A run of a small model writes about 1 GiB; free some space."))
    return found


def _finding(severity: str, code: str, message: str, fix: str = "") -> Finding:
    return {"severity": severity, "code": code, "message": message, "fix": fix}
