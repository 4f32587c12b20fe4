"""How fast a model answers on this machine, at each precision: ``nabi bench``.

The variants take turns in each round, so that a neighbour on the machine slows all of them; what is printed are medians with the smallest and largest.
Tokenising is included. What a faster precision costs stands beside it: the largest difference of the outputs, and the score where rows have labels.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nabi import checkpoint, tasks
from nabi.data import read_table
from nabi.errors import MissingHeadError, OptionError
from nabi.inspection.machine import cpu
from nabi.memory import peak
from nabi.model import Model, largest_gap
from nabi.tasks import Use
from nabi.weights.sources import resolve

VARIANTS = {"fp32": None, "fp32 prepared": "fp32", "bf16 prepared": "bf16"}
ROWS = 256  # at most, of the sentences of our own
ROUNDS = 5  # what the time is planned for
SINGLE = 0.25  # share of the time for rows one at a time
SENTENCES = (
    "The train was late again.", "I liked the second half much more than the first.", "Please call me back before noon.",
    "Nothing in this box looks like the picture on the website, and the manual is missing.", "It rained for three days.",
    "We walked along the river until the lights of the town went out behind us.", "Two of the five parts arrived broken.",
    "My sister says that the new bakery on the corner is worth the long queue.", "Not bad at all!", "Who left the window open?",
    "The report was finished on Friday, so the meeting on Monday can be short.", "Thanks, see you at seven.",
)  # fmt: skip


def measure(
    model: str, data: str | None = None, columns: Mapping[str, str] | None = None, plugins: Iterable[str | Path | ModuleType] = (), seconds: float = 20.0
) -> dict[str, Any]:
    """Throughput, latency, memory and exactness of a model on this CPU.

    Args:
        model: a folder or shipped name; a bare encoder is measured with a fresh head of two labels.
        data: rows to answer; sentences of our own, of 4 to about 250 words, or the examples of a task that reads none, if None.
        columns: our column name -> the file's.
        plugins: files with families and tasks of your own.
        seconds: about how long to measure, loading aside; at least one round is always measured.

    Returns:
        ``model, task, note, machine, parameters, bytes, load_seconds, data, rows, tokens, row_tokens, rounds, variants``; each variant with
        ``name, prepare_seconds, rows_per_second, tokens_per_second, ratio, latency_ms, difference, peak_bytes, metrics``. Spreads are
        ``{"median", "min", "max"}``, of latency ``{"median", "p95", "calls"}``. ``ratio`` is pair by pair against fp32.

    Raises:
        OptionError: ``seconds`` is not positive.
        UserError: the model or the data can't be read.
    """
    if not seconds > 0:
        raise OptionError("there is no time to measure in", value=seconds, expected="more than 0 seconds")
    began = time.perf_counter()
    loaded, note = _loaded(model, plugins)
    load_seconds = time.perf_counter() - began
    task, options = loaded.task, loaded.options()
    examples, name, labelled = _examples(loaded, data, columns)
    prepare: dict[str, float] = {}
    variants: dict[str, Model] = {}
    for variant, precision in VARIANTS.items():
        began = time.perf_counter()
        variants[variant] = loaded if precision is None else loaded.prepare(precision)
        prepare[variant] = time.perf_counter() - began
    end = time.perf_counter() + seconds
    examples = _fitting(variants, examples, seconds * (1 - SINGLE) / (ROUNDS + 1))
    rows = [row for i, example in enumerate(examples) for row in loaded.encode(example, options, _use(loaded), number=i)]
    sizes = sorted(row.tokens for row in rows)
    differences, peaks = _compared(variants, rows, options)
    latencies = _single(variants, examples, min(seconds * SINGLE, end - time.perf_counter()))
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    answers: dict[str, list[Any]] = {}
    order = list(variants)
    while not times["fp32"] or time.perf_counter() + sum(max(t) for t in times.values()) < end:
        for variant in order:
            began = time.perf_counter()
            answers[variant] = list(variants[variant].answers(examples, options, use=_use(loaded)))
            times[variant].append(time.perf_counter() - began)
        order = [*order[1:], order[0]]
    found = []
    for variant in variants:
        each = times[variant]
        metrics = None
        if labelled:
            score = task.score()
            for i, (example, answer) in enumerate(zip(examples, answers[variant], strict=True)):
                score.add(answer, task.truth(example, f"row {i + 1}"))
            metrics = score.result()
        found.append({
            "name": variant,
            "prepare_seconds": prepare[variant],
            "rows_per_second": _spread([len(examples) / t for t in each]),
            "tokens_per_second": _spread([sum(sizes) / t for t in each]),
            "ratio": _spread([base / t for base, t in zip(times["fp32"], each, strict=True)]),
            "latency_ms": latencies[variant],
            "difference": differences[variant],
            "peak_bytes": peaks[variant],
            "metrics": metrics,
        })  # fmt: skip
    return {
        "model": model,
        "task": task.name,
        "note": note,
        "machine": f"{cpu()}; torch {torch.__version__}",
        "parameters": sum(p.numel() for p in loaded.parameters()),
        "bytes": sum(p.stat().st_size for p in resolve(model).iterdir() if p.is_file()),
        "load_seconds": load_seconds,
        "data": name,
        "rows": len(examples),
        "tokens": sum(sizes),
        "row_tokens": {"min": sizes[0], "median": statistics.median(sizes), "max": sizes[-1]},
        "rounds": len(times["fp32"]),
        "variants": found,
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What :func:`measure` found, for people."""
    yield found["machine"]
    weight = f"{found['parameters']:,} parameters, {found['bytes'] / 1e6:,.1f} MB on disk, loaded in {found['load_seconds']:.2f} s"
    yield f"{found['model']}: {found['task']}, {weight}"
    if found["note"]:
        yield found["note"]
    tokens = found["row_tokens"]
    yield f"{found['rows']:,} rows of {found['data']}, {tokens['min']} to {tokens['max']} tokens (median {tokens['median']:g})"
    yield f"{found['rounds']} rounds in turn, tokenising included; medians with smallest and largest"
    yield f"{'':<14}{'rows/s':>20}{'tokens/s':>28}{'x fp32':>8}{'one row, median, p95':>22}{'difference':>12}{'peak':>10}"
    for v in found["variants"]:
        rows, speed, delay = v["rows_per_second"], v["tokens_per_second"], v["latency_ms"]
        yield (
            f"{v['name']:<14}{_shown(rows):>20}{_shown(speed):>28}{v['ratio']['median']:>8.2f}{delay['median']:>12.1f}, {delay['p95']:>5.1f} ms"
            f"{v['difference']:>12.1e}{v['peak_bytes'] / 1e6:>7,.0f} MB"
        )
    if found["variants"][0]["metrics"]:
        for name in found["variants"][0]["metrics"]:
            yield f"{name:<24}" + "  ".join(f"{v['name']} {v['metrics'][name]:.4f}" for v in found["variants"])


