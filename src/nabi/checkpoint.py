"""Model folders: the incumbent's format (config.json, model.safetensors, tokenizer files), plus nabi.json with what it has no place for.

nabi.json holds the family, the task and its settings, and golden vectors. A folder without it loads too: the family is found by ``model_type``, the
task by ``architectures``. Unusual: for inference a missing head is an error; for training it is one sentence. No code of a checkpoint is ever run.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nabi import families, plugins, tasks
from nabi.config import from_dict, to_dict
from nabi.data import Table
from nabi.data.colours import fitted_colours
from nabi.data.pixels import Images, ImageSettings
from nabi.errors import OptionError, nearest
from nabi.folder import ADAPTER, ADAPTER_CONFIG, FORMAT, UNLIMITED, Folder, check_parts, name_table
from nabi.inputs import Inputs
from nabi.model import Model, Origin
from nabi.nn.body import Body
from nabi.nn.convolution import freeze_statistics
from nabi.text import Tokenizer
from nabi.weights import atomic_folder, dealt, file_sha256, place, shard_name, write_tensors
from nabi.weights.sharding import INDEX, index
from nabi.weights.sources import resolve


@contextmanager
def _collector_paused() -> Iterator[None]:
    # importing torch leaves 170,000 objects; a full collection, which walks through them, would come due here and take about as long as all the rest
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_collector_paused()
def load(
    model: str | Path,
    task: str | None = None,
    *,
    plugins: Iterable[str | Path | ModuleType] = (),
    device: str = "cpu",
    precision: str | None = None,
    revision: str | None = None,
) -> Model:
    """A model that answers.

    Args:
        model: a folder, a name that ships (``minilm``), or a hub's id (``org/name``, ``org/name@revision``).
        task: its task; by what the folder says if None.
        plugins: files or modules with families and tasks of your own.
        device: where its tensors go.
        precision: ``fp32`` or ``bf16`` packs the linear layers for this CPU (``Model.prepare``); None leaves them as they are.
        revision: branch, tag or commit of a hub's model.

    Raises:
        CheckpointError: the folder is missing, incomplete, broken or of an unknown kind.
        MissingHeadError: it has no head for the task.
        TokenizerError: its tokenizer can't be used.
    """
    _add(plugins)
    _check_device(device)
    found = opened(resolve(model, revision))
    kind = tasks.find(task) if task else found.task()
    result = found.model(kind, found.settings(kind), device, None)
    return result if precision is None else result.prepare(precision)


@_collector_paused()
def load_for_training(
    model: str | Path,
    task: str,
    settings: Any,
    *,
    seed: int = 0,
    device: str = "cpu",
    plugins: Iterable[str | Path | ModuleType] = (),
    revision: str | None = None,
) -> Model:
    """A body to fine-tune: heads that the folder lacks, or that have other sizes or labels, start fresh, and ``origin.notes`` says so.

    Args:
        model: as for :func:`load`.
        task: what to train it for.
        settings: the task's ``Settings``.
        seed: of the fresh heads.
        revision: branch, tag or commit of a hub's model.
    """
    _add(plugins)
    _check_device(device)
    return opened(resolve(model, revision)).model(tasks.find(task), settings, device, seed)


@_collector_paused()
def load_body(
    model: str | Path, *, plugins: Iterable[str | Path | ModuleType] = (), device: str = "cpu", revision: str | None = None
) -> Body:
    """The body of a model folder alone, whatever heads it has.

    Args:
        model: as for :func:`load`.
        revision: branch, tag or commit of a hub's model.
    """
    _add(plugins)
    found = Folder(resolve(model, revision))
    tensors = {n.removeprefix("body."): x for n, x in found.tensors(()).items() if n.startswith("body.")}
    body = found.body(())
    place(body, tensors, dtype=torch.float32, device=device)
    freeze_statistics(body)
    return body.eval()


def create(
    family: str,
    size: str | Mapping[str, Any],
    task: str,
    settings: Any,
    tokenizer: str | Path | None = None,
    *,
    images: Mapping[str, Any] | None = None,
    examples: Table | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Model:
    """A model from scratch.

    Args:
        family: name of an architecture.
        size: one of its named sizes, or its configuration as a mapping.
        task, settings: what to train it for.
        tokenizer: a folder with a tokenizer; its vocabulary sets the size of the embedding table. None for a family that reads no text.
        images: what of the ``ImageSettings`` differs from the family's, for one that reads images.
        examples: rows of training, to whose images the colours of a family that reads colours are fitted, unless ``images`` says them.
        seed: of the initial weights, and of the colours.

    Raises:
        OptionError: unknown family, size or field; a tokenizer that is missing, or that nothing would read.
    """
    kind = families.find(family)
    if isinstance(size, str):
        if size not in kind.sizes:
            raise OptionError(f"{family} has no such size", value=size, expected=f"one of {', '.join(kind.sizes)}", fix=nearest(size, kind.sizes))
        config = kind.sizes[size]
    else:
        config = from_dict(kind.config, size, f"the size of {family}")
    _check_device(device)
    if (tokenizer is None) == ("text" in kind.body.needs):
        what = f"{family} needs a tokenizer" if tokenizer is None else f"{family} reads no text, so it takes no tokenizer"
        raise OptionError(what, fix="give the folder of one: --tokenizer DIR" if tokenizer is None else "leave it out")
    if images and kind.images is None:
        raise OptionError(f"{family} reads no images", value=dict(images), fix="leave their settings out")
    if tokenizer is not None:
        folder = resolve(tokenizer, weights=False)
        words = Tokenizer.load(folder)
        settings, config = tasks.find(task).completed(settings, {}, {}, words), replace(config, vocab_size=words.rows)
        if hasattr(config, "end_token_id"):
            config = replace(config, end_token_id=_end(words, family))
    built = tasks.find(task)(settings)
    config = kind.body.cut(families.agreed(kind, config, built.to_hf()), built.heads)
    with torch.device(device):
        body = families.build(kind, config)
        inputs = Inputs(None, UNLIMITED)
        if tokenizer is not None:
            inputs = Inputs.load(folder, limit=body.limits.get("text", UNLIMITED), vocab_size=config.vocab_size)
        if kind.images is not None:
            chosen = from_dict(ImageSettings, {**to_dict(kind.images(config)), **(images or {})}, "the settings of images")
            if body.colours and examples is not None and "clusters" not in (images or {}):
                chosen = replace(chosen, clusters=fitted_colours(examples, chosen, body.colours, seed))
            if len(chosen.clusters) != body.colours:
                what = f"{family} of this size reads {body.colours} colours" if body.colours else f"{family} reads no colour clusters"
                raise OptionError(what, value=f"{len(chosen.clusters)} clusters", fix="leave images.clusters out, or change body.vocab_size")
            inputs = replace(inputs, pictures=Images(chosen, body.side))
        check_parts(type(built), body)
        built.build(body)
    generator = torch.Generator(device).manual_seed(seed)
    body.initialise(generator)
    built.initialise(generator)
    return Model(body, built, inputs, Origin(family, kind, config)).eval()


def _end(words: Tokenizer, family: str) -> int:
    """The token that this tokenizer puts behind a text, at which a body of the family reads it.

    Raises:
        OptionError: there is none, or its number means something else to the incumbent.
    """
    encoding = words.encode("a")
    if not encoding.special[-1]:
        what, fix = f"{family} reads a text at its end token, and this tokenizer puts none behind a text", "train one of another kind: --kind wordpiece"
        raise OptionError(what, value=words.token(encoding.ids[-1]), fix=fix)
    if encoding.ids[-1] == 2:  # as the incumbent: in a config.json it means that a text is read at its largest number
        fix = "train a tokenizer with another order of special tokens"
        raise OptionError(f"{family} can't have an end token with the number 2", value=words.token(2), fix=fix)
    return encoding.ids[-1]


def save(model: Model, path: str | Path) -> None:
    """Write a model folder that nabi and the incumbent open; whole or not at all. Of a prepared copy its original is written.

    Raises:
        StorageError: it could not be written; what was there before is still there.
    """
    with atomic_folder(Path(path)) as folder:
        write_folder(model, folder)


def write_folder(model: Model, folder: Path) -> None:
    """Write a model's files into a folder that the caller makes durable."""
    found = contents(model)
    found.write_weights(folder)
    found.write_rest(folder)


