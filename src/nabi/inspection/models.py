"""The doctor's look at a model folder: files, tensors, tokenizer, labels, golden vectors. Nothing is unpickled or run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nabi import adapters
from nabi.config import read_file
from nabi.data.opening import IMAGES
from nabi.errors import CheckpointError, UserError, shortened
from nabi.folder import ADAPTER, name_table
from nabi.inspection.facts import opened
from nabi.inspection.findings import Finding, finding, ordered, size
from nabi.model import Model
from nabi.nn.linear import Embedding
from nabi.text import Tokenizer
from nabi.weights import file_sha256, hub, read_tensors
from nabi.weights.files import WEIGHT_FILES, is_plain_name
from nabi.weights.sources import SHIPPED, resolve

FOREIGN = re.compile(r".*\.(bin|h5|pt|pth|ckpt|msgpack|pkl|pickle|joblib|npz|npy|onnx|gguf|ot)")
SPARE = 0.1  # share of an embedding table's rows that may be without a token: tables are often rounded up


def is_model(target: str) -> bool:
    """Whether a name stands for a model (a folder, a shipped name, a model of the hub that is here) and not for a data file or a folder of images."""
    folder = Path(target)
    return (folder.is_dir() and not _of_images(folder)) or target in SHIPPED or (not Path(target).exists() and target.partition("@")[0] in hub.cached())


def _of_images(folder: Path) -> bool:
    """Whether a folder holds images, there or in the folders of classes, and nothing that a model has."""
    if any(file.suffix in (".json", ".safetensors", ".bin", ".model") for file in folder.iterdir()):
        return False
    return any(file.suffix.lower() in IMAGES for pattern in ("*", "*/*") for file in folder.glob(pattern))


def check_model(target: str, plugins: Iterable[str | Path | ModuleType] = ()) -> list[Finding]:
    """What is wrong with a model: files that are missing, changed or never opened, tensors that are not finite or not used, a tokenizer that does not
    fit, labels without names, golden vectors that come out otherwise; if nothing is, one line that says so.

    Args:
        target: a folder, a shipped name or a model of the hub.
        plugins: files with families and tasks of your own.
    """
    try:
        folder = resolve(target)
        # the tensors first: that refuses an index that can't be read and links that leave the folder
        found = [*_tensors(folder), *_files(folder)] if folder.is_dir() else []  # then loading says what is wrong
    except UserError as error:
        return [finding("error", "load", str(error))]
    try:
        loaded, task = opened(target, plugins)
    except UserError as error:
        return ordered([finding("error", "load", str(error)), *found])
    if isinstance(loaded, Model):
        found += [*_golden(target, loaded, task), *_labels(loaded, folder), *_unused(folder, loaded)]
        found += [] if loaded.inputs.words is None else _tokenizer(loaded.inputs.words, loaded)
    else:
        ours = folder / "nabi.json"
        said = read_file(ours, CheckpointError).get("task") if ours.is_file() else None
        if said is None:
            found.insert(0, finding("info", "no_head", f"{target} is a bare encoder and loads.", f"train it: nabi train --task ... --base {target}"))
        else:
            message = f"nabi.json says that {target} is for {said}, but the weights of its head are not there."
            found.append(finding("error", "no_head", message, f"fetch the folder again, or train it: nabi train --task {said} --base {target}"))
        found += _tokenizer(Tokenizer.load(folder), loaded) if "text" in loaded.needs else []
    return ordered(found)


def _files(folder: Path) -> Iterator[Finding]:
    """Files against the sums in nabi.json, and files that nabi never opens."""
    ours = folder / "nabi.json"
    sums = read_file(ours, CheckpointError).get("files") if ours.is_file() else None
    if isinstance(sums, dict):
        for name, sum_ in sums.items():
            path = folder / name
            if not is_plain_name(name):
                yield finding("error", "strange_name", f"nabi.json lists {shortened(name)}, which can't be a file of this folder.", "do not use this folder")
            elif not path.is_file():
                yield finding("error", "missing_file", f"{name} is missing: nabi.json says that it belongs to the model.", "fetch or write the folder again")
            elif file_sha256(path) != sum_:
                message = f"{name} is not the file that was saved ({size(path.stat().st_size)}, its SHA-256 differs from nabi.json)."
                yield finding("error", "changed_file", message, "fetch or write the folder again; if the change is meant, save the model with nabi")
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    index = folder / "model.safetensors.index.json"
    sharded = index.is_file() and "model.safetensors" not in names
    used = set(read_file(index, CheckpointError).get("weight_map", {}).values()) if sharded else {_weights(folder)[0]}
    foreign = [name for name in names if FOREIGN.fullmatch(name)]
    if foreign and used & set(names):
        total = size(sum((folder / name).stat().st_size for name in foreign))
        message = f"{', '.join(foreign)} ({total}): not opened, since safetensors are here too; a pickle can run code in programs that open it."
        yield finding("warning", "foreign_weights", message, _remove(folder, foreign))
    strange = [name for name in names if name.endswith(".safetensors") and name not in used]
    if strange:
        message = f"{', '.join(strange)}: weights that nabi does not read, so an adapter or a second set of weights in them has no effect."
        yield finding("warning", "unread_weights", message, "merge an adapter into the model where it was trained, or: " + _remove(folder, strange))
    code = [name for name in names if name.endswith((".py", ".pyc", ".so"))]
    if code:
        yield finding("warning", "code", f"{', '.join(code)}: code that nabi never runs; other programs may.", _remove(folder, code))


def _weights(folder: Path) -> tuple[str, ...]:
    """What the file with the weights may be called."""
    return (ADAPTER,) if adapters.is_adapter(folder) else WEIGHT_FILES


def _remove(folder: Path, names: list[str]) -> str:
    return "rm " + " ".join(shlex.quote(str(folder / name)) for name in names)


def _tensors(folder: Path) -> Iterator[Finding]:
    """Tensors with NaN or infinity."""
    files = read_tensors(folder, _weights(folder))
    for name in files.names:
        tensor = files[name]
        # a sum in double precision is finite if and only if all values are: quick, and no copy of the tensor
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
            nan, inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
            if not nan + inf:
                continue  # numbers so large that their sum is not
            message = f"{name} {tuple(tensor.shape)} holds {nan:,} NaN and {inf:,} infinite values of {tensor.numel():,}."
            yield finding("error", "not_finite", message, "the training broke down: take an earlier checkpoint, or train with a lower learning rate")


def _golden(target: str, model: Model, task: str) -> Iterator[Finding]:
    problems = model.check_golden()
    for problem in problems:
        yield finding("error", "golden", problem, "the files differ from what was saved; fetch or train the model again")
    if not model.origin.golden:
        yield finding("warning", "no_golden", f"{target} loads as {task} but holds no golden vectors to check.", "save it once with nabi")
    elif not problems:
        yield finding("info", "golden", f"{target} loads as {task}; all {len(model.origin.golden)} golden vectors are as saved.")


def _labels(model: Model, folder: Path) -> Iterator[Finding]:
    labels = [str(name) for name in getattr(model.task, "labels", ())]
    nameless = [name for name in labels if re.fullmatch(r"LABEL_\d+", name)]
    if nameless:
        own = (folder / "nabi.json").is_file()
        edit = '"labels" under "settings" in nabi.json and "id2label" in config.json' if own else '"id2label" in config.json'
        message = f"the labels have no names: {', '.join(nameless[:6])}{', ...' if len(nameless) > 6 else ''}."
        yield finding("warning", "nameless_labels", message, f"write them into {edit}, in the order of the training data")


def _unused(folder: Path, model: Model) -> Iterator[Finding]:
    """Tensors of the file that the model does not read. What it lacks, or does not know, is an error when it is loaded, and so is all that an adapter has."""
    if adapters.is_adapter(folder):
        return
    files = read_tensors(folder)
    family = model.origin.family
    prefix = family.hf.prefix if family.hf and any(name.startswith(family.hf.prefix) for name in files) else ""
    ignored = name_table(family, model.task.heads, prefix, model.body.heads).load(files).ignored
    if ignored:
        shown = "; ".join(f"{name} ({reason})" for name, reason in sorted(ignored.items())[:3]) + ("; ..." if len(ignored) > 3 else "")
        yield finding("info", "unused_tensors", f"{len(ignored)} of {len(files)} tensors are not used: {shown}.", "save the model with nabi to leave them out")


def _tokenizer(tokenizer: Tokenizer, loaded: Any) -> Iterator[Finding]:
    if tokenizer.stored_truncation or tokenizer.stored_padding:
        stored = json.dumps({"truncation": tokenizer.stored_truncation, "padding": tokenizer.stored_padding})
        message = f"tokenizer.json stores {stored}; nabi applies neither, other programs cut or pad by it."
        yield finding("info", "stored_truncation", message, 'set "truncation" and "padding" to null in tokenizer.json')
    body = loaded.body if isinstance(loaded, Model) else loaded
    rows = max((m.weight.shape[0] for m in body.modules() if isinstance(m, Embedding)), default=0)
    spare = rows - tokenizer.vocab_size
    if spare > SPARE * rows:
        message = f"the tokenizer has {tokenizer.vocab_size:,} tokens, the embedding table {rows:,} rows: {spare:,} are never read."
        yield finding("warning", "vocabulary", message, "check that it is the tokenizer that the model was trained with")