def _loaded(model: str, plugins: Iterable[str | Path | ModuleType]) -> tuple[Model, str]:
    try:
        return checkpoint.load(model, plugins=plugins), ""
    except MissingHeadError:
        task = tasks.find("text_classification")
        loaded = checkpoint.load_for_training(model, task.name, task.Settings(labels=("0", "1")), plugins=plugins).eval()
        return loaded, f"{model} has no head: measured with a fresh one of two labels."


def _examples(model: Model, data: str | None, columns: Mapping[str, str] | None) -> tuple[list[Mapping[str, Any]], str, bool]:
    """Examples, what to call them, and whether they have labels."""
    task = model.task
    if data is None:
        own = task.golden_examples()
        if own[0].keys() <= {"text", "candidate_labels"}:
            return [{**own[0], "text": text} for text in texts(ROWS)], "sentences of its own", False
        return [own[i % len(own)] for i in range(ROWS)], "examples of its own", False
    table = task.opened(read_table(data, columns))
    needed = task.required(table.columns)
    table.require(needed[:1])
    return list(table), table.name, set(needed) <= set(table.columns)


def _use(model: Model) -> Use:
    """What is measured: answers, or where a task fills masks, which texts do not have, what it says of hidden tokens."""
    return "evaluate" if "masked" in model.task.targets else "predict"


def texts(count: int) -> list[str]:
    """Texts of realistic lengths, always the same: whole sentences, as many words as a log-normal distribution says (median 20, at most 250)."""
    dice = random.Random(0)
    found = []
    for _ in range(count):
        words = min(250.0, dice.lognormvariate(3.0, 0.9))
        text = dice.choice(SENTENCES)
        while text.count(" ") + 1 < words:
            text = f"{text} {dice.choice(SENTENCES)}"
        found.append(text)
    return found


def _fitting(variants: Mapping[str, Model], examples: list[Mapping[str, Any]], seconds: float) -> list[Mapping[str, Any]]:
    """As many examples, taken evenly, as all variants together answer in this time; measuring it warms them up."""
    few = _evenly(examples, 8)
    for model in variants.values():
        list(model.answers(few, use=_use(model)))  # the first call of a layer prepares its kernels
    began = time.perf_counter()
    for model in variants.values():
        list(model.answers(few, use=_use(model)))
    each = (time.perf_counter() - began) / len(few)
    return _evenly(examples, max(8, int(seconds / each)))


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    return [items[i * len(items) // count] for i in range(count)] if count < len(items) else list(items)


def _compared(variants: Mapping[str, Model], rows: Sequence[Any], options: Any) -> tuple[dict[str, float], dict[str, int]]:
    """By variant the largest difference of what it reads from fp32, and the most memory that the process held meanwhile, in bytes."""
    readings, peaks = {}, {}
    for name, model in variants.items():
        _forget_peak()
        readings[name] = list(model.readings(rows, options))
        peaks[name] = peak()
    return {name: largest_gap(found, readings["fp32"]) for name, found in readings.items()}, peaks


def _single(variants: Mapping[str, Model], examples: Sequence[Any], seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of one row at a time, the variants in turn."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    end, number = time.perf_counter() + seconds, 0
    while number < 3 or time.perf_counter() < end:
        example = examples[number * 7 % len(examples)]
        for name, model in variants.items():
            began = time.perf_counter()
            list(model.answers([example], use=_use(model)))
            times[name].append(1000 * (time.perf_counter() - began))
        number += 1
    times = {name: each[1:] for name, each in times.items()}
    return {name: {"median": statistics.median(each), "p95": sorted(each)[int(0.95 * len(each))], "calls": len(each)} for name, each in times.items()}


def _forget_peak() -> None:
    """Begin to count the peak of this process's memory anew, where the system can."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _shown(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:,.0f} ({spread['min']:,.0f} to {spread['max']:,.0f})"