@dataclass(frozen=True)
class Contents:
    """What a model's folder holds, ready to be written by one process or dealt to several.

    Attributes:
        tensors: under the names of the files.
        config, generation, ours: of config.json, generation_config.json (empty: none) and nabi.json.
        inputs: the tokenizer's and others' files.
        adapter: of adapter_config.json, where the tensors are those of an adapter, which one process writes; empty: none.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    ours: Mapping[str, Any]
    inputs: Inputs
    adapter: Mapping[str, Any] = field(default_factory=dict)

    def copied(self) -> Contents:
        """With tensors of its own on the host, so that training can go on while they are written."""
        return replace(self, tensors={name: torch.empty_like(x, device="cpu").copy_(x) for name, x in self.tensors.items()})

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by tensor."""
        return {name: x.nbytes for name, x in self.tensors.items()}

    def write_weights(self, folder: Path, rank: int = 0, world: int = 1) -> list[str]:
        """Write the tensors that are dealt to ``rank`` of ``world`` processes; the names of the files.

        Raises:
            StorageError: the file could not be written.
        """
        if self.adapter:
            if rank > 0:
                return []
            write_tensors(folder, self.tensors, file=ADAPTER)
            return [ADAPTER]
        share = dealt(self.sizes, world)[rank]
        write_tensors(folder, {name: self.tensors[name] for name in share}, file=shard_name("model", rank, world))
        return [shard_name("model", rank, world)]

    def write_rest(self, folder: Path, world: int = 1, sums: Mapping[str, str] | None = None) -> None:
        """Write all but the weights, which are there.

        Args:
            sums: the SHA-256 of files that need not be read again.
        """
        self.inputs.save(folder)
        _write_json(folder / "config.json", self.config)
        if self.generation:
            _write_json(folder / "generation_config.json", self.generation)
        if self.adapter:
            _write_json(folder / ADAPTER_CONFIG, self.adapter)
        elif world > 1:
            _write_json(folder / INDEX, index("model", self.sizes, dealt(self.sizes, world)))
        # the SHA-256 of each file, for `nabi doctor`; loading hashes nothing
        known, paths = sums or {}, [path for path in sorted(folder.iterdir()) if path.is_file()]
        _write_json(folder / "nabi.json", {**self.ours, "files": {path.name: known.get(path.name) or file_sha256(path) for path in paths}})


