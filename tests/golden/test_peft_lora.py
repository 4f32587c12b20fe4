"""Adapters that peft wrote give peft's numbers here, and ours gave the same numbers under peft: see ``peft_lora.py``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from golden.peft_lora import BASES, FOLDER, OURS, SETTINGS, base_of, gap, logits, ours
from nabi import adapters, checkpoint
from nabi.errors import CheckpointError
from nabi.nn import lora as nn_lora
from nabi.nn.lora import Adapted, adapted

TOLERANCE, CONTROL = 1e-5, 1e-3
MERGED = 5e-5  # merging rounds every weight once more
TASK = {kind: task for kind, (_, _, task, _) in BASES.items()}


def golden(name: str) -> Tensor:
    return load_file(FOLDER / "logits.safetensors")[name]


def folder(name: str, work: Path) -> Path:
    """The adapter beside its base, as the name in its configuration asks for."""
    shutil.copytree(base_of(name), work / "base")
    return Path(shutil.copytree(FOLDER / name, work / "adapter"))


def load(path: Path, name: str) -> Any:
    return checkpoint.load(path, TASK[name.partition("-")[0]])


def edited(path: Path, **changed: Any) -> None:
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, **changed}))


@pytest.mark.parametrize("name", SETTINGS)
def test_an_adapter_of_pefts_gives_pefts_numbers(name: str, tmp_path: Path) -> None:
    path = folder(name, tmp_path)
    model, wanted = load(path, name), golden(name)
    assert gap(logits(model), wanted) <= TOLERANCE
    assert gap(logits(adapters.merged(model)), wanted) <= MERGED and gap(logits(model.prepare()), wanted) <= MERGED
    nn_lora.merge(model)
    assert gap(logits(model), wanted) <= MERGED
    controls: dict[str, Callable[[Adapted], Any]] = {
        "no adapter": lambda layer: layer.lora.clear(),
        "another scale": lambda layer: [setattr(adapter, "scale", adapter.scale * 1.5) for adapter in layer.adapters()],
        "rows in another order": lambda layer: [adapter.b.set_(adapter.b.flip(0)) for adapter in layer.adapters()],
    }
    for what, change in controls.items():
        wrong = load(path, name)
        with torch.no_grad():
            for layer in adapted(wrong.body).values():
                change(layer)
        assert gap(logits(wrong), wanted) >= CONTROL, what


@pytest.mark.parametrize("name", OURS)
def test_an_adapter_of_ours_gave_the_same_numbers_under_peft(name: str, tmp_path: Path) -> None:
    model = ours(name, base_of(name))
    assert gap(logits(model), golden(name)) <= TOLERANCE
    checkpoint.save(model, tmp_path / "again")
    kept, again = (load_file(path / "adapter_model.safetensors") for path in (FOLDER / name, tmp_path / "again"))
    assert kept.keys() == again.keys() and max(gap(again[key], kept[key]) for key in kept) <= 1e-6  # it is still what peft was given
    assert (FOLDER / name / "adapter_config.json").read_text() == (tmp_path / "again" / "adapter_config.json").read_text()
    path = folder(name, tmp_path / "pefts")  # without our nabi.json, as if peft had written it
    assert gap(logits(load(path, name)), golden(name)) <= TOLERANCE
    edited(path, lora_alpha=7.5, alpha_pattern={})
    assert gap(logits(load(path, name)), golden(name)) >= CONTROL


def test_an_adapter_of_pefts_is_saved_as_ours_and_stays_the_same(tmp_path: Path) -> None:
    for name in ("bert-linear", "gpt2-patterns"):
        model = load(folder(name, tmp_path / name), name)
        checkpoint.save(model, tmp_path / name / "saved")
        again, before = checkpoint.load(tmp_path / name / "saved").state_dict(), model.state_dict()
        assert again.keys() == before.keys() and all(torch.equal(again[key], before[key]) for key in before)
        pefts, mine = (load_file(tmp_path / name / side / "adapter_model.safetensors") for side in ("adapter", "saved"))
        assert pefts.keys() == mine.keys() and all(torch.equal(pefts[key], mine[key]) for key in pefts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"base_model_name_or_path": None}, "does not say which model it belongs to"),
        ({"base_model_name_or_path": "/nowhere/at-all"}, "the base model of the adapter .* can't be opened"),
        ({"r": 0}, "rank is 0"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = folder("bert-usual", tmp_path)
    edited(path, **changed)
    with pytest.raises(CheckpointError, match=message):
        load(path, "bert-usual")


def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    path = folder("bert-usual", tmp_path)
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    query = "base_model.model.bert.encoder.layer.0.attention.self.query"
    a, b = tensors[f"{query}.lora_A.weight"], tensors[f"{query}.lora_B.weight"]
    cases = {
        "a tensor of the adapter is missing": {f"{query}.lora_B.weight": None},
        "does not fit its layer": {f"{query}.lora_A.weight": a[:, :-1].contiguous()},
        "adapters of layers that have none here": {f"base_model.model.bert.pooler.dense.lora_{x}.weight": y for x, y in (("A", a), ("B", b))},
        "have no place in the model": {"base_model.model.bert.strange.weight": a},
    }
    for message, changed in cases.items():
        save_file({key: x.clone() for key, x in {**tensors, **changed}.items() if x is not None}, file)
        with pytest.raises(CheckpointError, match=message):
            load(path, "bert-usual")
