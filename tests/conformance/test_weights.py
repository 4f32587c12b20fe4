"""(3) What is loaded is saved bit-equal under the same names; (4) a gradient reaches every parameter; (9) initialise is as its docstring says."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from conformance.kit import CELLS, FAMILIES, batch, body_of, complete, config_of, encoded, model_of, rows_of, task_with
from nabi import checkpoint, families
from nabi.batch import batch_of
from nabi.nn.body import Run
from nabi.nn.convolution import BatchNorm
from nabi.nn.heads import head_of
from nabi.nn.linear import LayerNorm

THEIRS = [(family, kinds) for family in FAMILIES if (hf := families.find(family).hf) for kinds in hf.heads]


def bits(path: Path) -> dict[str, torch.Tensor]:
    return {name: x.contiguous().view(torch.uint8).reshape(-1) if x.dim() else x for name, x in load_file(path / "model.safetensors").items()}


def same_bits(a: Path, b: Path) -> None:
    x, y = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in x.items()} == {n: (t.dtype, t.shape) for n, t in y.items()}
    p, q = bits(a), bits(b)
    assert all(torch.equal(p[name], q[name]) for name in p)


@pytest.mark.parametrize(("family", "kinds"), THEIRS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_the_incumbents_folder_is_saved_bit_equal(family: str, kinds: tuple[str, ...], tmp_path: Path, tokenizer: Path) -> None:
    hf = families.find(family).hf
    assert hf is not None
    keys = {k: v for k, v in families.config_to(families.find(family), config_of(family)).items() if v is not None and k not in hf.fixed}
    model_type, stem = next(iter(hf.types.items()))
    config = transformers.AutoConfig.for_model(model_type, **keys, num_labels=2)
    torch.manual_seed(0)
    theirs = getattr(transformers, stem + hf.heads[kinds][0])(config)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    complete(tmp_path / "theirs", family, tokenizer)
    heads, config = families.find(family).body.heads, config_of(family)
    fixed = {"choice": 1, "pooled": getattr(config, "hidden_size", 0), "vocabulary": body_of(family).colours}
    sizes = {kind: config.vocab_size if heads[kind].tied_to else fixed.get(kind, 2) for kind in kinds}
    kind = task_with(kinds, sizes)
    loaded = checkpoint.Folder(tmp_path / "theirs").model(kind, kind.Settings(), "cpu", None)
    checkpoint.save(loaded, tmp_path / "ours")
    same_bits(tmp_path / "theirs", tmp_path / "ours")
    before, after = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours"))
    assert {k: after[k] for k in before} == before


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_our_folder_is_saved_bit_equal(family: str, task: str, tmp_path: Path, tokenizer: Path) -> None:
    model = model_of(family, task, tokenizer)
    checkpoint.save(model, tmp_path / "first")
    loaded = checkpoint.load(tmp_path / "first")
    assert loaded.task.settings == model.task.settings and loaded.origin.config == model.origin.config
    assert loaded.check_golden(tolerance=0.0) == [] and len(loaded.origin.golden) == len(model.task.golden_examples())
    checkpoint.save(loaded, tmp_path / "second")
    same_bits(tmp_path / "first", tmp_path / "second")
    for name in ("config.json", "nabi.json"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "second" / name).read_text()
    for (name, a), (other, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_hold_each_parameter_once(family: str) -> None:
    body = body_of(family)
    held = Counter(id(p) for group in body.groups() for p in group.parameters())
    assert held == Counter(id(p) for p in body.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_head_gives_the_whole_body_a_gradient(family: str) -> None:
    body = body_of(family)
    for kind, spec in body.heads.items():
        body.zero_grad()
        outputs = 2 if spec.tied_to is None else len(Run(body).table(spec.tied_to).weight)
        head = head_of(spec, body.hidden_size, outputs, dropout=0.0, std=0.2)
        head.initialise(torch.Generator().manual_seed(0))
        found = head.read(Run(body), batch(rows_of(family)))
        (found * torch.randn(found.shape[1], generator=torch.Generator().manual_seed(1))).sum().backward()
        still = [name for name, p in (*body.named_parameters(), *head.named_parameters()) if p.grad is None or not p.grad.any()]
        assert not still, (kind, still)


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_the_loss_gives_every_parameter_a_gradient(family: str, task: str, tokenizer: Path) -> None:
    model = model_of(family, task, tokenizer).train()
    assert Counter(id(p) for group in model.groups() for p in group.parameters()) == Counter(id(p) for p in model.parameters())
    rows = encoded(model)
    given = batch_of(rows, range(len(rows)), model.task.targets)
    losses = model(given)
    assert losses.keys() == model.task.counts(given.targets).keys()
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval()
    with torch.no_grad():
        before = model(given)
        for name, p in model.named_parameters():
            if not p.grad.any():  # a bias of all the numbers that a softmax compares changes nothing; nothing else may be without effect
                assert name.startswith("task.") and name.endswith(".out.bias"), name
                p += 1
                after = model(given)
                assert all(torch.allclose(after[key], before[key], rtol=1e-4) for key in before), name
                p -= 1


# (9): the docstring of ``initialise`` is a table, "WHAT from N(0, STD)", "WHAT from U(-B, B)" or "WHAT N", which this reads

SPREAD = re.compile(r"(every weight|`[\w.*]+`) from ([NU])\(([^,()]+(?:\([^()]*\))?[^,()]*), ([^,()]+(?:\([^()]*\))?[^,()]*)\)", re.IGNORECASE)
FIXED = re.compile(r"(biases|`[\w.*]+`) (-?[\d.]+\d|\d)(?![\d.]*\w)", re.IGNORECASE)


def table_of(body: torch.nn.Module, config: Any) -> dict[str, tuple[float, float]]:
    """Parameter -> (mean, standard deviation), as the docstring says."""
    text = " ".join((type(body).initialise.__doc__ or "").split())
    scope = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)} | {"sqrt": math.sqrt}
    rules: list[tuple[str, tuple[str, str, str]]] = [(what, (kind, a, b)) for what, kind, a, b in SPREAD.findall(text)]
    rules += [(what, ("N", value, "0")) for what, value in FIXED.findall(text)]
    if "norms 1 and 0" in text:
        rules.append(("norms", ("N", "1", "0")))
    norms = {f"{path}.{name}" for path, m in body.named_modules() if isinstance(m, LayerNorm | BatchNorm) for name, _ in m.named_parameters(recurse=False)}

    def kind_of(name: str) -> str:
        return "norms" if name in norms else "biases" if name.endswith("bias") else "every weight"

    said = {}
    for name, p in body.named_parameters():
        named = [x for what, x in rules if what[0] == "`" and re.fullmatch(re.escape(what.strip("`")).replace(r"\*", r"\w+"), name)]
        found = named or [x for what, x in rules if what.lower() == kind_of(name)]
        assert len(found) == 1, f"the docstring of {type(body).__name__}.initialise says {len(found)} times how {name} begins"
        kind, *ends = found[0]
        low, high = (float(eval(x, {}, {**scope, "fan_out": p[:, :1].numel() if p.dim() > 1 else 0})) for x in ends)
        said[name] = (low, high) if kind == "N" else ((low + high) / 2, (high - low) / math.sqrt(12))
        if name in norms and name.endswith("bias"):
            said[name] = (0.0, 0.0)
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_initialise_is_as_its_docstring_says(family: str) -> None:
    config = config_of(family)
    body = families.build(families.find(family), config)
    for p in body.parameters():
        p.data.fill_(math.nan)
    body.initialise(torch.Generator().manual_seed(3))
    again = families.build(families.find(family), config)
    again.initialise(torch.Generator().manual_seed(3))
    for (name, p), q in zip(body.named_parameters(), again.parameters(), strict=True):
        mean, std = table_of(body, config)[name]
        n = p.numel()
        assert torch.equal(p, q), f"{name} does not come from the generator alone"
        if std == 0.0:
            assert torch.equal(p, torch.full_like(p, mean)), name
        else:
            p = p.detach()
            assert abs(float(p.mean()) - mean) <= 5 * std / math.sqrt(n), name
            assert abs(float(p.std()) / std - 1) <= 5 / math.sqrt(2 * n), name


def test_control_a_wrong_table_is_caught() -> None:
    family = FAMILIES[0]
    body, config = body_of(family), config_of(family)
    wanted = table_of(body, config)
    assert any(abs(float(p.detach().std()) / std - 1) > 1 for name, p in body.named_parameters() if (std := wanted[name][1]))
