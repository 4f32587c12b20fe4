"""Adapter folders: what LoRA trained, without the model that it belongs to; the weights and ``adapter_config.json`` are in peft's own format.

    adapter_model.safetensors   A and B of each layer and the whole heads, under the incumbent's names behind ``base_model.model.``
    adapter_config.json         rank, alpha, layers, the base's name
    nabi.json                   what a model folder's holds, and under "adapter" the settings and the SHA-256 of the base's body
    config.json, tokenizer files, generation_config.json

So such a folder is loaded here as any model, and by peft onto the incumbent's model. One that peft wrote loads too; it has no tokenizer, labels or sum of its
base. Unusual: layers that a family computes at once and the incumbent one by one (query, key, value), or the other way round (GPT-2), are exchanged exactly:
two adapters of rank R in one of their layers are one of rank 2R with blocks of zeros.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nabi.checkpoint import opened
from nabi.config import from_dict, read_file
from nabi.errors import CheckpointError, OptionError, UserError, shortened
from nabi.folder import ADAPTER, ADAPTER_CONFIG, Folder, name_table, stated_by
from nabi.model import Model
from nabi.nn.linear import Linear
from nabi.nn.lora import WHOLE, Adaptation, Adapted, Adapter, Lora, adapted, fingerprint, linears, replace_layer, scale_of, span
from nabi.nn.lora import adapt as adapt_body
from nabi.nn.lora import chosen as chosen_by
from nabi.tasks import Task
from nabi.weights import read_tensors
from nabi.weights.names import NameTable
from nabi.weights.sources import resolve

_BEFORE = "base_model.model."  # stands before every name
_A, _B = ".lora_A.weight", ".lora_B.weight"
# what peft's configuration may say without changing the mathematics that we compute; anything else is refused by name
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "use_dora": (False, None), "lora_bias": (False, None), "layer_replication": (None,), "use_qalora": (False, None),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", None), "trainable_token_indices": (None,), "target_parameters": (None,),
    "megatron_config": (None,), "alora_invocation_tokens": (None,), "arrow_config": (None,), "use_bdlora": (False, None), "kasa_config": (None,),
    "corda_config": (None,), "lora_ga_config": (None,), "monteclora_config": (None,), "velora_config": (None,),
}  # fmt: skip


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "model.safetensors").is_file()


def adapt(model: Model, lora: Lora, base: str, seed: int = 0) -> None:
    """Freeze a model's body and put adapters into it that change nothing yet; its heads go on learning.

    Args:
        model: changed in place.
        lora: which layers and how.
        base: the name by which its body will be found again: a folder, a shipped name or a hub's id.
        seed: of the adapters.

    Raises:
        OptionError: the model has adapters, or a target names no layer.
    """
    if model.origin.adapter is not None:
        raise OptionError("this model has adapters already", value=base, fix="leave lora out to train them further, or merge them first: nabi merge")
    sum_ = fingerprint(model.body)
    adapt_body(model.body, lora, torch.Generator().manual_seed(seed))
    folder = Path(base).expanduser()
    model.origin.adapter = Adaptation(lora, str(folder.resolve()) if folder.is_dir() else base, sum_)


def merged(model: Model) -> Model:
    """An ordinary model with the adapters in its weights, which shares nothing with ``model``; saved, it is a whole folder.

    Raises:
        OptionError: the model has no adapters.
    """
    model = model.original
    if model.origin.adapter is None:
        raise OptionError("this model has no adapters to merge", value=model.origin.family_name, expected="one that was trained with lora")
    layers = adapted(model.body)
    made = copy.deepcopy(model, {id(x): x for x in (model.inputs, model.origin)} | {id(layer): layer.plain() for layer in layers.values()})
    made.body.requires_grad_(True)
    made.origin = dataclasses.replace(made.origin, adapter=None, golden=[])
    return made


@dataclass(frozen=True)
class _Place:
    """One of the incumbent's layers and where its outputs lie in ours."""

    name: str
    rows: range
    flipped: bool


