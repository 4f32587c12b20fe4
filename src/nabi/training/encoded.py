"""The rows of a table as a model reads them, encoded once: they are kept in the cache and stay there on the disk, so a second run tokenises nothing.

An entry belongs to all that decides the rows: the data's hash and columns, the tokenizer, the task with its settings, options and use, what the body reads, and
the code of tasks and tokenizers itself, so a new version encodes anew. Only nabi's own tasks are kept: of a plugin nobody knows which other files decide it.
Unusual: what is warned of while rows are encoded is said once a table, with how many rows and tokens were cut; it is kept with the rows and said again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch

from nabi import cache as kept
from nabi.batch import Row
from nabi.config import to_dict
from nabi.data import Table
from nabi.data.binary import MAGIC, Unstorable, from_bytes, to_bytes
from nabi.data.records import Records, load_numbers, save_numbers, write
from nabi.model import Model
from nabi.tasks import Cut, Use
from nabi.text import Tokenizer

_MODULE = {"training", *vars(torch.nn.Module())}  # what every module holds
# what decides how an example is encoded
CODE = ("tasks", "text", "inputs.py", "batch.py", "model.py", "training/encoded.py", "data/binary.py", "data/images.py", "data/pixels.py")
TOLD = 1000  # warnings that are kept with the rows


def encoded(model: Model, table: Table, options: Any, use: Use, say: Callable[[str], None]) -> Sequence[list[Row]]:
    """The rows of each example of a table, as ``Model.encode`` makes them; read from the cache when they are asked for, if they can be kept there.

    Args:
        model: what encodes.
        table: the examples.
        options: the task's ``Options``.
        use: as for ``Task.encode``.
        say: told in a sentence why the rows could not be kept.

    Raises:
        InputError, DataError: an example can't be read; it is named by its place.
    """

    def fresh() -> Iterator[list[Row]]:
        return (model.encode(example, options, use, table.where(i), i) for i, example in enumerate(table))

    def all_rows() -> list[list[Row]]:
        with _summed(len(table)):
            return list(fresh())

    ours = all(base.__module__.partition(".")[0] in ("nabi", "torch", "builtins") for base in type(model.task).__mro__)
    if not ours or kept.folder() is None:
        return all_rows()
    key, anchors = _key(model, table, options, use), _anchors(model)
    found = kept.find("rows", key)
    if found is not None:
        path, facts = found
        for text in facts["warnings"]:
            warnings.warn(text.replace(facts["name"], table.name, 1), stacklevel=2)
    else:
        facts = {"name": table.name, "warnings": []}
        try:
            with kept.writing("rows", key, f"{model.task.name}, {use}: {len(table):,} rows of {table.name}", facts) as draft:
                _write(draft, fresh(), anchors, facts["warnings"], len(table))
        except Unstorable:
            return all_rows()
        except OSError as problem:
            say(f"The encoded rows can't be kept in the cache ({problem.strerror or problem}), so they stay in memory.")
            return all_rows()
        path = kept.folder_of("rows", key)
    return Records(path / "rows.bin", load_numbers(path / "offsets.npy"), lambda data, i: _rows(data, i, anchors), f"the cache's {path.name}/rows.bin")


def _write(draft: Path, rows: Iterator[list[Row]], anchors: Mapping[str, Any], told: list[str], count: int) -> None:
    with _summed(count) as said, (draft / "rows.bin").open("wb") as file:
        offsets = write(file, (to_bytes([[row.parts, row.rows, row.targets, row.notes] for row in of_example], anchors) for of_example in rows))
    told += said[:TOLD]
    save_numbers(draft / "offsets.npy", offsets)


@contextmanager
def _summed(count: int) -> Iterator[list[str]]:
    """Warnings inside the block are given behind it, each once, and if it ends well those of what was cut summed up; their texts are in the list by then."""
    others: dict[str, tuple[Warning, str, int]] = {}
    cut: dict[str, tuple[Cut, str, int]] = {}
    told: list[str] = []

    def take(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None) -> None:
        warning = message if isinstance(message, Warning) else category(message)
        if not isinstance(warning, Cut):
            others.setdefault(str(warning), (warning, filename, lineno))
            return
        before = cut.get(warning.what)
        cut[warning.what] = (before[0].with_more(warning) if before else warning, filename, lineno)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = take
            yield told
        for what, (found, filename, number) in cut.items():
            others[what] = found.among(count), filename, number
    finally:
        for warning, filename, number in others.values():
            told.append(str(warning))
            warnings.warn_explicit(warning, type(warning), filename, number)


def _rows(data: bytes, example: int, anchors: Mapping[str, Any]) -> list[Row]:
    return [Row(parts, of_rows, targets, example, notes) for parts, of_rows, targets, notes in from_bytes(data, anchors)]


def _anchors(model: Model) -> dict[str, Any]:
    """What rows may hold that is not data: it is named in the record and put back when it is read."""
    tokenizer = model.inputs.words
    return {} if tokenizer is None else {"tokenizer": tokenizer, "tokenizer.joined": tokenizer.joined}


def _key(model: Model, table: Table, options: Any, use: Use) -> str:
    task, images = model.task, model.inputs.pictures
    state = {name: _stated(value) for name, value in vars(task).items() if name not in _MODULE}
    content = {
        "format": MAGIC, "code": code(), "tokenizers": metadata.version("tokenizers"), "data": table.fingerprint, "use": use,
        "tokenizer": _words(model.inputs.words), "max_length": model.inputs.max_length,
        "images": None if images is None else [_stated(images), metadata.version("pillow")],
        "task": [task.name, type(task).__qualname__, state, _stated(options)],
        "body": [dict(model.body.tables), {part: sorted(streams) for part, streams in model.body.needs.items()}],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _words(tokenizer: Tokenizer | None) -> list[str]:
    if tokenizer is None:
        return []
    files = hashlib.sha256(b"\0".join(name.encode() + b"\0" + data for name, data in sorted(tokenizer.files.items()))).hexdigest()
    return [tokenizer.fingerprint, tokenizer.target.fingerprint, files]


@cache
def code() -> str:
    """A hash of the code that decides how an example is encoded."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for name in CODE:
        for file in sorted((root / name).glob("*.py")) if (root / name).is_dir() else [root / name]:
            digest.update(f"\0{name}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _stated(value: Any) -> Any:
    """A value as JSON; of what is no data only the type, since the code and the settings decide it."""
    plain = to_dict(value)
    if isinstance(plain, Mapping):
        return {name: _stated(item) for name, item in plain.items()}
    if isinstance(plain, list):
        return [_stated(item) for item in plain]
    if isinstance(plain, set | frozenset):
        return sorted(map(str, plain))
    return plain if isinstance(plain, str | int | float | None) else f"{type(plain).__module__}.{type(plain).__qualname__}"
