"""A model folder that is read: what it says it is, its tensors under our names, the model that it holds.

nabi.json holds the family, the task and its settings, and golden vectors. A folder without it is the incumbent's: the family is found by ``model_type``, the
task by ``architectures``. Unusual: a tensor that has no place is an error, and so is a head that is missing, but for training, which starts it afresh.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nabi import families, tasks
from nabi.config import from_dict, read_file, to_dict
from nabi.errors import CheckpointError, MissingHeadError, OptionError, UserError
from nabi.families import HF, Family
from nabi.inputs import Inputs, images_of
from nabi.model import Model, Origin
from nabi.nn.body import Body
from nabi.nn.convolution import freeze_statistics
from nabi.nn.heads import HeadSpec
from nabi.nn.lora import Adaptation
from nabi.tasks import Task
from nabi.weights import place, read_tensors
from nabi.weights.bound import filled_by
from nabi.weights.names import Entry, NameTable, same, tied
from nabi.weights.pooled import stated_pooling

FORMAT = 1  # of nabi.json
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # as peft calls them
UNLIMITED = 1 << 30  # tokens in a row of a body that has no limit


@dataclass(frozen=True)
class _Golden:
    example: Mapping[str, Any]
    tokens: list[Any]
    readings: list[Any]


@dataclass(frozen=True)
class _Ours:
    """What nabi.json holds."""

    format: int = FORMAT
    family: str | None = None
    task: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    golden: list[_Golden] = field(default_factory=list)
    files: Mapping[str, str] = field(default_factory=dict)
    adapter: Adaptation | None = None


def stated_by(folder: Path) -> _Ours:
    """A folder's nabi.json; nothing but defaults if it has none.

    Raises:
        CheckpointError: it can't be read, or is of another version.
    """
    path = folder / "nabi.json"
    found = read_file(path, CheckpointError) if path.is_file() else {}
    if found.get("format", FORMAT) != FORMAT:
        raise CheckpointError("nabi.json has another format", value=found["format"], expected=str(FORMAT), fix="update nabi")
    ours: _Ours = _read(_Ours, found, str(path))
    return ours


def check_parts(task: type[Task], body: Body) -> None:
    """Whether the body reads what the task needs.

    Raises:
        OptionError: it does not.
    """
    if missing := sorted(task.parts - set(body.needs)):
        fits = ", ".join(name for name in families.names() if task.fits(families.find(name).body))
        raise OptionError(f"{type(body).__name__} reads no {missing[0]}, which {task.name} needs", expected=f"one of these families: {fits}")


class Folder:
    """A model folder that was opened but not yet loaded."""

    def __init__(self, path: Path) -> None:
        if not (path / "config.json").is_file() and any((path / name / "config.json").is_file() for name in ("best", "last")):
            raise CheckpointError("the run in this folder is not over", value=str(path), fix=f"load {path / 'best'}, or go on with --resume")
        self.path = path
        self.files = read_tensors(path)
        if not (path / "config.json").is_file():
            raise CheckpointError("the folder has no config.json", value=str(path), fix="fetch the model again, or point at the folder inside it")
        self.config = read_file(path / "config.json", CheckpointError)
        self.ours = stated_by(path)
        self._tensors: dict[tuple[str, ...], dict[str, Tensor]] = {}
        self._tied: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._outlines: dict[tuple[str, ...], Body] = {}
        model_type = self.config.get("model_type")
        name = self.ours.family or families.of_type(str(model_type))
        if "auto_map" in self.config:
            raise CheckpointError(
                "this checkpoint wants to run code of its own (auto_map)", value=str(path), fix="nabi never does; remove the key if the family is known"
            )
        if name is None and model_type is None:
            raise CheckpointError("config.json has no model_type", value=str(path), fix="it is no model's config, or was edited; fetch it again")
        if name is None or name not in families.names():
            raise CheckpointError(
                "the checkpoint is of an unknown family",
                value=name or model_type,
                expected=f"one of {', '.join(families.names())}",
                fix=f"if you have its file, give it as --plugin {name or model_type}.py",
            )
        self.family_name, self.family = str(name), families.find(str(name))
        stated = self.family.hf.stated(self.config, self.files) if self.family.hf else self.config
        self.sizes = families.config_from(self.family, stated, str(path / "config.json"))

    def task(self) -> type[Task]:
        """The task that the folder says it is for."""
        if self.ours.task is not None:
            try:
                return tasks.find(self.ours.task)
            except OptionError:
                fix = f"if you have its file, give it as --plugin {self.ours.task}.py"
                known = f"one of {', '.join(tasks.names())}"
                raise CheckpointError("the checkpoint is for an unknown task", value=self.ours.task, expected=known, fix=fix) from None
        hf = self.family.hf
        for name in _strings(self.config.get("architectures")):
            kinds = hf.kinds(name) if hf else None
            fitting = [task for task in map(tasks.find, tasks.names()) if task.heads == kinds and task.fits(self.family.body)]
            usual = [task for task in fitting if hf and task.name == hf.task]
            if fitting:
                return (usual or fitting)[0]
        raise MissingHeadError(
            "the checkpoint does not say which task it answers",
            value=self.config.get("architectures"),
            fix=f"name one of {', '.join(tasks.names())}; a bare encoder must first be trained: nabi train --task ... --base {self.path}",
        )

    def settings(self, task: type[Task]) -> Any:
        """The task's settings, from nabi.json or from the incumbent's config."""
        if self.ours.task == task.name:
            return _read(task.Settings, self.ours.settings, str(self.path / "nabi.json"))
        kinds = (*task.heads, *task.optional_heads)
        tensors, body = self.tensors(kinds), self.outline(kinds)
        names = {kind: _telling(kind, body.heads.get(kind)) for kind in kinds}
        others = self._of_others(kinds)
        sizes = {kind: int(tensors[name].shape[0]) for kind, name in names.items() if name in tensors and kind not in others}
        # a table is there without the head that is tied to it
        bare = {kind for kind, spec in body.heads.items() if spec.tied_to and spec.dense and f"task.{kind}.dense.weight" not in tensors}
        if not set(task.heads) <= set(sizes) - bare:
            raise self._headless(task, task.heads)
        return task.from_hf(self.config, sizes, self.generation)

    def _of_others(self, kinds: Sequence[str]) -> set[str]:
        """Heads whose output layer is that of another head, which the architecture names: BERT calls the one of choices as the one of classes."""
        hf = self.family.hf
        stated = next((found for name in _strings(self.config.get("architectures")) if hf and (found := hf.kinds(name)) is not None), ())
        taken = {name for kind, names in self._outputs(stated).items() if kind not in kinds for name in names}
        return {kind for kind, names in self._outputs(kinds).items() if names & taken} if taken else set()

    def _outputs(self, kinds: Sequence[str]) -> dict[str, set[str]]:
        """What the files call the output layers of these heads."""
        found = {kind: (name, x) for kind in kinds if (x := self.tensors(kinds).get(name := f"task.{kind}.out.weight")) is not None}
        table = name_table(self.family, kinds, self._prefix, self.outline(kinds).heads)
        return {kind: set(table.save({name: x})) for kind, (name, x) in found.items()}

    @functools.cached_property
    def generation(self) -> dict[str, Any]:
        """The folder's generation_config.json; empty if it has none."""
        path = self.path / "generation_config.json"
        return dict(read_file(path, CheckpointError)) if path.is_file() else {}

    def _headless(self, task: type[Task], kinds: Sequence[str]) -> MissingHeadError:
        return MissingHeadError(
            f"the checkpoint has no head for {task.name}",
            value=str(self.path),
            expected=f"the weights of these heads: {', '.join(kinds)}",
            fix=f"train one: nabi train --task {task.name} --base {self.path} --data FILE --out DIR"
            if task.fits(self.family.body)
            else f"none can be trained on {self.family_name}: take a model of another family",
        )

    def outline(self, kinds: Sequence[str]) -> Body:
        """The body for these heads, built once, to be asked how it looks."""
        if tuple(kinds) not in self._outlines:
            self._outlines[tuple(kinds)] = self.body(kinds)
        return self._outlines[tuple(kinds)]

    def body(self, kinds: Sequence[str]) -> Body:
        """The config's body for these heads, without weights, for the caller to fill: the outline if there is one, else built.

        Raises:
            CheckpointError: it asks for more than the files' tensors can fill.
        """
        if (outline := self._outlines.pop(tuple(kinds), None)) is not None:
            return outline
        where = str(self.path / "config.json")
        try:
            with torch.device("meta"), filled_by(len(self.files), where):
                return families.build(self.family, self.family.body.cut(self.sizes, kinds))
        except (OptionError, ArithmeticError, RuntimeError, TypeError, ValueError) as problem:  # the latter: sizes that torch can't multiply
            reason = str(problem).partition("\n")[0].rstrip(".")
            raise CheckpointError(f"{where} can't be used: {reason}", fix="it was edited, or is of another family") from None

    def model(self, task: type[Task], settings: Any, device: str, seed: int | None) -> Model:
        """The model, its tensors mapped from the files; heads are filled from ``seed`` where the folder has none, or refused if it is None."""
        kinds = task.builds(settings)
        tensors, notes, body = self.tensors(kinds), [], self.body(kinds)
        inputs = Inputs(None, UNLIMITED)
        if "text" in body.needs:
            limit = min(body.limits.get("text", UNLIMITED), self.ours.max_length or UNLIMITED)
            inputs = Inputs.load(self.path, limit=limit, vocab_size=self.sizes.vocab_size)
            settings = task.completed(settings, self.config, self.generation, inputs.tokenizer)
        check_parts(task, body)
        if "image" in body.needs:
            inputs = replace(inputs, pictures=images_of(self.path, str(self.config.get("model_type")), body.side, body.channels, body.colours))
        if task.pools(settings) and (stated := stated_pooling(self.path)) is not None:
            settings = replace(settings, pooling=stated[0], normalize=stated[1])
        with torch.device("meta"):
            built = task(settings)
            built.build(body)
        sizes = self.family.body.cut(self.sizes, kinds)
        origin = Origin(self.family_name, self.family, sizes, self.config, golden=to_dict(self.ours.golden), tied=self._tied[kinds])
        model = Model(body, built, inputs, origin)
        wanted = dict(model.state_dict())
        fresh = self._fresh(wanted, tensors, settings, task) if seed is not None else []
        for name in fresh:
            tensors.pop(name, None)
        missing = sorted(wanted.keys() - tensors.keys() - set(fresh))
        if missing:
            if all(name.startswith("task.") for name in missing):
                raise self._headless(task, kinds)
            shown = f"{self.path}: {', '.join(missing[:5])}"
            raise CheckpointError(f"tensors are missing in the checkpoint ({len(missing)} of them)", value=shown, fix="fetch the folder again")
        place(model, tensors, dtype=torch.float32, device=device)
        freeze_statistics(model)
        if fresh:
            heads = task(settings)
            heads.build(body)
            heads.initialise(torch.Generator().manual_seed(seed or 0))
            place(model, {n: x for n, x in (("task." + k, v) for k, v in heads.state_dict().items()) if n in fresh}, device=device)
            notes.append(f"{task.name} starts with fresh weights for {', '.join(fresh)}; the rest comes from {self.path}.")
            origin.golden = []
        origin.notes = notes
        return model.eval()

    def _fresh(self, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], settings: Any, task: type[Task]) -> list[str]:
        """Head tensors to start anew: not in the folder, of another size, or of an output layer that was for other labels or another task."""
        heads = [name for name in wanted if name.startswith("task.")]
        fresh = {name for name in heads if name not in tensors or tensors[name].shape != wanted[name].shape}
        try:
            labels = getattr(self.settings(task), "labels", None)
        except UserError:
            labels = ()
        if self.ours.task not in (None, task.name) or labels != getattr(settings, "labels", None):
            fresh |= {name for name in heads if ".out." in name}
        return sorted(fresh)

    @functools.cached_property
    def _prefix(self) -> str:
        """What the files' names of the body begin with."""
        hf = self.family.hf
        return hf.prefix if hf and any(name.startswith(hf.prefix) for name in self.files) else ""

    def tensors(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """The folder's tensors under our names, those of other heads left out.

        Raises:
            CheckpointError: a tensor that the family does not know.
        """
        if tuple(kinds) in self._tensors:
            return dict(self._tensors[tuple(kinds)])
        body = self.outline(kinds)
        try:
            loaded = name_table(self.family, kinds, self._prefix, body.heads).load(self.files)
        except CheckpointError as problem:
            raise CheckpointError(f"{self.path}: {problem}".rstrip("."), fix="the folder is incomplete or of another family; fetch it again") from None
        if loaded.unknown:
            shown = ", ".join(loaded.unknown[:5])
            raise CheckpointError(
                f"tensors that have no place in {self.family_name} ({len(loaded.unknown)} of them)",
                value=f"{self.path}: {shown}",
                expected="only tensors that the family knows",
                fix="the checkpoint is of another family, or has parts that nabi would leave out in silence",
            )
        unread = tuple(f"body.{path}." for path in body.without)
        self._tensors[tuple(kinds)] = {name: x for name, x in loaded.tensors.items() if not name.startswith(unread)}
        self._tied[tuple(kinds)] = loaded.tied
        return dict(self._tensors[tuple(kinds)])


def _telling(kind: str, spec: HeadSpec | None) -> str:
    """The tensor whose length is the size of a head."""
    if spec is not None and spec.against is not None:
        return f"task.{kind}.scale"
    return f"body.{spec.tied_to}.weight" if spec is not None and spec.tied_to else f"task.{kind}.out.weight"


def _read(cls: type[Any], data: Mapping[str, Any], where: str) -> Any:
    try:
        return from_dict(cls, data, where)
    except OptionError as problem:
        raise CheckpointError(str(problem).rstrip("."), fix="the file was edited, or is of another version of nabi") from None


def _strings(value: Any) -> list[str]:
    return [x for x in value if isinstance(x, str)] if isinstance(value, list) else []


def name_table(family: Family, kinds: Sequence[str], prefix: str, specs: Mapping[str, HeadSpec] | None = None) -> NameTable:
    """Their names <-> ``body.`` and ``task.`` names; heads that this task does not build are left out with a reason.

    Args:
        family: the architecture.
        kinds: the heads that the task builds.
        prefix: what stands before the body's names.
        specs: how the heads look; the family's own if None.
    """
    kinds, specs = tuple(kinds), family.body.heads if specs is None else specs
    hf = family.hf or _own_names(family)
    body = NameTable(hf.weights, hf.legacy).under(prefix, "body.")
    shared = NameTable([e for e in hf.shared if e.ours[0].split(".")[0] in kinds]).under(prefix, "task.")
    if kinds in hf.heads:
        head = NameTable([e for entry in hf.heads[kinds][1] for e in _tied_entries(entry, specs)])
    else:
        taken = {e.ours[0] for e in hf.shared}
        own = [same(f"task.{k}.{x}", f"task.{k}.{x}") for k in kinds for x in ("dense", "norm", "out") if f"{k}.{x}" not in taken]
        head = NameTable([*own, *(same(f"task.{k}.bias", f"task.{k}.bias") for k in kinds)])
    mine = {name for e in (*shared.entries, *head.entries) for name in e.theirs}
    others = {prefix + name for e in hf.shared for name in e.theirs} | {n for _, entries in hf.heads.values() for e in entries for n in e.theirs}
    ignore = {rf"{name.replace('.', '[.]')}([.](weight|bias))?": "belongs to a head that this task does not build" for name in others - mine}
    ignore |= {rf"task[.](?!({'|'.join(kinds)})[.]).*": "belongs to a head that this task does not build"}
    return body.join(shared).join(head).join(NameTable([], {}, {**ignore, **hf.ignore}))


def _tied_entries(entry: Entry, specs: Mapping[str, HeadSpec]) -> list[Entry]:
    """An entry of a head under ``task.``; the weight of an output layer that is tied becomes a second name of the table."""
    ours = tuple(f"task.{name}" for name in entry.ours)
    kind, _, module = entry.ours[0].partition(".")
    table = specs[kind].tied_to if kind in specs else None
    if module not in ("out", "out.weight") or table is None:
        return [replace(entry, ours=ours)]
    (theirs,) = entry.theirs
    if module == "out.weight":  # a family that writes the bias under a name of its own
        return [tied(theirs, f"body.{table}.weight")]
    bias = [same(f"{theirs}.bias", f"task.{kind}.bias")] if specs[kind].bias == "learnt" else []
    return [tied(f"{theirs}.weight", f"body.{table}.weight"), *bias]


def _own_names(family: Family) -> HF:
    """A family that the incumbent lacks: our own names, layer numbers as they are."""
    with torch.device("meta"):
        names = list(families.build(family, family.sizes["tiny"]).state_dict())
    pattern = sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names})
    return HF(types={}, fields={}, fixed={}, weights=tuple(same(f"body.{n}", n) for n in pattern), prefix="", heads={})