def _places(table: NameTable, path: str, linear: Linear) -> list[_Place]:
    """The incumbent's layers that one of ours computes, in the order of their outputs: told by what becomes of numbered rows when it is saved."""
    count = linear.weight.shape[0]
    saved = table.save({f"body.{path}.weight": torch.arange(count, dtype=torch.float64)[:, None]})
    found = []
    for name, rows in saved.items():
        numbers = rows.flatten()
        found.append(_Place(name.removesuffix(".weight"), range(int(numbers[0]), int(numbers[-1]) + 1), rows.shape[0] == 1 < count))
    return sorted(found, key=lambda place: place.rows.start)


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _written_names(model: Model) -> NameTable:
    hf, kinds = model.origin.family.hf, model.task.heads
    return name_table(model.origin.family, kinds, "" if hf is None or kinds in hf.bare else hf.prefix, model.body.heads)


def written(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The adapters and heads of a model under peft's names, and peft's configuration of them."""
    adaptation, table = model.origin.adapter, _written_names(model)
    assert adaptation is not None
    lora = adaptation.lora
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    flipped = False
    for path, layer in adapted(model.body).items():
        for place in _places(table, path, layer):
            inside = [adapter for adapter in layer.adapters() if _common(adapter.rows, place.rows)]
            if not inside:
                continue
            a = torch.cat([adapter.a.detach() for adapter in inside])
            b = a.new_zeros(len(place.rows), len(a))
            column = 0
            for adapter in inside:
                rows, width = _common(adapter.rows, place.rows), len(adapter.a)
                block = adapter.b.detach()[rows.start - adapter.rows.start : rows.stop - adapter.rows.start]
                b[rows.start - place.rows.start : rows.stop - place.rows.start, column : column + width] = block
                column += width
            tensors |= {place.name + _A: a, place.name + _B: b}
            ranks[place.name] = len(a)
            alphas[place.name] = inside[0].scale * (math.sqrt(len(a)) if lora.rslora else len(a))
            flipped |= place.flipped
    heads = table.save({f"task.{name}": x.detach() for name, x in model.task.state_dict().items()})
    modules = sorted({name.rpartition(".")[0] for name in heads} - {""})  # a tensor outside of all modules (BART's bias) is one that nothing trains
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": adaptation.base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: rank for name, rank in sorted(ranks.items()) if rank != lora.rank},
        "alpha_pattern": {name: alpha for name, alpha in sorted(alphas.items()) if not math.isclose(alpha, lora.alpha)},
        "modules_to_save": [name for name in modules if not any(name.startswith(f"{other}.") for other in modules)] or None,
        "fan_in_fan_out": flipped,
        "bias": "none",
        "inference_mode": True,
    }
    return {_BEFORE + name: x for name, x in {**tensors, **heads}.items()}, config


class AdapterFolder(Folder):
    """A folder with an adapter, opened together with its base.

    Args:
        path: the folder.

    Raises:
        CheckpointError: it is damaged, it is of a kind that is not computed here, or its base is missing.
    """

    def __init__(self, path: Path) -> None:
        self.home, self.peft = path, read_file(path / ADAPTER_CONFIG, CheckpointError)
        strange = [f"{key} is {shortened(self.peft[key])}" for key, usual in _NEUTRAL.items() if key in self.peft and self.peft[key] not in usual]
        if strange:
            what = f"{path / ADAPTER_CONFIG} asks for what nabi does not compute: {'; '.join(strange)}"
            raise CheckpointError(what, fix="merge it with the library that made it")
        super().__init__(self._base())
        if (path / "nabi.json").is_file():  # ours; peft's own folder brings nothing but weights
            self.path, self.config, self.ours = path, read_file(path / "config.json", CheckpointError), stated_by(path)
        else:
            self.ours = dataclasses.replace(self.ours, golden=[])
        self.adapters = read_tensors(path, (ADAPTER, "adapter_model.bin"))

    def _base(self) -> Path:
        name = self.peft.get("base_model_name_or_path")
        if not isinstance(name, str) or not name:
            fix = 'write its name to "base_model_name_or_path"'
            raise CheckpointError("the adapter does not say which model it belongs to", value=str(self.home / ADAPTER_CONFIG), fix=fix)
        beside = self.home.parent / Path(name).name  # both were moved together
        try:
            folder = beside if not Path(name).exists() and (beside / "config.json").is_file() else resolve(name, self._revision(name))
            found = opened(folder)
        except UserError as problem:
            reason = str(problem).rstrip(".")
            fix = f'put the model there, or write where it is to "base_model_name_or_path" in {self.home / ADAPTER_CONFIG}'
            raise CheckpointError(f"the base model of the adapter {self.home} can't be opened: {reason}", fix=fix) from None
        if isinstance(found, AdapterFolder):
            fix = f"merge that one first: nabi merge {folder} --out DIR"
            raise CheckpointError("the base model of an adapter is an adapter itself", value=f"{self.home} on {folder}", fix=fix)
        return folder

    def _revision(self, name: str) -> str | None:
        """Of a hub's model, as peft stores it; a folder has none."""
        found = self.peft.get("revision")
        return None if found is None or Path(name).exists() else str(found)

    def tensors(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """The base's tensors under our names, with the adapter's heads in place of its own."""
        found = super().tensors(kinds)
        state = {name: self.adapters[_BEFORE + name] for name in self._names() if not name.endswith((_A, _B))}
        loaded = self._table(kinds).load(state)
        if loaded.unknown:
            raise CheckpointError("the adapter holds tensors that have no place in the model", value=f"{self.home}: {', '.join(loaded.unknown[:5])}")
        return {**found, **{name: x for name, x in loaded.tensors.items() if name.startswith("task.")}}

    def _names(self) -> Iterator[str]:
        return (name.removeprefix(_BEFORE) for name in self.adapters)

    def _table(self, kinds: Sequence[str]) -> NameTable:
        hf = self.family.hf
        return name_table(self.family, kinds, "" if hf is None or tuple(kinds) in hf.bare else hf.prefix, self.outline(kinds).heads)

    def model(self, task: type[Task], settings: Any, device: str, seed: int | None) -> Model:
        """As :meth:`Folder.model`, its adapters in place and its body frozen.

        Raises:
            CheckpointError: the base is not the one that the adapter was trained on, or adapters do not fit.
        """
        made = super().model(task, settings, device, seed)
        sum_, ours = fingerprint(made.body), self.ours.adapter
        # a body that is cut for another task (T5 tags by its encoder alone) has another sum
        comparable = self.ours.task == task.name or self.outline(task.heads).without == self.outline(self.task().heads).without
        if ours is not None and ours.sha256 != sum_ and comparable:
            base = self.peft["base_model_name_or_path"]
            raise CheckpointError(
                "the base model is not the one that this adapter was trained on", value=f"{base} (its body's SHA-256 is {sum_[:12]}...)",
                expected=f"{ours.sha256[:12]}...", fix=f'write where that one is to "base_model_name_or_path" in {self.home / ADAPTER_CONFIG}',
            )  # fmt: skip
        lora = self._attach(made.body, self._table(task.heads), ours.lora if ours else None)
        made.origin.adapter = Adaptation(lora, str(self.peft["base_model_name_or_path"]), sum_)
        return made

    def _attach(self, body: nn.Module, table: NameTable, lora: Lora | None) -> Lora:
        """Put the adapters into a body; gives the settings, told from peft's if there are none of ours."""
        names = {name for name in self._names() if name.endswith((_A, _B))}
        places = {path: [p for p in _places(table, path, linear) if p.name + _A in names] for path, linear in linears(body).items()}
        unplaced = names - {p.name + end for found in places.values() for p in found for end in (_A, _B)}
        if unplaced:
            raise CheckpointError(
                "adapters of layers that have none here", value=f"{self.home}: {', '.join(sorted(unplaced)[:5])}", expected="linear layers of the body",
                fix="heads are trained whole here; merge the adapter with the library that made it",
            )  # fmt: skip
        if lora is None:
            parts = {path: [_part(linear, p.rows) for p in places[path]] for path, linear in linears(body).items() if places[path]}
            targets = tuple(path if part == WHOLE else f"{path}.{part}" for path, found in parts.items() for part in found)
            lora = self._settings(targets)
        else:
            parts = chosen_by(body, lora.targets)
        body.requires_grad_(False)
        for path, wanted in parts.items():
            linear = body.get_submodule(path)
            assert isinstance(linear, Linear)
            adapters = {part: self._adapter(linear, part, [span(linear, w) for w in wanted], places[path], lora) for part in wanted}
            replace_layer(body, path, Adapted(linear, adapters))
        return lora

    def _settings(self, targets: tuple[str, ...]) -> Lora:
        keys = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "rslora": "use_rslora"}
        given = {ours: self.peft[theirs] for ours, theirs in keys.items() if theirs in self.peft}
        try:
            return from_dict(Lora, {"rank": 8, "alpha": 8, **given, "targets": list(targets)}, str(self.home / ADAPTER_CONFIG))
        except OptionError as problem:
            raise CheckpointError(str(problem).rstrip("."), fix="the file was edited") from None

    def _adapter(self, linear: Linear, part: str, all_: Sequence[range], places: Sequence[_Place], lora: Lora) -> Adapter:
        """The adapter of one part of a layer, out of those of the incumbent's layers that compute it."""
        rows, pieces = span(linear, part), []
        for place in places:
            common = _common(rows, place.rows)
            if not common:
                continue
            a, b = (self._read(place.name + end) for end in (_A, _B))
            inside = [r for r in all_ if _common(r, place.rows)]  # several of ours in one of theirs share its rank
            rank, left = divmod(len(a), len(inside))
            if left or b.shape != (len(place.rows), len(a)) or a.shape[1] != linear.weight.shape[1]:
                value = f"{self.home}: {place.name}, A {tuple(a.shape)}, B {tuple(b.shape)}"
                raise CheckpointError("an adapter does not fit its layer", value=value, fix="the files are of two trainings")
            column = inside.index(rows) * rank
            b = b[common.start - place.rows.start : common.stop - place.rows.start, column : column + rank]
            pieces.append((a[column : column + rank], b, self._scale(place.name, len(a), lora)))
        if sum(len(b) for _, b, _ in pieces) != len(rows):
            raise CheckpointError("the adapter of a layer is missing", value=f"{self.home}: {part} of {linear}", fix="fetch or train the adapter again")
        (a, _, scale), device = pieces[0], linear.weight.device
        return Adapter(a.to(device).clone(), torch.cat([b for _, b, _ in pieces]).to(device), rows.start, scale, lora.dropout)

    def _read(self, name: str) -> Tensor:
        if _BEFORE + name not in self.adapters:
            raise CheckpointError("a tensor of the adapter is missing", value=f"{self.home / ADAPTER}: {name}", fix="fetch or train the adapter again")
        return self.adapters[_BEFORE + name].float()

    def _scale(self, name: str, rank: int, lora: Lora) -> float:
        """Of one of the incumbent's layers, by peft's configuration: patterns name the ends of paths."""
        patterns = self.peft.get("alpha_pattern") or {}
        alpha = next((value for key, value in patterns.items() if name == key or name.endswith(f".{key}")), self.peft.get("lora_alpha", lora.alpha))
        scale = scale_of(float(alpha), rank, bool(self.peft.get("use_rslora")))
        return lora.scale if math.isclose(scale, lora.scale, rel_tol=1e-12) else scale


def _part(linear: Linear, rows: range) -> str:
    """The name of the part that has these outputs."""
    return next((part for part in linear.parts if span(linear, part) == rows), WHOLE)
