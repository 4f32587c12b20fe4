"""Parity with the incumbent's ResNet at 1e-5, weights from N(0, 0.25) and statistics of their own: at rest and in training, both ways, bit-equal save-back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from conformance.kit import randomised, task_with
from nabi import checkpoint, tasks
from nabi.batch import Batch, Row, batch_of
from nabi.data.pixels import FILE, Images, patched
from nabi.errors import OptionError
from nabi.families.resnet import FAMILY, Resnet, ResnetConfig
from nabi.model import Model
from nabi.nn.body import Body, Run
from nabi.nn.convolution import BatchNorm, freeze_statistics
from nabi.tasks import Task
from parity.kit import CONTROL, TOLERANCE, gap

BASIC = {"layer_type": "basic", "hidden_sizes": [8, 16, 24], "depths": [2, 1, 2]}
NETWORKS: dict[str, dict[str, Any]] = {
    "basic": BASIC,
    "basic, every stage shrinks": {**BASIC, "downsample_in_first_stage": True, "hidden_act": "silu", "num_channels": 1},
    "bottleneck": {"layer_type": "bottleneck"},
    "bottleneck, its first convolution shrinks": {"layer_type": "bottleneck", "downsample_in_bottleneck": True, "downsample_in_first_stage": True},
}
SIDES = ((40, 33), (64, 64), (7, 90))
ROW: type[Task] = task_with(("row",), 3)


def theirs(cls: str, name: str, folder: Path) -> Any:
    """A model of the incumbent, saved with the settings of images beside it."""
    config = transformers.ResNetConfig(**{"embedding_size": 12, "hidden_sizes": [16, 32, 48], "depths": [1, 2, 1], "num_labels": 3, **NETWORKS[name]})
    made, g = randomised(getattr(transformers, cls)(config)), torch.Generator().manual_seed(5)
    for norm in (m for m in made.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.copy_(0.25 * torch.randn(norm.running_mean.shape, generator=g))
        norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=g))
        norm.num_batches_tracked.fill_(7)
    made.save_pretrained(folder)
    sizes = replace(FAMILY.sizes["tiny"], channels=config.num_channels)
    assert FAMILY.images is not None
    (folder / FILE).write_text(json.dumps(Images(FAMILY.images(sizes)).to_hf()), encoding="utf-8")
    return made.eval()


def ours(folder: Path) -> Model:
    return checkpoint.Folder(folder).model(ROW, ROW.Settings(), "cpu", None)


def images(name: str, count: int = 1) -> list[Tensor]:
    """(count, C, H, W) of each size."""
    g = torch.Generator().manual_seed(1)
    return [torch.randn(count, NETWORKS[name].get("num_channels", 3), *side, generator=g) for side in SIDES]


def batch(*pixels: Tensor) -> Batch:
    """All of them as rows of one batch."""
    rows = [Row({"image": {"patches": patched(x.permute(1, 2, 0).numpy(), 1)}}, {"image": {"grid": list(x.shape[1:])}}) for group in pixels for x in group]
    return batch_of(rows, range(len(rows)), {})


def logits(model: Model, given: Batch) -> Tensor:
    found: Tensor = model.task.row.read(Run(model.body), given)  # type: ignore[union-attr,operator]
    return found


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_classes_and_places_of_images_of_several_sizes(name: str, tmp_path: Path) -> None:
    model = theirs("ResNetForImageClassification", name, tmp_path / "theirs")
    mine, given = ours(tmp_path / "theirs"), images(name)
    wanted = torch.cat([model(x).logits for x in given])
    assert gap(logits(mine, batch(*given)), wanted) <= TOLERANCE
    hidden = mine.body(batch(*given))["image"]
    places = [model.resnet(x).last_hidden_state for x in given]
    assert hidden.layout is not None and hidden.layout.lengths == tuple(x[0, 0].numel() for x in places)
    assert gap(hidden.values, torch.cat([x[0].flatten(1).T for x in places])) <= TOLERANCE
    assert gap(logits(mine.prepare("fp32"), batch(*given)), wanted) <= TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_bare_body(name: str, tmp_path: Path) -> None:
    model, given = theirs("ResNetModel", name, tmp_path / "theirs"), images(name)
    body = checkpoint.load_body(tmp_path / "theirs")
    hidden = body(batch(*given))["image"]
    assert hidden.layout is not None
    assert gap(hidden.layout.mean(hidden.values), torch.cat([model(x).pooler_output.flatten(1) for x in given])) <= TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_training_and_what_it_leaves(name: str, tmp_path: Path) -> None:
    model = theirs("ResNetForImageClassification", name, tmp_path / "theirs").train()
    mine = ours(tmp_path / "theirs").train()
    x, weights = images(name, 4)[1], torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        frozen = logits(mine, batch(x))
        assert gap(frozen, model.eval()(x).logits) <= TOLERANCE  # what was loaded keeps its statistics
    freeze_statistics(mine, frozen=False)
    found, wanted = logits(mine, batch(x)), model.train()(x).logits
    assert gap(found.detach(), wanted.detach()) <= TOLERANCE
    assert gap(frozen, wanted.detach()) >= CONTROL
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    table = checkpoint.name_table(mine.origin.family, ("row",), "resnet.")
    gradients = table.save({n: p.grad for n, p in mine.named_parameters() if p.grad is not None})
    largest = max(float(p.grad.abs().max()) for p in model.parameters())
    assert max(float((p.grad - gradients[n]).abs().max()) / largest for n, p in model.named_parameters()) <= TOLERANCE
    saved = table.save(dict(mine.state_dict()))
    statistics = dict(model.named_buffers())
    assert len(statistics) == 3 * sum(isinstance(m, BatchNorm) for m in mine.modules())
    for n, b in statistics.items():
        assert torch.equal(saved[n], b) if n.endswith("tracked") else gap(saved[n], b) <= TOLERANCE, n


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_read_is_written_bit_for_bit_and_read_by_the_incumbent(name: str, tmp_path: Path) -> None:
    model = theirs("ResNetForImageClassification", name, tmp_path / "theirs")
    checkpoint.save(ours(tmp_path / "theirs"), tmp_path / "ours")
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == ["ResNetForImageClassification"]
    again = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(images(name)[0]).logits, model(images(name)[0]).logits)


def made(size: str | dict[str, Any]) -> Model:
    """One from scratch."""
    settings = tasks.find("image_classification").fitted([{"image": None, "label": x} for x in ("a", "b")], "here", {})
    return checkpoint.create("resnet", size, "image_classification", settings)


def test_one_of_ours_is_read_by_the_incumbent_and_one_that_it_lacks_is_not_called_its_own(tmp_path: Path) -> None:
    checkpoint.save(made("tiny"), tmp_path / "tiny")
    model = transformers.ResNetForImageClassification.from_pretrained(tmp_path / "tiny").eval()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert gap(logits(checkpoint.load(tmp_path / "tiny"), batch(x)), model(x).logits) <= TOLERANCE
    small = made({"stem": "small", "stem_size": 8, "hidden_sizes": [8], "depths": [1], "block": "basic", "image_size": 8})
    for folder in ("small", "again"):
        checkpoint.save(small, tmp_path / folder)
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert (config["model_type"], config["architectures"], config["nabi_stem"]) == ("nabi-resnet", [], "small")
        small = checkpoint.load(tmp_path / folder)
    with pytest.raises(ValueError, match="nabi-resnet"):
        transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "small")
    assert small.body.layout(batch(x), "image").lengths == (32 * 32,)


@pytest.mark.parametrize("wrong", ["a running variance 1 % larger", "the stride at the other convolution"])
@torch.no_grad()
def test_control_a_wrong_network_misses(wrong: str, tmp_path: Path) -> None:
    name = "bottleneck"
    model, given = theirs("ResNetForImageClassification", name, tmp_path / "theirs"), images(name)
    mine = ours(tmp_path / "theirs")
    if wrong.startswith("a running"):
        next(m for m in mine.body.modules() if isinstance(m, BatchNorm)).running_var *= 1.01
    else:
        config = json.loads((tmp_path / "theirs" / "config.json").read_text())
        (tmp_path / "theirs" / "config.json").write_text(json.dumps({**config, "downsample_in_bottleneck": True}))
        mine = ours(tmp_path / "theirs")
    assert gap(logits(mine, batch(*given)), torch.cat([model(x).logits for x in given])) >= CONTROL


def test_sizes_that_do_not_go_together_are_refused() -> None:
    for sizes, depths, message in (((8, 8), (1,), "a positive number a stage"), ((8,), (0,), "a positive number a stage"), ((6,), (1,), "a quarter")):
        with pytest.raises(OptionError, match=message):
            Resnet(ResnetConfig(hidden_sizes=sizes, depths=depths))


def test_the_papers_sizes() -> None:
    """Millions of parameters: with 1,000 classes those of the incumbent's checkpoints of these names, with 10 those of the paper's table 6."""
    wanted = {"18": 11.69, "34": 21.80, "50": 25.56, "101": 44.55, "152": 60.19, "cifar-20": 0.27, "cifar-56": 0.85}
    for size, millions in wanted.items():
        with torch.device("meta"):
            body: Body = Resnet(FAMILY.sizes[size])
        classes = 10 if size.startswith("cifar") else 1000
        count = sum(p.numel() for p in body.parameters()) + (body.hidden_size + 1) * classes
        assert abs(count / 1e6 - millions) <= 0.01, (size, count)
