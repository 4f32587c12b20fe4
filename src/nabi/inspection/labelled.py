"""The doctor's look at labelled data, with a model's own measure of length where one is given, and fixes as commands where a file's lines allow it."""

from __future__ import annotations

import shlex
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType

from nabi.data import Table, check_labelled, read_table
from nabi.data.checks import LONG, Length
from nabi.inspection.facts import opened
from nabi.inspection.findings import Finding, finding, ordered
from nabi.inspection.rows import check_rows, task_of
from nabi.inspection.seen import check_images
from nabi.model import Model
from nabi.plugins import add
from nabi.text import Tokenizer
from nabi.weights.sources import resolve

LEFT_OUT = {"not_text", "missing_label", "empty_texts", "duplicates", "near_duplicates", "leakage", "near_leakage"}  # what leaving the rows out mends
OF_DEV = {"leakage", "near_leakage", "unseen_labels"}
LINES = 12  # in a command, at most
_EXPANSION = 12  # tokens that a character in compatibility form gives at most: a syllable of Hangul taken apart into letters of three bytes each


def check_data(
    data: str,
    dev: str | None = None,
    columns: Mapping[str, str] | None = None,
    model: str | None = None,
    plugins: Iterable[str | Path | ModuleType] = (),
    task: str | None = None,
) -> list[Finding]:
    """What is wrong with a labelled file; ``rows`` of each finding are the indexes concerned.

    Args:
        data: the file.
        dev: dev rows beside it.
        columns: our column name -> the file's.
        model: measures the texts in its tokens and knows which labels it has; None measures characters.
        plugins: files with families and tasks of your own.
        task: what the rows are for; the model's task, or what the columns tell, if None.

    Raises:
        DataError: a file can't be read as a table.
        CheckpointError: the model can't be loaded.
    """
    plugins = tuple(plugins)
    add(plugins)
    table = read_table(data, columns)
    held_out = read_table(dev, columns) if dev else None
    length: Length | None = None
    limit, names = LONG, None
    if model is not None:
        loaded, _ = opened(model, plugins)
        folder = resolve(model)
        if "text" in (loaded.body if isinstance(loaded, Model) else loaded).needs:
            tokenizer = loaded.inputs.tokenizer if isinstance(loaded, Model) else Tokenizer.load(folder)
            limit = loaded.inputs.max_length if isinstance(loaded, Model) else min(loaded.limits.get("text", 1 << 30), tokenizer.max_length or 1 << 30)
            length = _tokens(tokenizer, limit)
        names = getattr(loaded.task, "labels", None) if isinstance(loaded, Model) else None
        task = task or (loaded.task.name if isinstance(loaded, Model) else None)
    kind = task_of(table.columns, task)
    classified = kind.name in ("text_classification", "zero_shot_classification")
    if kind.name not in ("text_classification", "image_classification") or "label" not in table.columns:
        names = None
    found: list[Finding] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        look = check_labelled if classified else partial(check_images if "image" in kind.parts else check_rows, kind)
        for each in look(table, held_out, length=length, limit=limit):
            path, source = (dev, held_out) if each.code in OF_DEV else (data, table)
            command = _without(path, source, each.rows) if each.code in LEFT_OUT and path and source else ""
            found.append({**asdict(each), "fix": f"{each.fix}: {command}" if command else each.fix})
    found += [finding("warning", "tokenizer", f"{warning.message}.") for warning in said]
    if names is not None:
        found += _other_labels(table, names, str(model))
    if any(each["severity"] != "info" for each in found):
        return ordered(found)
    return [*found, finding("info", "clean", f"{table.name}: {len(table):,} rows, nothing found.")]


def _tokens(tokenizer: Tokenizer, limit: int) -> Length:
    """The tokens of a text and its pair, special ones included; of one that is certainly short enough its characters, which cost nothing."""

    def length(text: str, pair: str | None) -> int:
        both = text if pair is None else text + pair
        most = len(both) if both.isascii() else len(both) * _EXPANSION
        if most + 8 <= limit and (both.isascii() or unicodedata.is_normalized("NFKC", both)):
            return len(both)
        return len(tokenizer.encode(text, pair).ids)

    return length


def _without(path: str, table: Table, rows: tuple[int, ...]) -> str:
    """The command that copies a file of lines without these rows; empty where a row may be more than a line, or there are too many."""
    file = Path(path)
    if file.suffix != ".jsonl" or len(rows) > LINES:
        return ""
    lines = ";".join(f"{table.where(i).rpartition(' ')[2]}d" for i in rows)
    return f"sed '{lines}' {shlex.quote(path)} > {shlex.quote(str(file.with_name('clean-' + file.name)))}"


def _other_labels(table: Table, names: tuple[str, ...], model: str) -> list[Finding]:
    """Labels that the model does not have, which only matters to those who evaluate it on this data."""
    labels = {str(v) for row in table for v in (row["label"] if isinstance(row["label"], list | tuple) else [row["label"]]) if v is not None}
    strange = sorted(labels - set(names))
    if not strange or len(names) == 1:
        return []
    shown = ", ".join(strange[:6]) + (", ..." if len(strange) > 6 else "")
    message = f"{len(strange)} labels are not among those of {model} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}): {shown}."
    return [finding("warning", "labels_of_the_model", message, "train it on this data, or write the labels as the model does")]
