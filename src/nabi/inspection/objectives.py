"""One text as each pretraining objective makes it, side by side: ``nabi inspect MODEL --objective TEXT``.

What is shown is what the tasks' own ``encode`` and ``corrupt`` make and ``counts`` counts, with the settings that the model was trained with where the
objective is its own. Unusual: which objectives are shown depends on the tokenizer alone, not on the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nabi import tasks
from nabi.batch import Row, batch_of
from nabi.data.corrupt import IGNORED, sentences
from nabi.errors import InputError, TokenizerError
from nabi.folder import UNLIMITED
from nabi.inputs import Inputs
from nabi.inspection.facts import opened
from nabi.inspection.writing import cells, fitted
from nabi.model import Model
from nabi.tasks import Task
from nabi.tasks._streaming import HALF, Unfolding
from nabi.tasks.next_sentence import NAMES
from nabi.text import Tokenizer
from nabi.weights.sources import resolve

# name -> (task, settings, what it predicts, source)
OBJECTIVES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "causal": ("text_generation", {}, "each token from those before it", "Radford et al. 2018, section 3.1"),
    "masked": ("pretraining", {}, "the hidden tokens from both sides, and whether the second text follows the first", "Devlin et al. 2018, section 3.1"),
    "spans": ("denoise", {"style": "spans"}, "the spans that were taken out, each behind its sentinel", "Raffel et al. 2019, section 3.1.4"),
    "infilling": ("denoise", {"style": "infilling"}, "the whole text, of which each mask stands for a span", "Lewis et al. 2019, section 2.2"),
}
LABEL = 10  # cells of what stands in front of a line


def objectives(model: str, text: str, seed: int = 0, plugins: Iterable[str | Path | ModuleType] = ()) -> dict[str, Any]:
    """A text under each objective that a model's tokenizer allows.

    Args:
        model: a folder or shipped name, with or without a head.
        text: a sentence, or several.
        seed: of what is hidden.
        plugins: files with families and tasks of your own.

    Returns:
        ``{"model", "text", "seed", "objectives", "left_out"}``; an objective has ``name, task, predicts, source`` and ``rows``, a row ``inputs`` (of a
        decoder where there is a ``source`` that an encoder reads), ``targets`` (None where none is counted), of a pair ``next``, and how much of each loss
        is ``counted``. A token is ``{"id", "token"}``.

    Raises:
        UserError: the model can't be loaded, or the text can't be read.
    """
    if not text.strip():
        raise InputError("there is no text to show", value=text, expected="a sentence, or several")
    loaded, _ = opened(model, plugins)
    inputs = loaded.inputs if isinstance(loaded, Model) else Inputs.load(resolve(model), limit=loaded.limits.get("text", UNLIMITED))
    shown, left_out = [], []
    for name, (kind, given, predicts, source) in OBJECTIVES.items():
        first, second = _halves(text)
        if kind == "pretraining" and not second:
            kind, predicts = "fill_mask", "the hidden tokens from both sides; one word makes no pair"
        try:
            task = _task(kind, given, loaded, inputs.tokenizer)
        except TokenizerError as problem:
            left_out.append({"name": name, "why": str(problem)})
            continue
        example = {"text": first, "next": second, "is_next": True} if kind == "pretraining" else {"text": text}
        generator = torch.Generator().manual_seed(seed)
        rows = [task.corrupt(row, generator) for row in task.encode(example, inputs, task.Options(), "train", "the text")]
        shown.append({"name": name, "task": kind, "predicts": predicts, "source": source, "rows": [_row(task, row, inputs.tokenizer) for row in rows]})
    return {"model": model, "text": text, "seed": seed, "objectives": shown, "left_out": left_out}


def _task(name: str, given: Mapping[str, Any], loaded: Any, tokenizer: Tokenizer) -> Task:
    """A task without a body, with the model's own settings where they are of this objective.

    Raises:
        TokenizerError: the tokenizer lacks what it needs.
    """
    kind = tasks.find(name)
    settings, config = kind.Settings(**given), {}
    if isinstance(loaded, Model):
        own, config = loaded.task.settings, loaded.origin.hf_config
        if type(own) is kind.Settings and all(getattr(own, key) == value for key, value in given.items()):
            settings = own
    return kind(kind.completed(settings, config, {}, tokenizer))


def _halves(text: str) -> tuple[str, str]:
    """A text in two, at a sentence, else at a word; the second is empty if there is but one word."""
    parts = sentences(text)
    parts = parts if len(parts) > 1 else text.split()
    cut = (len(parts) + 1) // 2
    return " ".join(parts[:cut]), " ".join(parts[cut:])


def _row(task: Task, row: Row, tokenizer: Tokenizer) -> dict[str, Any]:
    def named(ids: Iterable[int]) -> list[Any]:
        return [None if id == IGNORED else {"id": id, "token": shown(tokenizer, id)} for id in ids]

    reads, writes = row.parts["text"]["tokens"], row.parts.get("target", {}).get("tokens")
    found = {"inputs": named(reads)} if writes is None else {"source": named(reads), "inputs": named(writes)}
    aims = row.targets["masked"] if "masked" in row.targets else row.targets["next"]
    pair = {"next": NAMES[row.targets["next"]]} if isinstance(row.targets.get("next"), int) else {}
    counted = task.counts(batch_of([row], [0], task.targets).targets)
    return {**found, "targets": named(aims), **pair, "counted": {name: int(count) for name, count in counted.items()}}


def shown(tokenizer: Tokenizer, id: int) -> str:
    """A token as one reads it: of bytes that are a text, the text, with the mark of a space in front; of half a character, the bytes."""
    name, text = tokenizer.token(id), tokenizer.decode([id], skip_special=False).strip()
    if HALF in text:
        return Unfolding(tokenizer.decode, tokenizer).shown(id)
    return (name[0] if name[0] in "Ġ▁" else "") + text if text else name


def lines(found: Mapping[str, Any], width: int = 80) -> Iterator[str]:
    """What :func:`objectives` found, as lines of a terminal of this many cells: each target under what it is predicted at."""
    for objective in found["objectives"]:
        yield f"{objective['name']}: {objective['predicts']} ({objective['task']}; {objective['source']})"
        for number, row in enumerate(objective["rows"]):
            if len(objective["rows"]) > 1:
                yield f"  row {number + 1} of {len(objective['rows'])}"
            if "source" in row:
                yield from _aligned({"source": row["source"]}, width)
            yield from _aligned({"inputs": row["inputs"], "targets": row["targets"]}, width)
            if "next" in row:
                yield f"  {'pair':<{LABEL}}{row['next']}"
            yield f"  {'counted':<{LABEL}}{', '.join(f'{count} in the loss {name}' for name, count in row['counted'].items())}"
        yield ""
    yield from (f"{each['name']}: left out. {each['why']}" for each in found["left_out"])


def _aligned(columns: Mapping[str, Sequence[Any]], width: int) -> Iterator[str]:
    """Tokens under each other, in as many blocks as the width asks for; a dash where there is none."""
    names = [["-" if token is None else token["token"] for token in tokens] for tokens in zip(*columns.values(), strict=True)]
    widths = [max(map(cells, column)) for column in names]
    begin = 0
    while begin < len(names):
        end, used = begin, 2 + LABEL
        while end < len(names) and (end == begin or used + widths[end] <= width):
            used, end = used + widths[end] + 1, end + 1
        for number, label in enumerate(columns):
            told = " ".join(fitted(names[i][number], widths[i]) for i in range(begin, end))
            yield f"  {label if not begin else '':<{LABEL}}{told}".rstrip()
        begin = end