def contents(model: Model, *, golden: bool = True) -> Contents:
    """What is saved of a model; its tensors are those of the model, not copies. Of a prepared copy its original is taken.

    Args:
        golden: whether the golden vectors are computed; of several processes only the one that writes nabi.json needs them.
    """
    model = model.original
    origin, kinds = model.origin, model.task.heads
    config = dict(origin.hf_config)
    for key, value in families.config_to(origin.family, origin.config).items():
        before = origin.hf_config.get(key)
        config[key] = {**before, **value} if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    config |= model.task.to_hf()
    generation = model.task.to_generation()
    hf = origin.family.hf
    if hf and not hf.lacks(origin.config):
        if config.get("model_type") not in hf.types:
            config["model_type"] = next(iter(hf.types))
        config["architectures"] = [hf.types[config["model_type"]] + hf.heads[kinds][0]] if kinds in hf.heads else []
    else:  # not as a class of the incumbent's, which would be another network
        config |= {"model_type": f"nabi-{origin.family_name}" if hf else origin.family_name, "architectures": []}
    config |= dict.fromkeys(config.keys() & {"dtype", "torch_dtype"}, "float32")  # what the incumbent would otherwise convert to
    table = name_table(origin.family, kinds, "" if hf is None or kinds in hf.bare else hf.prefix, model.body.heads)
    state = {name: x.detach() for name, x in model.state_dict().items()}
    ours = {
        "format": FORMAT,
        "family": origin.family_name,
        "task": model.task.name,
        "settings": to_dict(model.task.settings),
        "max_length": model.inputs.max_length,
        "golden": model.golden() if golden else [],
    }
    if origin.adapter is not None:
        from nabi import adapters  # which build on this file

        tensors, adapter = adapters.written(model)
        return Contents(tensors, config, generation, {**ours, "adapter": to_dict(origin.adapter)}, model.inputs, adapter)
    return Contents(table.save(state, tied=origin.tied), config, generation, ours, model.inputs)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:  # torch raises either, with several lines of its own sources
        reason = str(problem).splitlines()[0]
        raise OptionError("the device can't be used here", value=f"{device} ({reason})", expected="cpu, or a CUDA device that torch sees") from None


def _add(files: Iterable[str | Path | ModuleType]) -> None:
    plugins.add(files)


def opened(path: Path) -> Folder:
    """A model folder, or an adapter's together with the base that it names.

    Raises:
        CheckpointError: one of the two is missing, incomplete, broken or of an unknown kind.
    """
    from nabi import adapters  # which build on this file

    return adapters.AdapterFolder(path) if adapters.is_adapter(path) else Folder(path)
